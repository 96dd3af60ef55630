//! The thread that shows on a terminal how far a load is. It ends when the load does.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cli::{Mode, Plan};
use a_chat::load::{Amount, Control};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::figures::{float, scaled};

/// How often it is drawn.
const STEP: Duration = Duration::from_millis(100);

/// How wide the bar is, in columns.
const WIDTH: u16 = 32;

/// Clears from the cursor to the end of the line.
const CLEAR: &str = "\x1b[K";

/// A bar, if there is a terminal to draw it on.
#[derive(Debug)]
pub(super) struct Progress {
    /// Its disconnection ends the thread.
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows how much has arrived of `owed` deliveries, or how much time is over.
    pub(super) fn start(plan: &Plan, per_message: u64, control: &Arc<Control>) -> io::Result<Self> {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if is_dumb || !io::stderr().is_terminal() {
            return Ok(Self { running: None, thread: None });
        }
        let bar = Bar {
            amount: plan.amount,
            per_message,
            unit: if plan.mode == Mode::Connect { "logins" } else { "deliveries" },
            control: Arc::clone(control),
            started: Instant::now(),
        };
        let (running, over) = bounded(0);
        let thread = thread::Builder::new().name("progress".to_owned());
        let thread = thread.spawn(move || bar.run(&over))?;
        Ok(Self { running: Some(running), thread: Some(thread) })
    }

    /// Takes the bar away.
    pub(super) fn end(mut self) {
        drop(self.running.take());
        if let Some(thread) = self.thread.take() {
            // Without a bar the load is as good.
            let _ = thread.join();
        }
    }
}

/// The thread's state.
struct Bar {
    amount: Amount,
    /// Deliveries that are owed for each message.
    per_message: u64,
    unit: &'static str,
    control: Arc<Control>,
    started: Instant,
}

impl Bar {
    fn run(self, over: &Receiver<()>) {
        let mut before = (Instant::now(), 0);
        while over.recv_timeout(STEP) == Err(RecvTimeoutError::Timeout) {
            let now = (Instant::now(), self.control.received());
            let share = match self.amount {
                Amount::Messages(all) => float(now.1) / float(all.saturating_mul(self.per_message)),
                Amount::Time(all) => (now.0 - self.started).as_secs_f64() / all.as_secs_f64(),
            };
            draw(&format!("{} {} {}/s", bar(share), rate(before, now), self.unit));
            before = now;
        }
        draw("");
    }
}

/// Writes this in place of what stands in the line. A terminal that takes nothing is no reason to
/// end the load.
fn draw(text: &str) {
    let _ = write!(io::stderr(), "\r{CLEAR}{text}");
}

/// What part of the work is done, as a bar and in hundredths.
fn bar(share: f64) -> String {
    let share = share.clamp(0.0, 1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most a hundred"
    )]
    let of = |all: u16| (f64::from(all) * share) as usize;
    let (filled, width) = ("=".repeat(of(WIDTH)), usize::from(WIDTH));
    format!("[{filled:<width$}] {:>3} %", of(100))
}

fn rate(before: (Instant, u64), now: (Instant, u64)) -> String {
    let (time, count) = (now.0 - before.0, now.1 - before.1);
    scaled(float(count) / time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_wide_when_it_is_full() {
        assert_eq!(bar(0.0), format!("[{}]   0 %", " ".repeat(32)));
        assert_eq!(bar(0.5), format!("[{}{}]  50 %", "=".repeat(16), " ".repeat(16)));
        // What is late is not more than all.
        assert_eq!(bar(1.7), format!("[{}] 100 %", "=".repeat(32)));
    }
}
