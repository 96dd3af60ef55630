//! The wire protocol in its plainest form: one line at a time, with owned strings and the standard
//! library. It is slow, and short enough to be seen to be right.

/// The request of a complete line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Nothing,
    Message { to: Vec<String>, text: String },
    Who(Vec<String>),
    Refused(String),
}

/// The complete lines of a stream without their line ends, and the bytes after the last one.
pub(super) fn lines(stream: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
    let rest = lines.pop().unwrap_or_default();
    (lines.iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect(), rest)
}

pub(super) fn request(line: &[u8], max_line: usize) -> Request {
    if line.len() > max_line {
        return Request::Refused(format!("longer than {max_line} bytes"));
    }
    let Ok(line) = std::str::from_utf8(line) else {
        return Request::Refused("not UTF-8".to_owned());
    };
    if line.is_empty() {
        return Request::Nothing;
    }
    if let Some(list) = line.strip_prefix("/who") {
        if list.is_empty() || list.starts_with(|first: char| first.is_ascii_whitespace()) {
            return Request::Who(names(list));
        }
    }
    let Some((list, text)) = line.split_once(':') else {
        return Request::Refused("no ':' in it, expected \"name, name: text\"".to_owned());
    };
    let to = names(list);
    if to.is_empty() {
        return Request::Refused("no recipient before the ':'".to_owned());
    }
    Request::Message { to, text: text.strip_prefix(' ').unwrap_or(text).to_owned() }
}

/// The names of a list, each once.
fn names(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    for name in list.split(',').map(str::trim) {
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// The reply to a query for names.
pub(super) fn who(here: &[String], absent: &[String]) -> String {
    let absent: Vec<_> = absent.iter().map(|name| show(name)).collect();
    let (here, absent) = (here.join(", "), absent.join(", "));
    if absent.is_empty() {
        format!("here: {here}")
    } else if here.is_empty() {
        format!("not here: {absent}")
    } else {
        format!("here: {here}; not here: {absent}")
    }
}

/// The maximum length of a login line.
const MAX_LOGIN_BYTES: usize = 100;

/// What a reply says about recipients that do not get a message.
pub(super) fn missing(names: Vec<String>) -> String {
    let (absent, invalid): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| is_name(name.as_bytes()));
    let invalid: Vec<_> = invalid.iter().map(|name| show(name)).collect();
    match (absent.as_slice(), invalid.as_slice()) {
        (absent, []) => format!("no such peer: {}", absent.join(", ")),
        ([], invalid) => format!("not a name: {}", invalid.join(", ")),
        (absent, invalid) => {
            format!("no such peer: {}; not a name: {}", absent.join(", "), invalid.join(", "))
        }
    }
}

/// A name with its invisible characters escaped.
fn show(name: &str) -> String {
    let show = |char: char| match char {
        '"' | '\'' | '\\' => char.to_string(),
        _ => char.escape_debug().to_string(),
    };
    name.chars().map(show).collect()
}

fn is_name(line: &[u8]) -> bool {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-".contains(byte);
    (1..=32).contains(&line.len()) && line.iter().all(legal)
}

/// A server that does one thing after another, and delivers everything at once.
pub(super) struct Server {
    max_line: usize,
    clients: Vec<Client>,
    pub(super) accepted: u64,
    pub(super) owed: u64,
    pub(super) unterminated: u64,
}

struct Client {
    state: State,
    /// The bytes after the last line end.
    input: Vec<u8>,
    lines: u64,
    received: Vec<String>,
}

#[derive(Clone, PartialEq, Eq)]
enum State {
    LoggingIn,
    Connected(String),
    Disconnected,
}

impl State {
    fn is_connected_as(&self, name: &str) -> bool {
        matches!(self, Self::Connected(own) if own == name)
    }
}

impl Server {
    pub(super) fn new(max_line: usize) -> Self {
        Self { max_line, clients: Vec::new(), accepted: 0, owed: 0, unterminated: 0 }
    }

    /// Returns the new client's number.
    pub(super) fn connect(&mut self) -> usize {
        let (state, input, received) = (State::LoggingIn, Vec::new(), Vec::new());
        self.clients.push(Client { state, input, lines: 0, received });
        self.clients.len() - 1
    }

    pub(super) fn connections(&self) -> u64 {
        self.clients.len() as u64
    }

    /// The number of clients logged in.
    pub(super) fn connected(&self) -> u64 {
        let here = self.clients.iter().filter(|client| matches!(client.state, State::Connected(_)));
        here.count() as u64
    }

    pub(super) fn is_logging_in(&self, client: usize) -> bool {
        self.clients[client].state == State::LoggingIn
    }

    pub(super) fn is_disconnected(&self, client: usize) -> bool {
        self.clients[client].state == State::Disconnected
    }

    /// All lines sent to a client so far.
    pub(super) fn received(&self, client: usize) -> Vec<String> {
        self.clients[client].received.clone()
    }

    pub(super) fn write(&mut self, client: usize, data: &[u8]) {
        self.clients[client].input.extend_from_slice(data);
        let input = std::mem::take(&mut self.clients[client].input);
        let (lines, rest) = lines(&input);
        for line in lines {
            match self.clients[client].state.clone() {
                State::LoggingIn => self.login(client, line),
                State::Connected(name) => self.take(client, &name, line),
                State::Disconnected => return,
            }
        }
        self.clients[client].input = rest.to_vec();
        // No login line with its line end is longer, and no other byte may follow a carriage return.
        let is_long = rest.len() > self.max_line.min(MAX_LOGIN_BYTES) + 1;
        let is_broken = rest[..rest.len().saturating_sub(1)].contains(&b'\r');
        if self.is_logging_in(client) && (is_long || is_broken) {
            self.login(client, rest);
        }
    }

    /// The client half-closes.
    pub(super) fn leave(&mut self, client: usize) {
        if !self.clients[client].input.is_empty() {
            self.unterminated += 1;
            self.send(client, "error: the last line had no line end and was not accepted".into());
        }
        self.clients[client].state = State::Disconnected;
    }

    pub(super) fn stop(&mut self) {
        for client in 0..self.clients.len() {
            if !self.is_disconnected(client) {
                let lines = self.clients[client].lines;
                let notice = "notice: server is shutting down";
                self.send(client, format!("{notice}, {lines} of your lines were accepted"));
            }
        }
    }

    fn login(&mut self, client: usize, line: &[u8]) {
        self.clients[client].state = State::Disconnected;
        let is_text = line.len() <= self.max_line.min(MAX_LOGIN_BYTES);
        let text = std::str::from_utf8(line).ok().filter(|_| is_text);
        if text.is_some_and(|text| text.contains('\r')) {
            let error = "the first line ended with a carriage return alone";
            self.send(client, format!("error: {error}, lines end with a line feed"));
            return;
        }
        let name = text.map(|text| text.strip_prefix('\u{feff}').unwrap_or(text).trim());
        let name = name.unwrap_or_default().to_owned();
        if !is_name(name.as_bytes()) {
            let rule = "expected 1 to 32 of A-Z a-z 0-9 _ . -";
            self.send(client, format!("error: bad name, {rule}"));
        } else if self.is_connected(&name) {
            self.send(client, "error: name taken".to_owned());
        } else {
            self.clients[client].state = State::Connected(name);
        }
    }

    fn take(&mut self, client: usize, name: &str, line: &[u8]) {
        self.clients[client].lines += 1;
        self.accepted += 1;
        let number = self.clients[client].lines;
        match request(line, self.max_line) {
            Request::Nothing => {}
            Request::Message { to, text } => {
                let (here, absent) = self.partition(&to);
                for peer in 0..self.clients.len() {
                    let is_meant =
                        |state: &State| here.iter().any(|name| state.is_connected_as(name));
                    if is_meant(&self.clients[peer].state) {
                        self.owed += 1;
                        self.send(peer, format!("from {name}: {text}"));
                    }
                }
                if !absent.is_empty() {
                    self.send(client, format!("error: line {number}: {}", missing(absent)));
                }
            }
            Request::Who(names) => {
                let reply = self.who(&names);
                self.send(client, format!("notice: line {number}: {reply}"));
            }
            Request::Refused(why) => self.send(client, format!("error: line {number}: {why}")),
        }
    }

    fn who(&self, names: &[String]) -> String {
        if !names.is_empty() {
            let (here, absent) = self.partition(names);
            return who(&here, &absent);
        }
        let all = self.clients.iter().filter_map(|client| match &client.state {
            State::Connected(name) => Some(name.as_str()),
            _ => None,
        });
        let all: Vec<_> = all.collect();
        format!("{} here: {}", all.len(), all.join(", "))
    }

    /// The names of connected clients, and the others.
    fn partition(&self, names: &[String]) -> (Vec<String>, Vec<String>) {
        names.iter().cloned().partition(|name| self.is_connected(name))
    }

    fn is_connected(&self, name: &str) -> bool {
        self.clients.iter().any(|client| client.state.is_connected_as(name))
    }

    fn send(&mut self, client: usize, line: String) {
        self.clients[client].received.push(line);
    }
}
