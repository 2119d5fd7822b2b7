//! The terminal that moving lines are drawn on.

use std::{
    io::{self, Write as _},
    mem,
    sync::{Mutex, PoisonError},
};

use indicatif::TermLike;
use rustix::termios::tcgetwinsize;

/// What a terminal that does not say is taken for.
const COLUMNS: u16 = 80;
const ROWS: u16 = 24;

/// Standard error, which may go at any time: its window is closed, and the run
/// has to be cancelled or to go on all the same. What cannot be drawn then is
/// not missed; indicatif takes its own terminal's errors for impossible.
#[derive(Debug, Default)]
pub(super) struct Terminal {
    drawn: Mutex<String>,
}

impl Terminal {
    fn draw(&self, text: &str) -> io::Result<()> {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        drawn.push_str(text);
        Ok(())
    }

    /// Asks the terminal to move its cursor.
    fn go(&self, steps: usize, direction: char) -> io::Result<()> {
        match steps {
            0 => Ok(()),
            steps => self.draw(&format!("\x1b[{steps}{direction}")),
        }
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        let columns = tcgetwinsize(io::stderr()).map_or(0, |size| size.ws_col);
        if columns == 0 { COLUMNS } else { columns }
    }

    fn height(&self) -> u16 {
        let rows = tcgetwinsize(io::stderr()).map_or(0, |size| size.ws_row);
        if rows == 0 { ROWS } else { rows }
    }

    fn move_cursor_up(&self, steps: usize) -> io::Result<()> {
        self.go(steps, 'A')
    }

    fn move_cursor_down(&self, steps: usize) -> io::Result<()> {
        self.go(steps, 'B')
    }

    fn move_cursor_right(&self, steps: usize) -> io::Result<()> {
        self.go(steps, 'C')
    }

    fn move_cursor_left(&self, steps: usize) -> io::Result<()> {
        self.go(steps, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.draw(text)?;
        self.draw("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.draw(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let drawn = mem::take(&mut *self.drawn.lock().unwrap_or_else(PoisonError::into_inner));
        io::stderr().lock().write_all(drawn.as_bytes()).ok();
        Ok(())
    }
}
