//! Calls to an engine that stands still end by their timeouts.
#![allow(clippy::pedantic, reason = "small numbers")]

use std::time::{Duration, Instant};

use super::redis::RedisEngine;
use super::testing::TestEngine;
use super::*;

const PATIENCE: Duration = Duration::from_millis(200);

/// Far more than `PATIENCE`, for a busy machine, and far less than one wait for each reply.
const ENOUGH: Duration = Duration::from_secs(3);

/// However many replies are still to come.
#[test]
fn a_cycle_of_many_commands_waits_once_for_an_engine_that_stands_still() {
    let Some(engine) = TestEngine::start() else { return };
    let life = Life::new("a.1");
    let mut wire = engine.dialled("x").dial(Duration::from_secs(5)).expect("an engine");
    let hello = wire.hello(&life, 1).expect("an answer");
    engine.suspend();
    let calls: Vec<_> = (0..100).map(|_| Call::Ack { origin: &life, text: "- - - - -" }).collect();
    let began = Instant::now();
    assert!(wire.run(&hello.incarnation, &life, &calls, PATIENCE).is_err());
    assert!(began.elapsed() < ENOUGH, "{:?}", began.elapsed());
    let engine = engine.dialled("x");
    let began = Instant::now();
    assert!(engine.dial(PATIENCE).is_err());
    assert!(began.elapsed() < ENOUGH, "{:?}", began.elapsed());
}

/// As with a name service that does not answer, nothing interrupts that.
#[test]
fn a_connection_that_cannot_be_made_is_given_up_in_time_and_tried_by_one_thread() {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket,
        socket_with,
    };
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("engine.sock");
    let address = SocketAddrUnix::new(&path).expect("a short path");
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
    bind(&listener, &address).expect("a free path");
    listen(&listener, 0).expect("a listener");
    // Until its accept queue is full.
    let mut queued = Vec::new();
    loop {
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::NONBLOCK);
        let client = socket_with(family, SocketType::STREAM, flags, None).expect("a socket");
        if connect(&client, &address).is_err() {
            break;
        }
        queued.push(client);
    }
    let url = format!("redis+unix://{}", path.display());
    let engine = RedisEngine::new(&url, None, "x").expect("an address");
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
        let names = tasks.filter_map(|it| std::fs::read_to_string(it.path().join("comm")).ok());
        names.filter(|name| name.trim() == "dial").count()
    };
    for _ in 0..3 {
        let began = Instant::now();
        assert!(engine.dial(PATIENCE).is_err());
        assert!(began.elapsed() < ENOUGH, "{:?}", began.elapsed());
    }
    // Other tests dial too, but all others come to an end.
    let deadline = Instant::now() + Duration::from_secs(20);
    while threads() != 1 {
        assert!(Instant::now() < deadline, "{} threads", threads());
        std::thread::yield_now();
    }
}
