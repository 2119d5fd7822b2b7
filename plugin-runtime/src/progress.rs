//! Reports of progress that come faster than they may be passed on.

use orchestrator_contract::{RunId, StepId};

use crate::logs::Origin;

/// How many calls may have a report held back at once; those of further ones are
/// dropped.
const BACKLOG_MAX: usize = 256;

/// How far one call is.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) origin: Origin,
    /// Hundredths done.
    pub(crate) percent: Option<u8>,
    pub(crate) message: String,
}

/// The latest report of each call whose reports come too fast, first come first, and
/// how many others there were.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    reports: Vec<Report>,
    dropped: u64,
    /// Whether somebody passes them on.
    pub(crate) is_attended: bool,
}

impl Backlog {
    /// Holds a report back, in place of an earlier one of its call.
    pub(crate) fn hold(&mut self, report: Report) {
        match self.place(report.origin.run, &report.origin.step) {
            Some(place) => {
                self.reports[place] = report;
                self.dropped += 1;
            }
            None if self.reports.len() < BACKLOG_MAX => self.reports.push(report),
            None => self.dropped += 1,
        }
    }

    /// The call has a later report that is passed on, or has ended.
    pub(crate) fn forget(&mut self, run: RunId, step: &StepId) {
        if let Some(place) = self.place(run, step) {
            self.reports.remove(place);
            self.dropped += 1;
        }
    }

    /// The reports that may be passed on, while `admit` lets them.
    pub(crate) fn take(&mut self, mut admit: impl FnMut() -> bool) -> Vec<Report> {
        let count = self.reports.iter().take_while(|_| admit()).count();
        self.reports.drain(..count).collect()
    }

    /// How many were dropped since this was last asked.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.reports.is_empty() && self.dropped == 0
    }

    fn place(&self, run: RunId, step: &StepId) -> Option<usize> {
        let mut reports = self.reports.iter();
        reports.position(|it| it.origin.run == run && it.origin.step == *step)
    }
}

#[cfg(test)]
mod tests {
    use orchestrator_contract::TraceContext;

    use super::*;

    fn report(step: &str, message: &str) -> Report {
        Report {
            origin: Origin {
                run: RunId::from_parts(1, 2),
                step: step.into(),
                trace: TraceContext::from_random(1, 1, false),
            },
            percent: None,
            message: message.to_owned(),
        }
    }

    fn messages(reports: &[Report]) -> Vec<&str> {
        reports.iter().map(|report| &*report.message).collect()
    }

    #[test]
    fn the_latest_of_each_call_is_kept_and_the_others_are_counted() {
        let mut backlog = Backlog::default();
        for (step, message) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("a", "5")] {
            backlog.hold(report(step, message));
        }
        backlog.forget(RunId::from_parts(1, 2), &"c".into());
        let mut tokens = 1;
        let admit = || std::mem::replace(&mut tokens, 0) > 0;
        assert_eq!(messages(&backlog.take(admit)), ["5"]);
        assert_eq!(messages(&backlog.take(|| true)), ["2"]);
        assert!(!backlog.is_empty());
        assert_eq!(backlog.take_dropped(), 3);
        assert!(backlog.is_empty());
    }

    #[test]
    fn the_calls_with_a_report_are_bounded() {
        let mut backlog = Backlog::default();
        for step in 0..2 * BACKLOG_MAX {
            backlog.hold(report(&step.to_string(), "m"));
        }
        assert_eq!(backlog.take(|| true).len(), BACKLOG_MAX);
        assert_eq!(backlog.take_dropped(), BACKLOG_MAX as u64);
    }
}
