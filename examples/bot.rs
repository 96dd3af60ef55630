//! A bot that survives restarts of its server. It sends every message back to its sender, until
//! Ctrl-C.
//!
//! ```sh
//! cargo run --example bot --no-default-features -- 127.0.0.1:8080 echo
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::{env, io};

use a_chat::Name;
use a_chat::client::{self, Block, Event, LineSender, Session, SessionOutput, SessionStatus};

/// Answers from the thread that receives: handing over a line never waits for room there.
#[derive(Clone)]
struct Echo {
    lines: LineSender,
}

impl SessionOutput for Echo {
    fn received(&mut self, block: Block) -> io::Result<()> {
        for event in block {
            match event {
                Event::Message { from, text } => {
                    self.lines.send_to([&from], text).map_err(io::Error::other)?;
                }
                Event::Refused(refusal) => println!("{}: {}", refusal.text, refusal.reason),
                _ => {}
            }
        }
        Ok(())
    }

    fn status(&mut self, status: &SessionStatus<'_>) {
        println!("{status}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let name = Name::new(arguments.next().unwrap_or_else(|| "echo".to_owned()))?;
    // Lines that a server did not accept go to the next one; none is sent twice.
    let session = Session::new(address, &name).wait_for_recipients(false);
    let handle = session.handle();
    // Every line that was handed over is still sent.
    ctrlc::set_handler(move || handle.stop())?;
    let (lines, input) = client::lines(1024 * 1024);
    let summary = session.run(input, Echo { lines })?;
    println!("settled up to line {}, {} lines left", summary.settled, summary.unaccepted.len());
    Ok(())
}
