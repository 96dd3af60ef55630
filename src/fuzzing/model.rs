//! The wire protocol as plainly as it can be said: one line at a time, with owned strings and what
//! the standard library has for them. It is slow, and it is short enough to be seen to be right.

/// What a client's complete line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Nothing,
    Message { to: Vec<String>, text: String },
    Who(Vec<String>),
    Refused(String),
}

/// The complete lines of a stream, their line ends taken off, and what follows the last of them.
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
    Request::Message { to, text: text.trim().to_owned() }
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

/// What is said about names that were asked for.
pub(super) fn who(here: &[String], missing: &[String]) -> String {
    let (here, missing) = (here.join(", "), missing.join(", "));
    if missing.is_empty() {
        format!("here: {here}")
    } else if here.is_empty() {
        format!("not here: {missing}")
    } else {
        format!("here: {here}; not here: {missing}")
    }
}

fn is_name(line: &[u8]) -> bool {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-".contains(byte);
    (1..=32).contains(&line.len()) && line.iter().all(legal)
}

/// A server that does one thing after the other, and whose clients get everything at once.
pub(super) struct Server {
    max_line: usize,
    clients: Vec<Client>,
    pub(super) accepted: u64,
    pub(super) owed: u64,
    pub(super) unterminated: u64,
}

struct Client {
    state: State,
    /// What came after the last line end.
    input: Vec<u8>,
    lines: u64,
    told: Vec<String>,
}

#[derive(Clone, PartialEq, Eq)]
enum State {
    LoggingIn,
    Here(String),
    Gone,
}

impl State {
    fn is_here_as(&self, name: &str) -> bool {
        matches!(self, Self::Here(own) if own == name)
    }
}

impl Server {
    pub(super) fn new(max_line: usize) -> Self {
        Self { max_line, clients: Vec::new(), accepted: 0, owed: 0, unterminated: 0 }
    }

    /// Returns the new client's number.
    pub(super) fn connect(&mut self) -> usize {
        let (state, input, told) = (State::LoggingIn, Vec::new(), Vec::new());
        self.clients.push(Client { state, input, lines: 0, told });
        self.clients.len() - 1
    }

    pub(super) fn connections(&self) -> u64 {
        self.clients.len() as u64
    }

    /// How many clients are logged in.
    pub(super) fn here(&self) -> u64 {
        let here = self.clients.iter().filter(|client| matches!(client.state, State::Here(_)));
        here.count() as u64
    }

    pub(super) fn is_logging_in(&self, client: usize) -> bool {
        self.clients[client].state == State::LoggingIn
    }

    pub(super) fn is_disconnected(&self, client: usize) -> bool {
        self.clients[client].state == State::Gone
    }

    /// All lines for a client so far.
    pub(super) fn told(&self, client: usize) -> Vec<String> {
        self.clients[client].told.clone()
    }

    pub(super) fn write(&mut self, client: usize, data: &[u8]) {
        self.clients[client].input.extend_from_slice(data);
        let input = std::mem::take(&mut self.clients[client].input);
        let (lines, rest) = lines(&input);
        for line in lines {
            match self.clients[client].state.clone() {
                State::LoggingIn => self.login(client, line),
                State::Here(name) => self.take(client, &name, line),
                State::Gone => return,
            }
        }
        self.clients[client].input = rest.to_vec();
        // A name is not longer, nor is what ends it.
        if self.is_logging_in(client) && rest.len() > "12345678901234567890123456789012\r".len() {
            self.login(client, rest);
        }
    }

    /// The client sends no more.
    pub(super) fn leave(&mut self, client: usize) {
        if !self.clients[client].input.is_empty() {
            self.unterminated += 1;
            self.tell(client, "error: the last line had no line end and was not accepted".into());
        }
        self.clients[client].state = State::Gone;
    }

    pub(super) fn stop(&mut self) {
        for client in 0..self.clients.len() {
            if !self.is_disconnected(client) {
                let lines = self.clients[client].lines;
                let notice = "notice: server is shutting down";
                self.tell(client, format!("{notice}, {lines} of your lines were accepted"));
            }
        }
    }

    fn login(&mut self, client: usize, line: &[u8]) {
        let name = String::from_utf8_lossy(line).into_owned();
        self.clients[client].state = State::Gone;
        if !is_name(line) {
            let rule = "expected 1 to 32 of A-Z a-z 0-9 _ . -";
            self.tell(client, format!("error: bad name, {rule}"));
        } else if self.is_here(&name) {
            self.tell(client, "error: name taken".to_owned());
        } else {
            self.clients[client].state = State::Here(name);
        }
    }

    fn take(&mut self, client: usize, name: &str, line: &[u8]) {
        self.clients[client].lines += 1;
        self.accepted += 1;
        let number = self.clients[client].lines;
        match request(line, self.max_line) {
            Request::Nothing => {}
            Request::Message { to, text } => {
                let (here, missing) = self.partition(&to);
                for peer in 0..self.clients.len() {
                    let is_meant = |state: &State| here.iter().any(|name| state.is_here_as(name));
                    if is_meant(&self.clients[peer].state) {
                        self.owed += 1;
                        self.tell(peer, format!("from {name}: {text}"));
                    }
                }
                if !missing.is_empty() {
                    let missing = missing.join(", ");
                    self.tell(client, format!("error: line {number}: no such peer: {missing}"));
                }
            }
            Request::Who(names) => {
                let answer = self.who(&names);
                self.tell(client, format!("notice: line {number}: {answer}"));
            }
            Request::Refused(why) => self.tell(client, format!("error: line {number}: {why}")),
        }
    }

    fn who(&self, names: &[String]) -> String {
        if !names.is_empty() {
            let (here, missing) = self.partition(names);
            return who(&here, &missing);
        }
        let all = self.clients.iter().filter_map(|client| match &client.state {
            State::Here(name) => Some(name.as_str()),
            _ => None,
        });
        let all: Vec<_> = all.collect();
        format!("{} here: {}", all.len(), all.join(", "))
    }

    /// Those of the names that somebody has, and the others.
    fn partition(&self, names: &[String]) -> (Vec<String>, Vec<String>) {
        names.iter().cloned().partition(|name| self.is_here(name))
    }

    fn is_here(&self, name: &str) -> bool {
        self.clients.iter().any(|client| client.state.is_here_as(name))
    }

    fn tell(&mut self, client: usize, line: String) {
        self.clients[client].told.push(line);
    }
}
