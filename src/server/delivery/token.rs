//! What a `/sync` waits on: a token with a share for everyone who may still hold a message of its
//! client. Plain state; the waiting thread is the client's reader.

use std::sync::Arc;
#[cfg(not(all(loom, test)))]
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
#[cfg(not(all(loom, test)))]
use std::thread::{self, Thread};
use std::time::Instant;

#[cfg(all(loom, test))]
use crate::server::delivery::window::model::{AtomicUsize, SeqCst, Thread, thread};

#[cfg(all(loom, test))]
mod model;

/// Counts the shares that are not settled. Only its reader ever waits for them.
#[derive(Debug)]
pub(crate) struct Token {
    open: AtomicUsize,
    /// Nonzero once a share was dropped unsettled.
    unconfirmed: AtomicUsize,
    reader: Thread,
    /// What happens at its end, if no reader waits for it.
    #[cfg(feature = "cluster")]
    end: Option<Box<dyn TokenEnd>>,
}

/// What happens once every share of a token has ended.
#[cfg(feature = "cluster")]
pub(crate) trait TokenEnd: std::fmt::Debug + Send + Sync {
    /// `is_confirmed` if all were settled.
    fn ended(self: Box<Self>, is_confirmed: bool);
}

#[cfg(feature = "cluster")]
impl Drop for Token {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end.ended(self.unconfirmed.load(SeqCst) == 0);
        }
    }
}

/// A part of a token. It travels with what it waits for: a share that is dropped without having been
/// settled, by a panic or with a queue that nobody empties any more, means "not confirmed". So no
/// path through the code can turn silence into a confirmation, or let the reader wait forever.
#[derive(Debug)]
pub(crate) struct Share {
    token: Arc<Token>,
    settled: bool,
}

/// What became of all shares of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    Confirmed,
    NotConfirmed,
}

impl Token {
    /// A token for the calling thread, with its first share.
    pub(crate) fn new() -> (Arc<Self>, Share) {
        let (open, unconfirmed) = (AtomicUsize::new(1), AtomicUsize::new(0));
        let token = Arc::new(Self {
            open,
            unconfirmed,
            reader: thread::current(),
            #[cfg(feature = "cluster")]
            end: None,
        });
        let share = Share { token: Arc::clone(&token), settled: false };
        (token, share)
    }

    /// A token that nobody waits for, with its first share.
    #[cfg(feature = "cluster")]
    pub(crate) fn with_end(end: Box<dyn TokenEnd>) -> (std::sync::Weak<Self>, Share) {
        let (open, unconfirmed) = (AtomicUsize::new(1), AtomicUsize::new(0));
        let token = Arc::new(Self { open, unconfirmed, reader: thread::current(), end: Some(end) });
        (Arc::downgrade(&token), Share { token, settled: false })
    }

    /// Waits until there are no more shares.
    ///
    /// `give_up` is called before each wait: it returns until when to wait (`Ok(None)` to wait
    /// indefinitely), or `Err` to stop waiting. A thread that changes what it returns must unpark
    /// the reader's thread.
    pub(crate) fn wait<E>(
        &self,
        mut give_up: impl FnMut() -> Result<Option<Instant>, E>,
    ) -> Result<Settlement, E> {
        while self.open.load(SeqCst) > 0 {
            match give_up()? {
                None => thread::park(),
                Some(until) => {
                    thread::park_timeout(until.saturating_duration_since(Instant::now()));
                }
            }
        }
        Ok(match self.unconfirmed.load(SeqCst) {
            0 => Settlement::Confirmed,
            _ => Settlement::NotConfirmed,
        })
    }
}

impl Share {
    /// One more share of the same token.
    pub(crate) fn another(&self) -> Self {
        self.token.open.fetch_add(1, SeqCst);
        Self { token: Arc::clone(&self.token), settled: false }
    }

    /// Nothing is left to wait for.
    pub(crate) fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if !self.settled {
            self.token.unconfirmed.store(1, SeqCst);
        }
        if self.token.open.fetch_sub(1, SeqCst) == 1 {
            self.token.reader.unpark();
        }
    }
}

/// Parks the calling thread until `is_over`. A thread that makes it so must unpark this one.
pub(crate) fn park_until(is_over: impl Fn() -> bool) {
    while !is_over() {
        thread::park();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    const FOREVER: fn() -> Result<Option<Instant>, ()> = || Ok(None);

    #[test]
    fn a_token_is_confirmed_once_every_share_is_settled() {
        let (token, share) = Token::new();
        let shares: Vec<_> = (0..10).map(|_| share.another()).collect();
        share.settle();
        let threads = shares.into_iter().map(|share| thread::spawn(|| share.settle()));
        let threads: Vec<_> = threads.collect();
        assert_eq!(token.wait(FOREVER), Ok(Settlement::Confirmed));
        for thread in threads {
            thread.join().expect("no panic");
        }
    }

    #[test]
    fn a_share_that_is_forgotten_means_not_confirmed() {
        let (token, share) = Token::new();
        let other = share.another();
        share.settle();
        let failed = thread::spawn(move || {
            let _held = other;
            panic!("on purpose");
        });
        assert_eq!(token.wait(FOREVER), Ok(Settlement::NotConfirmed));
        failed.join().expect_err("it has panicked");
    }

    #[test]
    fn a_wait_ends_when_it_is_given_up() {
        let (token, _share) = Token::new();
        let deadline = Instant::now() + Duration::from_millis(20);
        let waited =
            token.wait(|| if Instant::now() < deadline { Ok(Some(deadline)) } else { Err(()) });
        assert_eq!(waited, Err(()));
        assert!(Instant::now() >= deadline);
    }
}
