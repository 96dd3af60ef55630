//! The progress bar of a load on a terminal. Its thread exits when the load ends.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cli::{Mode, Plan};
use a_chat::load::{Amount, Control};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use indicatif::{HumanFloatCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::termios::tcgetwinsize;

use super::figures::float;

/// How often the bar is drawn.
const STEP: Duration = Duration::from_millis(100);

/// Length of the whole bar.
const WHOLE: u64 = 1000;

/// In a narrower window the line has no bar, and is cut off where the window ends.
const MIN_COLUMNS: u16 = 70;
const WIDE: &str = "[{bar:32}] {wide_msg}";
const NARROW: &str = "{wide_msg}";

/// A progress bar, if standard error is a terminal.
#[derive(Debug)]
pub(super) struct Progress {
    /// Its disconnection ends the thread.
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts showing how many of the deliveries arrived, or how much of the time has passed.
    pub(super) fn start(plan: &Plan, per_message: u64, control: &Arc<Control>) -> io::Result<Self> {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let target = ProgressDrawTarget::stderr();
        if is_dumb || target.is_hidden() {
            return Ok(Self { running: None, thread: None });
        }
        let state = State {
            bar: ProgressBar::with_draw_target(Some(WHOLE), target),
            amount: plan.amount,
            per_message,
            unit: if plan.mode == Mode::Connect { "logins" } else { "deliveries" },
            control: Arc::clone(control),
            started: Instant::now(),
        };
        let (running, over) = bounded(0);
        let thread = thread::Builder::new().name("progress".to_owned());
        let thread = thread.spawn(move || state.run(&over))?;
        Ok(Self { running: Some(running), thread: Some(thread) })
    }

    /// Removes the bar.
    pub(super) fn end(mut self) {
        drop(self.running.take());
        if let Some(thread) = self.thread.take() {
            // The load does not depend on its bar.
            let _ = thread.join();
        }
    }
}

/// The thread's state.
struct State {
    bar: ProgressBar,
    amount: Amount,
    /// Deliveries owed per message.
    per_message: u64,
    unit: &'static str,
    control: Arc<Control>,
    started: Instant,
}

impl State {
    fn run(self, over: &Receiver<()>) {
        let mut last = (Instant::now(), 0);
        while over.recv_timeout(STEP) == Err(RecvTimeoutError::Timeout) {
            let now = (Instant::now(), self.control.received());
            let rate = float(now.1 - last.1) / (now.0 - last.0).as_secs_f64();
            self.draw(now, rate);
            last = now;
        }
        self.bar.finish_and_clear();
    }

    fn draw(&self, (now, received): (Instant, u64), rate: f64) {
        let share = match self.amount {
            Amount::Messages(all) => float(received) / float(all.saturating_mul(self.per_message)),
            Amount::Time(all) => (now - self.started).as_secs_f64() / all.as_secs_f64(),
        };
        let done = thousandths(share);
        let columns = tcgetwinsize(io::stderr()).map_or(0, |size| size.ws_col);
        let style = if columns < MIN_COLUMNS { NARROW } else { WIDE };
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| unreachable!("valid"));
        self.bar.set_style(style.progress_chars("=> "));
        let (percent, rate) = (done / 10, HumanFloatCount(rate));
        self.bar.set_message(format!("{percent} % {rate:.0} {}/s", self.unit));
        self.bar.set_position(done);
    }
}

/// A share of the work, which may exceed all of it while late messages arrive.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a thousand")]
fn thousandths(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * float(WHOLE)) as u64
}
