//! The user's end of what is sent: lines go in, numbers come out, and at the end the account of
//! all of them. It owns the two threads of its connection and joins them.

use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{error, fmt};

use crossbeam_channel::{Receiver, Sender};

use super::ledger::{Probe, Sent};
use super::outcome::{ConnectionOutcome, DisconnectReason};
use super::reader::ReaderEnd;
use crate::wire::protocol::{self, NOT_HERE, Name, WHO};

/// How much may be on its way without being known to be accepted, in bytes, overhead included: so
/// much memory the lines take up that may have to be sent again.
pub(crate) const MAX_UNCONFIRMED_BYTES: usize = 1024 * 1024;

/// What a piece takes up of the room beside its bytes: its entry, its counts, its allocation.
const PIECE_CHARGE: usize = 96;

/// What the threads tell the outbox.
#[derive(Debug)]
pub(crate) enum News {
    /// The server has accepted the user's lines up to this number, and so much room is free again.
    Accepted { accepted: u64, freed: usize },
    /// The answer to a question of the client's own.
    Answer(String),
    /// Nothing more can be written, or nothing more will be read.
    Broken,
}

/// Sends lines, and knows which of them the server has accepted.
///
/// A line that was handed over is never forgotten: [`finish`](Self::finish) tells of each whether
/// the server has accepted it. If the outbox is dropped instead, the connection is given up.
#[derive(Debug)]
pub struct Outbox {
    /// Let go to half-close. Above the threads, which end when it is gone.
    queue: Option<Sender<Sent>>,
    pub(crate) news: Receiver<News>,
    threads: Threads,
    /// The number of the last line that was handed over.
    number: u64,
    accepted: u64,
    /// The charge of what is on its way.
    unconfirmed_bytes: usize,
    /// Nothing more can be written, or nothing more will be read.
    broken: bool,
    /// This side was the first to end the connection.
    left: bool,
}

impl Outbox {
    /// An outbox for lines that are numbered from `after + 1` on.
    pub(crate) fn new(
        queue: Sender<Sent>,
        news: Receiver<News>,
        threads: Threads,
        after: u64,
    ) -> Self {
        Self {
            queue: Some(queue),
            news,
            threads,
            number: after,
            accepted: after,
            unconfirmed_bytes: 0,
            broken: false,
            left: false,
        }
    }

    /// Sends one line, given without its line end, and returns its number.
    ///
    /// It waits while 1 MiB of lines is on its way, and for nothing else.
    ///
    /// # Errors
    ///
    /// [`SendError::NotALine`] if it holds a line end; [`SendError::Closed`] if the connection has
    /// ended, in which case the line is numbered and accounted for all the same.
    pub fn send(&mut self, line: impl AsRef<[u8]>) -> Result<u64, SendError> {
        let line = line.as_ref();
        if line.contains(&b'\n') {
            return Err(SendError::NotALine);
        }
        self.push(&[line, b"\n"].concat(), 1, None)?;
        Ok(self.number)
    }

    /// Sends complete lines, given with their line ends, and returns their numbers.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), with [`SendError::NotALine`] if there is no line or the last
    /// one has no end.
    pub fn send_lines(&mut self, lines: &[u8]) -> Result<Range<u64>, SendError> {
        if !lines.ends_with(b"\n") {
            return Err(SendError::NotALine);
        }
        let count = memchr::memchr_iter(b'\n', lines).count() as u64;
        let first = self.number + 1;
        self.push(lines, count, None)?;
        Ok(first..first + count)
    }

    /// Asks which of these are not connected, and waits for the answer. It has no number.
    ///
    /// The answer comes after what is in the inbox then: let another thread take that, or be sure
    /// that it is little.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] if the connection has ended.
    pub fn absent(&mut self, names: &[Name]) -> Result<Vec<Name>, SendError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        self.ask(names)?;
        while !self.broken {
            match self.news.recv().map_err(|_| SendError::Closed)? {
                News::Answer(text) => return Ok(absent_in(&text)),
                news => self.note(&news),
            }
        }
        Err(SendError::Closed)
    }

    /// Sends the question which of these are connected, to be answered by [`News::Answer`].
    pub(crate) fn ask(&mut self, names: &[Name]) -> Result<(), SendError> {
        self.push(&who_query(names), 1, Some(Probe::Question))
    }

    /// The number of the user's last line that is known to be accepted by now.
    ///
    /// It is known late: at an answer of the server's, within a second or so of silence, or at the
    /// end.
    pub fn accepted(&mut self) -> u64 {
        self.take_news();
        self.accepted
    }

    /// Says that no more lines will come. What is due is still received, then the server closes.
    pub fn half_close(&mut self) {
        self.take_news();
        self.left |= !self.broken;
        self.queue = None;
    }

    /// Half-closes, waits for the server to close, and accounts for all lines.
    ///
    /// With a time to wait it gives the connection up when that is over. Without one it waits for
    /// as long as it takes; somebody has to empty the inbox meanwhile, or drop it.
    #[must_use]
    pub fn finish(mut self, within: Option<Duration>) -> ConnectionOutcome {
        self.half_close();
        let Self { news, threads, left, .. } = self;
        let deadline = within.and_then(|within| Instant::now().checked_add(within));
        // Both threads have told everything when nobody is left to tell.
        let in_time = loop {
            match deadline {
                Some(deadline) => match news.recv_deadline(deadline) {
                    Ok(_) => {}
                    Err(error) => break error.is_disconnected(),
                },
                None if news.recv().is_err() => break true,
                None => {}
            }
        };
        threads.end(in_time, left)
    }

    /// Hands lines over: as soon as there is room, or else if the connection has ended.
    fn push(&mut self, lines: &[u8], count: u64, own: Option<Probe>) -> Result<(), SendError> {
        let charge = lines.len() + PIECE_CHARGE;
        self.wait_for_room(charge);
        if own.is_none() {
            self.number += count;
        }
        self.unconfirmed_bytes += charge;
        let queue = self.queue.as_ref().ok_or(SendError::Closed)?;
        // The writer takes everything to the last, also when the connection takes no more.
        let _ = queue.send(Sent { bytes: lines.into(), lines: count, own, charge });
        if self.broken { Err(SendError::Closed) } else { Ok(()) }
    }

    /// Waits until so much more may be on its way. More than all the room passes when nothing else
    /// is on its way.
    fn wait_for_room(&mut self, charge: usize) {
        self.take_news();
        while !self.broken
            && self.unconfirmed_bytes > 0
            && self.unconfirmed_bytes + charge > MAX_UNCONFIRMED_BYTES
        {
            let news = self.news.recv().unwrap_or(News::Broken);
            self.note(&news);
        }
    }

    /// Takes what the threads have told.
    fn take_news(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            self.note(&news);
        }
    }

    pub(crate) fn note(&mut self, news: &News) {
        match *news {
            News::Accepted { accepted, freed } => {
                self.accepted = accepted;
                self.unconfirmed_bytes = self.unconfirmed_bytes.saturating_sub(freed);
            }
            News::Broken => self.broken = true,
            News::Answer(_) => {}
        }
    }
}

/// What keeps the two threads of a connection going.
#[derive(Debug)]
pub(crate) struct Threads {
    /// Let go when nobody waits for what arrives any more.
    keep_receiving: Option<Sender<News>>,
    socket: Arc<TcpStream>,
    /// The writer and the reader, until they are joined.
    handles: Option<(JoinHandle<u64>, JoinHandle<ReaderEnd>)>,
}

impl Threads {
    pub(crate) fn new(
        keep_receiving: Sender<News>,
        socket: Arc<TcpStream>,
        writer: JoinHandle<u64>,
        reader: JoinHandle<ReaderEnd>,
    ) -> Self {
        Self { keep_receiving: Some(keep_receiving), socket, handles: Some((writer, reader)) }
    }

    /// Joins the threads, whose queue is gone, and sums up. If the server has not closed in time
    /// the connection is given up; if it has after this side `left`, all is well.
    fn end(mut self, in_time: bool, left: bool) -> ConnectionOutcome {
        if !in_time {
            self.abort();
        }
        let (written, ReaderEnd { mut ledger, sent, reason }) = self.join();
        sent.try_iter().for_each(|sent| ledger.push(sent));
        let reason = match reason {
            Some(said @ (DisconnectReason::ShutDown | DisconnectReason::Refused(_))) => said,
            _ if !in_time => DisconnectReason::Closed,
            Some(lost) => lost,
            None if left && ledger.all_accepted() => DisconnectReason::Left,
            None => DisconnectReason::Lost(None),
        };
        ledger.settle(reason, written)
    }

    fn abort(&mut self) {
        self.keep_receiving = None;
        // Fails only if the connection is gone already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn join(&mut self) -> (u64, ReaderEnd) {
        let (writer, reader) = self.handles.take().expect("they are joined once");
        let written = writer.join().unwrap_or_else(|panic| resume_unwind(panic));
        (written, reader.join().unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.abort();
        if let Some((writer, reader)) = self.handles.take() {
            // Nobody is left to hear of a panic.
            let _ = (writer.join(), reader.join());
        }
    }
}

/// What can keep a line from being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The connection has ended. [`Outbox::finish`] tells how, and of each line what became of it.
    Closed,
    /// It is not a line: it holds a line end, or it lacks one.
    NotALine,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the connection has outcome",
            Self::NotALine => "not one line",
        })
    }
}

impl error::Error for SendError {}

/// The line that asks which of these are connected.
pub(crate) fn who_query(names: &[Name]) -> Vec<u8> {
    let names: Vec<_> = names.iter().map(|name| name.as_str().as_bytes()).collect();
    [WHO.as_bytes(), b" ", &protocol::list(&names), b"\n"].concat()
}

/// The names that an answer lists as not connected.
fn absent_in(answer: &str) -> Vec<Name> {
    let list = answer.split_once(NOT_HERE).map_or("", |(_, list)| list);
    protocol::names(list.as_bytes()).filter_map(Name::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_tell_who_is_absent() {
        let names = |list: &[&str]| -> Vec<Name> {
            list.iter().filter_map(|name| Name::new(name.as_bytes())).collect()
        };
        assert_eq!(who_query(&names(&["bob", "carol"])), b"/who bob, carol\n");
        assert_eq!(absent_in("here: bob"), names(&[]));
        assert_eq!(absent_in("not here: bob"), names(&["bob"]));
        assert_eq!(absent_in("here: a; not here: bob, carol"), names(&["bob", "carol"]));
    }
}
