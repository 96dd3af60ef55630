//! The thread that shows on a terminal how far a load is. It ends when the load does.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use a_chat::load::{Amount, Control};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use indicatif::{ProgressBar, ProgressStyle};

use super::args::{Mode, Plan};
use super::figures::{float, scaled};

/// How often it is drawn.
const STEP: Duration = Duration::from_millis(100);

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
        if !io::stderr().is_terminal() {
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
        let length = match self.amount {
            Amount::Messages(messages) => messages.saturating_mul(self.per_message),
            Amount::Time(time) => millis(time),
        };
        let bar = ProgressBar::new(length);
        if let Ok(style) = ProgressStyle::with_template("[{bar:40}] {percent}% {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        let mut before = (Instant::now(), 0);
        while over.recv_timeout(STEP) == Err(RecvTimeoutError::Timeout) {
            let now = (Instant::now(), self.control.received());
            bar.set_message(format!("{} {} a second", rate(before, now), self.unit));
            bar.set_position(match self.amount {
                Amount::Messages(_) => now.1,
                Amount::Time(_) => millis(self.started.elapsed()).min(length),
            });
            before = now;
        }
        bar.finish_and_clear();
    }
}

fn rate(before: (Instant, u64), now: (Instant, u64)) -> String {
    let (time, count) = (now.0 - before.0, now.1 - before.1);
    scaled(float(count) / time.as_secs_f64())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
