//! Events that the thread `keys` passes to whichever thread owns the terminal. Plain data.

/// Something that happened at the terminal.
#[derive(Debug)]
pub(crate) enum TtyEvent {
    /// Input, cut into pieces anywhere.
    Bytes(Vec<u8>),
    /// The window was resized, or this process was resumed after a suspension.
    Changed,
}
