//! The mistakes that lose data when a threaded server stops, each beside the way that loses none;
//! `docs/how-it-stops.md` tells why.
//!
//! No part of the relay runs here, only sockets on the loopback, and channels. Each case brings
//! about the moment in which its mistake counts, and knows from the kernel or from a channel that
//! it has come, so that nothing depends on who is faster: what can be lost then is lost every time.
//! `cargo test --test pitfalls -- --nocapture` prints how much that is.
#![expect(clippy::print_stdout, reason = "the figures are there to be looked at")]

mod common;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use common::{PATIENCE, wait_until};
use crossbeam_channel::{Receiver, bounded, select, select_biased, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use socket2::{Domain, SockRef, Socket, Type};

/// What the client asks its kernel to hold while it does not read, in bytes.
const RECEIVE_BUFFER: usize = 32 * 1024;

/// How many messages go through a channel.
const MESSAGES: usize = 1000;

/// A client that has read nothing yet of what a server has written for it.
struct Client {
    stream: TcpStream,
    /// How many bytes the server has written.
    due: usize,
}

/// A server's end of a connection, on which it has written all that its socket takes, and the
/// client: some of the bytes are in the client's kernel, the others still in the server's.
fn connection() -> (TcpStream, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    client.set_recv_buffer_size(RECEIVE_BUFFER).expect("an option");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.connect(&listener.local_addr().expect("an address").into()).expect("a listener");
    let (mut server, _) = listener.accept().expect("a client");
    server.set_nonblocking(true).expect("an option");
    let mut due = 0;
    loop {
        match server.write(&[b'x'; 4096]) {
            Ok(count) => due += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    server.set_nonblocking(false).expect("an option");
    (server, Client { stream: client.into(), due })
}

impl Client {
    fn speak(&self) {
        (&self.stream).write_all(b"?").expect("an open connection");
    }

    /// Speaks, and returns when the server's kernel has it.
    fn speak_to(&self, server: &TcpStream) {
        self.speak();
        wait_until("the client's byte", || ioctl_fionread(server) == Ok(1));
    }

    /// Waits for a reset, reads only then, and finds that something is missing.
    fn expect_loss(&self, how: &str) {
        let timeout = Timespec::try_from(PATIENCE).expect("a time");
        // Asked for no event, poll(2) still tells of a reset.
        let mut stream = [PollFd::new(&self.stream, PollFlags::empty())];
        assert_eq!(poll(&mut stream, Some(&timeout)), Ok(1), "{how}: no reset came");
        let received = self.read().expect_err("a reset");
        println!("{how}: {} of {} bytes lost", self.due - received, self.due);
        assert!(received < self.due, "{how}: nothing was lost");
    }

    /// Reads all that is due, and then a clean end.
    fn expect_everything(&self, how: &str) {
        assert_eq!(self.read(), Ok(self.due), "{how}");
        println!("{how}: none of {} bytes lost", self.due);
    }

    /// Reads to a clean end (`Ok`) or to a reset (`Err`), and counts the bytes before it.
    fn read(&self) -> Result<usize, usize> {
        let mut bytes = Vec::new();
        match (&self.stream).read_to_end(&mut bytes) {
            Ok(count) => Ok(count),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(bytes.len()),
            Err(error) => panic!("{error}"),
        }
    }
}

// The first mistake: to close a socket whose client has said, or will say, what nobody reads.

#[test]
fn closing_with_unread_input_loses_the_tail() {
    let (server, client) = connection();
    client.speak_to(&server);
    drop(server);
    client.expect_loss("closed with unread input");
}

#[test]
fn so_linger_does_not_save_the_tail() {
    let (server, client) = connection();
    client.speak_to(&server);
    SockRef::from(&server).set_linger(Some(PATIENCE)).expect("an option");
    drop(server);
    client.expect_loss("closed with unread input and SO_LINGER");
}

#[test]
fn reading_all_input_before_closing_does_not_help_if_the_client_sends_more() {
    let (mut server, client) = connection();
    client.speak_to(&server);
    server.read_exact(&mut [0]).expect("what the client has said");
    drop(server);
    client.speak();
    client.expect_loss("closed before the client");
}

#[test]
fn discarding_input_until_the_client_has_closed_loses_nothing() {
    let (mut server, client) = connection();
    client.speak_to(&server);
    server.shutdown(Shutdown::Write).expect("an open connection");
    let lingering = thread::spawn(move || io::copy(&mut server, &mut io::sink()));
    client.speak();
    client.expect_everything("lingered");
    drop(client);
    let discarded = lingering.join().expect("no panic").expect("a clean end");
    assert_eq!(discarded, 2);
}

// The second mistake: to shut the reading side down, to wake a reader say, and send FIN after it.

#[test]
fn shut_rd_before_fin_loses_the_tail() {
    let (server, client) = connection();
    server.shutdown(Shutdown::Read).expect("an open connection");
    server.shutdown(Shutdown::Write).expect("an open connection");
    client.speak();
    client.expect_loss("SHUT_RD, then SHUT_WR");
}

#[test]
fn fin_alone_loses_nothing() {
    let (server, client) = connection();
    server.shutdown(Shutdown::Write).expect("an open connection");
    client.speak_to(&server);
    client.expect_everything("SHUT_WR alone");
}

// The third mistake: a thread on the way of the messages that chooses between them and the stop.

/// Counts what it delivers until it chooses the stop.
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
    // It picks one of the two at random each time, so all of them pass once in 2^1000 times.
    let delivered = deliver_or_stop(&inbox, &stopped);
    println!("select: {} of {MESSAGES} messages lost", MESSAGES - delivered);
    assert!(delivered < MESSAGES);
}

/// As [`deliver_or_stop`], but takes a message as long as there is one.
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
    // The stage before has accepted the other half too, and is only now at it.
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

// And one that loses nothing, but makes a liar of the report: to give a connection up by ending it.

#[test]
fn data_abandoned_by_closing_still_arrives_after_it_was_reported_lost() {
    let (server, client) = connection();
    server.shutdown(Shutdown::Both).expect("an open connection");
    drop(server);
    client.expect_everything("given up by closing");
}

#[test]
fn data_abandoned_by_a_reset_does_not_arrive_later() {
    let (server, client) = connection();
    rustix::net::connect_unspec(&server).expect("an open connection");
    client.expect_loss("given up by a reset");
}

// How likely a loss is where nothing brings it about: the client reads as fast as it can.

/// What such a client is sent, in bytes.
const SENT: usize = 4 * 1024 * 1024;

/// How often that is tried.
const ROUNDS: usize = 200;

/// Sends to clients that read all the time, and say something after each read. `end` is how the
/// server parts with them, and what it keeps of the socket until they are gone. Returns how many
/// of them did not get everything.
fn losers(how: &str, end: impl Fn(TcpStream) -> Option<TcpStream>) -> usize {
    let rounds = (0..ROUNDS).filter(|_| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).expect("a listener");
            let (mut chunk, mut received) = (vec![0; 64 * 1024], 0);
            while let Ok(count @ 1..) = stream.read(&mut chunk) {
                received += count;
                // Who does not listen any more resets, which the next read tells.
                let _ = stream.write(b"?");
            }
            received
        });
        let (mut server, _) = listener.accept().expect("a client");
        server.write_all(&vec![b'x'; SENT]).expect("a client that reads");
        let kept = end(server);
        let received = client.join().expect("no panic");
        drop(kept);
        received < SENT
    });
    let losers = rounds.count();
    println!("{how}: {losers} of {ROUNDS} clients that read all the time lost something");
    losers
}

#[test]
#[ignore = "a measurement"]
fn clients_that_read_continuously_lose_nothing_if_the_server_lingers() {
    losers("closed", |_| None);
    losers("SHUT_RD, then SHUT_WR", |server| {
        server.shutdown(Shutdown::Read).and(server.shutdown(Shutdown::Write)).ok().map(|()| server)
    });
    let lingered = losers("lingered", |mut server| {
        server.shutdown(Shutdown::Write).expect("an open connection");
        io::copy(&mut server, &mut io::sink()).ok().map(|_| server)
    });
    assert_eq!(lingered, 0);
}
