//! Everything the command says.
//!
//! Results go to standard output and nothing else does, so that it can be
//! piped; notes and errors go to standard error. A reader that has seen enough
//! (`| head`) is not an error.

use std::io::{self, IsTerminal as _, Write as _};

use orchestrator_contract::steers_terminals;
use serde::Serialize;

use crate::{
    exit::Exit,
    failure::{Failure, Result},
    progress,
};

/// How the command speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    color: bool,
}

/// A colour of the terminal's own palette.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Color {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Dim = 2,
}

impl Output {
    /// Colours are used on a terminal that wants them (<https://no-color.org>).
    pub(crate) fn new(json: bool, quiet: bool, no_color: bool) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let color = !no_color && !set("NO_COLOR") && !dumb;
        Self { json, quiet, color }
    }

    /// Whether programs read what is written.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    pub(crate) fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Whether standard error may be coloured.
    pub(crate) fn colors_errors(self) -> bool {
        self.color && io::stderr().is_terminal()
    }

    /// `text` in a colour, where standard output may be coloured.
    pub(crate) fn paint(self, color: Color, text: &str) -> String {
        match self.color && io::stdout().is_terminal() {
            true => format!("\x1b[{}m{text}\x1b[0m", color as u8),
            false => text.to_owned(),
        }
    }

    /// Writes a result: the value as one JSON document, or what `human` makes
    /// of it.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written; a closed pipe ends the command
    /// with success.
    pub(crate) fn show<T: Serialize + ?Sized>(
        self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result {
        match self.json {
            true => self.text(&pretty(value)?),
            false => self.text(&human(value)),
        }
    }

    /// Writes one element of a stream as a line of JSON.
    pub(crate) fn json_line<T: Serialize + ?Sized>(self, value: &T) -> Result {
        let text = serde_json::to_string(value).map_err(io::Error::from)?;
        self.text(&text)
    }

    /// Writes text as it is, with a line end if it has none.
    pub(crate) fn text(self, text: &str) -> Result {
        let end = if text.ends_with('\n') || text.is_empty() {
            ""
        } else {
            "\n"
        };
        self.bytes(text.as_bytes())?;
        self.bytes(end.as_bytes())
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result {
        let written = progress::beside_moving_lines(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        });
        match written {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(Failure::silent(Exit::Ok))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Tells a person something beside the result; nobody relies on it.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet && !self.json {
            progress::write_to_stderr(format!("{text}\n").as_bytes()).ok();
        }
    }

    /// Tells a person something that must not be missed, even with `--quiet`.
    pub(crate) fn warn(self, text: &str) {
        let word = match self.colors_errors() {
            true => "\x1b[33mwarning\x1b[0m",
            false => "warning",
        };
        progress::write_to_stderr(format!("{word}: {text}\n").as_bytes()).ok();
    }
}

fn pretty<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    Ok(serde_json::to_string_pretty(value).map_err(io::Error::from)?)
}

/// So many of something: `1 plugin`, `2 capabilities`.
pub(crate) fn counted(count: usize, one: &str) -> String {
    match (count, one.strip_suffix('y')) {
        (1, _) => format!("1 {one}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {one}s"),
    }
}

/// Escapes whatever a terminal would obey: control characters, and those that
/// reorder or hide text around them. For text that plugins or files supply.
pub(crate) fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        match steers_terminals(character) {
            true => clean.extend(character.escape_default()),
            false => clean.push(character),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_several() {
        assert_eq!(counted(1, "phase"), "1 phase");
        assert_eq!(counted(0, "phase"), "0 phases");
        assert_eq!(counted(2, "capability"), "2 capabilities");
    }

    #[test]
    fn text_from_elsewhere_cannot_command_the_terminal() {
        let clean = harmless("a\u{1b}[2J\u{9b}31m\r\n\u{202e}ü\u{2060}");
        assert_eq!(clean, "a\\u{1b}[2J\\u{9b}31m\\r\\n\\u{202e}ü\\u{2060}");
    }
}
