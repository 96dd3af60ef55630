//! A program that has a relay inside and stops it by itself.
//!
//! ```sh
//! cargo run --example embed --no-default-features
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use a_chat::{Config, Server};

fn main() -> Result<(), Box<dyn Error>> {
    // Two clients are enough here, and nobody wants to wait long for the end of an example.
    let config = Config {
        max_connections: Some(2),
        drain_timeout: Duration::from_secs(1),
        ..Config::default()
    };
    let server = Server::bind("127.0.0.1:0", config)?;
    let (address, handle) = (server.local_addr(), server.shutdown_handle());
    let stats = server.stats_handle();
    // `run` returns when the server has stopped, so it has a thread of its own.
    let running = thread::Builder::new().name("relay".to_owned()).spawn(|| server.run())?;

    let (mut bob, mut bobs_lines) = connect(address)?;
    // The answer shows that bob is logged in: alice's message would not wait for it.
    bob.write_all(b"bob\n/who\n")?;
    show("bob", &mut bobs_lines)?;

    let (mut alice, mut alices_lines) = connect(address)?;
    alice.write_all(b"alice\nbob, carol: hello\n")?;
    show("alice", &mut alices_lines)?;
    show("bob", &mut bobs_lines)?;
    println!("now: {} clients, {} lines accepted", stats.read().connected, stats.read().accepted);

    // Nothing that was accepted is lost from here on: bob gets this message, or alice's closing
    // notice does not count it.
    alice.write_all(b"bob: goodbye\n")?;
    handle.shutdown();
    for (name, lines) in [("alice", &mut alices_lines), ("bob", &mut bobs_lines)] {
        while show(name, lines)? {}
    }
    // The server waits a moment for its clients to close, too.
    drop((alice, alices_lines, bob, bobs_lines));

    let report = running.join().map_err(|_| "the server panicked")??;
    println!("{report}");
    if report.is_clean() { Ok(()) } else { Err("the drain has lost messages".into()) }
}

/// One half to write to and one to read from.
fn connect(address: SocketAddr) -> std::io::Result<(TcpStream, BufReader<TcpStream>)> {
    let stream = TcpStream::connect(address)?;
    let lines = BufReader::new(stream.try_clone()?);
    Ok((stream, lines))
}

/// Prints the next line that this client gets; false at the end of the stream.
fn show(name: &str, lines: &mut impl BufRead) -> std::io::Result<bool> {
    let mut line = String::new();
    let more = lines.read_line(&mut line)? > 0;
    if more {
        print!("{name} gets  {line}");
    }
    Ok(more)
}
