//! The thread `terminal`: handles keys and shows what arrives. It owns the console, and exits with
//! the conversation, when all senders of screen updates are dropped.
//!
//! Only this thread writes to the terminal, so incoming messages never break the line being typed,
//! and everything is shown, in order.

use std::io;
use std::time::{Duration, Instant};

use a_chat::Name;
use a_chat::client::Block;
use crossbeam_channel::{Receiver, Sender, after, never, select};

use super::command::{HELP, UserCommand, interpret, list};
use super::completion::Names;
use super::console::Console;
use super::history::History;
use super::keys::Key;
use super::line::Line;
use super::screen::Screen;
use super::style::Style;

/// How long leaving may take before the user is told what it waits for.
const EXPLAIN_AFTER: Duration = Duration::from_secs(1);

/// Something to show.
#[derive(Debug)]
pub(crate) enum ScreenUpdate {
    FromServer(Block),
    Status(String),
}

/// The state of the user interface.
#[derive(Debug)]
pub(crate) struct Ui {
    console: Console,
    style: Style,
    line: Line,
    history: History,
    names: Names,
    /// The recipients of plain lines.
    to: Vec<Name>,
    /// Where entered lines go; dropped when the user leaves.
    lines: Option<Sender<Vec<u8>>>,
    /// Fires when leaving takes long enough to be explained.
    late: Receiver<Instant>,
}

impl Ui {
    /// An interface that sends what is entered to `lines`.
    pub(crate) fn new(console: Console, style: Style, lines: Sender<Vec<u8>>) -> Self {
        Self {
            console,
            style,
            line: Line::default(),
            history: History::default(),
            names: Names::default(),
            to: Vec::new(),
            lines: Some(lines),
            late: never(),
        }
    }

    /// The thread's main loop.
    pub(crate) fn run(mut self, updates: &Receiver<ScreenUpdate>) -> io::Result<()> {
        self.screen().clear_row();
        self.press_all()?;
        loop {
            self.draw()?;
            let leaving = self.lines.is_none();
            select! {
                recv(self.console.events) -> event => {
                    self.screen().clear_row();
                    match event {
                        Ok(event) => {
                            self.console.handle(event)?;
                            self.press_all()?;
                        }
                        Err(_) => self.leave(),
                    }
                }
                recv(updates) -> update => {
                    if !leaving {
                        self.screen().clear_row();
                    }
                    match update {
                        Ok(update) => self.show(update),
                        Err(_) => break,
                    }
                }
                recv(self.late) -> _ => {
                    self.say("waiting for what is still on its way; Ctrl-C ends that");
                }
            }
        }
        self.leave();
        self.screen().flush()
    }

    fn screen(&mut self) -> &mut Screen {
        &mut self.console.screen
    }

    fn draw(&mut self) -> io::Result<()> {
        let screen = &mut self.console.screen;
        if self.lines.is_some() {
            let prompt = self.style.prompt(&self.to, Screen::columns());
            screen.put_row(&prompt, self.line.split_at_cursor());
        }
        screen.flush()
    }

    fn show(&mut self, update: ScreenUpdate) {
        match update {
            ScreenUpdate::FromServer(block) => {
                for event in block.into_events() {
                    self.names.add_from(&event);
                    self.console.screen.put(&self.style.event(&event));
                }
            }
            ScreenUpdate::Status(text) => self.say(&text),
        }
    }

    /// Shows a status of the client itself.
    fn say(&mut self, text: &str) {
        self.console.screen.put(&self.style.status(text));
    }

    fn press_all(&mut self) -> io::Result<()> {
        while let Some(key) = self.console.key() {
            match key {
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
                Key::Redraw => self.screen().clear_all(),
                Key::Interrupt => self.leave(),
                Key::EndOfFile if self.line.text().is_empty() => self.leave(),
                Key::Suspend => self.console.suspend()?,
                _ => drop(self.line.edit(key)),
            }
        }
        Ok(())
    }

    /// Pasted text may have several lines.
    fn enter(&mut self) {
        let text = self.line.take();
        for line in text.split('\n').filter(|line| !line.trim().is_empty()) {
            self.history.push(line);
            if self.lines.is_some() {
                self.execute(line);
            } else {
                self.say_not_sent(line);
            }
        }
    }

    fn execute(&mut self, line: &str) {
        match interpret(line, &self.to) {
            UserCommand::Nothing => {}
            UserCommand::Message { to, text } => {
                self.console.screen.put(&self.style.own(&to, &text));
                self.send(&format!("{}: {text}", list(&to)));
                self.names.add(&to);
            }
            UserCommand::Ask(line) => self.send(&line),
            UserCommand::To(names) => {
                self.names.add(&names);
                self.to = names;
            }
            UserCommand::Help => self.screen().put(&format!("{HELP}\n")),
            UserCommand::Quit => self.leave(),
            UserCommand::Invalid(why) => self.console.screen.put(&self.style.error(&why)),
        }
    }

    fn send(&self, line: &str) {
        if let Some(lines) = &self.lines {
            // If the conversation is over, it reports what was not accepted.
            let _ = lines.send(format!("{line}\n").into_bytes());
        }
    }

    fn complete(&mut self) {
        let (before, after) = self.line.split_at_cursor();
        if let Some(completion) = self.names.complete(before, after) {
            self.line.replace_from(completion.start, &completion.text);
            if !completion.choices.is_empty() {
                self.console.screen.put(&self.style.choices(&completion.choices));
            }
        }
    }

    /// Ends the input and restores the terminal; updates from now on are written as plain lines.
    fn leave(&mut self) {
        if self.lines.take().is_some() {
            let line = self.line.take();
            if !line.is_empty() {
                self.say_not_sent(&line);
            }
            self.console.close();
            self.late = after(EXPLAIN_AFTER);
        }
    }

    fn say_not_sent(&mut self, line: &str) {
        self.say(&format!("not sent: {}", line.replace('\n', " ")));
    }
}
