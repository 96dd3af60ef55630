//! Concurrently: everything is written as fast as the sockets accept it, and shutdown comes in the
//! middle.
//!
//! The server's lines to its clients tell how many lines of each it accepted, which determines what
//! every client must have received.

use std::collections::{HashMap, HashSet};

use super::{Client, LEAVE, SPEAKERS, STOP, TestServer};
use crate::Config;
use crate::fuzzing::{Step, model, steps};
use crate::wire::reasons::Rejection;

/// A client that was logged in as `c0` to `c3` before the first step.
struct Speaker {
    client: Client,
    /// Everything sent after its name.
    sent: Vec<u8>,
    left: bool,
}

/// The lines that a client received.
#[derive(Debug, Default)]
struct ReceivedLines {
    /// The texts from each sender.
    messages: HashMap<String, Vec<String>>,
    /// The replies, by line number.
    replies: HashMap<u64, String>,
    /// The number in the closing notice.
    accepted: Option<u64>,
    unterminated: bool,
    /// The rooms from which it was told who comes and goes.
    told_of: HashSet<String>,
}

pub(super) fn run(config: Config, input: &[u8]) {
    let max_line = config.max_line;
    let server = TestServer::start(config);
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
        let received = ReceivedLines::read(&speaker.client.read_to_end().expect("no reset"));
        histories.push(History::new(&speaker.sent, speaker.left, received, max_line));
    }
    let report = server.report();
    let accepted = histories.iter().map(|history| history.requests.len() as u64).sum();
    let unterminated =
        histories.iter().filter(|history| history.received.unterminated).count() as u64;
    assert_eq!((report.accepted, report.unterminated), (accepted, unterminated), "{report}");
    assert_eq!(report.connections, SPEAKERS.len() as u64, "{report}");
    assert_eq!(report.owed, check(histories), "{report}");
}

fn name(number: usize) -> String {
    format!("c{number}")
}

impl Speaker {
    fn login(server: &TestServer, number: usize) -> Self {
        let mut client = Client::connect(server);
        client.write(format!("{}\n", name(number)).as_bytes()).expect("a server that reads");
        Self { client, sent: Vec::new(), left: false }
    }

    fn write(&mut self, data: &[u8], stopped: bool) {
        if !self.left {
            self.sent.extend_from_slice(data);
            let written = self.client.write(data);
            // A server that shuts down may be gone.
            assert!(written.is_ok() || stopped, "{written:?}");
        }
    }

    fn leave(&mut self) {
        self.left = true;
        // Fails if the connection has ended already, which is fine.
        let _ = self.client.leave();
    }
}

impl ReceivedLines {
    fn read(lines: &[String]) -> Self {
        let mut received = Self::default();
        let mut last_replied = 0;
        for line in lines {
            // Others may have written to it before the server has heard that it left.
            let is_of_others = line.starts_with("from ") || line.starts_with("notice: #");
            assert!(
                received.accepted.is_none() && (!received.unterminated || is_of_others),
                "{line:?} after the last line"
            );
            if let Some(message) = line.strip_prefix("from ") {
                let (sender, text) = message.split_once(": ").expect("a sender");
                received.messages.entry(sender.to_owned()).or_default().push(text.to_owned());
            } else if let Some(number) = accepted(line) {
                received.accepted = Some(number);
            } else if line.as_str() == Rejection::UnterminatedLine.line().trim_end() {
                received.unterminated = true;
            } else if let Some(notice) = line.strip_prefix("notice: #") {
                let (room, _) = notice.split_once(": ").expect("what is told of a room");
                received.told_of.insert(format!("#{room}"));
            } else {
                let number = line_number(line).unwrap_or_else(|| panic!("unexpected {line:?}"));
                assert!(number > last_replied, "{line:?} after line {last_replied}");
                last_replied = number;
                received.replies.insert(number, line.clone());
            }
        }
        received
    }
}

/// The number in a closing notice.
fn accepted(line: &str) -> Option<u64> {
    let line = line.strip_prefix("notice: server is shutting down, ")?;
    line.strip_suffix(" of your lines were accepted")?.parse().ok()
}

/// The line number of a reply.
fn line_number(reply: &str) -> Option<u64> {
    let (kind, rest) = reply.split_once(": line ")?;
    let (number, _) = rest.split_once(": ")?;
    number.parse().ok().filter(|_| kind == "error" || kind == "notice")
}

/// A client's accepted lines and the lines it received.
struct History {
    requests: Vec<model::Request>,
    left: bool,
    received: ReceivedLines,
}

impl History {
    fn new(sent: &[u8], left: bool, received: ReceivedLines, max_line: usize) -> Self {
        let (lines, rest) = model::lines(sent);
        let count = if let Some(accepted) = received.accepted {
            usize::try_from(accepted).expect("as many as fit in memory")
        } else {
            // Without a closing notice it disconnected before, and everything was accepted.
            assert!(left, "neither left nor received how many lines were accepted");
            assert_eq!(received.unterminated, !rest.is_empty());
            lines.len()
        };
        assert!(count <= lines.len(), "{count} accepted of {}", lines.len());
        let requests = lines[..count].iter().map(|line| model::request(line, max_line));
        Self { requests: requests.collect(), left, received }
    }
}

/// Checks that every client received what follows from all accepted lines; returns the number of
/// deliveries.
fn check(mut histories: Vec<History>) -> u64 {
    let mut owed = 0;
    for sender in 0..histories.len() {
        let requests = std::mem::take(&mut histories[sender].requests);
        let mut queued: HashMap<String, Vec<String>> = HashMap::new();
        let mut is_draining = false;
        let mut rooms = Rooms::default();
        for (number, request) in (1..).zip(requests) {
            let reply = histories[sender].received.replies.remove(&number);
            match request {
                model::Request::Nothing => assert_eq!(reply, None),
                model::Request::Refused(why) => {
                    assert_eq!(reply, Some(format!("error: line {number}: {why}")));
                }
                model::Request::Join { .. }
                | model::Request::Leave(_)
                | model::Request::RoomMessage { .. } => {
                    rooms.take(number, request, reply.as_deref());
                }
                model::Request::Sync(_) => {
                    let delivered = format!("notice: line {number}: {}", model::SYNCED);
                    let stopped = format!("error: line {number}: {}", model::NOT_SYNCED);
                    let reply = reply.expect("a reply");
                    assert!(reply == delivered || reply == stopped, "{reply}");
                }
                // Not answered any more once shutdown has begun.
                model::Request::Who(_) | model::Request::WhoIn(_) if reply.is_none() => {
                    is_draining = true;
                }
                model::Request::WhoIn(room) => {
                    assert!(!is_draining, "line {number} was answered, an earlier one was not");
                    let reply = reply.expect("a reply");
                    let expected = format!(" in {room}");
                    assert!(reply.contains(&expected), "{reply:?}");
                }
                model::Request::Who(names) => {
                    assert!(!is_draining, "line {number} was answered, an earlier one was not");
                    check_who(number, &names, reply.as_deref());
                }
                model::Request::Message { to, text } => {
                    let absent = absent(number, &to, reply.as_deref());
                    let here: Vec<_> = to.iter().filter(|name| !absent.contains(name)).collect();
                    assert_eq!(here.len() + absent.len(), to.len(), "{absent:?} of {to:?}");
                    for name in &absent {
                        let stayed = (0..histories.len()).filter(|peer| !histories[*peer].left);
                        assert!(stayed.map(self::name).all(|peer| peer != *name), "{name} is here");
                    }
                    for name in here {
                        queued.entry(name.clone()).or_default().push(text.clone());
                        owed += 1;
                    }
                }
            }
        }
        for (recipient, history) in histories.iter_mut().enumerate() {
            let got = history.received.messages.remove(&name(sender));
            assert_eq!(got, queued.remove(&name(recipient)), "from {sender} to {recipient}");
            owed += rooms.check(sender, recipient, &mut history.received.messages);
        }
        let loud = &rooms.loud;
        let told_of = &histories[sender].received.told_of;
        assert!(told_of.is_subset(loud), "{told_of:?}, but loud in {loud:?}");
        assert!(queued.is_empty(), "without a recipient: {queued:?}");
    }
    for History { received, .. } in &histories {
        assert!(
            received.messages.is_empty() && received.replies.is_empty(),
            "for no reason: {received:?}"
        );
    }
    owed
}

/// What a client did with rooms. Which others were in them when a line was routed is not known, but
/// each of them received a part of what was sent, in order.
#[derive(Default)]
struct Rooms {
    joined: HashSet<String>,
    loud: HashSet<String>,
    /// The texts sent to each room and not refused.
    sent: HashMap<String, Vec<String>>,
}

impl Rooms {
    fn take(&mut self, number: u64, request: model::Request, reply: Option<&str>) {
        let refused = |why: String| Some(format!("error: line {number}: {why}"));
        match request {
            model::Request::Join { room, .. }
                if self.joined.len() == model::MAX_ROOMS && !self.joined.contains(&room) =>
            {
                assert_eq!(reply, refused("in 64 rooms already".to_owned()).as_deref());
            }
            model::Request::Join { room, loud } => {
                let reply = reply.expect("a reply");
                let begins = format!("notice: line {number}: in {room}, ");
                assert!(reply.starts_with(&begins) && reply.ends_with(" are"), "{reply:?}");
                if loud == Some(true) {
                    self.loud.insert(room.clone());
                }
                self.joined.insert(room);
            }
            model::Request::Leave(room) => {
                let expected = if self.joined.remove(&room) {
                    Some(format!("notice: line {number}: left {room}"))
                } else {
                    refused(format!("not in {room}"))
                };
                assert_eq!(reply, expected.as_deref());
            }
            model::Request::RoomMessage { room, text } => {
                if !self.joined.contains(&room) {
                    assert_eq!(reply, refused(format!("not in {room}")).as_deref());
                } else if reply.is_none() {
                    self.sent.entry(room).or_default().push(text);
                } else {
                    let nobody = refused(format!("nobody else is in {room}"));
                    let grown = refused(format!("{room} has grown, send it again"));
                    assert!([nobody.as_deref(), grown.as_deref()].contains(&reply), "{reply:?}");
                }
            }
            request => panic!("{request:?} is not about rooms"),
        }
    }

    /// Takes what a recipient received from this sender in rooms, and returns how much that is.
    fn check(
        &self,
        sender: usize,
        recipient: usize,
        messages: &mut HashMap<String, Vec<String>>,
    ) -> u64 {
        let mut count = 0;
        for (room, sent) in &self.sent {
            let received = messages.remove(&format!("{} {room}", name(sender))).unwrap_or_default();
            assert!(received.is_empty() || sender != recipient, "it is the sender");
            let mut rest = sent.iter();
            let in_order = received.iter().all(|text| rest.any(|sent| sent == text));
            assert!(in_order, "{received:?} of {sent:?}, from {sender} to {recipient}");
            count += received.len() as u64;
        }
        count
    }
}

/// The recipients that did not get a message, by the reply to it. Any of the clients may have been
/// connected, and no others.
fn absent(number: u64, to: &[String], reply: Option<&str>) -> Vec<String> {
    let absent = (0..1 << SPEAKERS.len()).find_map(|here: u32| {
        let absent: Vec<_> = to.iter().filter(|name| !is_among(here, name)).cloned().collect();
        let missing = (!absent.is_empty()).then(|| model::missing(absent.clone()));
        let expected = missing.map(|missing| format!("error: line {number}: {missing}"));
        (expected.as_deref() == reply).then_some(absent)
    });
    absent.unwrap_or_else(|| panic!("line {number} to {to:?} was answered by {reply:?}"))
}

/// True if one of the clients in the set `here` has this name.
fn is_among(here: u32, wanted: &str) -> bool {
    (0..SPEAKERS.len()).any(|number| here >> number & 1 == 1 && name(number) == wanted)
}

/// The names present may be any of the clients, and no others.
fn check_who(number: u64, names: &[String], reply: Option<&str>) {
    let reply = reply.and_then(|reply| reply.strip_prefix(&format!("notice: line {number}: ")));
    let reply = reply.expect("a reply");
    if names.is_empty() {
        let (count, list) = reply.split_once(" here: ").expect("how many, and who");
        assert_eq!(count.parse(), Ok(list.split(", ").count()), "{reply:?}");
        return;
    }
    let received = (0..1 << SPEAKERS.len()).any(|here: u32| {
        let is_connected = |asked: &String| is_among(here, asked);
        let (here, absent): (Vec<_>, Vec<_>) = names.iter().cloned().partition(is_connected);
        model::who(&here, &absent) == reply
    });
    assert!(received, "{reply:?} about {names:?}");
}
