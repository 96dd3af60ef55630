//! The terminal while it is this client's: taken over, and given back whatever happens. It belongs
//! to the thread that asks for the name, then to the thread `terminal`.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossbeam_channel::{Receiver, never};

use super::super::input::Stop;
use super::keys::{Decoder, Key};
use super::screen::Screen;
use super::tty::{self, Modes};

/// When it was clear that the end has come.
pub(crate) type Leaving = Arc<OnceLock<Instant>>;

/// What a terminal has to say.
#[derive(Debug)]
pub(crate) enum Input {
    Bytes(Vec<u8>),
    /// Its window has another size, or this process goes on after a stop.
    Changed,
}

/// A terminal with somebody at it.
#[derive(Debug)]
pub(crate) struct Console {
    pub(crate) screen: Screen,
    /// What comes from the terminal: to be handed to [`take`](Self::take).
    pub(crate) input: Receiver<Input>,
    /// Ends the thread that brings it.
    stop: Stop,
    modes: Modes,
    leaving: Leaving,
    decoder: Decoder,
    /// Keys that were pressed and not looked at so far.
    keys: VecDeque<Key>,
    /// The terminal is in the modes for typing.
    open: bool,
}

impl Console {
    /// Takes the terminal over.
    pub(crate) fn open(
        modes: Modes,
        input: Receiver<Input>,
        stop: Stop,
        leaving: Leaving,
    ) -> io::Result<Self> {
        modes.enter()?;
        let mut screen = Screen::default();
        screen.open();
        let (decoder, keys) = (Decoder::default(), VecDeque::new());
        Ok(Self { screen, input, stop, modes, leaving, decoder, keys, open: true })
    }

    /// Takes what has come.
    pub(crate) fn take(&mut self, input: Input) -> io::Result<()> {
        match input {
            Input::Bytes(bytes) => self.keys.extend(self.decoder.decode(&bytes)),
            Input::Changed => self.resume()?,
        }
        Ok(())
    }

    /// The next key, if it was pressed.
    pub(crate) fn key(&mut self) -> Option<Key> {
        self.keys.pop_front()
    }

    /// Stops this process, as Ctrl-Z does elsewhere, until somebody has it go on.
    pub(crate) fn suspend(&mut self) -> io::Result<()> {
        self.screen.close();
        self.screen.flush()?;
        self.modes.leave();
        tty::suspend();
        self.resume()
    }

    /// After a stop the terminal may be in any mode.
    fn resume(&mut self) -> io::Result<()> {
        self.screen.open();
        self.modes.enter()
    }

    /// Gives the terminal back, from which nothing comes any more.
    pub(crate) fn close(&mut self) {
        if self.open {
            self.leaving.get_or_init(Instant::now);
            self.stop.stop();
            self.input = never();
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
            // There was no conversation, or it has ended with an error or a panic.
            self.screen.clear_row();
            self.close();
            // It fails only if the terminal is gone.
            let _ = self.screen.flush();
        }
    }
}
