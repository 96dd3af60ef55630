//! The wire protocol in its plainest form: one line at a time, with owned strings and the standard
//! library. It is slow, and short enough to be seen to be right.

use std::collections::HashMap;

/// The request of a complete line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Nothing,
    Message {
        to: Vec<String>,
        text: String,
    },
    Who(Vec<String>),
    RoomMessage {
        room: String,
        text: String,
    },
    Join {
        room: String,
        loud: Option<bool>,
    },
    Leave(String),
    WhoIn(String),
    /// With the time to wait at most, in seconds.
    Sync(u64),
    Refused(String),
}

/// How many rooms a client may be in.
pub(super) const MAX_ROOMS: usize = 64;

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
            let names = names(list);
            return match one_room(&names, items(list)) {
                Some(Ok(room)) => Request::WhoIn(room),
                Some(Err(why)) => Request::Refused(why.to_owned()),
                None => Request::Who(names),
            };
        }
    }
    for command in ["/join", "/leave"] {
        let rest = line.strip_prefix(command).unwrap_or("no");
        if rest.is_empty() || rest.starts_with(|first: char| first.is_ascii_whitespace()) {
            return room_command(command, rest);
        }
    }
    if let Some(time) = line.strip_prefix("/sync") {
        if time.is_empty() || time.starts_with(|first: char| first.is_ascii_whitespace()) {
            let time = time.trim();
            let is_number = time.chars().all(|char| char.is_ascii_digit());
            let seconds = if time.is_empty() { Some(30) } else { time.parse().ok() };
            return match seconds.filter(|seconds| is_number && (1..=3600).contains(seconds)) {
                Some(seconds) => Request::Sync(seconds),
                None => Request::Refused("bad time, expected 1 to 3600".to_owned()),
            };
        }
    }
    let Some((list, text)) = line.split_once(':') else {
        return Request::Refused("no ':' in it, expected \"name, name: text\"".to_owned());
    };
    let to = names(list);
    if to.is_empty() {
        return Request::Refused("no recipient before the ':'".to_owned());
    }
    let text = text.strip_prefix(' ').unwrap_or(text).to_owned();
    match one_room(&to, items(list)) {
        Some(Ok(room)) => Request::RoomMessage { room, text },
        Some(Err(why)) => Request::Refused(why.to_owned()),
        None => Request::Message { to, text },
    }
}

const BAD_ROOM: &str = "bad room, expected # and 1 to 31 of A-Z a-z 0-9 _ . -";

/// The request of a line that begins with a command about rooms.
fn room_command(command: &str, rest: &str) -> Request {
    let (mut room, mut loud) = (rest.trim(), None);
    if command == "/join" {
        for (word, value) in [("loud", true), ("quiet", false)] {
            let before = room.strip_suffix(word).filter(|_| loud.is_none());
            let last = |before: &str| before.chars().next_back();
            if let Some(before) = before.filter(|it| last(it).is_some_and(is_ascii_space)) {
                (room, loud) = (before.trim(), Some(value));
            }
        }
    }
    match room {
        room if !is_room(room) => Request::Refused(BAD_ROOM.to_owned()),
        room if command == "/join" => Request::Join { room: room.to_owned(), loud },
        room => Request::Leave(room.to_owned()),
    }
}

fn is_ascii_space(char: char) -> bool {
    char.is_ascii_whitespace()
}

/// The room of a list that holds one, or what is wrong with it.
fn one_room(names: &[String], items: usize) -> Option<Result<String, &'static str>> {
    if !names.iter().any(|name| name.starts_with('#')) {
        None
    } else if items > 1 {
        Some(Err("a room stands alone in its list"))
    } else {
        Some(if is_room(&names[0]) { Ok(names[0].clone()) } else { Err(BAD_ROOM) })
    }
}

fn is_room(name: &str) -> bool {
    name.strip_prefix('#').is_some_and(|name| name.len() <= 31 && is_name(name.as_bytes()))
}

/// How many items of a list are not empty.
fn items(list: &str) -> usize {
    list.split(',').filter(|name| !name.trim().is_empty()).count()
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

/// The reply to a `/sync`, if nothing was lost and the server does not shut down meanwhile.
pub(super) const SYNCED: &str = "everything before it is delivered";

/// The reply if it does.
pub(super) const NOT_SYNCED: &str = "the server is shutting down before everything is delivered";

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
    /// The members of each room in the order in which they came, and whether they are loud.
    rooms: HashMap<String, Vec<(usize, bool)>>,
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
    /// How many joined and left, as told about each room.
    moves: Moves,
}

/// By room: how many joined and left.
pub(super) type Moves = HashMap<String, (u64, u64)>;

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
        let (clients, rooms) = (Vec::new(), HashMap::new());
        Self { max_line, clients, rooms, accepted: 0, owed: 0, unterminated: 0 }
    }

    /// Returns the new client's number.
    pub(super) fn connect(&mut self) -> usize {
        let (state, input, received) = (State::LoggingIn, Vec::new(), Vec::new());
        self.clients.push(Client { state, input, lines: 0, received, moves: Moves::new() });
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

    /// What a client was told of those who come and go.
    pub(super) fn moves(&self, client: usize) -> Moves {
        self.clients[client].moves.clone()
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
        if !self.is_logging_in(client) {
            return;
        }
        if is_long {
            self.login(client, rest);
        } else if is_broken {
            // Whether it is text was not looked at yet.
            self.refuse_carriage_return(client);
        }
    }

    /// The client half-closes.
    pub(super) fn leave(&mut self, client: usize) {
        if !self.clients[client].input.is_empty() {
            self.unterminated += 1;
            self.send(client, "error: the last line had no line end and was not accepted".into());
        }
        self.clients[client].state = State::Disconnected;
        let rooms: Vec<_> = self.rooms.keys().cloned().collect();
        for room in rooms {
            self.leave_room(client, &room);
        }
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

    fn refuse_carriage_return(&mut self, client: usize) {
        self.clients[client].state = State::Disconnected;
        let error = "the first line ended with a carriage return alone";
        self.send(client, format!("error: {error}, lines end with a line feed"));
    }

    fn login(&mut self, client: usize, line: &[u8]) {
        self.clients[client].state = State::Disconnected;
        let is_text = line.len() <= self.max_line.min(MAX_LOGIN_BYTES);
        let text = std::str::from_utf8(line).ok().filter(|_| is_text);
        if text.is_some_and(|text| text.contains('\r')) {
            return self.refuse_carriage_return(client);
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
            Request::Join { room, loud } => {
                let reply = self.join_room(client, &room, loud);
                self.send(
                    client,
                    reply.map_or_else(
                        |why| format!("error: line {number}: {why}"),
                        |members| format!("notice: line {number}: in {room}, {members} are"),
                    ),
                );
            }
            Request::Leave(room) => {
                let reply = if self.leave_room(client, &room) {
                    format!("notice: line {number}: left {room}")
                } else {
                    format!("error: line {number}: not in {room}")
                };
                self.send(client, reply);
            }
            Request::WhoIn(room) => {
                let members = self.rooms.get(&room).cloned().unwrap_or_default();
                let names: Vec<_> = members.iter().map(|member| self.name(member.0)).collect();
                let list = if names.is_empty() { "" } else { ": " };
                let reply = format!("{} in {room}{list}{}", names.len(), names.join(", "));
                self.send(client, format!("notice: line {number}: {reply}"));
            }
            Request::RoomMessage { room, text } => {
                let members = self.rooms.get(&room).cloned().unwrap_or_default();
                let others = members.iter().filter(|member| member.0 != client);
                if !members.iter().any(|member| member.0 == client) {
                    self.send(client, format!("error: line {number}: not in {room}"));
                } else if members.len() == 1 {
                    self.send(client, format!("error: line {number}: nobody else is in {room}"));
                } else {
                    for member in others {
                        self.owed += 1;
                        self.send(member.0, format!("from {name} {room}: {text}"));
                    }
                }
            }
            Request::Sync(_) => {
                self.send(client, format!("notice: line {number}: {SYNCED}"));
            }
            Request::Refused(why) => self.send(client, format!("error: line {number}: {why}")),
        }
    }

    fn name(&self, client: usize) -> String {
        match &self.clients[client].state {
            State::Connected(name) => name.clone(),
            state @ (State::LoggingIn | State::Disconnected) => {
                panic!("client {client} is in a room, but {}", *state == State::LoggingIn)
            }
        }
    }

    /// Returns how many are in the room then.
    fn join_room(
        &mut self,
        client: usize,
        room: &str,
        loud: Option<bool>,
    ) -> Result<usize, String> {
        let is_in = |members: &&Vec<(usize, bool)>| members.iter().any(|it| it.0 == client);
        let rooms = self.rooms.values().filter(is_in).count();
        let members = self.rooms.entry(room.to_owned()).or_default();
        if let Some(known) = members.iter_mut().find(|member| member.0 == client) {
            known.1 = loud.unwrap_or(known.1);
            return Ok(members.len());
        }
        if rooms == MAX_ROOMS {
            return Err(format!("in {MAX_ROOMS} rooms already"));
        }
        members.push((client, loud.unwrap_or(false)));
        let count = members.len();
        self.tell(client, room, (1, 0));
        Ok(count)
    }

    fn leave_room(&mut self, client: usize, room: &str) -> bool {
        let Some(members) = self.rooms.get_mut(room) else { return false };
        let before = members.len();
        members.retain(|member| member.0 != client);
        let has_left = members.len() < before;
        if has_left {
            self.tell(client, room, (0, 1));
        }
        has_left
    }

    fn tell(&mut self, client: usize, room: &str, (joined, left): (u64, u64)) {
        for (member, _) in self.rooms[room].iter().filter(|it| it.1 && it.0 != client) {
            let told = self.clients[*member].moves.entry(room.to_owned()).or_default();
            *told = (told.0 + joined, told.1 + left);
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
