//! A client's right to its name, as far as the rest of the server knows about it. Plain data.

#[cfg(feature = "users")]
pub(crate) use crate::server::users::Access;

/// Without users nobody proves anything.
#[cfg(not(feature = "users"))]
#[derive(Debug)]
pub(crate) enum Access {}
