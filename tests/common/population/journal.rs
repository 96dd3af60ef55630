//! The server's log, as an operator reads it: how each connection ended, in numbers.
//!
//! One logger serves all servers of this process. Connections are told apart by the address of
//! their client, which no other has; those of clients that do not care about that are left out.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Mutex, Once, PoisonError};

use a_chat::CloseReason;

/// What the log says of a connection that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// `None` if nobody was logged in.
    pub name: Option<String>,
    pub reason: CloseReason,
    pub accepted: u64,
    pub delivered: u64,
    pub lost: u64,
    /// Bytes, if the log tells: where nothing is lost it does not.
    pub unacknowledged: Option<u64>,
}

struct LogCapture(Mutex<Option<HashMap<SocketAddrV4, Vec<Departure>>>>);

static JOURNAL: LogCapture = LogCapture(Mutex::new(None));

/// Begins to listen to the log.
pub fn open() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&JOURNAL).expect("no other logger");
        // Of who never logged in the log tells on request only.
        log::set_max_level(log::LevelFilter::Debug);
    });
}

/// What was noted of the connection from this address, which is forgotten then.
pub fn take(address: SocketAddrV4) -> Option<Departure> {
    let noted = JOURNAL.with(|departures| {
        let noted = departures.remove(&address);
        if departures.is_empty() {
            // The memory of many connections is not for who comes later.
            *departures = HashMap::new();
        }
        noted
    })?;
    assert!(noted.len() == 1, "{address} ended more than once: {noted:?}");
    noted.into_iter().next()
}

impl LogCapture {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<SocketAddrV4, Vec<Departure>>) -> T) -> T {
        let mut departures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(departures.get_or_insert_default())
    }
}

impl log::Log for LogCapture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Some((address, departure)) = departure(&record.args().to_string()) {
            if *address.ip() != Ipv4Addr::LOCALHOST {
                self.with(|departures| departures.entry(address).or_default().push(departure));
            }
        }
    }

    fn flush(&self) {}
}

/// Reads `alice went, connection 2 from 127.0.0.1:52398: left; 3 lines in, 4 messages out`, to
/// which a loss adds `, 5 lost, 600 B unacknowledged`.
fn departure(line: &str) -> Option<(SocketAddrV4, Departure)> {
    let (name, rest) = line.split_once(" went, connection ")?;
    let (_, rest) = rest.split_once(" from ")?;
    let (peer, rest) = rest.split_once(": ")?;
    let (reason, numbers) = rest.rsplit_once("; ")?;
    let mut numbers = numbers.split(", ").map(|number| number.split(' ').next()?.parse().ok());
    let (accepted, delivered) = (numbers.next()??, numbers.next()??);
    let (lost, unacknowledged) = (numbers.next().flatten(), numbers.next().flatten());
    let departure = Departure {
        name: (name != "nobody").then(|| name.to_owned()),
        reason: close_reason(reason)?,
        accepted,
        delivered,
        lost: lost.unwrap_or(0),
        unacknowledged,
    };
    Some((peer.parse().ok()?, departure))
}

/// Reads a reason as the server words it.
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
        CloseReason::Shutdown,
        CloseReason::Deadline,
        CloseReason::Forced,
    ];
    reasons.into_iter().find(|reason| reason.to_string() == text)
}
