//! What a program may reasonably try with the client either works or is an error: it never hangs,
//! and no line is taken without a number or numbered without an account.
//!
//! Each case does something in the obvious way, against a real server in this process or one that
//! the test plays itself. A watchdog turns a hang into a failure.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use a_chat::client::{
    self, AbsentError, Client, ConnectError, DisconnectReason, Event, Inbox, Options, Outbox,
    RefusalReason, SendError,
};
use a_chat::{Config, Name};
use common::script::Script;
use common::{TEST_TIMEOUT, TestServer};
use crossbeam_channel::unbounded;

fn name(name: &str) -> Name {
    Name::new(name).expect("a valid name")
}

/// Runs this on a thread of its own, and fails if that takes too long.
fn in_time<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = unbounded();
    thread::spawn(move || done.send(run()));
    result.recv_timeout(TEST_TIMEOUT).expect("no hang and no panic")
}

/// A client that sends a burst to the bot, and then counts what comes back.
fn burst(server: &TestServer, count: usize, size: usize) -> thread::JoinHandle<usize> {
    let address = server.address;
    let (mut outbox, inbox) = client::connect(address, &name("alice")).expect("a login");
    let receiver = thread::spawn(move || {
        let messages = inbox.into_events().filter(|event| matches!(event, Event::Message { .. }));
        messages.take(count).count()
    });
    thread::spawn(move || {
        let text = "x".repeat(size);
        for _ in 0..count {
            outbox.send_to([&name("bot")], &text).expect("an open connection");
        }
        let received = receiver.join().expect("no panic");
        drop(outbox);
        received
    })
}

/// The obvious bot: one thread, both halves. The replies that free room for its lines come after
/// messages that only this thread takes from the full inbox.
#[test]
fn a_bot_that_answers_from_its_event_loop_does_not_deadlock() {
    for (count, size) in [(10_000, 1_000), (40_000, 100)] {
        let server = TestServer::start();
        let (mut outbox, inbox) = client::connect(server.address, &name("bot")).expect("a login");
        let received = burst(&server, count, size);
        let outcome = in_time(move || {
            for event in inbox.into_events().take(count) {
                let Event::Message { from, text } = event else { panic!("{event:?}") };
                outbox.send_to([&from], text).expect("a line that is taken");
            }
            outbox.finish(None)
        });
        assert!(matches!(outcome.reason, DisconnectReason::Left), "{:?}", outcome.reason);
        assert_eq!(outcome.accepted, count as u64);
        assert_eq!(in_time(move || received.join().expect("no panic")), count);
        assert_eq!(server.stop().lost(), 0);
    }
}

#[test]
fn a_client_on_one_thread_echoes_a_burst() {
    const COUNT: usize = 10_000;
    let server = TestServer::start();
    let mut bot = Client::connect(server.address, &name("bot")).expect("a login");
    let received = burst(&server, COUNT, 1_000);
    let outcome = in_time(move || {
        for _ in 0..COUNT {
            let Ok(Event::Message { from, text }) = bot.recv() else { panic!("no message") };
            bot.send_to([&from], text).expect("a line that is taken");
        }
        bot.finish(None)
    });
    assert!(matches!(outcome.reason, DisconnectReason::Left), "{:?}", outcome.reason);
    assert_eq!(in_time(move || received.join().expect("no panic")), COUNT);
    assert_eq!(server.stop().lost(), 0);
}

/// Everything that arrives while nothing is received waits in the inbox, then in the server. At the
/// end it is all there.
#[test]
fn a_client_may_send_first_and_receive_afterwards() {
    const COUNT: usize = 5_000;
    let server = TestServer::start();
    let mut alice = Client::connect(server.address, &name("alice")).expect("a login");
    in_time(move || {
        let text = "x".repeat(1_000);
        for _ in 0..COUNT {
            alice.send_to([&name("alice")], &text).expect("a line that is taken");
        }
        assert_eq!(alice.absent(&[name("bob"), name("alice")]), Ok(vec![name("bob")]));
        alice.half_close();
        assert_eq!(alice.events().count(), COUNT);
        let outcome = alice.finish(None);
        assert!(matches!(outcome.reason, DisconnectReason::Left), "{:?}", outcome.reason);
    });
    assert_eq!(server.stop().lost(), 0);
}

#[test]
fn a_connection_may_be_finished_before_its_inbox_is_read() {
    const COUNT: usize = 5_000;
    let server = TestServer::start();
    let (mut outbox, inbox) = client::connect(server.address, &name("alice")).expect("a login");
    in_time(move || {
        let text = "x".repeat(1_000);
        for _ in 0..COUNT {
            outbox.send_to([&name("alice")], &text).expect("a line that is taken");
        }
        let outcome = outbox.finish(None);
        assert!(matches!(outcome.reason, DisconnectReason::Left), "{:?}", outcome.reason);
        assert_eq!(inbox.into_iter().count(), COUNT);
    });
    assert_eq!(server.stop().lost(), 0);
}

/// How many messages a stuck client gets.
const STUCK_MESSAGES: usize = 10;

/// A client of a server that fills its inbox and its room, and then reads no more.
fn stuck(script: &Script, overflow_bytes: usize) -> (Client, common::script::Peer) {
    let address = script.address;
    let options = Options::new(&name("alice"))
        .inbox_bytes(1)
        .unconfirmed_bytes(1_000)
        .overflow_bytes(overflow_bytes);
    let client = thread::spawn(move || options.connect(address).expect("a login"));
    let mut peer = script.log_in("alice");
    let client = client.join().expect("no panic");
    // Several times what one read of the client's takes.
    let line = format!("from bob: {}\n", "x".repeat(30_000));
    peer.client.send_bytes(line.repeat(STUCK_MESSAGES).as_bytes());
    (client, peer)
}

#[test]
fn a_full_inbox_fails_a_send_that_would_wait_for_itself() {
    let script = Script::listen();
    let (mut alice, _peer) = stuck(&script, 10_000);
    in_time(move || {
        let line = format!("bob: {}", "x".repeat(500));
        let taken = (0..1_000).find(|_| alice.send(&line) == Err(SendError::Full)).expect("an end");
        // Each costs a hundred bytes of overhead.
        assert!((10..=20).contains(&taken), "{taken} lines were taken");
        assert_eq!(alice.try_send(&line), Err(SendError::Full));
        assert!(alice.absent(&[name("bob")]).is_err());
        let outcome = alice.finish(Some(Duration::ZERO));
        assert_eq!(outcome.in_doubt.len() + outcome.unaccepted.len(), taken);
    });
}

#[test]
fn a_send_with_a_time_limit_gives_up_in_time() {
    let script = Script::listen();
    let options = Options::new(&name("alice")).unconfirmed_bytes(200);
    let address = script.address;
    let client = thread::spawn(move || options.connect(address).expect("a login"));
    let _peer = script.log_in("alice");
    let (mut outbox, _inbox) = client.join().expect("no panic").split();
    assert_eq!(outbox.try_send("bob: one"), Ok(1));
    let line = format!("bob: {}", "x".repeat(100));
    assert_eq!(outbox.try_send(&line), Err(SendError::Full));
    let timeout = Duration::from_millis(50);
    let begin = Instant::now();
    assert_eq!(outbox.send_timeout(&line, timeout), Err(SendError::Full));
    assert!(begin.elapsed() >= timeout);
}

/// The inbox belongs to a thread that takes nothing, so only the socket shows the end.
#[test]
fn a_waiting_send_learns_that_the_server_has_ended() {
    let script = Script::listen();
    let (client, peer) = stuck(&script, 1_000);
    let (mut outbox, mut inbox) = client.split();
    let (stop, stopped) = unbounded::<()>();
    let (took, has_taken) = unbounded();
    let idle = thread::spawn(move || {
        inbox.recv().expect("the first message");
        let _ = took.send(());
        let _ = stopped.recv();
        inbox
    });
    // Until then nobody is known to empty the inbox, and no send waits for that.
    has_taken.recv_timeout(TEST_TIMEOUT).expect("the other thread to take the first message");
    common::wait_until("no room", || {
        outbox.send_timeout("bob: x", Duration::from_millis(1)) == Err(SendError::Full)
    });
    let waiting = thread::spawn(move || (outbox.send("bob: late"), outbox));
    drop(peer);
    let (sent, outbox) = in_time(move || waiting.join().expect("no panic"));
    assert_eq!(sent, Err(SendError::Closed));
    drop(stop);
    let inbox = idle.join().expect("no panic");
    // What arrived before is still there. The server's end is a reset if lines of this client were
    // unread by then, and that destroys messages that were still in flight.
    let count = inbox.into_events().count();
    assert!((1..STUCK_MESSAGES).contains(&count), "{count} messages");
    drop(outbox);
}

#[test]
fn a_question_that_the_server_refuses_is_no_answer() {
    let server = TestServer::with(Config::default().max_line(40));
    let mut alice = Client::connect(server.address, &name("alice")).expect("a login");
    let names: Vec<_> = (0..10).map(|number| name(&format!("absent{number}"))).collect();
    let refused = AbsentError::Refused(RefusalReason::TooLong { limit: 40 });
    assert_eq!(alice.absent(&names), Err(refused));
    assert_eq!(alice.absent(&names[..1]), Ok(names[..1].to_vec()));
}

#[test]
fn a_long_list_of_absent_names_is_asked_for_in_parts() {
    let server = TestServer::start();
    let mut alice = Client::connect(server.address, &name("alice")).expect("a login");
    let mut names: Vec<_> = (0..2_100).map(|number| name(&format!("absent{number}"))).collect();
    names.insert(1_500, name("alice"));
    let absent = alice.absent(&names).expect("an answer");
    names.remove(1_500);
    assert_eq!(absent, names);
}

#[test]
fn a_line_that_is_sent_after_the_half_close_is_not_taken() {
    let server = TestServer::start();
    let (mut outbox, inbox): (Outbox, Inbox) =
        client::connect(server.address, &name("alice")).expect("a login");
    assert_eq!(outbox.send("alice: one"), Ok(1));
    outbox.half_close();
    assert_eq!(outbox.send("alice: two"), Err(SendError::HalfClosed));
    assert_eq!(outbox.send("alice: three"), Err(SendError::HalfClosed));
    assert_eq!(outbox.absent(&[name("bob")]), Err(AbsentError::Send(SendError::HalfClosed)));
    let outcome = outbox.finish(None);
    assert!(matches!(outcome.reason, DisconnectReason::Left), "{outcome:?}");
    assert_eq!((outcome.accepted, outcome.settled()), (1, 1));
    assert!(outcome.in_doubt.is_empty() && outcome.unaccepted.is_empty(), "{outcome:?}");
    assert_eq!(inbox.into_iter().count(), 1);
}

/// A Redis server, say, to which the name is an unknown command.
#[test]
fn a_server_of_another_kind_is_quoted_at_once() {
    for (greeting, quoted) in [
        ("-ERR unknown command 'alice'\r\n", "-ERR unknown command 'alice'"),
        ("SSH-2.0-OpenSSH_9.2\n", "SSH-2.0-OpenSSH_9.2"),
        ("no line end", "no line end"),
    ] {
        let script = Script::listen();
        let address = script.address;
        let client = thread::spawn(move || Client::connect(address, &name("alice")));
        let mut peer = script.accept();
        peer.client.send_bytes(greeting.as_bytes());
        if !greeting.ends_with('\n') {
            peer.client.half_close();
        }
        let error = in_time(move || client.join().expect("no panic")).expect_err("no server");
        assert!(
            matches!(&error, ConnectError::NotAChat { line, .. } if line == quoted),
            "{error:?}"
        );
        assert!(!error.is_temporary());
        let expected = format!("{address} is no a-chat server, it said {quoted:?}");
        assert_eq!(error.to_string(), expected);
    }
}

/// A client that does not read is evicted. The server cannot say so through a full connection, so
/// the client has to conclude it.
#[test]
fn a_client_that_was_evicted_unread_says_so() {
    let config =
        Config::default().stall_timeout(Duration::from_secs(2)).linger(Duration::from_millis(100));
    let server = TestServer::with(config);
    let options = Options::new(&name("bob")).inbox_bytes(1);
    let (outbox, inbox) = options.connect(server.address).expect("a login").split();
    let mut alice = Client::connect(server.address, &name("alice")).expect("a login");
    let flood = thread::spawn(move || {
        let text = "x".repeat(60_000);
        while alice.send_to([&name("bob")], &text).is_ok() {
            if matches!(alice.try_recv(), Ok(Event::Refused(_))) {
                break;
            }
        }
    });
    in_time(move || flood.join().expect("no panic"));
    let outcome = in_time(move || {
        inbox.into_events().for_each(drop);
        outbox.finish(None)
    });
    let text = outcome.reason.to_string();
    assert!(text.contains("evicted"), "{:?}", outcome.reason);
}
