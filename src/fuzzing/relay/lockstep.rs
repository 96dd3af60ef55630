//! Lockstep: the server has handled each step before the next one.

use super::{Client, LEAVE, SPEAKERS, STOP, TestServer};
use crate::Config;
use crate::fuzzing::model::{NOT_SYNCED, SYNCED};
use crate::fuzzing::{Step, model, steps};

/// Clients that log in when the input says so, as often as it does.
struct Clients {
    server: TestServer,
    model: model::Server,
    /// The connected clients, with their numbers in the model.
    connected: [Option<(Client, usize)>; SPEAKERS.len()],
}

pub(super) fn run(config: Config, input: &[u8]) {
    let model = model::Server::new(config.max_line);
    let server = TestServer::start(config);
    let mut clients = Clients { server, model, connected: Default::default() };
    let mut speaker = 0;
    for step in steps(input) {
        match step {
            Step::Data(data) => clients.write(speaker, data),
            Step::Sign(LEAVE) => clients.leave(speaker),
            Step::Sign(STOP) => break,
            Step::Sign(sign) => {
                speaker = SPEAKERS.iter().position(|known| *known == sign).unwrap_or(speaker);
            }
        }
    }
    clients.stop();
}

impl Clients {
    fn write(&mut self, speaker: usize, data: &[u8]) {
        let (client, number) = self.connected[speaker]
            .get_or_insert_with(|| (Client::connect(&self.server), self.model.connect()));
        client.write(data).expect("a server that reads");
        self.model.write(*number, data);
        self.server.wait_until(|stats| {
            stats.accepted == self.model.accepted && stats.connected == self.model.connected()
        });
        if self.model.is_disconnected(*number) {
            self.read(speaker);
        }
    }

    fn leave(&mut self, speaker: usize) {
        if let Some((client, number)) = &self.connected[speaker] {
            client.leave().expect("an open connection");
            self.model.leave(*number);
            self.read(speaker);
        }
    }

    /// Reads everything a client received until the end of its connection.
    fn read(&mut self, speaker: usize) {
        if let Some((client, number)) = self.connected[speaker].take() {
            let received = client.read_to_end().expect("no reset");
            let (received, moves) = without_moves(received);
            assert_eq!(sorted(received), sorted(self.model.received(number)));
            assert_eq!(moves, self.model.moves(number));
        }
    }

    fn stop(mut self) {
        self.server.handle.shutdown();
        self.model.stop();
        let mut unknown = 0;
        for speaker in 0..SPEAKERS.len() {
            match self.connected[speaker].take() {
                Some((client, number)) if self.model.is_logging_in(number) => {
                    // The shutdown may have come before the server accepted it.
                    unknown += 1;
                    let received = client.read_to_end().unwrap_or_default();
                    assert!(
                        received.is_empty() || received == self.model.received(number),
                        "{received:?}"
                    );
                }
                connected => {
                    self.connected[speaker] = connected;
                    self.read(speaker);
                }
            }
        }
        let report = self.server.report();
        let model = self.model;
        assert_eq!((report.accepted, report.owed), (model.accepted, model.owed), "{report}");
        assert_eq!(report.unterminated, model.unterminated, "{report}");
        let connections = model.connections();
        assert!((connections - unknown..=connections).contains(&report.connections), "{report}");
    }
}

/// Separates the notices about those who come and go, which are summed up as the client reads.
fn without_moves(received: Vec<String>) -> (Vec<String>, model::Moves) {
    let mut moves = model::Moves::new();
    let others = received.into_iter().filter(|line| {
        let Some(notice) = line.strip_prefix("notice: #") else { return true };
        let (room, told) = notice.split_once(": ").expect("what is told of a room");
        // Whoever it was, with any name; then how many others came, and left.
        let mut told = told.split(", ");
        let has_joined = told.next().is_some_and(|one| one.ends_with(" joined"));
        let one = (u64::from(has_joined), u64::from(!has_joined));
        let told = told.fold(one, |(joined, left), told| match count(told) {
            came if told.ends_with(" came") => (joined + came, left),
            gone => (joined, left + gone),
        });
        let sum = moves.entry(format!("#{room}")).or_insert((0, 0));
        *sum = (sum.0 + told.0, sum.1 + told.1);
        false
    });
    (others.collect(), moves)
}

/// The number at the beginning of a text.
fn count(text: &str) -> u64 {
    let digits = text.split(' ').next().unwrap_or_default();
    digits.parse().unwrap_or_else(|_| panic!("{text:?} begins with no number"))
}

/// Messages and replies, each in their order: a client that writes to itself receives both, and
/// consecutive lines are relayed together before any reply. A list of connected clients has no
/// defined order, and the shutdown may come before everything is delivered.
fn sorted(received: Vec<String>) -> (Vec<String>, Vec<String>) {
    let digit = |last: char| last.is_ascii_digit();
    let (messages, mut replies): (Vec<_>, Vec<_>) =
        received.into_iter().partition(|line| line.starts_with("from "));
    for reply in &mut replies {
        if let Some(line) = reply.strip_prefix("error: ").filter(|it| it.ends_with(NOT_SYNCED)) {
            *reply = format!("notice: {}", line.replace(NOT_SYNCED, SYNCED));
        }
    }
    for reply in replies.iter_mut().filter(|reply| reply.starts_with("notice: line ")) {
        let list = reply.split_once(" here: ");
        if let Some((counted, list)) = list.filter(|(counted, _)| counted.ends_with(digit)) {
            let mut names: Vec<_> = list.split(", ").collect();
            names.sort_unstable();
            *reply = format!("{counted} here: {}", names.join(", "));
        }
    }
    (messages, replies)
}
