//! The server's log as an operator reads it: the numbers of each finished connection.
//!
//! One logger serves all servers of this process. Connections are identified by their client's
//! address, which no other client shares; clients on the default loopback address are ignored.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Mutex, Once, PoisonError};

use a_chat::CloseReason;

/// The log's record of a finished connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRecord {
    /// `None` if the client never logged in.
    pub name: Option<String>,
    pub reason: CloseReason,
    pub accepted: u64,
    pub delivered: u64,
    pub lost: u64,
    /// Bytes, present only if messages were lost.
    pub unacknowledged: Option<u64>,
}

struct LogCapture(Mutex<Option<HashMap<SocketAddrV4, Vec<ConnectionRecord>>>>);

static CAPTURE: LogCapture = LogCapture(Mutex::new(None));

/// Starts capturing the log.
pub fn open() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&CAPTURE).expect("no other logger");
        // Connections that never logged in are logged only at `debug`.
        log::set_max_level(log::LevelFilter::Debug);
    });
}

/// Removes and returns the record of the connection from this address.
pub fn take(address: SocketAddrV4) -> Option<ConnectionRecord> {
    let noted = CAPTURE.with(|records| {
        let noted = records.remove(&address);
        if records.is_empty() {
            // Frees the memory of many connections.
            *records = HashMap::new();
        }
        noted
    })?;
    assert!(noted.len() == 1, "{address} ended more than once: {noted:?}");
    noted.into_iter().next()
}

impl LogCapture {
    fn with<T>(
        &self,
        act: impl FnOnce(&mut HashMap<SocketAddrV4, Vec<ConnectionRecord>>) -> T,
    ) -> T {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(records.get_or_insert_default())
    }
}

impl log::Log for LogCapture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Some((address, record)) = parse_record(&record.args().to_string()) {
            if *address.ip() != Ipv4Addr::LOCALHOST {
                self.with(|records| records.entry(address).or_default().push(record));
            }
        }
    }

    fn flush(&self) {}
}

/// Parses `alice disconnected (connection 2, 127.0.0.1:52398): left; 3 lines in, 4 messages out`, to
/// which a loss adds `, 5 lost, 600 B unacknowledged`.
fn parse_record(line: &str) -> Option<(SocketAddrV4, ConnectionRecord)> {
    let (name, rest) = line.split_once(" disconnected (connection ")?;
    let (_, rest) = rest.split_once(", ")?;
    let (peer, rest) = rest.split_once("): ")?;
    let (reason, numbers) = rest.rsplit_once("; ")?;
    let mut numbers = numbers.split(", ").map(|number| number.split(' ').next()?.parse().ok());
    let (accepted, delivered) = (numbers.next()??, numbers.next()??);
    let (lost, unacknowledged) = (numbers.next().flatten(), numbers.next().flatten());
    let record = ConnectionRecord {
        name: (name != "unnamed client").then(|| name.to_owned()),
        reason: close_reason(reason)?,
        accepted,
        delivered,
        lost: lost.unwrap_or(0),
        unacknowledged,
    };
    Some((peer.parse().ok()?, record))
}

/// Parses a close reason as the server words it.
fn close_reason(text: &str) -> Option<CloseReason> {
    let reasons = [
        CloseReason::Left,
        CloseReason::LeftBeforeLogin,
        CloseReason::Broken(ErrorKind::ConnectionReset),
        CloseReason::Broken(ErrorKind::BrokenPipe),
        CloseReason::BadName,
        CloseReason::NameTaken,
        CloseReason::LoginTimeout,
        CloseReason::Evicted,
        CloseReason::ServerFull,
        CloseReason::Shutdown,
        CloseReason::Deadline,
        CloseReason::Forced,
    ];
    reasons.into_iter().find(|reason| reason.to_string() == text)
}
