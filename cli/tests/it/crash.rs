//! A host that is killed in the middle of a run, time and again.
//!
//! The run has twenty steps: some in parallel, some one after the other, most
//! of them idempotent, one that may happen only once. Whatever the moment, the
//! resumed run ends as the undisturbed one does, and nothing happened twice
//! that may happen once.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use orchestrator_contract::{RunId, RunOutcome};
use orchestrator_engine::{
    Home as EngineHome, RunHistory,
    config::Config,
    journal::{RecordBody, RecordView, RunFilter},
};
use orchestrator_testkit::{Kind, TestHome, TestPlugin, descendants, scripted_plugin, wait_until};
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Done, Home, finish, read, signal};

/// Kills that must hit a run which had begun and had not ended.
const KILLS: u32 = 30;
/// Kills altogether, those included that came too early or too late.
const TRIES_MAX: u32 = 120;
/// Chosen once; a failure names the round, and the round its moment.
const SEED: u64 = 0x0f0e_0d0c;

#[test]
fn thirty_kills_lose_nothing_and_repeat_nothing() {
    let rig = Rig::new();
    let begun = SystemTime::now();
    let undisturbed = rig.output(rig.start("undisturbed").ok(), "undisturbed");
    // As long as the whole command takes on this machine today.
    let whole = begun.elapsed().unwrap().as_micros();
    let mut moments = fastrand::Rng::with_seed(SEED);
    let mut interrupted = 0;
    for round in 0..TRIES_MAX {
        if interrupted == KILLS {
            break;
        }
        let name = format!("round-{round}");
        let moment = u64::try_from(whole * moments.u128(20..90) / 100).unwrap();
        let moment = Duration::from_micros(moment);
        rig.kill_after(&name, moment);
        let Some(run) = rig.newest_run(&name) else {
            // Killed before it was acknowledged: nothing was promised.
            continue;
        };
        interrupted += u32::from(rig.resume_until_ended(run, &name));

        let output = rig.output(rig.home.run(&["run", "show", &run.to_string()]).ok(), &name);
        assert_eq!(
            output, undisturbed,
            "round {round}, killed after {moment:?}"
        );
        rig.check_records(run, round);
        rig.check_effects(run, &name, round);
    }
    assert_eq!(interrupted, KILLS, "kills that hit a run");
}

struct Rig {
    home: Home,
    pipeline: String,
}

impl Rig {
    fn new() -> Self {
        let home = Home::new();
        let kit = TestHome::at(home.root());
        let phases = json!([
            { "name": "work", "effect": "idempotent", "retryable": true },
            { "name": "once" },
            { "name": "flaky", "effect": "idempotent", "retryable": true },
            { "name": "echo", "effect": "pure", "retryable": true },
            { "name": "wait", "effect": "pure" },
        ]);
        kit.install(&TestPlugin::program(
            "scripted",
            Kind::Node,
            &scripted_plugin(),
            phases,
        ));
        let pipeline = home.write("twenty.yaml", &twenty_steps());
        let rig = Self { home, pipeline };
        fs::create_dir(rig.notes()).unwrap();
        let config = format!("[plugins.scripted.config]\nnotes = {:?}\n", rig.notes());
        fs::write(rig.home.root().join("config.toml"), config).unwrap();
        rig
    }

    /// Where the plugin keeps what became of its calls.
    fn notes(&self) -> PathBuf {
        self.home.work().join("notes")
    }

    fn log(&self, name: &str) -> String {
        self.home
            .work()
            .join(format!("{name}.log"))
            .display()
            .to_string()
    }

    fn args(&self, name: &str) -> Vec<String> {
        let dir = self.home.work().join(name).display().to_string();
        let log = format!("log={}", self.log(name));
        [
            "run",
            "start",
            &self.pipeline,
            "--input",
            &log,
            "--output-dir",
            &dir,
            "--idempotency-key",
            name,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn start(&self, name: &str) -> Done {
        let args = self.args(name);
        self.home
            .run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts a run and kills its host; no plugin outlives it.
    #[expect(
        clippy::disallowed_methods,
        reason = "waits for a process, outside of any runtime"
    )]
    fn kill_after(&self, name: &str, moment: Duration) {
        let args = self.args(name);
        let host = self
            .home
            .command(&args.iter().map(String::as_str).collect::<Vec<_>>())
            .spawn()
            .unwrap();
        let pid = host.id();
        std::thread::sleep(moment);
        let plugins = descendants(pid);
        signal(pid, Signal::KILL);
        finish(host);
        let gone = || {
            plugins
                .iter()
                .all(|pid| !Path::new(&format!("/proc/{pid}/exe")).exists())
        };
        assert!(
            wait_until(Duration::from_secs(2), gone),
            "a plugin outlived its host"
        );
    }

    fn history<T>(&self, ask: impl AsyncFnOnce(RunHistory) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let home = EngineHome::at(self.home.root()).unwrap();
            let settings = Config::defaults().unwrap().journal;
            ask(RunHistory::open(&home, &settings).await.unwrap()).await
        })
    }

    fn newest_run(&self, name: &str) -> Option<RunId> {
        self.history(async |history| {
            let newest = history
                .list(RunFilter {
                    limit: 1,
                    ..RunFilter::default()
                })
                .await
                .unwrap();
            let run = newest.first()?.run;
            let records = history.records(run, 0).await.unwrap();
            let RecordBody::RunCreated(created) = &records[0].body else {
                panic!("{:?}", records[0]);
            };
            (created.idempotency_key.as_deref() == Some(name)).then_some(run)
        })
    }

    /// Returns whether there was anything to resume.
    fn resume_until_ended(&self, run: RunId, name: &str) -> bool {
        let outcome = self.history(async |history| history.report(run).await.unwrap().outcome);
        if outcome.is_some() {
            return false;
        }
        let dir = self.home.work().join(name).display().to_string();
        self.home
            .run(&["run", "resume", &run.to_string(), "--output-dir", &dir])
            .ok();
        let report = self.history(async |history| history.report(run).await.unwrap());
        assert_eq!(report.outcome, Some(RunOutcome::Success));
        true
    }

    /// The content of the run's output, from its file where the command wrote
    /// one, else from the journal.
    fn output(&self, _: Done, name: &str) -> String {
        let file = self.home.work().join(name).join("result.json");
        if file.exists() {
            return read(file);
        }
        let run = self.newest_run(name).unwrap();
        self.history(async |history| {
            let report = history.report(run).await.unwrap();
            String::from_utf8(report.primary_output().unwrap().payload.bytes.to_vec()).unwrap()
        })
    }

    fn check_records(&self, run: RunId, round: u32) {
        let records = self.history(async |history| history.records(run, 0).await.unwrap());
        let mut results: BTreeMap<&str, u32> = BTreeMap::new();
        for record in &records {
            if let RecordBody::StepCompleted { step, .. } = &record.body {
                *results.entry(step.as_str()).or_default() += 1;
            }
        }
        assert_eq!(results.len(), 20, "round {round}");
        assert!(
            results.values().all(|count| *count == 1),
            "round {round}: {results:?}"
        );
        assert_keys_are_constant(&records);
        self.check_starts_of_once(&records, round);
    }

    /// What may happen once is started again only after its plugin said that
    /// it had not happened.
    fn check_starts_of_once(&self, records: &[RecordView], round: u32) {
        let keys: Vec<&str> = records
            .iter()
            .filter_map(|record| match &record.body {
                RecordBody::StepStarted {
                    step,
                    idempotency_key,
                    ..
                } if step.as_str() == "once" => Some(&**idempotency_key),
                _ => None,
            })
            .collect();
        let answers = self.notes().join(keys[0]).with_extension("not_done");
        let not_done = fs::read_to_string(answers).map_or(0, |text| text.lines().count());
        assert!(
            keys.len() <= 1 + not_done,
            "round {round}: {} starts, {not_done} times not done",
            keys.len()
        );
    }

    /// What the plugin itself saw.
    fn check_effects(&self, run: RunId, name: &str, round: u32) {
        let log = read(self.log(name));
        let times = log.matches(" once ").count();
        // None where the plugin died between its note, which is the effect, and this line.
        assert!(
            times <= 1,
            "round {round}: what may happen once happened {times} times"
        );
        let mut keys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for line in log.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            keys.entry(words[0]).or_default().push(words[2]);
        }
        for (step, keys) in keys {
            assert!(
                keys.iter().all(|key| *key == keys[0]),
                "round {round}, run {run}: {step} {keys:?}"
            );
        }
    }
}

fn assert_keys_are_constant(records: &[RecordView]) {
    let mut keys: BTreeMap<&str, &str> = BTreeMap::new();
    for record in records {
        if let RecordBody::StepStarted {
            step,
            idempotency_key,
            ..
        } = &record.body
        {
            let first = keys.entry(step.as_str()).or_insert(idempotency_key);
            assert_eq!(*first, &**idempotency_key, "{step}");
        }
    }
}

/// One step, six beside each other, one that may happen once, twelve in a row.
fn twenty_steps() -> String {
    let mut text = String::from(
        "version: 1\nname: twenty\ninput:\n  log: { type: string, required: true }\nsteps:\n",
    );
    let mut step = |id: &str, phase: &str, n: &str| {
        text.push_str(&format!(
            "  - {{ id: {id}, plugin: scripted, phase: {phase}, input: {{ n: {n}, ms: 8, log: \"${{{{ input.log }}}}\" }} }}\n"
        ));
    };
    step("first", "work", "0");
    for index in 0..6 {
        step(
            &format!("beside-{index}"),
            "work",
            "\"${{ steps.first.output.n }}\"",
        );
    }
    let sum: Vec<String> = (0..6)
        .map(|index| format!("steps['beside-{index}'].output.n"))
        .collect();
    step(
        "once",
        "once",
        &format!("\"${{{{ {} }}}}\"", sum.join(" + ")),
    );
    let mut before = "once".to_owned();
    for index in 0..12 {
        let id = format!("row-{index}");
        step(
            &id,
            "work",
            &format!("\"${{{{ steps['{before}'].output.n }}}}\""),
        );
        before = id;
    }
    text.push_str(
        "outputs:\n  result.json: { from: \"${{ steps['row-11'].output }}\", primary: true }\n",
    );
    text
}
