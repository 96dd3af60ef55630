//! The client's reader thread: it owns the receiving side of the socket and the ledger of what
//! the server has accepted, and ends with the server's stream.
//!
//! It takes what the server says about the client's own lines for itself, puts the user's
//! numbers in place of the server's, and passes everything on to the inbox. While the inbox is
//! full it does not read, so that TCP holds up the server.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, select};

use super::blocks::LineBlocks;
use super::inbox::{Block, Refusal, ServerLine};
use super::ledger::{Answered, Ledger, Probe, Sent};
use super::outbox::News;
use super::outcome::DisconnectReason;
use crate::wire::protocol::{self, ERROR_LINE, FROM, NOTICE_LINE};

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Reader {
    socket: Arc<TcpStream>,
    /// What the writer is about to send, told before it does.
    sent: Receiver<Sent>,
    ledger: Ledger,
    news: Sender<News>,
    /// Why the server ends the connection, once it has said so.
    reason: Option<DisconnectReason>,
}

/// What the thread leaves behind.
#[derive(Debug)]
pub(crate) struct ReaderEnd {
    pub(crate) ledger: Ledger,
    /// What was sent after the last answer.
    pub(crate) sent: Receiver<Sent>,
    /// What the server or the system has said; `None` for an end without a word.
    pub(crate) reason: Option<DisconnectReason>,
}

impl Reader {
    /// A reader for lines that the user counts from `after + 1` on.
    pub(crate) fn new(
        socket: Arc<TcpStream>,
        sent: Receiver<Sent>,
        news: Sender<News>,
        after: u64,
    ) -> Self {
        Self { socket, sent, ledger: Ledger::new(after), news, reason: None }
    }

    /// The thread: reads to the end, and passes on what it reads as long as somebody wants it:
    /// `abandoned` is disconnected when nobody does.
    pub(crate) fn run(mut self, inbox: Sender<Block>, abandoned: &Receiver<News>) -> ReaderEnd {
        let mut blocks = LineBlocks::new(SharedSocket(Arc::clone(&self.socket)));
        let mut inbox = Some(inbox);
        loop {
            match blocks.next_block() {
                Ok(Some(lines)) => {
                    let block = self.settle(lines);
                    if !block.bytes.is_empty() {
                        inbox = inbox.filter(|inbox| pass_on(inbox, block, abandoned));
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    // What the server has said about the end says more than how the socket ended.
                    self.reason.get_or_insert(DisconnectReason::Lost(Some(error)));
                    break;
                }
            }
        }
        // A writer that is stuck in the socket is set free, and so is who waits for news.
        let _ = self.socket.shutdown(Shutdown::Both);
        let _ = self.news.send(News::Broken);
        ReaderEnd { ledger: self.ledger, sent: self.sent, reason: self.reason }
    }

    /// Makes a block for the user of what the server has said.
    fn settle(&mut self, lines: &[u8]) -> Block {
        let mut block = Block { bytes: Vec::new(), refusals: Vec::new() };
        let (mut passed, mut start) = (0, 0);
        for end in memchr::memchr_iter(b'\n', lines) {
            let line = &lines[start..end];
            if !line.starts_with(FROM.as_bytes()) {
                block.bytes.extend_from_slice(&lines[passed..start]);
                self.settle_line(line, &mut block);
                passed = end + 1;
            }
            start = end + 1;
        }
        block.bytes.extend_from_slice(&lines[passed..]);
        self.report_accepted();
        block
    }

    /// Takes one line that is not a message into account, and adds what the user gets to see.
    fn settle_line(&mut self, line: &[u8], block: &mut Block) {
        let text = String::from_utf8_lossy(line);
        let out = &mut block.bytes;
        match ServerLine::parse(&text) {
            ServerLine::Refusal { line, reason } => match self.answered(line) {
                Answered::Yours { number, text } => {
                    out.extend_from_slice(format!("{ERROR_LINE}{number}: {reason}\n").as_bytes());
                    let text = String::from_utf8_lossy(&text).into_owned();
                    block.refusals.push(Refusal { line: number, reason: reason.to_owned(), text });
                    return;
                }
                Answered::Probe(own) => return self.answer_own(own, reason),
                Answered::Unknown => {}
            },
            ServerLine::Answer { line, text } => match self.answered(line) {
                Answered::Yours { number, .. } => {
                    out.extend_from_slice(format!("{NOTICE_LINE}{number}: {text}\n").as_bytes());
                    return;
                }
                Answered::Probe(own) => return self.answer_own(own, text),
                Answered::Unknown => {}
            },
            ServerLine::ShuttingDown { accepted } => {
                self.take_sent();
                self.ledger.accept(accepted);
                let notice = protocol::closing_notice(self.ledger.accepted());
                out.extend_from_slice(notice.as_bytes());
                self.reason = Some(DisconnectReason::ShutDown);
                // The server waits for this end for a while, and what is still sent is in vain.
                let _ = self.socket.shutdown(Shutdown::Write);
                return;
            }
            ServerLine::Error(error) => {
                self.reason = Some(DisconnectReason::Refused(error.to_owned()));
            }
            ServerLine::Message { .. } | ServerLine::Notice(_) | ServerLine::Other => {}
        }
        out.extend_from_slice(line);
        out.push(b'\n');
    }

    /// Takes note that the server has answered one of its numbered lines.
    fn answered(&mut self, line: u64) -> Answered {
        self.take_sent();
        self.ledger.answered(line)
    }

    fn answer_own(&mut self, own: Probe, text: &str) {
        if own == Probe::Question {
            self.report_accepted();
            let _ = self.news.send(News::Answer(text.to_owned()));
        }
    }

    /// Lets the outbox know what else was accepted. That nobody listens means that nobody sends.
    fn report_accepted(&mut self) {
        let freed = self.ledger.take_freed();
        if freed > 0 {
            let _ = self.news.send(News::Accepted { accepted: self.ledger.accepted(), freed });
        }
    }

    /// Takes over what the writer has noted: the server can have answered nothing else.
    fn take_sent(&mut self) {
        for sent in self.sent.try_iter() {
            self.ledger.push(sent);
        }
    }
}

/// Waits for room in the inbox; false if nobody wants anything any more.
fn pass_on(inbox: &Sender<Block>, block: Block, abandoned: &Receiver<News>) -> bool {
    select! {
        send(inbox, block) -> sent => sent.is_ok(),
        recv(abandoned) -> _ => false,
    }
}

/// Reads from a socket that the writer writes to.
#[derive(Debug)]
struct SharedSocket(Arc<TcpStream>);

impl io::Read for SharedSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}
