//! The token under loom, on one thread together with what else wakes that thread: the window before
//! it, the shutdown, and the end of its writer after it. A thread has a single token to be unparked
//! with, so each of the three waits has to look again at what it waits for.
//!
//! Run them with `RUSTFLAGS="--cfg loom" cargo test --lib token::model`.

use loom::thread::{JoinHandle, spawn};

use super::*;
use crate::server::delivery::window::{Permit, Window};

fn join<T>(threads: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
}

const FOREVER: fn() -> Result<Option<Instant>, ()> = || Ok(None);

/// Runs a model in all executions with at most three preemptions of a runnable thread;
/// `LOOM_MAX_PREEMPTIONS` overrides the number.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

/// Two recipients settle their shares while the broker still hands them out.
#[test]
fn a_token_is_confirmed_when_the_last_share_is_settled() {
    check(|| {
        let reader = spawn(|| {
            let (token, share) = Token::new();
            let broker = spawn(move || {
                // The broker's own share keeps the token open until all are handed out.
                let recipients = [(); 2].map(|()| {
                    let share = share.another();
                    spawn(|| share.settle())
                });
                share.settle();
                recipients
            });
            assert_eq!(token.wait(FOREVER), Ok(Settlement::Confirmed));
            assert_eq!(token.open.load(SeqCst), 0, "it is over, and nothing opens it again");
            broker
        });
        let brokers = join([reader]);
        join(join(brokers).into_iter().flatten());
    });
}

/// All executions in which one of two shares is dropped by a failure.
#[test]
fn a_dropped_share_is_seen_by_the_reader() {
    loom::model(|| {
        let reader = spawn(|| {
            let (token, share) = Token::new();
            let other = share.another();
            let recipients = [spawn(|| share.settle()), spawn(|| drop(other))];
            assert_eq!(token.wait(FOREVER), Ok(Settlement::NotConfirmed));
            recipients
        });
        join(join([reader]).into_iter().flatten());
    });
}

/// A reader that waits for its window, then for its token, then for its writer's end or the
/// shutdown: whichever order the four events come in, it goes on.
#[test]
fn three_waits_share_one_wake_up() {
    check(|| {
        let (settled, shutdown) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let flags = (Arc::clone(&settled), Arc::clone(&shutdown));
        let reader = spawn(move || {
            let (settled, shutdown) = flags;
            let this = loom::thread::current();
            let window = Arc::new(Window::new(1, Arc::default()));
            let held: Permit = window.acquire(1, FOREVER).expect("there is room");
            let (token, share) = Token::new();
            let recipient = spawn(move || {
                drop(held);
                share.settle();
            });
            let stopped = Arc::clone(&shutdown);
            let acceptor = {
                let this = this.clone();
                spawn(move || {
                    stopped.store(1, SeqCst);
                    this.unpark();
                })
            };
            let give_up = || match shutdown.load(SeqCst) {
                0 => Ok(None),
                _ => Err(()),
            };
            drop(window.acquire(1, give_up));
            let _ = token.wait(give_up);
            let writer = {
                let settled = Arc::clone(&settled);
                spawn(move || {
                    settled.store(1, SeqCst);
                    this.unpark();
                })
            };
            park_until(|| settled.load(SeqCst) + shutdown.load(SeqCst) > 0);
            [recipient, acceptor, writer]
        });
        join(join([reader]).into_iter().flatten());
    });
}
