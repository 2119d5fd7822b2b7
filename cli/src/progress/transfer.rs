//! Shows how a download goes: a moving line on a terminal, one line elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{may_move, moving};
use crate::output::{Output, harmless};

/// The progress of one download. What moves is gone once it is dropped.
pub(crate) struct Transfer {
    bar: Option<ProgressBar>,
}

impl Transfer {
    /// Of something that comes from `location`.
    pub(crate) fn new(out: Output, location: &str) -> Self {
        let is_silent = out.is_json() || out.is_quiet();
        let text = format!("fetching {}", harmless(location));
        if is_silent || !may_move() {
            out.note(&text);
            return Self { bar: None };
        }
        let bar = moving().add(ProgressBar::no_length());
        // A template of ours that does not parse falls back to indicatif's own.
        let template = "{spinner} {msg}  {bytes} of {total_bytes}  {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(text);
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar: Some(bar) }
    }

    /// How much there is by now, and how much there will be if that is known.
    pub(crate) fn at(&self, bytes: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(bytes);
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
