//! The thread `terminal`: handles keys and shows what arrives. It owns the console, and exits with
//! the conversation, when all senders of screen updates are dropped.
//!
//! Only this thread writes to the terminal, so incoming messages never break the line being typed,
//! and everything is shown, in order.

use std::io;
use std::time::{Duration, Instant};

use a_chat::client::{Block, LineSender, SessionHandle};
use crossbeam_channel::{Receiver, after, never, select};
use unicode_segmentation::UnicodeSegmentation;

use super::command::{HELP, UserCommand, interpret, list};
use super::completion::Names;
use super::console::Console;
use super::history::History;
use super::keys::Key;
use super::line::Line;
use super::recipient::Recipient;
use super::screen::Screen;
use super::style::Style;

/// How long leaving may take before the user is told what it waits for.
const EXPLAIN_AFTER: Duration = Duration::from_secs(1);

/// Something to show.
#[derive(Debug)]
pub(crate) enum ScreenUpdate {
    FromServer(Block),
    Status(String),
    /// The status of the first login.
    Connected(String),
    /// The login failed, for this reason: the user is to be asked for another name.
    NameTaken(String),
}

/// The state of the user interface.
#[derive(Debug)]
pub(crate) struct Ui {
    console: Console,
    style: Style,
    line: Line,
    history: History,
    /// A search through the history, while there is one.
    search: Option<Search>,
    names: Names,
    /// The recipients of plain lines.
    to: Vec<Recipient>,
    /// Where entered lines go; dropped when the user leaves.
    lines: Option<LineSender>,
    /// Told when the user leaves, since there may be no connection yet.
    session: SessionHandle,
    /// Keys wait for the first login: if the name is taken, they are for the question for another.
    is_logging_in: bool,
    /// Fires when leaving takes long enough to be explained.
    late: Receiver<Instant>,
}

/// A search back through the history.
#[derive(Debug, Default)]
struct Search {
    pattern: String,
    /// How many lines back the line is that was found last; 0 is none.
    back: usize,
    /// No other line contains the pattern.
    is_missing: bool,
}

impl Search {
    /// Searches from the line on that is this many lines back.
    fn find(&mut self, history: &History, back: usize) {
        if let Some((back, _)) = history.find(&self.pattern, back) {
            self.back = back;
            self.is_missing = false;
        } else {
            self.is_missing = true;
        }
    }

    fn shorten(&mut self) {
        let last = self.pattern.grapheme_indices(true).next_back();
        self.pattern.truncate(last.map_or(0, |(at, _)| at));
    }

    /// The line that was found last, divided where it contains the pattern.
    fn line<'a>(&self, history: &'a History) -> Option<(&'a str, &'a str)> {
        let line = history.get(self.back)?.as_str();
        Some(line.split_at(line.find(&self.pattern).unwrap_or(0)))
    }
}

impl Ui {
    /// An interface that sends what is entered to `lines`. While it is logging in, keys wait.
    pub(crate) fn new(
        console: Console,
        lines: LineSender,
        session: SessionHandle,
        is_logging_in: bool,
    ) -> Self {
        Self {
            console,
            style: Style::from_environment(),
            line: Line::default(),
            history: History::default(),
            search: None,
            names: Names::default(),
            to: Vec::new(),
            lines: Some(lines),
            session,
            is_logging_in,
            late: never(),
        }
    }

    /// The thread's main loop. Returns the console if the user is to be asked for another name.
    pub(crate) fn run(mut self, updates: &Receiver<ScreenUpdate>) -> io::Result<Option<Console>> {
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
                        Ok(ScreenUpdate::NameTaken(why)) if !leaving => {
                            self.console.screen.put(&self.style.error(&why));
                            return Ok(Some(self.console));
                        }
                        Ok(update) => self.show(update)?,
                        Err(_) => break,
                    }
                }
                recv(self.late) -> _ => {
                    self.say("waiting for what is still on its way; Ctrl-C ends that");
                }
            }
        }
        self.leave();
        self.screen().flush()?;
        Ok(None)
    }

    fn screen(&mut self) -> &mut Screen {
        &mut self.console.screen
    }

    fn draw(&mut self) -> io::Result<()> {
        let screen = &mut self.console.screen;
        if self.lines.is_some() && !self.is_logging_in {
            let columns = Screen::columns();
            let found = self.search.as_ref().and_then(|search| search.line(&self.history));
            let (prompt, parts) = match &self.search {
                Some(Search { pattern, is_missing, .. }) => (
                    self.style.search(&self.to, pattern, !is_missing, columns),
                    found.unwrap_or_else(|| self.line.split_at_cursor()),
                ),
                None => (self.style.prompt(&self.to, columns), self.line.split_at_cursor()),
            };
            screen.put_row(&prompt, parts);
        }
        screen.flush()
    }

    fn show(&mut self, update: ScreenUpdate) -> io::Result<()> {
        match update {
            ScreenUpdate::FromServer(block) => {
                for event in block.into_events() {
                    self.names.add_from(&event);
                    self.console.screen.put(&self.style.event(&event));
                }
            }
            ScreenUpdate::Status(text) => self.say(&text),
            ScreenUpdate::Connected(text) => {
                self.say(&text);
                self.is_logging_in = false;
                self.press_all()?;
            }
            // The user has left, and the session reports the error.
            ScreenUpdate::NameTaken(_) => {}
        }
        Ok(())
    }

    /// Shows a status of the client itself.
    fn say(&mut self, text: &str) {
        self.console.screen.put(&self.style.status(text));
    }

    fn press_all(&mut self) -> io::Result<()> {
        if self.is_logging_in {
            if self.console.wants_to_leave() {
                self.leave();
            }
            return Ok(());
        }
        while let Some(key) = self.console.key() {
            if let Some(key) = self.search_key(key) {
                self.press(&key)?;
            }
        }
        Ok(())
    }

    fn press(&mut self, key: &Key) -> io::Result<()> {
        match key {
            Key::Enter => self.enter(),
            Key::Tab => self.complete(),
            Key::Up => {
                if let Some(line) = self.history.previous(self.line.text()) {
                    self.line.set(line);
                }
            }
            Key::Down => {
                if let Some(line) = self.history.next(self.line.text()) {
                    self.line.set(line);
                }
            }
            Key::Search => self.search = Some(Search::default()),
            Key::Redraw => self.screen().clear_all(),
            Key::Interrupt => self.leave(),
            Key::EndOfFile if self.line.is_empty() => self.leave(),
            Key::Suspend => self.console.suspend()?,
            _ => drop(self.line.edit(key)),
        }
        Ok(())
    }

    /// Passes a key to the search, if there is one. Returns the key if it is not part of it: such a
    /// key ends the search, with the line that was found.
    fn search_key(&mut self, key: Key) -> Option<Key> {
        let Some(search) = &mut self.search else { return Some(key) };
        match key {
            Key::Search => search.find(&self.history, search.back + 1),
            Key::Char(char) => {
                search.pattern.push(char);
                search.find(&self.history, search.back.max(1));
            }
            Key::Paste(text) => {
                search.pattern.push_str(&text);
                search.find(&self.history, search.back.max(1));
            }
            Key::Backspace => {
                search.shorten();
                search.find(&self.history, 1);
            }
            Key::Cancel | Key::Interrupt => self.search = None,
            Key::Redraw | Key::Suspend => return Some(key),
            _ => {
                let back = search.back;
                self.search = None;
                if back > 0 {
                    let line = self.history.show(back, self.line.text());
                    self.line.set(line);
                }
                return Some(key);
            }
        }
        None
    }

    fn enter(&mut self) {
        let line = self.line.take();
        match interpret(&line, &self.to) {
            UserCommand::Nothing => return,
            _ if self.lines.is_none() => self.say_not_sent(line.as_str()),
            command => self.execute(command),
        }
        self.history.push(line);
    }

    fn execute(&mut self, command: UserCommand) {
        match command {
            UserCommand::Nothing => {}
            UserCommand::Messages { to, lines } => {
                let names = list(&to);
                for line in lines {
                    self.console.screen.put(&self.style.own(&to, &line));
                    self.send(&format!("{names}: {line}"));
                }
                self.names.add(&to);
            }
            UserCommand::Ask(line) => self.send(&line),
            UserCommand::Join { room, line } => {
                self.send(&line);
                self.to = vec![Recipient::Room(room)];
                self.names.add(&self.to);
            }
            UserCommand::Leave(room) => {
                self.send(&format!("/leave {room}"));
                self.to.retain(|to| *to != Recipient::Room(room.clone()));
            }
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
            // If the session is over, it reports what was not accepted.
            let _ = lines.send(line);
        }
    }

    fn complete(&mut self) {
        let (before, after) = self.line.split_at_cursor();
        if let Some(completion) = self.names.complete(before, after, self.to.is_empty()) {
            self.line.replace_from(completion.start, &completion.text);
            if !completion.choices.is_empty() {
                self.console.screen.put(&self.style.choices(&completion.choices));
            }
        }
    }

    /// Ends the input and restores the terminal; updates from now on are written as plain lines.
    fn leave(&mut self) {
        if self.lines.take().is_some() {
            self.session.cancel_connecting();
            let line = self.line.take();
            if !line.is_empty() {
                self.say_not_sent(line.as_str());
            }
            self.console.close();
            self.late = after(EXPLAIN_AFTER);
        }
    }

    fn say_not_sent(&mut self, line: &str) {
        self.say(&format!("not sent: {}", line.replace('\n', " ")));
    }
}
