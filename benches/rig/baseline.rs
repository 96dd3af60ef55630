//! The baselines: the cost of moving the bytes without looking at them. A baseline runs as a child
//! process, the bench itself restarted with a hidden argument.
//!
//! It knows only the length of a message, so messages from many senders to one recipient are not
//! split, and it exits when its standard input closes, even if the bench is killed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use a_chat::load::process::Process;
use a_chat::load::readable::Readable;
use a_chat::load::topology::{Route, Topology};

use super::servers::{command, start};

/// The first argument of a baseline process.
const RELAY: &str = "--baseline-relay";
const ECHO: &str = "--baseline-echo";
const DRAIN: &str = "--baseline-drain";

/// Size of a read, in bytes: that of the server under test.
const CHUNK: usize = 64 * 1024;

/// Listen backlog of the server under test.
const BACKLOG: i32 = 4096;

/// Starts the relay for a topology whose messages are `stride` bytes long: one thread per sender,
/// or one for all senders to the same recipient.
pub fn relay(topology: &Topology, stride: usize, cpus: Option<&str>) -> Process {
    let mut relay = baseline(RELAY, cpus);
    relay.arg(topology.clients.to_string()).arg(stride.to_string());
    for Route { from, to } in &topology.routes {
        let to: Vec<_> = to.iter().map(ToString::to_string).collect();
        relay.arg(format!("{from}>{}", to.join(",")));
    }
    start(&mut relay)
}

/// Starts a single-threaded server that returns each client's first bytes.
pub fn echo(cpus: Option<&str>) -> Process {
    start(&mut baseline(ECHO, cpus))
}

/// Starts a server that, when stopped, writes this many bytes to each client and exits.
pub fn drain(clients: usize, bytes: usize, cpus: Option<&str>) -> Process {
    start(baseline(DRAIN, cpus).arg(clients.to_string()).arg(bytes.to_string()))
}

/// Becomes a baseline until it is stopped, if the arguments ask for one.
pub fn run_if_asked() -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [RELAY, clients, stride, ref routes @ ..] => run_relay(number(clients), stride, routes),
        [ECHO] => run_echo(),
        [DRAIN, clients, bytes] => run_drain(number(clients), number(bytes)),
        _ => return false,
    }
    true
}

fn baseline(mode: &str, cpus: Option<&str>) -> Command {
    let mut baseline = command(std::env::current_exe().expect("this program"), cpus);
    baseline.arg(mode).stdin(Stdio::piped());
    baseline
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

fn run_relay(clients: usize, stride: &str, routes: &[&str]) {
    let stride = number(stride);
    let sockets = Arc::new(accept(clients));
    // Routes with the same recipients share one thread, which then needs no lock.
    let mut relays: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
    for route in routes {
        let (from, to) = route.split_once('>').expect("a route");
        let to: Vec<_> = to.split(',').map(number).collect();
        match relays.iter_mut().find(|(_, known)| *known == to) {
            Some((sources, _)) => sources.push(number(from)),
            None => relays.push((vec![number(from)], to)),
        }
    }
    for (from, to) in relays {
        let sockets = Arc::clone(&sockets);
        thread::spawn(move || {
            let sockets = |places: Vec<usize>| -> Vec<_> {
                places.into_iter().map(|place| &sockets[place]).collect()
            };
            match (sockets(from).as_slice(), sockets(to)) {
                ([from], to) => forward(from, &to),
                (from, to) => gather(from, &to, stride),
            }
        });
    }
    wait_for_stop();
}

/// One to one or to many.
fn forward(mut from: &TcpStream, to: &[&TcpStream]) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        for mut to in to.iter().copied() {
            if to.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    }
}

/// Many to one: the messages of all senders go out with one write.
fn gather(from: &[&TcpStream], to: &[&TcpStream], stride: usize) {
    let mut readable = Readable::of(from.iter().copied()).expect("room");
    let mut partial = vec![Vec::new(); from.len()];
    let mut buffer = vec![0; 8 * CHUNK];
    loop {
        let mut filled = 0;
        for place in readable.wait_indefinitely().expect("sockets") {
            if buffer.len() - filled < CHUNK {
                break;
            }
            let partial = &mut partial[place];
            let start = filled + partial.len();
            buffer[filled..start].copy_from_slice(partial);
            let mut source = from[place];
            let Ok(count @ 1..) = source.read(&mut buffer[start..start + CHUNK / 2]) else {
                return;
            };
            let held = partial.len() + count;
            let whole = filled + held - held % stride;
            partial.clear();
            partial.extend_from_slice(&buffer[whole..filled + held]);
            filled = whole;
        }
        for mut to in to.iter().copied() {
            if to.write_all(&buffer[..filled]).is_err() {
                return;
            }
        }
    }
}

fn run_echo() {
    let listener = listen();
    thread::spawn(move || {
        let mut clients = Vec::new();
        let mut buffer = vec![0; 4096];
        // All clients are accepted before their replies are read, so the order does not matter.
        while let Ok((mut client, _)) = listener.accept() {
            let Ok(count) = client.read(&mut buffer) else { continue };
            if client.write_all(&buffer[..count]).is_ok() {
                clients.push(client);
            }
        }
    });
    wait_for_stop();
}

fn run_drain(clients: usize, bytes: usize) {
    let sockets = accept(clients);
    let bytes = vec![b'x'; bytes];
    wait_for_stop();
    for mut socket in sockets {
        socket.write_all(&bytes).expect("a client that reads");
    }
}

/// Prints the address and accepts connections in the order in which they arrive.
fn accept(clients: usize) -> Vec<TcpStream> {
    let listener = listen();
    let accept = |_| {
        let (socket, _) = listener.accept().expect("a connection");
        socket.set_nodelay(true).expect("an option");
        socket
    };
    (0..clients).map(accept).collect()
}

#[expect(clippy::print_stdout, reason = "this is how the bench learns the address")]
fn listen() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    // The standard library's backlog is too short for thousands of simultaneous connections.
    rustix::net::listen(&listener, BACKLOG).expect("a longer backlog");
    println!("{}", listener.local_addr().expect("an address"));
    listener
}

fn wait_for_stop() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
