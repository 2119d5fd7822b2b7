//! What every command starts from: the flags that all of them take, and the
//! home and configuration that follow from those.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use orchestrator_contract::{EventSink, RunId};
use orchestrator_engine::{
    Engine, EngineBuilder, EngineError, Home, RunHistory,
    config::{Config, LogFormat, Sources},
    journal::JournalError,
};
use orchestrator_observability::{
    Build, Telemetry,
    log::{self, Flush, Format},
};
use orchestrator_plugin_runtime::{Lessons, Runtime};

use crate::{
    audit::{Audit, Listener},
    error::CliError,
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
    progress::Stderr,
};

/// The flags that every command takes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Keep plugins, keys, grants and runs in this directory
    /// [default: $ORCHESTRATOR_HOME, else ~/.local/share/orchestrator]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,

    /// Read this configuration file after the usual ones
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Override one setting, for instance `--set run.concurrency=4`
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Write JSON, for programs
    #[arg(long, global = true)]
    json: bool,

    /// Say nothing but results and errors
    #[arg(long, short, global = true)]
    quiet: bool,

    /// Log more; repeat for more still
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    /// Use no colours (the variable NO_COLOR does the same)
    #[arg(long, global = true)]
    no_color: bool,

    /// Never ask anything
    #[arg(long, global = true)]
    no_input: bool,
}

/// What a command works with.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    global: Global,
    pub(crate) out: Output,
    /// Set once there is a log; the last clone writes out what waits.
    log: Arc<OnceLock<Flush>>,
    audit: Arc<Audit>,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        let out = Output::new(global.json, global.quiet, global.no_color);
        Self {
            global,
            out,
            log: Arc::default(),
            audit: Arc::default(),
        }
    }

    /// Whether a person may be asked.
    pub(crate) fn may_ask(&self) -> bool {
        !self.global.no_input
    }

    /// The home directory. A relative `--home` is meant from here.
    pub(crate) fn home(&self) -> Result<Home> {
        let given = match &self.global.home {
            Some(path) => Some(std::path::absolute(path)?),
            None => None,
        };
        let home = Home::resolve(given, &|name| std::env::var_os(name));
        home.map_err(|error| Failure::new(Exit::Invalid, error))
    }

    /// The audit log of the home, opened unless it is off.
    pub(crate) fn audit(&self) -> Result<Arc<Audit>> {
        let home = self.home()?;
        // Whatever is put into it tells why when this did not work.
        let _ = home.make();
        self.audit.open(&home, &self.config()?.audit)?;
        Ok(Arc::clone(&self.audit))
    }

    /// The audit log as it is, open or not.
    pub(crate) fn audit_log(&self) -> &Audit {
        &self.audit
    }

    /// Records nothing more. What is logged of that stands before what follows.
    pub(crate) fn close_audit(&self) {
        self.audit.close();
        self.flush_log();
    }

    /// The effective configuration.
    pub(crate) fn config(&self) -> Result<Config> {
        let config = Config::load(&self.sources()?);
        config.map_err(|error| Failure::new(Exit::Invalid, error))
    }

    /// Where settings come from.
    pub(crate) fn sources(&self) -> Result<Sources> {
        let mut overrides = Vec::new();
        for text in &self.global.set {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| CliError::Setting { text: text.clone() })?;
            overrides.push((key.to_owned(), value.to_owned()));
        }
        Ok(Sources {
            user_file: Some(self.home()?.config_file().to_owned()),
            file: self.global.config.clone(),
            overrides,
        })
    }

    /// Past runs, without starting a plugin. A home that never had any is left
    /// as it is.
    pub(crate) async fn history(&self) -> Result<Option<RunHistory>> {
        let (home, config) = (self.home()?, self.config()?);
        match RunHistory::is_there(&home) {
            true => Ok(Some(RunHistory::open(&home, &config.journal).await?)),
            false => Ok(None),
        }
    }

    /// The same, to look at `run`, which has to be there.
    pub(crate) async fn history_of(&self, run: RunId) -> Result<RunHistory> {
        let history = self.history().await?;
        let missing = || EngineError::from(JournalError::NoSuchRun { run });
        Ok(history.ok_or_else(missing)?)
    }

    /// Starts an engine for one command, and says what an operator should know
    /// of the start. It goes by the lock file, if there is one.
    pub(crate) async fn engine(&self, locked: Option<PathBuf>) -> Result<Engine> {
        let config = self.config()?;
        self.log_to_stderr(&config, Use::OneCommand);
        let engine = self.start(self.builder(config)?, locked).await?;
        self.warn_of(engine.warnings());
        Ok(engine)
    }

    /// Starts an engine that holds one package to nothing, to learn what it uses.
    pub(crate) async fn learning_engine(&self, lessons: &Lessons) -> Result<Engine> {
        let mut config = self.config()?;
        config.runtime.sandbox.learn = Some(lessons.clone());
        self.log_to_stderr(&config, Use::OneCommand);
        let builder = self.builder(config)?.plugin_dir(lessons.package());
        let engine = self.start(builder, None).await?;
        self.warn_of(engine.warnings());
        Ok(engine)
    }

    /// The plugins of the home, to be looked at. Needs no journal.
    pub(crate) async fn plugins(&self) -> Result<Runtime> {
        let config = self.config()?;
        self.log_to_stderr(&config, Use::OneCommand);
        let (runtime, warnings) = self.builder(config)?.plugins().await?;
        self.warn_of(&warnings);
        Ok(runtime)
    }

    fn warn_of(&self, warnings: &[String]) {
        for warning in warnings {
            self.out.warn(warning);
        }
    }

    /// Starts an engine that serves others, likewise. `sink` hears of all that happens.
    pub(crate) async fn serving_engine(
        &self,
        config: Config,
        locked: Option<PathBuf>,
        sink: Arc<dyn EventSink>,
    ) -> Result<Engine> {
        self.log_to_stderr(&config, Use::Service);
        let builder = self.builder(config)?.service().sink(sink);
        self.start(builder, locked).await
    }

    /// What becomes of the plugins is recorded.
    async fn start(&self, mut builder: EngineBuilder, locked: Option<PathBuf>) -> Result<Engine> {
        if let Some(file) = locked {
            builder = builder.locked(file);
        }
        let listener = Listener(self.audit()?);
        let engine = builder.sink(Arc::new(listener)).start().await?;
        self.audit.note_loaded(&engine.plugins());
        Ok(engine)
    }

    fn builder(&self, config: Config) -> Result<EngineBuilder> {
        let telemetry = Telemetry::new(Build {
            version: env!("CARGO_PKG_VERSION"),
        });
        Ok(Engine::builder()
            .at(self.home()?)
            .config(config)
            .telemetry(Arc::new(telemetry)))
    }

    /// Lets log lines go to standard error. A single command tells of events
    /// and of warnings at the start in its own words, so only other warnings
    /// interrupt it unless `-v` asks for more.
    fn log_to_stderr(&self, config: &Config, by: Use) {
        let level = match (self.global.verbose, by) {
            (0, Use::Service) => config.log.level.clone(),
            (0, Use::OneCommand) => "warn,events=off".to_owned(),
            (1, _) => "info".to_owned(),
            (2, _) => "debug".to_owned(),
            _ => "trace".to_owned(),
        };
        let level = match by {
            Use::Service => level,
            Use::OneCommand => format!("{level},warnings=off"),
        };
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let format = match config.log.format {
            LogFormat::Human => Format::Human,
            LogFormat::Json => Format::Json,
            LogFormat::Auto if self.out.is_json() => Format::Json,
            LogFormat::Auto if terminal || matches!(by, Use::OneCommand) => Format::Human,
            LogFormat::Auto => Format::Json,
        };
        let Ok(filter) = level.parse() else {
            self.out.warn(&format!("`log.level` is no filter: {level}"));
            return;
        };
        match log::background(Stderr) {
            Ok((writer, flush)) => {
                let subscriber = log::subscriber(format, filter, writer);
                // Errors only say that there is one already.
                tracing::subscriber::set_global_default(subscriber).ok();
                self.log.set(flush).ok();
            }
            Err(error) => self.out.warn(&format!("nothing is logged: {error}")),
        }
    }

    /// Waits until what was logged so far is written, so that it stands before
    /// what is said next.
    pub(crate) fn flush_log(&self) {
        if let Some(flush) = self.log.get() {
            flush.flush();
        }
    }
}

/// What an engine is started for.
#[derive(Clone, Copy)]
enum Use {
    OneCommand,
    Service,
}
