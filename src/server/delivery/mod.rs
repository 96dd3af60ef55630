//! What is on its way to recipients, from a sender's charge to the last acknowledgement. Plain state:
//! no thread runs here.

pub(crate) mod backlog;
pub(crate) mod pending;
pub(crate) mod in_flight;
pub(crate) mod window;
