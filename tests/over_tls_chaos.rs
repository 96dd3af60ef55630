//! The short form of the chaos over TLS, see `over_tls.rs`. It is a program of its own, since both
//! listen to the log of the whole process.

#[path = "chaos.rs"]
mod chaos;
