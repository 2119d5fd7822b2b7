//! `orchestrator audit export`

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use miette::Diagnostic;
use orchestrator_signing::audit::{AuditError, AuditReader, prove};
use serde_json::json;

use crate::{
    context::Context,
    error::CliError,
    exit::Exit,
    failure::{Failure, Result},
};

/// Each record has a proof of its own, which is a file.
const RECORDS_MAX: u64 = 100_000;

/// Why nothing is exported.
#[derive(Debug, thiserror::Error, Diagnostic)]
enum ExportError {
    /// The range of records has none in it.
    #[error("`--last {last}` stands before `--first {first}`")]
    #[diagnostic(
        code("ORC-5042"),
        help("both are numbers of records; the one with `--last` is written too")
    )]
    Ends { first: u64, last: u64 },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The first record [default: the first that is kept]
    #[arg(long, value_name = "SEQ")]
    first: Option<u64>,

    /// The last record [default: the newest, at most 100000 records]
    #[arg(long, value_name = "SEQ")]
    last: Option<u64>,

    /// Where to write; made if need be, and has to be empty
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        if let (Some(first), Some(last)) = (self.first, self.last)
            && last < first
        {
            return Err(Failure::new(Exit::Usage, ExportError::Ends { first, last }));
        }
        let log = super::dir(context)?;
        let key = super::key(context)?;
        super::sign(context)?;
        let mut reader = AuditReader::open(&log, self.first.unwrap_or(0))?;
        let first = reader.next_seq();
        let most = first.saturating_add(RECORDS_MAX - 1);
        let last = self.last.unwrap_or(most).min(most);
        // Nothing is made where there is nothing to put in.
        prove(&log, &key, first.min(last))?;

        let dir = self.output_dir.as_path();
        let proofs = dir.join("proofs");
        fs::create_dir_all(dir).map_err(failed("make", dir))?;
        fs::create_dir(&proofs).map_err(failed("make", &proofs))?;
        let path = dir.join("records.ndjson");
        let mut records = BufWriter::new(File::create_new(&path).map_err(failed("make", &path))?);
        let mut checkpoint = None;
        let mut many = 0;
        while reader.next_seq() <= last {
            let seq = reader.next_seq();
            // Records that were made meanwhile are covered by the next checkpoint.
            let proof = match prove(&log, &key, seq) {
                Err(AuditError::NoSuchRecord { .. }) => break,
                proof => proof?.1,
            };
            let Some(line) = reader.next_line()? else {
                break;
            };
            let written = records
                .write_all(&line)
                .and_then(|()| records.write_all(b"\n"));
            written.map_err(failed("write", &path))?;
            let path = proofs.join(format!("{seq}.tlog-proof"));
            fs::write(&path, proof.to_text()).map_err(failed("write", &path))?;
            checkpoint = Some(proof.checkpoint);
            many += 1;
        }
        records.flush().map_err(failed("write", &path))?;
        for (name, text) in [
            ("checkpoint", checkpoint.unwrap_or_default()),
            ("key.vkey", format!("{}\n", key.to_text())),
        ] {
            let path = dir.join(name);
            fs::write(&path, text).map_err(failed("write", &path))?;
        }
        let value = json!({
            "records": many,
            "first": first,
            "output_dir": dir.display().to_string(),
            "vkey": key.to_text(),
        });
        context.out.show(&value, |_| {
            format!(
                "wrote {many} records with their proofs to {}",
                dir.display()
            )
        })
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CliError {
    let path = path.to_owned();
    move |reason| CliError::file(action, path, reason)
}
