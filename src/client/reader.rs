//! The client's reader thread. It owns the receiving side of the socket and the ledger of lines that
//! are not known to be accepted, and exits at the end of the server's stream.
//!
//! It keeps the replies to the client's own questions, replaces the server's line numbers by the
//! user's, and passes everything on to the inbox. While the inbox is full it does not read, so TCP
//! holds up the server.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::blocks::LineBlocks;
use super::event::{Refusal, ServerLine, Synced, WhoReply};
use super::inbox::{Block, is_message};
use super::ledger::{Answered, Ledger, Probe, Sent};
use super::outcome::DisconnectReason;
use super::shared::{Entry, Shared};
use super::transport::Transport;
use super::update::Update;
use crate::wire::protocol::{self, ERROR_LINE, NOTICE_LINE};
use crate::wire::reasons::{ERROR, RefusalReason, Rejection};
use crate::wire::sync::push_sync;

/// How often the socket is checked for its end while the inbox is full. A sender that waits for
/// room learns of the end this late.
const END_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// A reset after this much time without reading is taken for an eviction. A server's own limit is
/// rarely shorter.
const MIN_STALL: Duration = Duration::from_secs(1);

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Reader {
    socket: Arc<Transport>,
    /// The lines that the writer is about to write, sent before it does.
    sent: Receiver<Sent>,
    ledger: Ledger,
    updates: Sender<Update>,
    shared: Arc<Shared>,
    /// The server has sent a line that only a server of this kind sends.
    recognised: bool,
    /// How long nothing was read before the connection ended, if it ended meanwhile.
    stalled: Option<Duration>,
    /// Why the server ends the connection, once it has said so.
    reason: Option<DisconnectReason>,
}

/// What the thread leaves behind.
#[derive(Debug)]
pub(crate) struct ReaderEnd {
    pub(crate) ledger: Ledger,
    /// The lines that were sent after the last reply.
    pub(crate) sent: Receiver<Sent>,
    /// What the server or the system reported; `None` for an end without either.
    pub(crate) reason: Option<DisconnectReason>,
}

impl Reader {
    pub(crate) fn new(
        socket: Arc<Transport>,
        sent: Receiver<Sent>,
        updates: Sender<Update>,
        shared: Arc<Shared>,
    ) -> Self {
        let ledger = Ledger::new(shared.accepted());
        let (recognised, stalled, reason) = (false, None, None);
        Self { socket, sent, ledger, updates, shared, recognised, stalled, reason }
    }

    /// The thread: reads to the end, and passes everything on until the inbox is closed.
    pub(crate) fn run(mut self, inbox: Sender<Block>) -> ReaderEnd {
        let mut blocks = LineBlocks::new(SharedSocket(Arc::clone(&self.socket)));
        let mut inbox = Some(inbox);
        loop {
            match blocks.next_block() {
                Ok(Some(lines)) => {
                    if !self.recognises(lines) {
                        break;
                    }
                    let block = self.settle(lines);
                    if !block.bytes.is_empty() {
                        inbox = inbox.filter(|inbox| self.pass_on(inbox, block));
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    // What the server said about the end is worth more than the socket's error.
                    let lost = self.loss(&error);
                    self.reason.get_or_insert(lost);
                    break;
                }
            }
        }
        if !blocks.unfinished().is_empty() {
            self.recognises(blocks.unfinished());
        }
        // This frees a writer that is stuck in the socket, and an outbox that waits.
        let _ = self.socket.shutdown(Shutdown::Both);
        let _ = self.updates.send(Update::Broken);
        ReaderEnd { ledger: self.ledger, sent: self.sent, reason: self.reason }
    }

    /// False if the first line is none that a server of this kind sends.
    fn recognises(&mut self, lines: &[u8]) -> bool {
        if !self.recognised {
            let end = memchr::memchr(b'\n', lines).unwrap_or(lines.len());
            let line = String::from_utf8_lossy(&lines[..end]);
            if ServerLine::parse(&line) == ServerLine::Other {
                let line = line.trim_end_matches('\r').to_owned();
                let _ = self.updates.send(Update::Foreign(line));
                return false;
            }
            self.recognised = true;
        }
        true
    }

    /// Makes a block for the user from complete lines of the server's.
    fn settle(&mut self, lines: &[u8]) -> Block {
        let mut block = Block::default();
        let (mut passed, mut start, mut messages) = (0, 0, false);
        for end in memchr::memchr_iter(b'\n', lines) {
            let line = &lines[start..end];
            if is_message(line) {
                messages = true;
            } else {
                block.bytes.extend_from_slice(&lines[passed..start]);
                self.settle_line(line, &mut block);
                passed = end + 1;
            }
            start = end + 1;
        }
        block.bytes.extend_from_slice(&lines[passed..]);
        if messages {
            self.shared.set_delivered();
        }
        self.report_accepted();
        block
    }

    /// Evaluates one line that is no message, and adds what the user is to see of it.
    fn settle_line(&mut self, line: &[u8], block: &mut Block) {
        let text = String::from_utf8_lossy(line);
        let out = &mut block.bytes;
        match ServerLine::parse(&text) {
            ServerLine::Refusal { line, reason } => match self.answered(line) {
                Answered::Yours { number, text } => {
                    out.extend_from_slice(format!("{ERROR_LINE}{number}: {reason}\n").as_bytes());
                    let text = String::from_utf8_lossy(&text).into_owned();
                    let reason = RefusalReason::parse(reason);
                    block.refusals.push(Refusal { line: number, reason, text });
                    return;
                }
                Answered::Probe(probe) => {
                    return self.reply_to_own(probe, || Err(RefusalReason::parse(reason)));
                }
                Answered::Unknown => {}
            },
            ServerLine::Lost(notice) => {
                self.take_sent();
                let lost = self.ledger.lost(notice);
                out.extend_from_slice(format!("{ERROR}{lost}\n").as_bytes());
                block.losses.push(lost);
                return;
            }
            ServerLine::Synced(Synced { line, outcome }) => match self.answered(line) {
                Answered::Yours { number, .. } => return push_sync(out, number, outcome),
                Answered::Probe(Probe::Confirmation) => {
                    self.report_accepted();
                    let _ = self.updates.send(Update::Confirmation(outcome));
                    return;
                }
                Answered::Probe(_) => return,
                Answered::Unknown => {}
            },
            ServerLine::Reply { line, text } => match self.answered(line) {
                Answered::Yours { number, .. } => {
                    out.extend_from_slice(format!("{NOTICE_LINE}{number}: {text}\n").as_bytes());
                    return;
                }
                Answered::Probe(probe) => {
                    let reply = WhoReply::parse(line, text);
                    let odd = || RefusalReason::Other(text.to_owned());
                    return self.reply_to_own(probe, || reply.ok_or_else(odd));
                }
                Answered::Unknown => {}
            },
            ServerLine::ShuttingDown { accepted } => {
                self.take_sent();
                self.ledger.accept(accepted);
                let notice = protocol::closing_notice(self.ledger.accepted());
                out.extend_from_slice(notice.as_bytes());
                self.reason = Some(DisconnectReason::ShutDown);
                // The server waits a while for this end, and would discard whatever is still sent. A
                // close_notify would have to come from the writer, and says nothing new.
                let _ = self.socket.shutdown(Shutdown::Write);
                return;
            }
            ServerLine::Parting { accepted } => {
                self.take_sent();
                self.ledger.accept_only(accepted);
                let notice = protocol::parting_notice(self.ledger.accepted());
                out.extend_from_slice(notice.as_bytes());
                return;
            }
            ServerLine::Error(error) => {
                self.reason = Some(DisconnectReason::Rejected(Rejection::parse(error)));
            }
            ServerLine::Message { .. }
            | ServerLine::RoomMessage { .. }
            | ServerLine::Notice(_)
            | ServerLine::Other => {}
        }
        out.extend_from_slice(line);
        out.push(b'\n');
    }

    /// Notes that the server replied to one of its numbered lines.
    fn answered(&mut self, line: u64) -> Answered {
        self.take_sent();
        self.ledger.answered(line)
    }

    fn reply_to_own(
        &mut self,
        probe: Probe,
        reply: impl FnOnce() -> Result<WhoReply, RefusalReason>,
    ) {
        if probe == Probe::Question {
            self.report_accepted();
            let _ = self.updates.send(Update::Answer(reply()));
        }
    }

    /// Reports to the outbox what else was accepted. It fails only if there is no outbox.
    fn report_accepted(&mut self) {
        self.shared.set_accepted(self.ledger.accepted());
        let freed = self.ledger.take_freed();
        if freed > 0 {
            let _ = self.updates.send(Update::Freed(freed));
        }
    }

    /// Takes over what the writer has noted: the server can have replied to nothing else.
    fn take_sent(&mut self) {
        for sent in self.sent.try_iter() {
            self.ledger.push(sent);
        }
    }

    /// Waits for room in the inbox; false if it is closed.
    fn pass_on(&mut self, inbox: &Sender<Block>, block: Block) -> bool {
        let bytes = block.bytes.len();
        let (mut entry, since) = (self.shared.enter(bytes), Instant::now());
        loop {
            match entry {
                Entry::Open => return inbox.send(block).is_ok(),
                Entry::Closed => return false,
                Entry::Full { wake_outbox } => {
                    if wake_outbox {
                        let _ = self.updates.send(Update::InboxFull);
                    }
                }
            }
            entry = self.shared.enter_timeout(bytes, END_CHECK_INTERVAL);
            if self.stalled.is_none() && has_ended(&self.socket) {
                self.stalled = Some(since.elapsed());
                let _ = self.updates.send(Update::Broken);
            }
        }
    }

    /// What an error of the socket means.
    fn loss(&self, error: &io::Error) -> DisconnectReason {
        let reset = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        match self.stalled.filter(|time| *time >= MIN_STALL) {
            Some(time) if reset.contains(&error.kind()) => DisconnectReason::Stalled(time),
            _ => DisconnectReason::Lost(Some(error.kind())),
        }
    }
}

/// Whether the server has closed the connection or it was lost, however much is still unread.
fn has_ended(socket: &Transport) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    let events = PollFlags::RDHUP;
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    let events = PollFlags::empty();
    let mut socket = [PollFd::new(socket, events)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut socket, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// Reads from a socket that the writer writes to.
#[derive(Debug)]
struct SharedSocket(Arc<Transport>);

impl io::Read for SharedSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}
