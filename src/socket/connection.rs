//! One client's socket, shared by its reader and its writer. Whichever of them exits last closes
//! it.
//!
//! No call here blocks; waiting is done in [`ShutdownHandle::wait`].
//!
//! [`ShutdownHandle::wait`]: crate::ShutdownHandle

use std::fmt;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

use crate::socket::peer::Peer;
use crate::socket::position::{Acknowledged, Plain, Wire};
pub(crate) use crate::socket::stream::ReadResult;
use crate::socket::stream::Stream;
use crate::socket::sys;
use crate::socket::tls::channel::Channel;

/// How much input is discarded with one system call, in bytes.
const DISCARD_CHUNK: usize = 4 * 1024;

/// The maximum number of chunks that one call of [`Connection::discard_input`] discards, so a
/// client that never stops sending cannot keep the thread from checking its deadline.
const DISCARD_CHUNKS: usize = 64;

/// The size that a socket's send buffer is raised to for a final line, in bytes.
const FINAL_SEND_BUFFER: usize = 1024 * 1024;

/// A client's socket. Every call passes `MSG_DONTWAIT`; the socket itself is in blocking mode.
#[derive(Debug)]
pub(crate) struct Connection {
    id: ConnectionId,
    socket: Stream,
    peer: Peer,
    /// Who the client is, if the peer is a proxy that has said so.
    #[cfg(feature = "proxy")]
    client: OnceLock<Peer>,
    /// True once a FIN was sent. The kernel counts it as one unacknowledged byte.
    fin_sent: AtomicBool,
    /// True once the client has left on its own.
    left: AtomicBool,
    /// True once the reader discards input until the end, and sees to it that the client can close.
    reader_lingers: AtomicBool,
    /// When the account of what was delivered became final.
    settled: OnceLock<Instant>,
    /// Its bytes, once it was aborted: the kernel counts them no longer.
    #[cfg(feature = "status")]
    last_traffic: OnceLock<Traffic>,
    /// Set by the reader, before anything else is read, if the client speaks TLS. Boxed, so a client
    /// that does not has no memory for it.
    #[cfg(feature = "tls")]
    tls: OnceLock<Box<Channel>>,
}

/// Identifies a connection for the lifetime of a server, in the order in which connections were
/// accepted. Unlike names, ids are never reused. The first is 1; the default stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes of a TCP connection, as the kernel counts them.
#[cfg(feature = "status")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) received_bytes: u64,
    /// Those that were sent again count once.
    pub(crate) sent_bytes: u64,
}

#[cfg(feature = "status")]
impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.received_bytes += other.received_bytes;
        self.sent_bytes += other.sent_bytes;
    }
}

/// What a look from outside finds.
#[cfg(feature = "status")]
impl Connection {
    /// Its bytes so far; none in the Unix domain, where nobody counts them.
    pub(crate) fn traffic(&self) -> Traffic {
        if let Some(last) = self.last_traffic.get() {
            return *last;
        }
        let counted = self.socket.is_tcp().then(|| sys::traffic(&self.socket).ok()).flatten();
        let (received_bytes, sent_bytes) = counted.unwrap_or_default();
        Traffic { received_bytes, sent_bytes }
    }

    /// How the client came.
    pub(crate) fn door(&self) -> &'static str {
        if self.socket.is_tcp() { "tcp" } else { "unix" }
    }
}

impl Connection {
    /// Wraps an accepted socket.
    pub(crate) fn new(id: ConnectionId, socket: impl Into<Stream>, peer: Peer) -> Self {
        let [fin_sent, left, reader_lingers] = [(); 3].map(|()| AtomicBool::new(false));
        Self {
            id,
            socket: socket.into(),
            peer,
            #[cfg(feature = "proxy")]
            client: OnceLock::new(),
            fin_sent,
            left,
            reader_lingers,
            settled: OnceLock::new(),
            #[cfg(feature = "status")]
            last_traffic: OnceLock::new(),
            #[cfg(feature = "tls")]
            tls: OnceLock::new(),
        }
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    /// Who is at the other end of the socket, whatever a proxy there has said.
    #[cfg(any(feature = "tls", feature = "users"))]
    pub(crate) fn socket_peer(&self) -> Peer {
        self.peer
    }

    /// Who the client is: the peer, or whom a proxy has named.
    pub(crate) fn peer(&self) -> Peer {
        #[cfg(feature = "proxy")]
        if let Some(client) = self.client.get() {
            return *client;
        }
        self.peer
    }

    /// Notes whom the peer, a proxy, speaks for.
    #[cfg(feature = "proxy")]
    pub(crate) fn set_client(&self, client: Peer) {
        // A header is read once.
        let _ = self.client.set(client);
    }

    /// The client's TLS, if it speaks it.
    #[cfg(feature = "tls")]
    fn tls(&self) -> Option<&Channel> {
        self.tls.get().map(|tls| &**tls)
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, reason = "as with TLS")]
    fn tls(&self) -> Option<&Channel> {
        None
    }

    /// Whether the client speaks TLS.
    #[cfg(any(feature = "status", feature = "users"))]
    pub(crate) fn is_encrypted(&self) -> bool {
        self.tls().is_some()
    }

    /// From now on everything is encrypted.
    #[cfg(feature = "tls")]
    pub(crate) fn start_tls(&self, channel: Channel) {
        let _ = self.tls.set(Box::new(channel));
    }

    /// Continues the TLS handshake as far as the socket allows; true once it is over.
    #[cfg(feature = "tls")]
    pub(crate) fn handshake(&self) -> io::Result<bool> {
        self.tls()
            .map_or(Ok(true), |tls| tls.handshake(|to| self.receive(to), |bytes| self.pass(bytes)))
    }

    /// Reads available input into `buffer`, which must not be empty. At most `budget` bytes are taken
    /// from the kernel and subtracted from it; input that was taken earlier needs no budget.
    pub(crate) fn read(&self, buffer: &mut [u8], budget: &mut usize) -> io::Result<ReadResult> {
        if let Some(tls) = self.tls() {
            return tls.read(|to| self.receive(to), buffer, budget);
        }
        let limit = buffer.len().min(*budget);
        if limit == 0 {
            return Ok(ReadResult::WouldBlock);
        }
        let received = self.receive(&mut buffer[..limit])?;
        if let ReadResult::Bytes(count) = received {
            *budget -= count;
        }
        Ok(received)
    }

    /// Whether a read that filled the buffer, or did not, may be followed by another at once.
    pub(crate) fn maybe_readable(&self, filled: bool) -> bool {
        self.tls().map_or(filled, Channel::maybe_readable)
    }

    /// Takes available bytes from the kernel, as they are.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<ReadResult> {
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Ok(ReadResult::Eof),
                Ok((count, _)) => return Ok(ReadResult::Bytes(count)),
                Err(rustix::io::Errno::AGAIN) => return Ok(ReadResult::WouldBlock),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// How many bytes of input the kernel holds at the moment.
    pub(crate) fn readable_bytes(&self) -> usize {
        let bytes = rustix::io::ioctl_fionread(&self.socket).unwrap_or(0);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Discards available input undecrypted, up to [`DISCARD_CHUNKS`].
    pub(crate) fn discard_input(&self) -> io::Result<ReadResult> {
        // Mostly there is little.
        let mut little = [0; 128];
        match self.receive(&mut little)? {
            ReadResult::Bytes(count) if count == little.len() => self.discard_much(),
            other => Ok(other),
        }
    }

    /// The part of [`discard_input`](Self::discard_input) that needs room.
    ///
    /// Never inlined: the chunk would become part of every caller's stack frame, a page per thread.
    #[inline(never)]
    fn discard_much(&self) -> io::Result<ReadResult> {
        let mut chunk = [0; DISCARD_CHUNK];
        for _ in 0..DISCARD_CHUNKS {
            match self.receive(&mut chunk)? {
                ReadResult::Bytes(count) if count == chunk.len() => {}
                other => return Ok(other),
            }
        }
        Ok(ReadResult::Bytes(DISCARD_CHUNK * DISCARD_CHUNKS))
    }

    /// Writes as much of `parts`, in order, as the socket accepts; `Ok(0)` if it accepts nothing at
    /// the moment. Under TLS, some ciphertext of it may be [pending](Self::has_pending).
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.tls() {
            None => self.send(parts),
            Some(tls) => tls.write(|bytes| self.pass(bytes), || self.send_fin(), parts),
        }
    }

    /// Whether ciphertext of what was written waits for the socket. Without TLS none ever does.
    pub(crate) fn has_pending(&self) -> bool {
        self.tls().is_some_and(Channel::has_pending)
    }

    /// The events to wait for: those the caller wants, and room in the socket if something waits for
    /// it.
    pub(crate) fn events(&self, wanted: Option<PollFlags>) -> Option<PollFlags> {
        if self.has_pending() {
            return Some(wanted.unwrap_or(PollFlags::empty()) | PollFlags::OUT);
        }
        wanted
    }

    /// Passes to the socket what waits for it.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.tls().map_or(Ok(()), |tls| tls.flush(|bytes| self.pass(bytes), || self.send_fin()))
    }

    /// Passes ciphertext to the kernel.
    fn pass(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send(&[IoSlice::new(bytes)])
    }

    /// Passes as much of `parts` to the kernel as it accepts, as they are.
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match sendmsg(&self.socket, parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(count) => return Ok(count),
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends FIN after everything written so far; under TLS, as soon as that and a `close_notify` are
    /// in the socket. Calling it again has no further effect.
    pub(crate) fn shutdown_write(&self) {
        match self.tls() {
            None => drop(self.send_fin()),
            // Fails only if the connection is already closed, which the caller will notice on its
            // own.
            Some(tls) => {
                let _ = tls.finish(|bytes| self.pass(bytes), || self.send_fin());
            }
        }
    }

    /// Sends FIN after everything that the socket has taken. False if the connection is closed.
    fn send_fin(&self) -> bool {
        // Fails only if the connection is already closed, which the caller will notice on its own.
        let is_sent = self.socket.shutdown(Shutdown::Write).is_ok();
        if is_sent {
            self.fin_sent.store(true, Relaxed);
        }
        is_sent
    }

    /// How many of the bytes on the network, written or waiting, the peer's kernel has not
    /// acknowledged.
    pub(crate) fn unacknowledged(&self) -> u64 {
        self.tls().map_or_else(
            || self.unacknowledged_in_socket(),
            |tls| tls.unacknowledged(|| self.unacknowledged_in_socket()),
        )
    }

    /// None in the Unix domain: what a call of `send` accepts is in the peer's receive queue when it
    /// returns, and stays there whatever becomes of this end. (`SIOCOUTQ` counts memory there, not
    /// bytes, and what the peer has not read yet.)
    fn unacknowledged_in_socket(&self) -> u64 {
        if !self.socket.is_tcp() {
            return 0;
        }
        // Fails only if the socket is disconnected, and then its error settles what was in flight.
        let unacknowledged = sys::unacknowledged(&self.socket).unwrap_or(0);
        unacknowledged.saturating_sub(u64::from(self.fin_sent.load(Relaxed)))
    }

    /// Up to where the peer's kernel has acknowledged the stream, of which this much is written.
    pub(crate) fn acknowledged(&self, written: Plain) -> Acknowledged {
        match self.tls() {
            None => {
                let to = written.0.saturating_sub(self.unacknowledged_in_socket());
                Acknowledged { plain: Plain(to), wire: Wire(to) }
            }
            Some(tls) => tls.acknowledged(|| self.unacknowledged_in_socket()),
        }
    }

    /// Where the bytes on the network end, if this much of the stream is written. It counts those
    /// that wait for the socket.
    pub(crate) fn wire_end(&self, written: Plain) -> Wire {
        self.tls().map_or(Wire(written.0), Channel::end)
    }

    /// The receive window that the peer's kernel offered last, in bytes; `None` if this kernel does
    /// not tell.
    ///
    /// In the Unix domain, what the kernel holds for the peer: once that is full it accepts nothing
    /// until three quarters are read, as if a window were reopened.
    pub(crate) fn offered_window(&self) -> Option<u32> {
        match &self.socket {
            Stream::Tcp(socket) => sys::offered_window(socket).ok(),
            Stream::Unix(socket) => {
                let size = socket2::SockRef::from(socket).send_buffer_size().ok()?;
                u32::try_from(size).ok()
            }
        }
    }

    /// True if the peer has closed its side, even if the end is behind input that was not read yet.
    pub(crate) fn peer_has_closed(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// True if the connection no longer exists: it was reset, timed out, or closed by both sides
    /// and acknowledged by both.
    pub(crate) fn is_disconnected(&self) -> bool {
        match &self.socket {
            Stream::Tcp(socket) => socket.peer_addr().is_err(),
            // Such a socket has an address permanently.
            Stream::Unix(socket) => {
                let mut fds = [PollFd::new(socket, PollFlags::empty())];
                let ready = poll(&mut fds, Some(&Timespec::default()));
                ready.is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
            }
        }
    }

    /// Notes that the client has closed its side of the connection before anything failed.
    pub(crate) fn set_left(&self) {
        self.left.store(true, Relaxed);
    }

    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Relaxed)
    }

    /// Promises that the reader discards input until the client has closed, or has failed to within
    /// the linger time, so nobody else has to stay for that.
    pub(crate) fn set_reader_lingers(&self) {
        self.reader_lingers.store(true, Release);
    }

    pub(crate) fn reader_lingers(&self) -> bool {
        self.reader_lingers.load(Acquire)
    }

    /// Marks the account of what was delivered as final.
    pub(crate) fn set_settled(&self) {
        self.settled.get_or_init(Instant::now);
    }

    /// True if what was written before [`set_settled`](Self::set_settled) is visible to this thread.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.get().is_some()
    }

    /// When [`set_settled`](Self::set_settled) was called.
    pub(crate) fn settled_at(&self) -> Option<Instant> {
        self.settled.get().copied()
    }

    /// Lifts the limits on unsent bytes, so a final line fits behind a full queue.
    pub(crate) fn lift_send_limits(&self) {
        let socket = socket2::SockRef::from(&self.socket);
        // If the system refuses, the final line merely waits for the client.
        if self.socket.is_tcp() {
            let _ = socket.set_tcp_notsent_lowat(u32::MAX);
        }
        let _ = socket.set_send_buffer_size(FINAL_SEND_BUFFER);
    }

    /// Closes a connection with nothing in flight, and wakes any thread that waits on it.
    pub(crate) fn close(&self) {
        // Fails only if the peer closed it first.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// The same for a client that may still be sending: input that is unread when the socket is dropped
    /// would reset the connection. In the Unix domain that takes what counts as delivered, since the
    /// client has not read it yet.
    pub(crate) fn close_behind_input(&self) {
        self.close();
        // Mostly there is none, in a drain of thousands of clients.
        let Ok(ReadResult::Bytes(_)) = self.discard_input() else { return };
        // The kernel refuses what comes from here on. Should it not, this ends all the same.
        let mut left = self.readable_bytes();
        while let Ok(ReadResult::Bytes(count)) = self.discard_input() {
            if count >= left {
                return;
            }
            left -= count;
        }
    }

    /// Resets the connection: bytes that are unacknowledged now, and about to be reported lost,
    /// cannot arrive later. Wakes any thread that waits on it.
    ///
    /// In the Unix domain no byte is unacknowledged, and nothing can be taken back: the client reads
    /// what was written, and then the end of the stream.
    pub(crate) fn abort(&self) {
        // A socket without its association counts nothing.
        #[cfg(feature = "status")]
        let _ = self.last_traffic.set(self.traffic());
        // Dissolving the association (connect(2), `AF_UNSPEC`) resets at once. Closing with a
        // linger time of 0 would only reset once both threads have dropped the socket.
        if !self.socket.is_tcp() || rustix::net::connect_unspec(&self.socket).is_err() {
            self.close();
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::socket::peer::Credentials;

    /// A connection in the Unix domain, and the client.
    fn unix() -> (Connection, UnixStream) {
        let (socket, client) = UnixStream::pair().expect("two descriptors");
        let peer = Peer::Unix(Credentials { uid: 0, pid: 1 });
        (Connection::new(ConnectionId(1), socket, peer), client)
    }

    fn write_until_full(connection: &Connection) -> usize {
        let chunk = [b'x'; 1000];
        let write = || connection.write(&[IoSlice::new(&chunk)]).expect("a client that is there");
        std::iter::repeat_with(write).take_while(|count| *count > 0).sum()
    }

    #[test]
    fn a_unix_client_is_disconnected_once_it_has_closed_both_ways() {
        let (connection, client) = unix();
        assert!(!connection.is_disconnected() && !connection.peer_has_closed());
        client.shutdown(Shutdown::Write).expect("a connection");
        assert!(!connection.is_disconnected() && connection.peer_has_closed());
        drop(client);
        assert!(connection.is_disconnected());
    }

    #[test]
    fn a_unix_client_that_closes_without_reading_is_disconnected_too() {
        let (connection, client) = unix();
        write_until_full(&connection);
        drop(client);
        assert!(connection.is_disconnected() && connection.peer_has_closed());
    }

    #[test]
    fn what_a_unix_client_sent_before_it_closed_is_still_read() {
        let (connection, mut client) = unix();
        client.write_all(b"hello").expect("room");
        connection.write(&[IoSlice::new(b"unread")]).expect("room");
        drop(client);
        let mut buffer = [0; 100];
        assert_eq!(connection.readable_bytes(), 5);
        assert_eq!(
            connection.read(&mut buffer, &mut usize::MAX.clone()).expect("what was sent"),
            ReadResult::Bytes(5)
        );
        assert!(!matches!(
            connection.read(&mut buffer, &mut usize::MAX.clone()),
            Ok(ReadResult::Bytes(_))
        ));
    }

    #[test]
    fn all_that_was_written_to_a_unix_client_is_delivered_even_after_an_abort() {
        let (connection, mut client) = unix();
        let written = write_until_full(&connection);
        assert_eq!(connection.unacknowledged(), 0);
        assert!(connection.offered_window().is_some_and(|window| window > 0));
        connection.abort();
        assert_eq!(connection.unacknowledged(), 0);
        let mut received = Vec::new();
        client.read_to_end(&mut received).expect("a clean end");
        assert_eq!(received.len(), written);
    }

    /// However much it was: the client sets how much its socket takes.
    #[test]
    fn a_unix_client_that_floods_to_the_end_reads_all_that_was_written() {
        let (connection, mut client) = unix();
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(
            &client,
            16 * DISCARD_CHUNK * DISCARD_CHUNKS,
        );
        let written = write_until_full(&connection);
        client.set_nonblocking(true).expect("a socket");
        let flood = vec![b'x'; 100_000];
        while client.write(&flood).is_ok() {}
        client.set_nonblocking(false).expect("a socket");
        connection.close_behind_input();
        assert!(client.write(b"more").is_err());
        drop(connection);
        let mut received = Vec::new();
        client.read_to_end(&mut received).expect("no reset");
        assert_eq!(received.len(), written);
    }

    #[test]
    fn a_final_line_fits_behind_a_full_queue_in_the_unix_domain() {
        let (connection, client) = unix();
        write_until_full(&connection);
        connection.lift_send_limits();
        let line = b"error: why\n";
        assert_eq!(connection.write(&[IoSlice::new(line)]).expect("a client"), line.len());
        connection.shutdown_write();
        assert_eq!(connection.unacknowledged(), 0);
        let mut received = Vec::new();
        (&client).read_to_end(&mut received).expect("a clean end");
        assert!(received.ends_with(line));
    }

    /// Linux counts such a byte among the readable ones, and delivers it on another path.
    #[test]
    fn an_urgent_byte_of_a_unix_client_keeps_no_reader_awake() {
        let (connection, client) = unix();
        let sent = rustix::net::send(&client, b"!", SendFlags::OOB);
        if sent.is_err() {
            // Linux before 5.15 has none.
            return;
        }
        let mut buffer = [0; 100];
        for _ in 0..10 {
            let mut fds = [PollFd::new(&connection, PollFlags::IN)];
            if poll(&mut fds, Some(&Timespec::default())).expect("a descriptor") == 0 {
                return;
            }
            match connection.read(&mut buffer, &mut usize::MAX.clone()) {
                Ok(ReadResult::Bytes(_) | ReadResult::WouldBlock) => {}
                Ok(ReadResult::Eof) | Err(_) => return,
            }
        }
        panic!("it is readable forever");
    }
}
