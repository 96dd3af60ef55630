//! The mistakes that lose data when a threaded server shuts down, each next to a way that loses
//! none. `docs/how-it-stops.md` explains why.
//!
//! The relay itself does not run here, only loopback sockets and channels. Each case brings about
//! the moment at which its mistake matters, and confirms it through the kernel or a channel. No race
//! is involved: data that can be lost is lost every time.
//! `cargo test --test pitfalls -- --nocapture` prints how much.
#![expect(clippy::print_stdout, reason = "the figures are printed for the reader")]

mod common;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use common::{TEST_TIMEOUT, wait_until};
use crossbeam_channel::{Receiver, bounded, select, select_biased, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use socket2::{Domain, SockRef, Socket, Type};

/// The receive buffer that the client requests from its kernel, in bytes.
const RECEIVE_BUFFER: usize = 32 * 1024;

/// How many messages go through a channel.
const MESSAGES: usize = 1000;

/// A client that has not yet read any of what a server has written for it.
struct Client {
    stream: TcpStream,
    /// How many bytes the server has written.
    written: usize,
}

/// The server's end of a connection whose socket it has written full, and the client. Some of the
/// bytes are in the client's kernel, the rest still in the server's.
fn connection() -> (TcpStream, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    client.set_recv_buffer_size(RECEIVE_BUFFER).expect("an option");
    client.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
    client.connect(&listener.local_addr().expect("an address").into()).expect("a listener");
    let (mut server, _) = listener.accept().expect("a client");
    server.set_nonblocking(true).expect("an option");
    let mut written = 0;
    loop {
        match server.write(&[b'x'; 4096]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    server.set_nonblocking(false).expect("an option");
    (server, Client { stream: client.into(), written })
}

impl Client {
    fn send(&self) {
        (&self.stream).write_all(b"?").expect("an open connection");
    }

    /// Sends a byte, and returns once it is in the server's receive queue.
    fn send_to(&self, server: &TcpStream) {
        self.send();
        wait_until("the client's byte", || ioctl_fionread(server) == Ok(1));
    }

    /// Waits for a reset, reads only then, and expects that bytes are missing.
    fn expect_loss(&self, how: &str) {
        let timeout = Timespec::try_from(TEST_TIMEOUT).expect("a time");
        // Even when asked for no event, poll(2) reports a reset.
        let mut stream = [PollFd::new(&self.stream, PollFlags::empty())];
        assert_eq!(poll(&mut stream, Some(&timeout)), Ok(1), "{how}: no reset arrived");
        let received = self.read().expect_err("a reset");
        println!("{how}: {} of {} bytes lost", self.written - received, self.written);
        assert!(received < self.written, "{how}: no byte was lost");
    }

    /// Expects everything that the server has written, and then a clean end of file.
    fn expect_no_loss(&self, how: &str) {
        assert_eq!(self.read(), Ok(self.written), "{how}");
        println!("{how}: none of {} bytes lost", self.written);
    }

    /// Reads to a clean end of file (`Ok`) or to a reset (`Err`), and counts the bytes before it.
    fn read(&self) -> Result<usize, usize> {
        let mut bytes = Vec::new();
        match (&self.stream).read_to_end(&mut bytes) {
            Ok(count) => Ok(count),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(bytes.len()),
            Err(error) => panic!("{error}"),
        }
    }
}

// The first mistake: closing a socket with unread input, or whose client will send more.

#[test]
fn closing_with_unread_input_loses_the_tail() {
    let (server, client) = connection();
    client.send_to(&server);
    drop(server);
    client.expect_loss("closed with unread input");
}

#[test]
fn so_linger_does_not_save_the_tail() {
    let (server, client) = connection();
    client.send_to(&server);
    SockRef::from(&server).set_linger(Some(TEST_TIMEOUT)).expect("an option");
    drop(server);
    client.expect_loss("closed with unread input and SO_LINGER");
}

#[test]
fn reading_all_input_before_closing_does_not_help_if_the_client_sends_more() {
    let (mut server, client) = connection();
    client.send_to(&server);
    server.read_exact(&mut [0]).expect("the client's byte");
    drop(server);
    client.send();
    client.expect_loss("closed before the client");
}

#[test]
fn discarding_input_until_the_client_closes_loses_nothing() {
    let (mut server, client) = connection();
    client.send_to(&server);
    server.shutdown(Shutdown::Write).expect("an open connection");
    let lingering = thread::spawn(move || io::copy(&mut server, &mut io::sink()));
    client.send();
    client.expect_no_loss("lingered");
    drop(client);
    let discarded = lingering.join().expect("no panic").expect("a clean end");
    assert_eq!(discarded, 2);
}

// The second mistake: shutting down the reading side, say to wake a reader, before sending FIN.

#[test]
fn shut_rd_before_fin_loses_the_tail() {
    let (server, client) = connection();
    server.shutdown(Shutdown::Read).expect("an open connection");
    server.shutdown(Shutdown::Write).expect("an open connection");
    client.send();
    client.expect_loss("SHUT_RD, then SHUT_WR");
}

#[test]
fn fin_alone_loses_nothing() {
    let (server, client) = connection();
    server.shutdown(Shutdown::Write).expect("an open connection");
    client.send_to(&server);
    client.expect_no_loss("SHUT_WR alone");
}

// The third mistake: a thread on the path of the messages that chooses between them and the stop.

/// Counts the messages it delivers until it chooses the stop.
fn deliver_or_stop(inbox: &Receiver<usize>, stop: &Receiver<()>) -> usize {
    let mut delivered = 0;
    loop {
        select! {
            recv(inbox) -> message => match message {
                Ok(_) => delivered += 1,
                Err(_) => return delivered,
            },
            recv(stop) -> _ => return delivered,
        }
    }
}

#[test]
fn a_select_between_stop_and_message_loses_queued_messages() {
    let (queue, inbox) = unbounded();
    let (stop, stopped) = bounded(0);
    (0..MESSAGES).for_each(|message| queue.send(message).expect("an inbox"));
    drop(stop);
    // It picks one of the two at random each time: the odds of delivering all are 1 in 2^1000.
    let delivered = deliver_or_stop(&inbox, &stopped);
    println!("select: {} of {MESSAGES} messages lost", MESSAGES - delivered);
    assert!(delivered < MESSAGES);
}

/// As [`deliver_or_stop`], but prefers a message whenever there is one.
fn deliver_first_or_stop(inbox: &Receiver<usize>, stop: &Receiver<()>) -> usize {
    let mut delivered = 0;
    loop {
        select_biased! {
            recv(inbox) -> message => match message {
                Ok(_) => delivered += 1,
                Err(_) => return delivered,
            },
            recv(stop) -> _ => return delivered,
        }
    }
}

#[test]
fn a_select_that_prefers_messages_loses_those_not_yet_queued() {
    let (queue, inbox) = unbounded();
    let (stop, stopped) = bounded(0);
    (0..MESSAGES / 2).for_each(|message| queue.send(message).expect("an inbox"));
    drop(stop);
    let delivered = deliver_first_or_stop(&inbox, &stopped);
    // The previous stage had accepted the other half too, but forwards it only now.
    (MESSAGES / 2..MESSAGES).for_each(|message| queue.send(message).expect("an inbox"));
    println!("biased select: {} of {MESSAGES} messages lost", MESSAGES - delivered);
    assert_eq!(delivered, MESSAGES / 2);
    assert_eq!(inbox.len(), MESSAGES / 2);
}

#[test]
fn exiting_on_disconnection_loses_nothing() {
    let (queue, inbox) = unbounded();
    let writer = thread::spawn(move || inbox.iter().count());
    (0..MESSAGES).for_each(|message| queue.send(message).expect("an inbox"));
    drop(queue);
    let delivered = writer.join().expect("no panic");
    println!("disconnection: {} of {MESSAGES} messages lost", MESSAGES - delivered);
    assert_eq!(delivered, MESSAGES);
}

// And one that loses nothing but falsifies the report: abandoning a connection by closing it.

#[test]
fn data_abandoned_by_closing_still_arrives_after_it_was_reported_lost() {
    let (server, client) = connection();
    server.shutdown(Shutdown::Both).expect("an open connection");
    drop(server);
    client.expect_no_loss("abandoned by closing");
}

#[test]
fn data_abandoned_by_a_reset_does_not_arrive_later() {
    let (server, client) = connection();
    rustix::net::connect_unspec(&server).expect("an open connection");
    client.expect_loss("abandoned by a reset");
}

// How likely a loss is when nothing provokes it: the client reads as fast as it can.

/// How many bytes such a client is sent.
const SENT: usize = 4 * 1024 * 1024;

/// How many clients are tried.
const ROUNDS: usize = 200;

/// Sends to clients that read continuously and send a byte after each read. `close` is how the
/// server closes the connection; it returns the socket if that must outlive the client. Returns how
/// many clients did not receive everything.
fn clients_with_loss(how: &str, close: impl Fn(TcpStream) -> Option<TcpStream>) -> usize {
    let rounds = (0..ROUNDS).filter(|_| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).expect("a listener");
            let (mut chunk, mut received) = (vec![0; 64 * 1024], 0);
            while let Ok(count @ 1..) = stream.read(&mut chunk) {
                received += count;
                // A server that no longer listens resets, which the next read reports.
                let _ = stream.write(b"?");
            }
            received
        });
        let (mut server, _) = listener.accept().expect("a client");
        server.write_all(&vec![b'x'; SENT]).expect("a client that reads");
        let kept = close(server);
        let received = client.join().expect("no panic");
        drop(kept);
        received < SENT
    });
    let count = rounds.count();
    println!("{how}: {count} of {ROUNDS} clients that read continuously lost data");
    count
}

#[test]
#[ignore = "a measurement"]
fn clients_that_read_continuously_lose_nothing_if_the_server_lingers() {
    clients_with_loss("closed", |_| None);
    clients_with_loss("SHUT_RD, then SHUT_WR", |server| {
        server.shutdown(Shutdown::Read).and(server.shutdown(Shutdown::Write)).ok().map(|()| server)
    });
    let lingered = clients_with_loss("lingered", |mut server| {
        server.shutdown(Shutdown::Write).expect("an open connection");
        io::copy(&mut server, &mut io::sink()).ok().map(|_| server)
    });
    assert_eq!(lingered, 0);
}
