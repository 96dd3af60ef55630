//! A chat and message relay.

#[cfg(not(target_os = "linux"))]
compile_error!("a-chat needs Linux: its exact report rests on SIOCOUTQ and TCP_NOTSENT_LOWAT");

mod acceptor;
mod batch;
mod broker;
mod config;
mod connection;
mod error;
mod framing;
mod in_flight;
mod limits;
mod linger;
mod protocol;
mod reader;
mod report;
mod server;
mod shutdown;
mod stats;
mod sys;
mod window;
mod writer;

pub use config::Config;
pub use error::Error;
pub use limits::{Capacity, raise_open_files};
pub use protocol::Name;
pub use report::{CloseReason, Loss, Report};
pub use server::Server;
pub use shutdown::ShutdownHandle;
pub use stats::{Stats, StatsHandle};
