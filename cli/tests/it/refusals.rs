//! Which exit status each refusal of keys and packages has.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
};

use crate::harness::{Home, read};

/// A home with a signed package that its key is trusted to sign.
struct Signed {
    home: Home,
    package: PathBuf,
}

impl Signed {
    fn new() -> Self {
        let home = Home::new();
        let package = PathBuf::from(home.greeter("greeter"));
        home.run(&["key", "generate", "release", "--no-passphrase"])
            .ok();
        let signed = Self { home, package };
        signed.run(&["plugin", "sign", "PACKAGE", "--key", "release"], 0);
        signed.run(
            &["trust", "add", "release", "--level", "3", "--names", "*"],
            0,
        );
        signed
    }

    /// Runs a command; `PACKAGE` stands for the package's directory. Returns
    /// the code and the help of its error.
    #[track_caller]
    fn run(&self, args: &[&str], exit: i32) -> (String, String) {
        let package = self.package.display().to_string();
        let mut args: Vec<_> = args
            .iter()
            .map(|arg| if *arg == "PACKAGE" { &package } else { *arg })
            .collect();
        args.push("--json");
        let done = self.home.run(&args).with_code(exit);
        if exit == 0 {
            return Default::default();
        }
        let error = done.error();
        let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
        (text("code"), text("help"))
    }

    fn key(&self, ending: &str) -> PathBuf {
        self.home.root().join(format!("keys/release.{ending}"))
    }
}

const SIGN: [&str; 5] = ["plugin", "sign", "PACKAGE", "--key", "release"];
const VERIFY: [&str; 3] = ["plugin", "verify", "PACKAGE"];

/// A file that is no key is an invalid input; one that was tampered with is not.
#[test]
fn keys() {
    let signed = Signed::new();
    let trust = ["trust", "add", "release", "--level", "3", "--names", "*"];
    let point = |first: &str| format!("orchestrator-key-v1 {first}{}= x\n", "A".repeat(41));
    for (line, code, exit) in [
        ("orchestrator-key-v1 AAAA x\n".to_owned(), "ORC-2001", 3),
        (point("Ag"), "ORC-2002", 3),
        (point("AQ"), "ORC-2003", 6),
        (read(signed.key("key")), "ORC-2004", 3),
    ] {
        fs::write(signed.key("pub"), line).unwrap();
        assert_eq!(signed.run(&trust, exit).0, code);
    }
    let secret = read(signed.key("key"));
    let other = secret.replace("key_id = \"", "key_id = \"0");
    fs::write(signed.key("key"), other).unwrap();
    assert_eq!(signed.run(&SIGN, 6).0, "ORC-2016");
    fs::write(signed.key("key"), "junk").unwrap();
    assert_eq!(signed.run(&SIGN, 3).0, "ORC-2012");
    fs::set_permissions(signed.key("key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(signed.run(&SIGN, 5).0, "ORC-2011");
    fs::remove_file(signed.key("key")).unwrap();
    assert_eq!(signed.run(&SIGN, 4).0, "ORC-2010");
}

/// What a publisher has to mend is invalid; on the way it is a failure of trust.
#[test]
fn packages() {
    let signed = Signed::new();
    let link = signed.package.join("link");
    symlink("greeter.sh", &link).unwrap();
    assert_eq!(signed.run(&VERIFY, 6).0, "ORC-2059");
    let (code, help) = signed.run(&SIGN, 3);
    assert_eq!(code, "ORC-2070");
    assert!(help.contains("ORC-2059: a package consists of"), "{help}");
    fs::remove_file(link).unwrap();
    let large = signed.package.join("large");
    let sparse = fs::File::create(&large).unwrap();
    sparse.set_len(1 << 40).unwrap();
    assert_eq!(signed.run(&VERIFY, 6).0, "ORC-2062");
    assert_eq!(signed.run(&SIGN, 3).0, "ORC-2070");
    fs::remove_file(large).unwrap();

    let meta = signed.package.join("META");
    fs::remove_dir_all(&meta).unwrap();
    assert_eq!(signed.run(&VERIFY, 6).0, "ORC-2040");
    fs::write(&meta, "no folder").unwrap();
    assert_eq!(signed.run(&VERIFY, 6).0, "ORC-2040");
    fs::remove_dir_all(&signed.package).unwrap();
    assert_eq!(signed.run(&VERIFY, 4).0, "ORC-2067");
    assert_eq!(signed.run(&SIGN, 4).0, "ORC-2070");
}

#[test]
fn damaged_grants_are_told_on_one_line_with_their_place() {
    let home = Home::with_greeter();
    let file = home.root().join("grants.toml");
    fs::write(&file, format!("{}junk\n", read(&file))).unwrap();
    let error = home
        .run(&["plugin", "grants", "--json"])
        .with_code(3)
        .error();
    assert_eq!(error["code"], "ORC-2125");
    let message = error["message"].as_str().unwrap();
    let line = read(&file).lines().count();
    assert!(message.contains(&format!("line {line}: ")), "{message}");
    assert!(!message.contains('\n'), "{message}");
}
