//! Step by step: the server has taken each step before the next one comes.

use super::{Client, LEAVE, Running, SPEAKERS, STOP};
use crate::Config;
use crate::fuzzing::{Step, model, steps};

/// Clients that log in as the input says, as often as it says.
struct Clients {
    server: Running,
    model: model::Server,
    /// Who is connected, with its number in the model.
    connected: [Option<(Client, usize)>; SPEAKERS.len()],
}

pub(super) fn run(config: Config, input: &[u8]) {
    let model = model::Server::new(config.max_line);
    let server = Running::start(config);
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
            stats.accepted == self.model.accepted && stats.connected == self.model.here()
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

    /// Reads what a client got, and that is the end of it.
    fn read(&mut self, speaker: usize) {
        if let Some((client, number)) = self.connected[speaker].take() {
            let told = client.read_to_end().expect("no reset");
            assert_eq!(sorted(told), sorted(self.model.told(number)));
        }
    }

    fn stop(mut self) {
        self.server.handle.shutdown();
        self.model.stop();
        let mut unknown = 0;
        for speaker in 0..SPEAKERS.len() {
            match self.connected[speaker].take() {
                Some((client, number)) if self.model.is_logging_in(number) => {
                    // The stop may have come before the server knew of it.
                    unknown += 1;
                    let told = client.read_to_end().unwrap_or_default();
                    assert!(told.is_empty() || told == self.model.told(number), "{told:?}");
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

/// Messages and answers, each in their order: a client that writes to itself gets both, and lines
/// that follow each other are relayed together before they are answered. Of a list of those who
/// are here, no order is promised.
fn sorted(told: Vec<String>) -> (Vec<String>, Vec<String>) {
    let digit = |last: char| last.is_ascii_digit();
    let (messages, mut answers): (Vec<_>, Vec<_>) =
        told.into_iter().partition(|line| line.starts_with("from "));
    for answer in answers.iter_mut().filter(|answer| answer.starts_with("notice: line ")) {
        let list = answer.split_once(" here: ");
        if let Some((counted, list)) = list.filter(|(counted, _)| counted.ends_with(digit)) {
            let mut names: Vec<_> = list.split(", ").collect();
            names.sort_unstable();
            *answer = format!("{counted} here: {}", names.join(", "));
        }
    }
    (messages, answers)
}
