//! Positions in the two streams of an encrypted connection. They are types of their own, so that a
//! number of the one is never taken for a number of the other.

/// A position in what the client reads, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Plain(pub(crate) u64);

/// A position in what the network carries, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cipher(pub(crate) u64);

impl Plain {
    /// The position this many bytes further on.
    pub(crate) fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

impl Cipher {
    /// The position this many bytes further on.
    pub(crate) fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }

    /// The position this many bytes before; the beginning, if there are not as many.
    pub(crate) fn minus(self, bytes: u64) -> Self {
        Self(self.0.saturating_sub(bytes))
    }
}
