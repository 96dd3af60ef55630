//! What is due to a client: pieces of batches, and answers that are spelled out when it is their
//! turn. No thread runs here; the broker makes these, and the writer who has them owns them.

use std::ops::Range;
use std::sync::Arc;

use crate::server::delivery::window::Permit;
use crate::wire::batch::{Frames, MAX_ERROR_BYTES};
use crate::wire::protocol;

/// How much text of answers to refused lines is spelled out at a time, in bytes.
const ERRORS_CHUNK: usize = 4 * 1024;

/// Something to write.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    FrameSlice(FrameSlice),
    NoSuchPeerErrors(Box<NoSuchPeerErrors>),
}

/// The answers to consecutive lines of whose recipients the same are not there.
///
/// They are spelled out by the writer of the one who caused them, some at a time: neither the
/// broker's time nor memory is taken up by what a client may not even read.
#[derive(Clone, Debug)]
pub(crate) struct NoSuchPeerErrors {
    /// The numbers of the lines that are left to answer.
    lines: Range<u64>,
    /// The names that nobody has, as they are listed.
    missing: Vec<u8>,
    permit: Arc<Permit>,
}

/// Part of a batch that is due to one recipient.
#[derive(Clone, Debug)]
pub(crate) struct FrameSlice {
    pub(crate) frames: Arc<ChargedFrames>,
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// How many messages these bytes are: none for an answer or a notice.
    pub(crate) messages: u32,
}

/// Frames, and the charge for them on their sender's window. Pieces share both as one, since each
/// share that is taken and given back costs the processors' caches a round trip.
#[derive(Debug)]
pub(crate) struct ChargedFrames {
    pub(crate) bytes: Frames,
    /// Gives the sender its room back when the last recipient's piece is gone.
    #[expect(dead_code, reason = "it is held, not read")]
    pub(crate) permit: Option<Arc<Permit>>,
}

impl Pending {
    pub(crate) fn messages(&self) -> u64 {
        match self {
            Self::FrameSlice(slice) => u64::from(slice.messages),
            Self::NoSuchPeerErrors(_) => 0,
        }
    }

    pub(crate) fn as_slice(&self) -> Option<&FrameSlice> {
        match self {
            Self::FrameSlice(slice) => Some(slice),
            Self::NoSuchPeerErrors(_) => None,
        }
    }
}

impl NoSuchPeerErrors {
    /// The answers to these lines, charged to the window of the batch that they came in: whoever
    /// sends to their recipient has to wait behind them, so they must not grow beyond it.
    pub(crate) fn new(lines: Range<u64>, missing: Vec<u8>, batch: &Permit) -> Self {
        let permit = Arc::new(batch.charge_more(max_bytes(&lines, &missing)));
        Self { lines, missing, permit }
    }

    /// True if one piece holds all of the answers.
    pub(crate) fn fit_one_slice(&self) -> bool {
        self.lines.end - self.lines.start == 1
            || max_bytes(&self.lines, &self.missing) <= ERRORS_CHUNK
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Spells out some of the answers, at least one if any is left.
    pub(crate) fn next_slice(&mut self) -> FrameSlice {
        let mut text = Vec::new();
        while text.len() < ERRORS_CHUNK {
            let Some(line) = self.lines.next() else { break };
            protocol::push_no_such_peer(&mut text, line, &self.missing);
        }
        FrameSlice::reply(text, Arc::clone(&self.permit))
    }
}

/// No less than what these answers take up, spelled out.
fn max_bytes(lines: &Range<u64>, missing: &[u8]) -> usize {
    let lines = usize::try_from(lines.end - lines.start).unwrap_or(usize::MAX);
    lines.saturating_mul(missing.len() + MAX_ERROR_BYTES)
}

impl FrameSlice {
    /// A line of the server's own: no message, and nobody's window is charged for it.
    pub(crate) fn from_text(text: Vec<u8>) -> Self {
        Self::from_buffer(text, None)
    }

    /// An answer to a client; `permit` is that of the batch that caused it.
    pub(crate) fn reply(text: Vec<u8>, permit: Arc<Permit>) -> Self {
        Self::from_buffer(text, Some(permit))
    }

    fn from_buffer(text: Vec<u8>, permit: Option<Arc<Permit>>) -> Self {
        let end = u32::try_from(text.len()).unwrap_or(0);
        let frames = Arc::new(ChargedFrames { bytes: Arc::new(text), permit });
        Self { frames, start: 0, end, messages: 0 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.frames.bytes[self.start as usize..self.end as usize]
    }

    /// Cuts off what comes after the line that holds the last of the first `count` bytes.
    pub(crate) fn cut_after_line_of(&mut self, count: u32) {
        let last = count.saturating_sub(1) as usize;
        if let Some(line_end) = memchr::memchr(b'\n', &self.bytes()[last..]) {
            self.end = self.start + u32::try_from(last + line_end + 1).unwrap_or(u32::MAX);
            let lines = memchr::memchr_iter(b'\n', self.bytes()).count();
            self.messages = self.messages.min(u32::try_from(lines).unwrap_or(u32::MAX));
        }
    }
}
