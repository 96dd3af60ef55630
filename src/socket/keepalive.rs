//! How both sides detect a peer that has vanished without closing the connection.

use std::time::Duration;

use socket2::TcpKeepalive;

/// How long a connection may be silent before the first probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// The time between probes that are not answered.
#[cfg(not(target_os = "openbsd"))]
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How many probes in a row may be left without an answer.
#[cfg(not(target_os = "openbsd"))]
const KEEPALIVE_PROBES: u32 = 6;

pub(crate) fn keepalive() -> TcpKeepalive {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE);
    // The others cannot be set there.
    #[cfg(not(target_os = "openbsd"))]
    let keepalive = keepalive.with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    keepalive
}
