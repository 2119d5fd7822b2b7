//! A home with signed plugins in it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use orchestrator_signing::{
    Delegation, Grant, GrantStore, InstallOptions, NamePattern, SecretKey, SignOptions, TrustLevel,
    TrustStore, install, requested_set, sign,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scripted_plugin;

/// The number of a release, above all that were made here before.
fn next_serial() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock");
    let now = now.as_millis() as u64;
    let last = LAST.fetch_max(now, Ordering::Relaxed);
    if last < now {
        return now;
    }
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// A directory laid out as the engine's home.
pub struct TestHome {
    root: PathBuf,
    key: SecretKey,
    /// Removes the directory, where it is ours.
    _dir: Option<TempDir>,
}

/// How a test plugin runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One process per call.
    Exec,
    /// One process for all calls.
    Node,
}

/// A package to be signed: a manifest and files.
pub struct TestPlugin {
    manifest: Value,
    files: Vec<(String, u32, Vec<u8>)>,
}

impl TestPlugin {
    /// A program of one of the kinds, with its bytes and phases. A phase is an
    /// object as in a manifest.
    pub fn program(id: &str, kind: Kind, program: &Path, phases: Value) -> Self {
        let bytes =
            fs::read(program).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let kind = match kind {
            Kind::Exec => "exec",
            Kind::Node => "node",
        };
        let manifest = json!({
            "id": id,
            "version": "1.0.0",
            "description": "a test plugin",
            "kind": kind,
            "entry_point": "bin/entry",
            "phases": phases,
        });
        Self {
            manifest,
            files: vec![("bin/entry".to_owned(), 0o755, bytes)],
        }
    }

    /// The [scripted plugin](crate::scripted_plugin), by any name that does not begin with
    /// `tally`.
    pub fn scripted(id: &str) -> Self {
        let phases = ["work", "once", "flaky", "echo", "wait"].map(|name| json!({ "name": name }));
        Self::program(id, Kind::Node, &scripted_plugin(), json!(phases))
    }

    /// A shell script of kind `exec`. `execute` answers `execute <phase>`.
    pub fn shell(id: &str, phases: Value, execute: &str) -> Self {
        let names: Vec<&str> = phases
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|phase| phase["name"].as_str())
            .collect();
        let info = json!({ "id": id, "version": "1.0.0", "phases": names });
        let script = format!(
            "#!/bin/sh\ncase \"$1\" in\nvalidate) exit 0;;\ninfo) echo '{info}';;\nexecute) {execute};;\nesac\n"
        );
        let manifest = json!({
            "id": id,
            "version": "1.0.0",
            "description": "a test plugin",
            "kind": "exec",
            "entry_point": "plugin.sh",
            "interpreter": "/bin/sh",
            "capabilities": ["process:spawn=/bin/sh"],
            "phases": phases,
        });
        Self {
            manifest,
            files: vec![("plugin.sh".to_owned(), 0o755, script.into_bytes())],
        }
    }

    /// Sets a key of the manifest.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.manifest[key] = value;
        self
    }

    /// The plugin's id.
    pub fn id(&self) -> &str {
        self.manifest["id"].as_str().unwrap_or_default()
    }

    /// Writes the unsigned package into `dir`.
    pub fn write(&self, dir: &Path) {
        let text = serde_json::to_vec_pretty(&self.manifest).expect("a manifest is JSON");
        put(&dir.join("plugin.json"), 0o644, &text);
        for (path, mode, bytes) in &self.files {
            put(&dir.join(path), *mode, bytes);
        }
    }
}

impl Default for TestHome {
    fn default() -> Self {
        Self::new()
    }
}

impl TestHome {
    /// An empty home that trusts a fresh key for every name at level 3. Goes
    /// away when it is dropped.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut home = Self::at(dir.path());
        home._dir = Some(dir);
        home
    }

    /// The same in a directory that somebody else removes.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let home = Self {
            root: root.into(),
            key: SecretKey::generate("test").expect("randomness"),
            _dir: None,
        };
        let names = vec![NamePattern::parse("*").expect("a pattern")];
        let delegation = Delegation::new(home.key.public().clone(), TrustLevel::Internal, names);
        home.trust().add(delegation).expect("a trust root");
        home
    }

    /// The home's directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The key that the home trusts.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Where a plugin of version 1.0.0 was installed.
    pub fn installed(&self, id: &str) -> PathBuf {
        self.path().join("plugins").join(id).join("1.0.0")
    }

    /// Signs a plugin, installs it, and grants all it asks for.
    pub fn install(&self, plugin: &TestPlugin) -> &Self {
        let package = tempfile::tempdir().expect("a temporary directory");
        plugin.write(package.path());
        sign(package.path(), &self.key, &SignOptions::new(next_serial()))
            .expect("a package that can be signed");
        let plugins = self.path().join("plugins");
        let verified = install(
            package.path(),
            &mut self.trust(),
            &plugins,
            InstallOptions::default(),
        )
        .expect("a package that can be installed");
        let (requested, _) = requested_set(verified.manifest());
        if !requested.is_empty() {
            self.grant(Grant::for_package(&verified, requested, "test"));
        }
        self
    }

    /// Stores a grant.
    pub fn grant(&self, grant: Grant) {
        let mut grants = GrantStore::open(&self.path().join("grants.toml")).expect("grants");
        grants.grant(grant).expect("a grant that can be stored");
    }

    fn trust(&self) -> TrustStore {
        TrustStore::open(&self.path().join("trust")).expect("a trust store")
    }
}

fn put(path: &Path, mode: u32, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a file in a directory")).expect("a directory");
    fs::write(path, bytes).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}
