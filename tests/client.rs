//! The library's client reports what became of each line, however the connection ends, and numbers
//! lines as its user does.
//!
//! Each case connects to a real server in this process or, for behaviour that no real server shows
//! at will, to one that the test plays itself.

mod common;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use a_chat::client::{
    self, ConnectError, ConnectionOutcome, DisconnectReason, Event, Inbox, Outbox, Refusal,
    RefusalReason, Rejection, SendError, WhoReply,
};
use a_chat::{Config, Name};
use common::script::{Peer, Script};
use common::{TEST_TIMEOUT, TestServer, wait_until};
use crossbeam_channel::{Receiver, unbounded};

/// More lines than fit between two of the client's own questions.
const MANY: u64 = 20_000;

fn name(name: &str) -> Name {
    Name::new(name).expect("a valid name")
}

/// The events of an inbox, received by a thread of its own and awaited with a deadline.
struct Arrivals(Receiver<Event>);

impl Arrivals {
    fn of(inbox: Inbox) -> Self {
        let (sender, events) = unbounded();
        thread::spawn(move || inbox.into_events().try_for_each(|event| sender.send(event)));
        Self(events)
    }

    /// The next event; `None` at the end of the connection.
    fn next(&self) -> Option<Event> {
        match self.0.recv_timeout(TEST_TIMEOUT) {
            Ok(event) => Some(event),
            Err(error) if error.is_disconnected() => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn expect_message(&self, from: &str, text: &str) {
        let expected = Event::Message { from: name(from), text: text.to_owned() };
        assert_eq!(self.next(), Some(expected));
    }

    fn expect_end(&self) {
        assert_eq!(self.next(), None);
    }

    fn expect_end_after_notice(&self, accepted: u64) {
        assert_eq!(self.next(), Some(Event::ShuttingDown { accepted }));
        self.expect_end();
    }
}

fn connect(server: &TestServer, user: &str) -> (Outbox, Arrivals) {
    let (outbox, inbox) = client::connect(server.address, &name(user)).expect("a login");
    (outbox, Arrivals::of(inbox))
}

/// An error and its causes, as programs print them.
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Ends a connection in time, or fails.
fn finish(outbox: Outbox) -> ConnectionOutcome {
    let (sender, ended) = unbounded();
    thread::spawn(move || sender.send(outbox.finish(None)));
    ended.recv_timeout(TEST_TIMEOUT).expect("an end in time")
}

/// Connects to a server that is played by the test.
fn connect_to(script: &Script, user: &str) -> (Outbox, Inbox, Peer) {
    thread::scope(|scope| {
        let client = scope.spawn(|| client::connect(script.address, &name(user)));
        let peer = script.log_in(user);
        let (outbox, inbox) = client.join().expect("no panic").expect("a login");
        (outbox, inbox, peer)
    })
}

#[test]
fn two_clients_talk_and_leave() {
    let server = TestServer::start();
    let (mut alice, alices) = connect(&server, "alice");
    let (mut bob, bobs) = connect(&server, "bob");
    assert_eq!(alice.send("bob: hi"), Ok(1));
    bobs.expect_message("alice", "hi");
    assert_eq!(bob.send("alice, bob: hi yourself"), Ok(1));
    alices.expect_message("bob", "hi yourself");
    bobs.expect_message("bob", "hi yourself");
    assert_eq!(alice.send("/who bob, carol"), Ok(2));
    let reply = WhoReply::parse(2, "here: bob; not here: carol").expect("a reply");
    assert_eq!(alices.next(), Some(Event::Who(reply)));
    for (outbox, arrivals, accepted) in [(alice, alices, 2), (bob, bobs, 1)] {
        let ended = finish(outbox);
        assert!(matches!(ended.reason, DisconnectReason::Left), "{ended:?}");
        assert_eq!(ended.accepted, accepted);
        assert!(ended.in_doubt.is_empty() && ended.unaccepted.is_empty(), "{ended:?}");
        arrivals.expect_end();
    }
    assert_eq!(server.stop().lost(), 0);
}

#[test]
fn lines_are_numbered_without_the_clients_own_questions() {
    let server = TestServer::start();
    let (mut alice, alices) = connect(&server, "alice");
    for number in 1..=MANY {
        let line = if number % 1000 == 0 { "carol: x" } else { "alice: yes" };
        assert_eq!(alice.send(line), Ok(number));
    }
    for number in 1..=MANY {
        if number % 1000 == 0 {
            let reason = RefusalReason::NoSuchPeer(vec!["carol".to_owned()]);
            let refusal = Refusal::new(number, reason, "carol: x");
            assert_eq!(alices.next(), Some(Event::Refused(refusal)));
        } else {
            alices.expect_message("alice", "yes");
        }
    }
    let ended = finish(alice);
    assert!(matches!(ended.reason, DisconnectReason::Left), "{ended:?}");
    assert_eq!(ended.accepted, MANY);
    assert!(server.stop().accepted > MANY, "the client has asked something itself");
}

#[test]
fn a_block_holds_the_servers_lines_with_the_users_numbers() {
    let server = TestServer::start();
    let (mut outbox, mut inbox) =
        client::resume(server.address, &name("alice"), 41).expect("a login");
    let lines = outbox.send_lines(b"alice: 1\n\nbob: 2\n/who\nx\nalice: 3\n");
    assert_eq!(lines, Ok(42..48));
    outbox.half_close();
    let mut bytes = Vec::new();
    let mut refusals = Vec::new();
    while let Some(block) = inbox.next_block() {
        bytes.extend_from_slice(block.bytes());
        refusals.extend_from_slice(block.refusals());
    }
    let expected = "from alice: 1\n\
                    error: line 44: no such peer: bob\n\
                    notice: line 45: 1 here: alice\n\
                    error: line 46: no ':' in it, expected \"name, name: text\"\n\
                    from alice: 3\n";
    assert_eq!(String::from_utf8(bytes).expect("text"), expected);
    let refused: Vec<_> =
        refusals.iter().map(|refusal| (refusal.line, refusal.text.as_str())).collect();
    assert_eq!(refused, [(44, "bob: 2"), (46, "x")]);
    assert_eq!(finish(outbox).accepted, 47);
}

#[test]
fn text_that_is_not_one_line_is_not_sent() {
    let server = TestServer::start();
    let (mut alice, _alices) = connect(&server, "alice");
    assert_eq!(alice.send("alice: a\nalice: b"), Err(SendError::NotALine));
    assert_eq!(alice.send_lines(b"alice: a\nalice: b"), Err(SendError::NotALine));
    assert_eq!(alice.send_lines(b""), Err(SendError::NotALine));
    assert_eq!(alice.send("alice: a\r"), Ok(1));
    assert_eq!(finish(alice).accepted, 1);
}

#[test]
fn a_question_for_the_absent_takes_no_number() {
    let server = TestServer::start();
    let (mut alice, _alices) = connect(&server, "alice");
    let (_bob, _bobs) = connect(&server, "bob");
    let names = ["bob", "carol", "alice", "dave"].map(name);
    assert_eq!(alice.absent(&names), Ok(vec![name("carol"), name("dave")]));
    assert_eq!(alice.absent(&[]), Ok(Vec::new()));
    assert_eq!(alice.absent(&names[..1]), Ok(Vec::new()));
    assert_eq!(alice.send("bob: hi"), Ok(1));
    assert_eq!(finish(alice).accepted, 1);
}

#[test]
fn accepted_lines_are_known_within_a_second_or_so() {
    let server = TestServer::start();
    let (mut alice, _alices) = connect(&server, "alice");
    for number in 1..=3 {
        assert_eq!(alice.send("alice: x"), Ok(number));
    }
    wait_until("the number of accepted lines", || alice.accepted() == 3);
}

/// Alice sends without end; the server stops in the middle of it.
#[test]
fn at_shutdown_every_line_is_accepted_or_unaccepted() {
    let server = TestServer::start();
    let (mut alice, alices) = connect(&server, "alice");
    let (bob, bobs) = connect(&server, "bob");
    let sent = Arc::new(AtomicU64::new(0));
    let so_far = Arc::clone(&sent);
    let sender = thread::spawn(move || {
        loop {
            let number = so_far.fetch_add(1, SeqCst) + 1;
            match alice.send(format!("bob: {number}")) {
                Ok(line) => assert_eq!(line, number),
                Err(error) => {
                    assert_eq!(error, SendError::Closed);
                    so_far.fetch_sub(1, SeqCst);
                    return alice;
                }
            }
        }
    });
    for number in 1..=MANY {
        bobs.expect_message("alice", &number.to_string());
    }
    server.handle.shutdown();
    let ended = finish(sender.join().expect("no panic"));
    assert!(matches!(ended.reason, DisconnectReason::ShutDown), "{ended:?}");
    assert!(ended.in_doubt.is_empty(), "{:?}", ended.in_doubt.len());
    let accepted = ended.accepted;
    for number in MANY + 1..=accepted {
        bobs.expect_message("alice", &number.to_string());
    }
    bobs.expect_end_after_notice(0);
    alices.expect_end_after_notice(accepted);
    // The line whose sending failed is not among them.
    let rest: Vec<_> = ended.unaccepted.iter().collect();
    assert_eq!(rest.len() as u64, sent.load(SeqCst) - accepted);
    for (expected, (number, line)) in (accepted + 1..).zip(rest) {
        assert_eq!((number, line), (expected, format!("bob: {expected}").as_bytes()));
    }
    assert!(matches!(finish(bob).reason, DisconnectReason::ShutDown));
    assert_eq!(server.stop().lost(), 0);
}

#[test]
fn the_closing_notice_counts_even_if_a_reset_follows() {
    let script = Script::listen();
    let (mut outbox, inbox, mut peer) = connect_to(&script, "alice");
    // At once: the client asks a question when it is sent nothing for a second.
    outbox.send_lines(b"bob: 1\nbob: 2\nbob: 3\n").expect("an open connection");
    peer.expect_line("bob: 1");
    peer.expect_line("bob: 2");
    peer.close_after(3);
    // What is unread turns the close into a reset; one is sent in any case.
    peer.client.reset();
    let arrivals = Arrivals::of(inbox);
    arrivals.expect_end_after_notice(2);
    let ended = finish(outbox);
    assert!(matches!(ended.reason, DisconnectReason::ShutDown), "{ended:?}");
    assert_eq!((ended.accepted, ended.unaccepted.into_bytes()), (2, b"bob: 3\n".to_vec()));
}

#[test]
fn lines_without_a_reply_are_in_doubt_after_a_crash() {
    let script = Script::listen();
    let (mut outbox, inbox, mut peer) = connect_to(&script, "alice");
    outbox.send_lines(b"bob: 1\nbob: 2\n").expect("an open connection");
    peer.expect_line("bob: 1");
    peer.expect_line("bob: 2");
    // After a second of silence the client asks.
    peer.answer_who("alice");
    outbox.send("bob: 3").expect("an open connection");
    peer.expect_line("bob: 3");
    drop(peer);
    Arrivals::of(inbox).expect_end();
    let ended = finish(outbox);
    assert!(matches!(ended.reason, DisconnectReason::Lost(_)), "{ended:?}");
    assert_eq!(ended.accepted, 2);
    assert_eq!(ended.in_doubt.iter().collect::<Vec<_>>(), [(3, &b"bob: 3"[..])]);
    assert!(ended.unaccepted.is_empty(), "{ended:?}");
}

#[test]
fn a_line_that_is_sent_after_the_end_is_not_taken() {
    let script = Script::listen();
    let (mut outbox, inbox, peer) = connect_to(&script, "alice");
    drop(peer);
    Arrivals::of(inbox).expect_end();
    // The end is known when that of the inbox is; what is sent now cannot be written.
    assert_eq!(outbox.send("bob: late"), Err(SendError::Closed));
    assert_eq!(outbox.send("bob: later"), Err(SendError::Closed));
    let ended = finish(outbox);
    assert_eq!((ended.accepted, ended.in_doubt.len()), (0, 0), "{ended:?}");
    assert!(ended.unaccepted.is_empty(), "{ended:?}");
}

#[test]
fn an_end_before_the_last_reply_is_a_lost_connection() {
    let script = Script::listen();
    let (mut outbox, inbox, mut peer) = connect_to(&script, "alice");
    outbox.send("bob: 1").expect("an open connection");
    outbox.half_close();
    for line in ["bob: 1", "/who alice"] {
        peer.expect_line(line);
    }
    peer.client.expect_eof();
    drop(peer);
    Arrivals::of(inbox).expect_end();
    let ended = finish(outbox);
    assert!(matches!(ended.reason, DisconnectReason::Lost(None)), "{ended:?}");
    assert_eq!((ended.accepted, ended.in_doubt.last_number()), (0, 1));
}

#[test]
fn an_evicted_client_learns_that_and_its_lines_are_in_doubt() {
    let script = Script::listen();
    let (mut outbox, inbox, mut peer) = connect_to(&script, "alice");
    outbox.send("bob: 1").expect("an open connection");
    peer.expect_line("bob: 1");
    peer.client.send("error: evicted, nothing was read for too long");
    drop(peer);
    let arrivals = Arrivals::of(inbox);
    assert_eq!(arrivals.next(), Some(Event::Error(Rejection::Evicted)));
    arrivals.expect_end();
    let ended = finish(outbox);
    assert!(matches!(ended.reason, DisconnectReason::Rejected(Rejection::Evicted)), "{ended:?}");
    assert_eq!((ended.accepted, ended.in_doubt.len()), (0, 1));
}

#[test]
fn a_sender_waits_while_too_much_is_unconfirmed() {
    // A megabyte, of which each line takes up its length and 96 bytes more.
    const MAX_UNCONFIRMED_BYTES: u64 = 1024 * 1024 / (1000 + 96);
    const LINES: u64 = 4 * MAX_UNCONFIRMED_BYTES;
    let script = Script::listen();
    let (mut outbox, _inbox, mut peer) = connect_to(&script, "alice");
    let handed = Arc::new(AtomicU64::new(0));
    let (so_far, (done, all_handed)) = (Arc::clone(&handed), unbounded());
    let sender = thread::spawn(move || {
        let line = format!("bob: {}", "x".repeat(994));
        for _ in 0..LINES {
            outbox.send(&line).expect("an open connection");
            so_far.fetch_add(1, SeqCst);
        }
        done.send(()).expect("a test that listens");
        outbox
    });
    wait_until("the room to be taken up", || handed.load(SeqCst) >= MAX_UNCONFIRMED_BYTES);
    // Were it not bounded, all would be handed over in no time.
    all_handed.recv_timeout(Duration::from_millis(300)).expect_err("a sender that waits");
    assert_eq!(handed.load(SeqCst), MAX_UNCONFIRMED_BYTES);
    let mut lines = 0;
    while lines < LINES {
        if peer.line() == "/who alice" {
            let line = peer.line;
            peer.client.send(&format!("notice: line {line}: here: alice"));
        } else {
            lines += 1;
        }
    }
    all_handed.recv_timeout(TEST_TIMEOUT).expect("all are handed over");
    drop(sender.join().expect("no panic"));
}

#[test]
fn a_line_larger_than_the_room_is_sent() {
    let max_line = 4 * 1024 * 1024;
    let config = Config::default().max_line(max_line).linger(Duration::from_millis(100));
    let server = TestServer::with(config);
    let (mut alice, alices) = connect(&server, "alice");
    let large = "x".repeat(max_line - "alice: ".len());
    for line in 1..=3 {
        assert_eq!(alice.send(format!("alice: {large}")), Ok(line));
        alices.expect_message("alice", &large);
    }
    assert_eq!(finish(alice).accepted, 3);
}

#[test]
fn messages_that_arrive_during_the_login_do_not_delay_it() {
    const BLOCKS: usize = 100;
    let script = Script::listen();
    thread::scope(|scope| {
        let client = scope.spawn(|| client::connect(script.address, &name("alice")));
        let mut peer = script.accept();
        peer.client.expect_line("alice");
        let line = format!("from bob: {}\n", "x".repeat(65_000));
        peer.client.send_bytes(line.repeat(BLOCKS).as_bytes());
        peer.answer_who("alice");
        let (outbox, inbox) = client.join().expect("no panic").expect("a login");
        drop(peer);
        let messages = Arrivals::of(inbox);
        for _ in 0..BLOCKS {
            assert!(matches!(messages.next(), Some(Event::Message { .. })));
        }
        messages.expect_end();
        drop(outbox);
    });
}

#[test]
fn a_dropped_inbox_does_not_delay_the_sender() {
    let server = TestServer::start();
    let (mut alice, inbox) = client::connect(server.address, &name("alice")).expect("a login");
    drop(inbox);
    let line = format!("alice: {}", "x".repeat(10_000));
    for number in 1..=1000 {
        assert_eq!(alice.send(&line), Ok(number));
    }
    assert_eq!(finish(alice).accepted, 1000);
    let report = server.stop();
    assert_eq!((report.delivered, report.lost()), (1000, 0), "{report}");
}

#[test]
fn a_dropped_outbox_ends_the_connection_even_if_the_inbox_is_full() {
    let script = Script::listen();
    let (outbox, inbox, mut peer) = connect_to(&script, "alice");
    let line = format!("from bob: {}\n", "x".repeat(65_000));
    common::send_until_blocked(&peer.client.stream, line.as_bytes());
    let (done, dropped) = unbounded();
    thread::spawn(move || {
        drop(outbox);
        done.send(()).expect("a test that listens");
    });
    dropped.recv_timeout(TEST_TIMEOUT).expect("an end in time");
    // However the end comes, it comes.
    peer.client.drain();
    drop(inbox);
}

#[test]
fn a_server_that_does_not_close_is_abandoned_in_time() {
    let script = Script::listen();
    let (mut outbox, _inbox, mut peer) = connect_to(&script, "alice");
    outbox.send("bob: 1").expect("an open connection");
    peer.expect_line("bob: 1");
    let ended = outbox.finish(Some(Duration::from_millis(50)));
    assert!(matches!(ended.reason, DisconnectReason::GivenUp), "{ended:?}");
    assert_eq!((ended.accepted, ended.in_doubt.len()), (0, 1));
}

#[test]
fn a_rejected_client_learns_why() {
    let config = Config::default().max_connections(1);
    let server = TestServer::with(config);
    let (alice, _alices) = connect(&server, "alice");
    let rejected = |address, user: &str| {
        let error = client::connect(address, &name(user)).expect_err("a rejection");
        assert!(error.is_temporary(), "{error:?}");
        let ConnectError::Login { reason: DisconnectReason::Rejected(rejection), .. } = &error
        else {
            panic!("{error:?}")
        };
        (rejection.clone(), chain(&error))
    };
    let text = "cannot log in as bob: server is full".to_owned();
    assert_eq!(rejected(server.address, "bob"), (Rejection::ServerFull, text));
    let other = TestServer::start();
    let (_carol, _carols) = connect(&other, "carol");
    let text = "cannot log in as carol: name taken".to_owned();
    assert_eq!(rejected(other.address, "carol"), (Rejection::NameTaken, text));
    drop(alice);

    let address = server.address;
    server.stop();
    let error = client::connect(address, &name("bob")).expect_err("the port is closed");
    let expected = format!("cannot connect to {address}: Connection refused (os error 111)");
    assert_eq!(chain(&error), expected);
}

#[test]
fn a_client_that_logs_in_at_shutdown_learns_that() {
    let script = Script::listen();
    thread::scope(|scope| {
        let client = scope.spawn(|| client::connect(script.address, &name("alice")));
        let mut peer = script.accept();
        peer.close_after(0);
        drop(peer);
        let error = client.join().expect("no panic").expect_err("a server that stops");
        assert_eq!(chain(&error), "cannot log in as alice: the server was shut down");
    });
}

/// For a server that is stopped in the moment between the login and the client's first question,
/// what it has delivered is delivered.
#[test]
fn messages_delivered_during_a_failed_login_are_not_lost() {
    let script = Script::listen();
    thread::scope(|scope| {
        let client = scope.spawn(|| client::connect(script.address, &name("alice")));
        let mut peer = script.accept();
        peer.client.send("from bob: hi");
        peer.close_after(0);
        drop(peer);
        let (outbox, inbox) = client.join().expect("no panic").expect("a login");
        let alices = Arrivals::of(inbox);
        alices.expect_message("bob", "hi");
        alices.expect_end_after_notice(0);
        let ended = finish(outbox);
        assert!(matches!(ended.reason, DisconnectReason::ShutDown), "{ended:?}");
    });
}

#[test]
fn unaccepted_lines_go_to_the_next_server() {
    let script = Script::listen();
    let (mut outbox, inbox, mut peer) = connect_to(&script, "alice");
    let lines = b"alice: 1\nalice: 2\nalice: 3\nalice: 4\n";
    outbox.send_lines(lines).expect("an open connection");
    for number in 1..=4 {
        peer.expect_line(&format!("alice: {number}"));
    }
    peer.close_after(3);
    drop(peer);
    Arrivals::of(inbox).expect_end_after_notice(2);
    let ended = finish(outbox);
    let server = TestServer::start();
    let (mut outbox, inbox) =
        client::resume(server.address, &name("alice"), ended.settled()).expect("a login");
    let lines = outbox.send_lines(ended.unaccepted.into_bytes());
    assert_eq!(lines, Ok(3..5));
    let messages = Arrivals::of(inbox);
    messages.expect_message("alice", "3");
    messages.expect_message("alice", "4");
    assert_eq!(finish(outbox).accepted, 4);
}
