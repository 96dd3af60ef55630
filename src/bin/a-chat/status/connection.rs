//! One connection of the status endpoint: a request, its response, and a gentle end. Owned by the
//! thread `status`; no call here blocks.
//!
//! Closing a socket with unread input resets it, which can destroy the response on its way. So after
//! the response comes FIN, and whatever still arrives is discarded until the other side closes.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::http::{MAX_REQUEST, Parsed, Request, Response, parse};
use super::listener::StatusStream;

/// The most that a connection lasts, from the first byte of the request to the last of the response.
const MAX_EXCHANGE: Duration = Duration::from_secs(5);

/// The most that it lasts after the response.
const LINGER: Duration = Duration::from_secs(1);

/// How much is read at a time, and how often in a row: a client that never stops sending must not
/// keep the thread.
const CHUNK: usize = 1024;
const CHUNKS: usize = 16;

/// A connection that was accepted.
#[derive(Debug)]
pub(super) struct Connection {
    stream: StatusStream,
    is_local: bool,
    deadline: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Request(Vec<u8>),
    Response { bytes: Vec<u8>, written: usize },
    Linger,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It waits for the other side.
    Wait,
    /// It is over.
    Close,
}

impl Connection {
    pub(super) fn new(stream: StatusStream, is_local: bool, now: Instant) -> Self {
        Self { stream, is_local, deadline: now + MAX_EXCHANGE, stage: Stage::Request(Vec::new()) }
    }

    /// Whether it comes from this host.
    pub(super) fn is_local(&self) -> bool {
        self.is_local
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What it waits for.
    pub(super) fn interest(&self) -> PollFlags {
        match self.stage {
            Stage::Response { .. } => PollFlags::OUT,
            _ => PollFlags::IN,
        }
    }

    /// Gets on as far as possible without waiting.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        answer: impl FnOnce(&Request) -> Response,
    ) -> Next {
        let mut answer = Some(answer);
        while now < self.deadline {
            let done = match &mut self.stage {
                Stage::Request(bytes) => match read_request(&mut self.stream, bytes) {
                    Ok(Parsed::Partial) => return Next::Wait,
                    Ok(Parsed::Refused(response)) => Ok(response.bytes(false)),
                    Ok(Parsed::Complete(request)) => match answer.take() {
                        Some(answer) => Ok(answer(&request).bytes(request.is_head)),
                        None => return Next::Close,
                    },
                    Err(error) => Err(error),
                }
                .map(|bytes| Some(Stage::Response { bytes, written: 0 })),
                Stage::Response { bytes, written } => {
                    write_response(&mut self.stream, bytes, written).map(|is_whole| {
                        is_whole.then(|| {
                            // Fails only if it is closed already, as the next read will find.
                            let _ = self.stream.shutdown(Shutdown::Write);
                            self.deadline = self.deadline.min(now + LINGER);
                            Stage::Linger
                        })
                    })
                }
                Stage::Linger => discard(&mut self.stream).map(|()| None),
            };
            match done {
                Ok(Some(stage)) => self.stage = stage,
                Ok(None) => return Next::Wait,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Wait,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Next::Close,
            }
        }
        Next::Close
    }
}

/// Reads until the request is complete or nothing more is there.
fn read_request(stream: &mut StatusStream, bytes: &mut Vec<u8>) -> io::Result<Parsed> {
    let mut chunk = [0; CHUNK];
    loop {
        match parse(bytes) {
            Parsed::Partial => {}
            parsed => return Ok(parsed),
        }
        // At the limit at the latest it is refused.
        let room = CHUNK.min(MAX_REQUEST - bytes.len());
        match stream.read(&mut chunk[..room]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Parsed::Partial),
            Err(error) => return Err(error),
        }
    }
}

/// Writes what the socket takes; true once that is everything.
fn write_response(
    stream: &mut StatusStream,
    bytes: &[u8],
    written: &mut usize,
) -> io::Result<bool> {
    while *written < bytes.len() {
        match stream.write(&bytes[*written..])? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => *written += count,
        }
    }
    Ok(true)
}

/// Discards what has come; an error at the end of it.
fn discard(stream: &mut StatusStream) -> io::Result<()> {
    let mut chunk = [0; CHUNK];
    for _ in 0..CHUNKS {
        if stream.read(&mut chunk)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

impl Drop for Connection {
    /// Whoever has not read the response by now does not get the rest of it.
    fn drop(&mut self) {
        if let Stage::Response { .. } = self.stage {
            self.stream.reset_at_the_end();
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
