//! Messages from a connection's two threads to its outbox. Plain data.

use super::event::WhoReply;
use crate::wire::reasons::RefusalReason;
use crate::wire::sync::SyncOutcome;

/// What the writer and reader threads report to the outbox.
#[derive(Debug)]
pub(crate) enum Update {
    /// More of the user's lines are known to be accepted, which freed this many bytes.
    Freed(usize),
    /// The reply to one of the client's own questions.
    Answer(Result<WhoReply, RefusalReason>),
    /// The reply to a `/sync` of the client's own.
    Confirmation(SyncOutcome),
    /// The reader thread waits for room in the inbox.
    InboxFull,
    /// The other side is no server of this kind: this is its first line.
    Foreign(String),
    /// The connection accepts no more bytes, or none will be read from it.
    Broken,
}
