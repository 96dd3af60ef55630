//! Data pending for one client: frame slices, and lines rendered only when they are written. Made by
//! the broker, owned by the client's writer.

use std::ops::Range;
use std::sync::Arc;

use crate::server::delivery::loss_notice::LossNotice;
use crate::server::delivery::losses::{Losses, Origin};
use crate::server::delivery::room_news::RoomNews;
use crate::server::delivery::window::Permit;
use crate::socket::connection::ConnectionId;
use crate::wire::batch::{Frames, MAX_ERROR_BYTES};
use crate::wire::protocol;

/// How many bytes of error replies are rendered at a time.
const ERRORS_CHUNK: usize = 4 * 1024;

/// Something to write.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    FrameSlice(FrameSlice),
    /// Boxed, since every message is moved through two queues whose entries are as large as the
    /// largest variant.
    Unrendered(Box<Unrendered>),
}

const _: () =
    assert!(size_of::<Pending>() == size_of::<FrameSlice>(), "no room for a tag is taken");

/// Lines from the server itself that are rendered only when their turn comes.
#[derive(Clone, Debug)]
pub(crate) enum Unrendered {
    NoSuchPeerErrors(NoSuchPeerErrors),
    /// Shared with the broker, which adds to the notice until it is written.
    RoomNews(Arc<RoomNews>),
    /// Which of the client's own lines were lost.
    LossNotice(Arc<LossNotice>),
}

/// The error replies to consecutive lines with the same unknown recipients.
///
/// The writer of the client that caused them renders them a few at a time. A client that never
/// reads its errors thus costs neither the broker's time nor the memory for their text.
#[derive(Clone, Debug)]
pub(crate) struct NoSuchPeerErrors {
    /// The numbers of the lines still to reply to.
    lines: Range<u64>,
    /// The recipients concerned, as [`protocol::missing`] describes them.
    missing: Vec<u8>,
    permit: Arc<Permit>,
}

/// A range of a batch's frames that is pending for one recipient.
#[derive(Clone, Debug)]
pub(crate) struct FrameSlice {
    pub(crate) frames: Arc<ChargedFrames>,
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// How many messages these bytes are: zero for a reply or a notice.
    pub(crate) messages: u32,
    /// The line of the first message, counted from its batch's first line on. Each further message
    /// is that of the next line.
    pub(crate) line: u32,
}

/// Frames, and the charge for them on their sender's window. Slices share both through one `Arc`,
/// since each reference count that is incremented and decremented costs a round trip between CPU
/// caches.
#[derive(Debug)]
pub(crate) struct ChargedFrames {
    pub(crate) bytes: Frames,
    /// Releases the sender's window when the last recipient's slice is dropped.
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "it is held, not read"))]
    pub(crate) permit: Option<Arc<Permit>>,
    /// Whose lines these are; meaningless for a reply or a notice.
    pub(crate) sender: ConnectionId,
    /// The number of the batch's first line.
    pub(crate) first_line: u64,
}

impl Pending {
    pub(crate) fn messages(&self) -> u64 {
        match self {
            Self::FrameSlice(slice) => u64::from(slice.messages),
            Self::Unrendered(_) => 0,
        }
    }

    pub(crate) fn as_slice(&self) -> Option<&FrameSlice> {
        match self {
            Self::FrameSlice(slice) => Some(slice),
            Self::Unrendered(_) => None,
        }
    }
}

impl From<Unrendered> for Pending {
    fn from(unrendered: Unrendered) -> Self {
        Self::Unrendered(Box::new(unrendered))
    }
}

impl NoSuchPeerErrors {
    /// The replies to these lines, charged to the window of the batch they came in: a client that
    /// sends to their recipient waits behind them, so they must not exceed that window.
    pub(crate) fn new(lines: Range<u64>, missing: Vec<u8>, batch: &Permit) -> Self {
        let permit = Arc::new(batch.charge_more(max_bytes(&lines, &missing)));
        Self { lines, missing, permit }
    }

    /// True if one slice holds all of the replies.
    pub(crate) fn fit_one_slice(&self) -> bool {
        self.lines.end - self.lines.start == 1
            || max_bytes(&self.lines, &self.missing) <= ERRORS_CHUNK
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Renders some of the replies, at least one if any is left.
    pub(crate) fn next_slice(&mut self) -> FrameSlice {
        let mut text = Vec::new();
        while text.len() < ERRORS_CHUNK {
            let Some(line) = self.lines.next() else { break };
            protocol::push_missing(&mut text, line, &self.missing);
        }
        FrameSlice::reply(text, Arc::clone(&self.permit))
    }
}

/// An upper bound on the length of these replies once rendered.
fn max_bytes(lines: &Range<u64>, missing: &[u8]) -> usize {
    let lines = usize::try_from(lines.end - lines.start).unwrap_or(usize::MAX);
    lines.saturating_mul(missing.len() + MAX_ERROR_BYTES)
}

impl FrameSlice {
    /// A line from the server itself: not a message, and not charged to any window.
    pub(crate) fn from_text(text: Vec<u8>) -> Self {
        Self::from_buffer(text, None)
    }

    /// A reply to a client; `permit` is that of the batch that caused it.
    pub(crate) fn reply(text: Vec<u8>, permit: Arc<Permit>) -> Self {
        Self::from_buffer(text, Some(permit))
    }

    fn from_buffer(text: Vec<u8>, permit: Option<Arc<Permit>>) -> Self {
        let end = u32::try_from(text.len()).unwrap_or(0);
        let (bytes, sender) = (Arc::new(text), ConnectionId::default());
        let frames = Arc::new(ChargedFrames { bytes, permit, sender, first_line: 0 });
        Self { frames, start: 0, end, messages: 0, line: 0 }
    }

    /// Whose line the first message is.
    pub(crate) fn origin(&self) -> Origin {
        let ChargedFrames { sender, first_line, .. } = *self.frames;
        Origin { sender, line: first_line + u64::from(self.line) }
    }

    /// Notes as lost all but the first `arrived` messages.
    pub(crate) fn lose_rest(&self, arrived: u32, losses: &mut Losses) {
        let Origin { sender, line } = self.origin();
        let first = Origin { sender, line: line + u64::from(arrived) };
        losses.note(first, self.messages.saturating_sub(arrived));
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.frames.bytes[self.start as usize..self.end as usize]
    }

    /// Truncates the slice after the line that contains the last of the first `count` bytes.
    pub(crate) fn cut_after_line_of(&mut self, count: u32) {
        let last = count.saturating_sub(1) as usize;
        if let Some(line_end) = memchr::memchr(b'\n', &self.bytes()[last..]) {
            self.end = self.start + u32::try_from(last + line_end + 1).unwrap_or(u32::MAX);
            let lines = memchr::memchr_iter(b'\n', self.bytes()).count();
            self.messages = self.messages.min(u32::try_from(lines).unwrap_or(u32::MAX));
        }
    }
}
