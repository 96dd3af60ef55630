//! A program with a relay inside. It runs until Ctrl-C, or with `--once` until two clients have
//! talked to each other.
//!
//! ```sh
//! cargo run --example embed --no-default-features -- --once
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::time::Duration;

use a_chat::client::Client;
use a_chat::{Config, Name, Server};

fn main() -> Result<(), Box<dyn Error>> {
    // Both raise limits of the process, before its first thread is spawned. Without them fewer
    // clients fit, or they cost more.
    let _ = a_chat::enlarge_futex_hash();
    let _ = a_chat::raise_nofile_limit();
    let config = Config::default().max_connections(1000).drain_timeout(Duration::from_secs(1));
    let server = Server::bind("127.0.0.1:0", config)?.spawn()?;
    let handle = server.shutdown_handle();
    // The first signal begins the drain, a later one forces it to end.
    ctrlc::set_handler(move || handle.signalled())?;
    println!("listening on {}", server.local_addr());

    if std::env::args().any(|argument| argument == "--once") {
        let mut bob = Client::connect(server.local_addr(), &Name::new("bob")?)?;
        let mut alice = Client::connect(server.local_addr(), &Name::new("alice")?)?;
        alice.send("bob, carol: hello")?;
        println!("alice gets  {:?}", alice.recv()?);
        println!("bob gets    {:?}", bob.recv()?);
        println!("now         {}", server.stats_handle().read());
        // Everything accepted is delivered: bob gets this message, or alice's notice does not
        // count it.
        alice.send("bob: goodbye")?;
        server.shutdown_handle().shutdown();
        alice.events().for_each(|event| println!("alice gets  {event:?}"));
        bob.events().for_each(|event| println!("bob gets    {event:?}"));
    }
    let report = server.join()?;
    println!("{report}");
    if report.is_clean() { Ok(()) } else { Err("the drain lost messages".into()) }
}
