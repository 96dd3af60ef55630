//! At large: everything is written as fast as the sockets take it, and the stop comes meanwhile.
//!
//! What the server tells its clients says how far it came with each of them, and from that follows
//! what all of them must have got.

use std::collections::HashMap;

use super::{Client, LEAVE, Running, SPEAKERS, STOP};
use crate::Config;
use crate::fuzzing::{Step, model, steps};
use crate::wire::protocol::Rejection;

/// A client that was logged in as `c0` to `c3` before the first step.
struct Speaker {
    client: Client,
    /// What it has sent after its name.
    sent: Vec<u8>,
    left: bool,
}

/// What a client was told.
#[derive(Debug, Default)]
struct ReceivedLines {
    /// The texts from each sender.
    messages: HashMap<String, Vec<String>>,
    /// The answers, by the numbers of the lines.
    answers: HashMap<u64, String>,
    /// The number in the closing notice.
    accepted: Option<u64>,
    unterminated: bool,
}

pub(super) fn run(config: Config, input: &[u8]) {
    let max_line = config.max_line;
    let server = Running::start(config);
    let mut speakers: Vec<_> =
        (0..SPEAKERS.len()).map(|number| Speaker::login(&server, number)).collect();
    server.wait_until(|stats| stats.connected == SPEAKERS.len() as u64);
    let mut speaker = 0;
    for step in steps(input) {
        match step {
            Step::Data(data) => speakers[speaker].write(data, server.handle.is_shutdown()),
            Step::Sign(LEAVE) => speakers[speaker].leave(),
            Step::Sign(STOP) => server.handle.shutdown(),
            Step::Sign(sign) => {
                speaker = SPEAKERS.iter().position(|known| *known == sign).unwrap_or(speaker);
            }
        }
    }
    server.handle.shutdown();
    let mut histories = Vec::new();
    for speaker in speakers {
        let told = ReceivedLines::read(&speaker.client.read_to_end().expect("no reset"));
        histories.push(History::new(&speaker.sent, speaker.left, told, max_line));
    }
    let report = server.report();
    let accepted = histories.iter().map(|history| history.requests.len() as u64).sum();
    let unterminated = histories.iter().filter(|history| history.told.unterminated).count() as u64;
    assert_eq!((report.accepted, report.unterminated), (accepted, unterminated), "{report}");
    assert_eq!(report.connections, SPEAKERS.len() as u64, "{report}");
    assert_eq!(report.owed, check(histories), "{report}");
}

fn name(number: usize) -> String {
    format!("c{number}")
}

impl Speaker {
    fn login(server: &Running, number: usize) -> Self {
        let mut client = Client::connect(server);
        client.write(format!("{}\n", name(number)).as_bytes()).expect("a server that reads");
        Self { client, sent: Vec::new(), left: false }
    }

    fn write(&mut self, data: &[u8], stopped: bool) {
        if !self.left {
            self.sent.extend_from_slice(data);
            let written = self.client.write(data);
            // A server that stops may be gone.
            assert!(written.is_ok() || stopped, "{written:?}");
        }
    }

    fn leave(&mut self) {
        self.left = true;
        // Fails if the connection has ended by itself, which is as well.
        let _ = self.client.leave();
    }
}

impl ReceivedLines {
    fn read(lines: &[String]) -> Self {
        let mut told = Self::default();
        let mut last_answered = 0;
        for line in lines {
            assert!(told.accepted.is_none() && !told.unterminated, "{line:?} after the last line");
            if let Some(message) = line.strip_prefix("from ") {
                let (sender, text) = message.split_once(": ").expect("a sender");
                told.messages.entry(sender.to_owned()).or_default().push(text.to_owned());
            } else if let Some(number) = accepted(line) {
                told.accepted = Some(number);
            } else if line.as_str() == Rejection::UnterminatedLine.line().trim_end() {
                told.unterminated = true;
            } else {
                let number = line_number(line).unwrap_or_else(|| panic!("unexpected {line:?}"));
                assert!(number > last_answered, "{line:?} after line {last_answered}");
                last_answered = number;
                told.answers.insert(number, line.clone());
            }
        }
        told
    }
}

/// The number in a closing notice.
fn accepted(line: &str) -> Option<u64> {
    let line = line.strip_prefix("notice: server is shutting down, ")?;
    line.strip_suffix(" of your lines were accepted")?.parse().ok()
}

/// The number of the line that an answer is about.
fn line_number(answer: &str) -> Option<u64> {
    let (kind, rest) = answer.split_once(": line ")?;
    let (number, _) = rest.split_once(": ")?;
    number.parse().ok().filter(|_| kind == "error" || kind == "notice")
}

/// A client's accepted lines and what it was told.
struct History {
    requests: Vec<model::Request>,
    left: bool,
    told: ReceivedLines,
}

impl History {
    fn new(sent: &[u8], left: bool, told: ReceivedLines, max_line: usize) -> Self {
        let (lines, rest) = model::lines(sent);
        let count = if let Some(accepted) = told.accepted {
            usize::try_from(accepted).expect("as many as fit in memory")
        } else {
            // It was told of no stop, so it has left, and everything was taken.
            assert!(left, "neither left nor told how many lines were accepted");
            assert_eq!(told.unterminated, !rest.is_empty());
            lines.len()
        };
        assert!(count <= lines.len(), "{count} accepted of {}", lines.len());
        let requests = lines[..count].iter().map(|line| model::request(line, max_line));
        Self { requests: requests.collect(), left, told }
    }
}

/// Checks that everybody got what follows from all accepted lines; returns how many messages.
fn check(mut histories: Vec<History>) -> u64 {
    let mut owed = 0;
    for sender in 0..histories.len() {
        let requests = std::mem::take(&mut histories[sender].requests);
        let mut due: HashMap<String, Vec<String>> = HashMap::new();
        for (number, request) in (1..).zip(requests) {
            let answer = histories[sender].told.answers.remove(&number);
            match request {
                model::Request::Nothing => assert_eq!(answer, None),
                model::Request::Refused(why) => {
                    assert_eq!(answer, Some(format!("error: line {number}: {why}")));
                }
                model::Request::Who(names) => check_who(number, &names, answer.as_deref()),
                model::Request::Message { to, text } => {
                    let missing = missing(number, answer.as_deref());
                    let here: Vec<_> = to.iter().filter(|name| !missing.contains(name)).collect();
                    assert_eq!(here.len() + missing.len(), to.len(), "{missing:?} of {to:?}");
                    for name in &missing {
                        let stayed = (0..histories.len()).filter(|peer| !histories[*peer].left);
                        assert!(stayed.map(self::name).all(|peer| peer != *name), "{name} is here");
                    }
                    for name in here {
                        due.entry(name.clone()).or_default().push(text.clone());
                        owed += 1;
                    }
                }
            }
        }
        for (recipient, history) in histories.iter_mut().enumerate() {
            let got = history.told.messages.remove(&name(sender));
            assert_eq!(got, due.remove(&name(recipient)), "from {sender} to {recipient}");
        }
        assert!(due.is_empty(), "to nobody: {due:?}");
    }
    for History { told, .. } in &histories {
        assert!(told.messages.is_empty() && told.answers.is_empty(), "for no reason: {told:?}");
    }
    owed
}

/// The names that an answer says nobody has.
fn missing(number: u64, answer: Option<&str>) -> Vec<String> {
    let Some(answer) = answer else { return Vec::new() };
    let list = answer.strip_prefix(&format!("error: line {number}: no such peer: "));
    let list = list.unwrap_or_else(|| panic!("line {number} was answered by {answer:?}"));
    list.split(", ").map(str::to_owned).collect()
}

/// Those who are here may be any of the clients; nobody else is.
fn check_who(number: u64, names: &[String], answer: Option<&str>) {
    let answer = answer.and_then(|answer| answer.strip_prefix(&format!("notice: line {number}: ")));
    let answer = answer.expect("an answer");
    if names.is_empty() {
        let (count, list) = answer.split_once(" here: ").expect("how many, and who");
        assert_eq!(count.parse(), Ok(list.split(", ").count()), "{answer:?}");
        return;
    }
    let told = (0..1 << SPEAKERS.len()).any(|here: u32| {
        let is_here = |asked: &String| {
            (0..SPEAKERS.len()).any(|number| here >> number & 1 == 1 && name(number) == *asked)
        };
        let (here, missing): (Vec<_>, Vec<_>) = names.iter().cloned().partition(is_here);
        model::who(&here, &missing) == answer
    });
    assert!(told, "{answer:?} about {names:?}");
}
