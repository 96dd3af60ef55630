//! Positions in the two streams of a connection: what the client's program reads, and what the
//! network carries. Without encryption they are the same.
//!
//! They are types of their own, so that a number of the one is never taken for one of the other.

/// A position in the plaintext, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Plain(pub(crate) u64);

/// A position in the bytes on the network, in bytes: ciphertext, if there is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wire(pub(crate) u64);

/// Up to where the other side's kernel has acknowledged both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) plain: Plain,
    pub(crate) wire: Wire,
}
