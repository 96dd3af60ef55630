//! What is on its way to recipients, from the charge on a sender's window to the last
//! acknowledgement. Plain state without threads.

pub(crate) mod backlog;
pub(crate) mod pending;
pub(crate) mod room_news;
pub(crate) mod ticket;
pub(crate) mod in_flight;
pub(crate) mod losses;
pub(crate) mod marks;
pub(crate) mod loss_notice;
pub(crate) mod reached;
pub(crate) mod token;
pub(crate) mod window;
