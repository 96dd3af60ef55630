//! Both sides of a talk: what is typed, and what is shown. The thread `terminal` runs this and owns
//! the terminal; it ends with the conversation, when nobody has anything to show any more.
//!
//! Nobody but this thread writes to the terminal, so that nothing that arrives ever breaks the line
//! being typed, and everything is shown in order and to the last.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use a_chat::Name;
use a_chat::client::Block;
use crossbeam_channel::{Receiver, Sender, after, never, select};

use super::super::input::Stop;
use super::completion::Names;
use super::history::History;
use super::keys::{Decoder, Key};
use super::line::Line;
use super::look::{Look, Prompt};
use super::screen::Screen;
use super::tty::{self, Input, Modes};
use super::typed::{HELP, Typed, interpret, list};

/// How soon the rest should have come after the end of the input, so that nobody has to wonder.
const SOON: Duration = Duration::from_secs(1);

/// What is asked before anything else.
const WHO: &str = "your name: ";

/// What there is to show.
#[derive(Debug)]
pub(crate) enum News {
    Said(Block),
    Status(String),
}

/// When it was clear that the end has come.
pub(crate) type Leaving = Arc<OnceLock<Instant>>;

/// A talk at the terminal.
#[derive(Debug)]
pub(crate) struct Talk {
    modes: Modes,
    input: Receiver<Input>,
    /// Ends the thread that reads `input`.
    stop: Stop,
    leaving: Leaving,
    /// The terminal is in the modes for typing.
    taken: bool,
    decoder: Decoder,
    /// Keys that were pressed and not looked at so far.
    keys: VecDeque<Key>,
    screen: Screen,
    look: Look,
    line: Line,
    history: History,
    names: Names,
    /// To whom plain lines go.
    to: Vec<Name>,
    /// Where lines go; gone when the user leaves.
    lines: Option<Sender<Vec<u8>>>,
}

impl Talk {
    /// Takes over the terminal.
    pub(crate) fn start(
        modes: Modes,
        input: Receiver<Input>,
        stop: Stop,
        leaving: Leaving,
    ) -> io::Result<Self> {
        modes.enter()?;
        let mut screen = Screen::default();
        screen.open();
        Ok(Self {
            modes,
            input,
            stop,
            leaving,
            taken: true,
            decoder: Decoder::default(),
            keys: VecDeque::new(),
            screen,
            look: Look::of_environment(),
            line: Line::default(),
            history: History::default(),
            names: Names::default(),
            to: Vec::new(),
            lines: None,
        })
    }

    /// Asks for the user's name; `None` if that one leaves instead.
    pub(crate) fn ask_name(&mut self) -> io::Result<Option<Name>> {
        let prompt = Prompt { text: WHO.to_owned(), width: WHO.len() };
        loop {
            self.screen.clear_row();
            self.screen.put_row(&prompt, self.line.halves());
            self.screen.flush()?;
            let Ok(input) = self.input.recv() else { return Ok(None) };
            let Input::Bytes(bytes) = input else { continue };
            self.keys.extend(self.decoder.decode(&bytes));
            while let Some(key) = self.keys.pop_front() {
                match key {
                    Key::Interrupt => return Ok(None),
                    Key::EndOfFile if self.line.text().is_empty() => return Ok(None),
                    Key::Enter => {
                        let text = self.line.take();
                        if let Some(name) = Name::new(text.trim().as_bytes()) {
                            return Ok(Some(name));
                        }
                        self.screen.clear_row();
                        let rule = "a name is 1 to 32 of A-Z a-z 0-9 _ . -";
                        self.screen.put(&self.look.error(rule));
                    }
                    _ => drop(self.line.edit(key)),
                }
            }
        }
    }

    /// The thread `terminal`: sends `lines` that are typed, and shows the news.
    pub(crate) fn run(mut self, news: &Receiver<News>, lines: Sender<Vec<u8>>) -> io::Result<()> {
        self.lines = Some(lines);
        self.screen.clear_row();
        self.press_all()?;
        let mut late = never();
        loop {
            self.draw()?;
            let leaving = self.lines.is_none();
            select! {
                recv(self.input) -> input => {
                    self.screen.clear_row();
                    match input {
                        Ok(Input::Bytes(bytes)) => {
                            self.keys.extend(self.decoder.decode(&bytes));
                            self.press_all()?;
                        }
                        Ok(Input::Changed) => self.resume()?,
                        Err(_) => self.leave(),
                    }
                }
                recv(news) -> news => {
                    if !leaving {
                        self.screen.clear_row();
                    }
                    match news {
                        Ok(news) => self.show(news),
                        Err(_) => break,
                    }
                }
                recv(late) -> _ => {
                    let text = "waiting for what is still on its way; Ctrl-C ends that";
                    self.screen.put(&self.look.status(text));
                }
            }
            if !leaving && self.lines.is_none() {
                late = after(SOON);
            }
        }
        self.leave();
        self.screen.flush()
    }

    fn draw(&mut self) -> io::Result<()> {
        if self.lines.is_some() {
            let prompt = self.look.prompt(&self.to, Screen::columns());
            self.screen.put_row(&prompt, self.line.halves());
        }
        self.screen.flush()
    }

    fn show(&mut self, news: News) {
        match news {
            News::Said(block) => {
                for event in block.into_events() {
                    self.names.see_in(&event);
                    self.screen.put(&self.look.event(&event));
                }
            }
            News::Status(text) => self.screen.put(&self.look.status(&text)),
        }
    }

    fn press_all(&mut self) -> io::Result<()> {
        while let Some(key) = self.keys.pop_front() {
            match key {
                _ if self.lines.is_none() => break,
                Key::Enter => self.enter(),
                Key::Tab => self.complete(),
                Key::Up => {
                    if let Some(line) = self.history.previous(self.line.text()) {
                        self.line.set(line);
                    }
                }
                Key::Down => {
                    if let Some(line) = self.history.next() {
                        self.line.set(line);
                    }
                }
                Key::Redraw => self.screen.clear_all(),
                Key::Interrupt => self.leave(),
                Key::EndOfFile if self.line.text().is_empty() => self.leave(),
                Key::Suspend => {
                    self.screen.close();
                    self.screen.flush()?;
                    self.modes.leave();
                    tty::suspend();
                    self.resume()?;
                }
                _ => drop(self.line.edit(key)),
            }
        }
        Ok(())
    }

    /// Takes the terminal over again: after a stop it may be in any mode.
    fn resume(&mut self) -> io::Result<()> {
        self.screen.open();
        self.modes.enter()
    }

    /// What is pasted may have several lines.
    fn enter(&mut self) {
        let text = self.line.take();
        let mut lines = text.split('\n').filter(|line| !line.trim().is_empty());
        for line in &mut lines {
            self.history.push(line);
            self.obey(line);
            if self.lines.is_none() {
                break;
            }
        }
        lines.for_each(|line| self.say_not_sent(line));
    }

    fn say_not_sent(&mut self, line: &str) {
        self.screen.put(&self.look.status(&format!("not sent: {line}")));
    }

    fn obey(&mut self, line: &str) {
        match interpret(line, &self.to) {
            Typed::Nothing => {}
            Typed::Message { to, text } => {
                self.screen.put(&self.look.own(&to, &text));
                self.send(&format!("{}: {text}", list(&to)));
                self.names.see(&to);
            }
            Typed::Question(line) => self.send(&line),
            Typed::To(names) => {
                self.names.see(&names);
                self.to = names;
            }
            Typed::Help => self.screen.put(&format!("{HELP}\n")),
            Typed::Quit => self.leave(),
            Typed::Mistake(why) => self.screen.put(&self.look.error(&why)),
        }
    }

    fn send(&self, line: &str) {
        if let Some(lines) = &self.lines {
            // If nobody takes it, the conversation ends and says what was not accepted.
            let _ = lines.send(format!("{line}\n").into_bytes());
        }
    }

    fn complete(&mut self) {
        let (before, after) = self.line.halves();
        if let Some(completion) = self.names.complete(before, after) {
            self.line.replace_from(completion.start, &completion.text);
            if !completion.choices.is_empty() {
                self.screen.put(&self.look.choices(&completion.choices));
            }
        }
    }

    /// Ends the input and gives the terminal back; what is shown from now on comes line by line.
    fn leave(&mut self) {
        if self.lines.take().is_none() {
            return;
        }
        let line = self.line.take();
        if !line.is_empty() {
            self.say_not_sent(&line);
        }
        self.input = never();
        self.release();
    }

    /// Gives the terminal back.
    fn release(&mut self) {
        self.leaving.get_or_init(Instant::now);
        self.stop.stop();
        self.screen.close();
        self.modes.leave();
        self.taken = false;
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // There was no conversation, or this ends with an error or a panic.
        if self.taken {
            self.screen.clear_row();
            self.release();
            // It fails only if the terminal is gone.
            let _ = self.screen.flush();
        }
    }
}
