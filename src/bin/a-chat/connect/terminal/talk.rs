//! Both sides of a talk: what is typed, and what is shown. The thread `terminal` runs this and owns
//! the terminal; it ends with the conversation, when nobody has anything to show any more.
//!
//! Nobody but this thread writes to the terminal, so that nothing that arrives ever breaks the line
//! being typed, and everything is shown in order and to the last.

use std::io;
use std::time::{Duration, Instant};

use a_chat::Name;
use a_chat::client::Block;
use crossbeam_channel::{Receiver, Sender, after, never, select};

use super::completion::Names;
use super::console::Console;
use super::history::History;
use super::keys::Key;
use super::line::Line;
use super::screen::Screen;
use super::style::Style;
use super::typed::{HELP, UserCommand, interpret, list};

/// How soon the rest should have come after the end of the input, so that nobody has to wonder.
const SOON: Duration = Duration::from_secs(1);

/// What there is to show.
#[derive(Debug)]
pub(crate) enum News {
    ServerLine(Block),
    Status(String),
}

/// A talk at the terminal.
#[derive(Debug)]
pub(crate) struct Talk {
    console: Console,
    style: Style,
    line: Line,
    history: History,
    names: Names,
    /// To whom plain lines go.
    to: Vec<Name>,
    /// Where lines go; gone when the user leaves.
    lines: Option<Sender<Vec<u8>>>,
    /// Tells, after that, when the rest should have come.
    late: Receiver<Instant>,
}

impl Talk {
    /// A talk that sends what is typed to `lines`.
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

    /// The thread `terminal`: minds the keys, and shows the news.
    pub(crate) fn run(mut self, news: &Receiver<News>) -> io::Result<()> {
        self.screen().clear_row();
        self.press_all()?;
        loop {
            self.draw()?;
            let leaving = self.lines.is_none();
            select! {
                recv(self.console.input) -> input => {
                    self.screen().clear_row();
                    match input {
                        Ok(input) => {
                            self.console.take(input)?;
                            self.press_all()?;
                        }
                        Err(_) => self.leave(),
                    }
                }
                recv(news) -> news => {
                    if !leaving {
                        self.screen().clear_row();
                    }
                    match news {
                        Ok(news) => self.show(news),
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

    fn show(&mut self, news: News) {
        match news {
            News::ServerLine(block) => {
                for event in block.into_events() {
                    self.names.see_in(&event);
                    self.console.screen.put(&self.style.event(&event));
                }
            }
            News::Status(text) => self.say(&text),
        }
    }

    /// Says what the client itself has to say.
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

    /// What is pasted may have several lines.
    fn enter(&mut self) {
        let text = self.line.take();
        for line in text.split('\n').filter(|line| !line.trim().is_empty()) {
            self.history.push(line);
            if self.lines.is_some() {
                self.obey(line);
            } else {
                self.say_not_sent(line);
            }
        }
    }

    fn obey(&mut self, line: &str) {
        match interpret(line, &self.to) {
            UserCommand::Nothing => {}
            UserCommand::Message { to, text } => {
                self.console.screen.put(&self.style.own(&to, &text));
                self.send(&format!("{}: {text}", list(&to)));
                self.names.see(&to);
            }
            UserCommand::Question(line) => self.send(&line),
            UserCommand::To(names) => {
                self.names.see(&names);
                self.to = names;
            }
            UserCommand::Help => self.screen().put(&format!("{HELP}\n")),
            UserCommand::Quit => self.leave(),
            UserCommand::Invalid(why) => self.console.screen.put(&self.style.error(&why)),
        }
    }

    fn send(&self, line: &str) {
        if let Some(lines) = &self.lines {
            // If nobody takes it, the conversation ends and says what was not accepted.
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

    /// Ends the input and gives the terminal back; what is shown from now on comes line by line.
    fn leave(&mut self) {
        if self.lines.take().is_some() {
            let line = self.line.take();
            if !line.is_empty() {
                self.say_not_sent(&line);
            }
            self.console.close();
            self.late = after(SOON);
        }
    }

    fn say_not_sent(&mut self, line: &str) {
        self.say(&format!("not sent: {}", line.replace('\n', " ")));
    }
}
