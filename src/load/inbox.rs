//! The receiving side of a client. Owned by the thread that receives.

use std::ops::Range;
use std::sync::Arc;

use rustix::net::RecvFlags;

use super::check::{Arrival, Counts, SequenceChecker, unexpected};
use super::client::Client;
use super::control::Tally;
use super::link::{Link, is_passing};
use super::protocol::{Frame, Protocol};
use super::{Aborted, Error, Outcome};

/// One connection on which messages arrive.
#[derive(Debug)]
pub struct Inbox {
    input: Arc<Link>,
    check: SequenceChecker,
    /// The beginning of an incomplete frame.
    partial: Vec<u8>,
}

impl Inbox {
    /// The inbox of a client that receives messages from these senders.
    pub fn new(protocol: Protocol, client: &Client, frame: Frame, senders: Range<usize>) -> Self {
        let check = SequenceChecker::new(protocol, frame, senders);
        Self { input: Arc::clone(&client.input), check, partial: Vec::new() }
    }

    /// The socket to wait on.
    pub fn socket(&self) -> &Link {
        &self.input
    }

    /// Minimum size of a read buffer, in bytes.
    pub fn min_buffer(&self) -> usize {
        (2 * self.check.frame.stride).max(4096)
    }

    /// Reads once, waiting briefly if necessary, and calls `arrived` for each complete message.
    ///
    /// # Errors
    ///
    /// If the connection ended, or received anything but messages.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        mut arrived: impl FnMut(Arrival<'_>),
    ) -> Result<(), Error> {
        self.receive(buffer, RecvFlags::empty(), &mut arrived)?;
        while self.input.may_hold_more() {
            self.receive(buffer, RecvFlags::DONTWAIT, &mut arrived)?;
        }
        Ok(())
    }

    /// Checks a connection on which no messages arrive for errors and notices.
    pub(super) fn check_quiet(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.receive(buffer, RecvFlags::DONTWAIT, |_| {}).map(drop)
    }

    /// Reads once; false if there was nothing to read.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        flags: RecvFlags,
        arrived: impl FnMut(Arrival<'_>),
    ) -> Result<bool, Error> {
        let held = self.partial.len();
        if held >= buffer.len() {
            return Err(unexpected(&self.partial));
        }
        buffer[..held].copy_from_slice(&self.partial);
        let count = match self.input.recv(&mut buffer[held..], flags) {
            Ok(0) => return Err(Error::Closed),
            Ok(count) => count,
            Err(error) if is_passing(&error) => return Ok(false),
            Err(error) => return Err(Error::io("receive")(error)),
        };
        let partial = self.check.walk(&buffer[..held + count], arrived)?;
        self.partial.clear();
        self.partial.extend_from_slice(partial);
        Ok(true)
    }
}

/// Finds the cause of a failure: one client may only see its connection end while another was told
/// why.
fn explain(inboxes: &mut [Inbox], error: Error) -> Error {
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

/// The counts of all inboxes together.
pub(super) fn counts(inboxes: &[Inbox]) -> Counts {
    inboxes.iter().map(|inbox| inbox.check.counts).fold(Counts::default(), Counts::merge)
}

/// The outcome of a run that has ended like this; `before` are the counts from before it.
pub(super) fn finish(
    ended: Result<(), Error>,
    inboxes: &mut [Inbox],
    before: Counts,
    tally: &Tally,
) -> Result<Outcome, Aborted> {
    let ended = ended.map_err(|error| explain(inboxes, error));
    let outcome = tally.outcome(counts(inboxes).delta(before));
    match ended {
        Ok(()) => Ok(outcome),
        Err(error) => Err(Aborted { error, outcome: Box::new(outcome) }),
    }
}
