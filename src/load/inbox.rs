//! The receiving side of a client. It belongs to the thread that receives.

use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::Error;
use super::check::{Arrival, Counts, SequenceChecker, foreign};
use super::client::Client;
use super::protocol::{Frame, Protocol};

/// One connection that messages arrive on.
#[derive(Debug)]
pub struct Inbox {
    input: Arc<TcpStream>,
    check: SequenceChecker,
    /// The beginning of a frame whose end has not come yet.
    unterminated: Vec<u8>,
}

impl Inbox {
    /// The inbox of a client that gets messages from these senders.
    pub fn new(protocol: Protocol, client: &Client, frame: Frame, senders: Range<usize>) -> Self {
        let check = SequenceChecker::new(protocol, frame, senders);
        Self { input: Arc::clone(&client.input), check, unterminated: Vec::new() }
    }

    /// What to wait for.
    pub fn socket(&self) -> &TcpStream {
        &self.input
    }

    /// How large a buffer has to be to read with, if nothing else asks for more.
    pub fn least_buffer(&self) -> usize {
        (2 * self.check.frame.stride).max(4096)
    }

    /// Reads once, waiting for a moment if need be, and tells `arrived` of each whole message.
    ///
    /// # Errors
    ///
    /// If the connection is at its end, or brings anything but messages.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        arrived: impl FnMut(Arrival<'_>),
    ) -> Result<(), Error> {
        self.receive(buffer, RecvFlags::empty(), arrived).map(drop)
    }

    /// Looks whether there is anything on a connection that brings no messages.
    pub(super) fn look(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.receive(buffer, RecvFlags::DONTWAIT, |_| {}).map(drop)
    }

    /// The same; false if nothing was there.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        flags: RecvFlags,
        arrived: impl FnMut(Arrival<'_>),
    ) -> Result<bool, Error> {
        let held = self.unterminated.len();
        if held >= buffer.len() {
            return Err(foreign(&self.unterminated));
        }
        buffer[..held].copy_from_slice(&self.unterminated);
        let count = match recv(&self.input, &mut buffer[held..], flags) {
            Ok((0, _)) => return Err(Error::Closed),
            Ok((count, _)) => count,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(Error::io("receive")(error)),
        };
        let unterminated = self.check.walk(&buffer[..held + count], arrived)?;
        self.unterminated.clear();
        self.unterminated.extend_from_slice(unterminated);
        Ok(true)
    }
}

/// What a failure really is: if one client only sees its connection end, the server may have told
/// another one why.
pub(super) fn explain(inboxes: &mut [Inbox], error: Error) -> Error {
    if !error.is_vague() {
        return error;
    }
    let mut buffer = vec![0; 1 << 18];
    let mut rest = |inbox: &mut Inbox| loop {
        match inbox.receive(&mut buffer, RecvFlags::DONTWAIT, |_| {}) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(error),
        }
    };
    inboxes.iter_mut().filter_map(&mut rest).find(|error| !error.is_vague()).unwrap_or(error)
}

/// What has arrived at all of them.
pub(super) fn counts(inboxes: &[Inbox]) -> Counts {
    inboxes.iter().map(|inbox| inbox.check.counts).fold(Counts::default(), Counts::and)
}
