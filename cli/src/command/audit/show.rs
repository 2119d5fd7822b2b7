//! `orchestrator audit show`

use std::{collections::VecDeque, time::Duration};

use jiff::{SignedDuration, Timestamp};
use orchestrator_signing::audit::{AuditReader, AuditRecord, Outcome};

use crate::{
    context::Context,
    failure::Result,
    output::{Color, harmless},
};

/// How often a log that is followed is looked at.
const POLL: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what concerns this plugin
    #[arg(long)]
    plugin: Option<String>,

    /// Only records of this kind: `grant`, `denial`, `verify`, …
    #[arg(long)]
    kind: Option<String>,

    /// Only what was refused or failed
    #[arg(long)]
    denied: bool,

    /// Only what happened since then: a moment, or how long ago (`24h`)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,

    /// Only the last N
    #[arg(short = 'n', long = "lines", value_name = "N")]
    last: Option<usize>,

    /// Go on with what is recorded from now on
    #[arg(long, short)]
    follow: bool,
}

fn moment(text: &str) -> std::result::Result<Timestamp, String> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    let ago: Option<SignedDuration> = text.parse().ok();
    let then = ago.and_then(|ago| Timestamp::now().checked_sub(ago).ok());
    then.ok_or_else(|| format!("`{text}` is neither a moment nor a time such as `24h`"))
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let mut reader = AuditReader::open(&super::dir(context)?, 0)?;
        // A limited number of lines is kept until the last ones are known.
        let mut last = VecDeque::new();
        while let Some((record, line)) = self.next(&mut reader)? {
            match self.last {
                None => show(context, &record, &line)?,
                Some(most) => {
                    last.push_back((record, line));
                    if last.len() > most {
                        last.pop_front();
                    }
                }
            }
        }
        for (record, line) in last {
            show(context, &record, &line)?;
        }
        if !self.follow {
            return Ok(());
        }
        // Until somebody interrupts it, or the reader of its output is gone.
        loop {
            tokio::time::sleep(POLL).await;
            while let Some((record, line)) = self.next(&mut reader)? {
                show(context, &record, &line)?;
            }
        }
    }

    /// The next record that is asked for, and its line.
    fn next(&self, reader: &mut AuditReader) -> Result<Option<(AuditRecord, Vec<u8>)>> {
        while let Some(line) = reader.next_line()? {
            // What a later version records is passed over by an earlier one.
            if let Ok(record) = AuditRecord::parse(&line)
                && self.wants(&record)
            {
                return Ok(Some((record, line)));
            }
        }
        Ok(None)
    }

    fn wants(&self, record: &AuditRecord) -> bool {
        let event = &record.event;
        let is_bad = matches!(event.outcome, Outcome::Denied | Outcome::Failed);
        let time: Option<Timestamp> = record.time.parse().ok();
        (self.plugin.is_none() || self.plugin == event.plugin)
            && self
                .kind
                .as_ref()
                .is_none_or(|kind| kind == event.kind.as_str())
            && (!self.denied || is_bad)
            && self
                .since
                .is_none_or(|since| time.is_none_or(|time| time >= since))
    }
}

/// The line as it was recorded, for programs; one line in words for people.
fn show(context: &Context, record: &AuditRecord, line: &[u8]) -> Result {
    let out = context.out;
    if out.is_json() {
        return out.text(&String::from_utf8_lossy(line));
    }
    let event = &record.event;
    let (outcome, color) = match event.outcome {
        Outcome::Begun => ("begun", Color::Dim),
        Outcome::Allowed => ("allowed", Color::Green),
        Outcome::Ok => ("ok", Color::Green),
        Outcome::Denied => ("denied", Color::Red),
        Outcome::Failed => ("failed", Color::Red),
    };
    let mut text = format!(
        "{:>6} {} {:<13} ",
        record.seq,
        record.time,
        event.kind.as_str()
    );
    text += &out.paint(color, &format!("{outcome:<7}"));
    let plugin = event.plugin.as_ref().map(|plugin| match &event.version {
        Some(version) => format!("{plugin}@{version}"),
        None => plugin.clone(),
    });
    let by = event.actor.as_ref().map(|actor| format!("by {actor}"));
    let words = [
        &plugin,
        &event.action,
        &event.key,
        &event.capability,
        &event.resource,
        &event.code,
        &event.detail,
        &by,
    ];
    for word in words.into_iter().flatten() {
        text.push(' ');
        text += &harmless(word);
    }
    out.text(&text)
}
