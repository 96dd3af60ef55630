//! The terminal while this client has it in its own modes, which are restored whatever happens.
//! Owned first by the thread that asks for the name, then by the thread `terminal`.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never};

use super::super::input::Stop;
use super::keys::{Decoder, Key};
use super::screen::Screen;
use super::tty::{self, Modes};
use super::tty_event::TtyEvent;

/// An escape sequence that is not complete after this time is none: a terminal sends it as a whole.
const SEQUENCE_TIMEOUT: Duration = Duration::from_millis(500);

/// When the user left or the conversation ended.
pub(crate) type Leaving = Arc<OnceLock<Instant>>;

/// A terminal, its pending keys and its screen.
#[derive(Debug)]
pub(crate) struct Console {
    pub(crate) screen: Screen,
    /// What happens at the terminal; to be passed to [`handle`](Self::handle).
    pub(crate) events: Receiver<TtyEvent>,
    /// Ends the thread that sends the events.
    stop: Stop,
    modes: Modes,
    leaving: Leaving,
    decoder: Decoder,
    last_input: Instant,
    /// Keys that were pressed and not yet processed.
    keys: VecDeque<Key>,
    /// The terminal is in the modes for typing.
    open: bool,
}

impl Console {
    /// Puts the terminal in the modes for typing.
    pub(crate) fn open(
        modes: Modes,
        events: Receiver<TtyEvent>,
        stop: Stop,
        leaving: Leaving,
    ) -> io::Result<Self> {
        modes.enter()?;
        let mut screen = Screen::default();
        screen.open();
        let (decoder, keys) = (Decoder::default(), VecDeque::new());
        let last_input = Instant::now();
        Ok(Self { screen, events, stop, modes, leaving, decoder, last_input, keys, open: true })
    }

    /// Decodes input into keys, or sets the modes again after a suspension.
    pub(crate) fn handle(&mut self, event: TtyEvent) -> io::Result<()> {
        match event {
            TtyEvent::Bytes(bytes) => {
                if self.last_input.elapsed() >= SEQUENCE_TIMEOUT {
                    self.decoder.abandon_sequence();
                }
                self.keys.extend(self.decoder.decode(&bytes));
                self.last_input = Instant::now();
            }
            TtyEvent::Changed => self.resume()?,
        }
        Ok(())
    }

    /// The next key, if one is pending.
    pub(crate) fn key(&mut self) -> Option<Key> {
        self.keys.pop_front()
    }

    /// True if a pending key leaves, even where keys have to wait.
    pub(crate) fn wants_to_leave(&self) -> bool {
        let is_eof = self.keys.front() == Some(&Key::EndOfFile);
        is_eof || self.keys.contains(&Key::Interrupt)
    }

    /// Suspends this process, as Ctrl-Z does elsewhere, until a SIGCONT.
    pub(crate) fn suspend(&mut self) -> io::Result<()> {
        self.screen.close();
        self.screen.flush()?;
        self.modes.leave();
        tty::suspend();
        self.resume()
    }

    /// Sets the modes again: after a suspension the terminal may be in any mode.
    fn resume(&mut self) -> io::Result<()> {
        self.screen.open();
        self.modes.enter()
    }

    /// Restores the terminal and ends its input.
    pub(crate) fn close(&mut self) {
        if self.open {
            self.leaving.get_or_init(Instant::now);
            self.stop.stop();
            self.events = never();
            self.keys.clear();
            self.screen.close();
            self.modes.leave();
            self.open = false;
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if self.open {
            // The conversation never started, or it ended with an error or a panic.
            self.screen.clear_row();
            self.close();
            // This fails only if the terminal is gone.
            let _ = self.screen.flush();
        }
    }
}
