//! The end of a life whose answers are lost on their way.
#![allow(clippy::pedantic, reason = "small numbers")]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::egress::Egress;
use super::engine::{
    Call, Command, Engine, EngineError, Entry, Hello, Life, LifeState, Reply, Wire,
};
use super::link::{Link, Stop};
use super::options::Cluster;
use super::parcel::Arrived;
use crate::wire::name::Name;

/// What an engine knows of the only life, and how many of its answers are lost.
#[derive(Debug, Default)]
struct Knowledge {
    state: Mutex<Option<LifeState>>,
    losses: AtomicUsize,
}

#[derive(Clone, Debug, Default)]
struct Forgetful(Arc<Knowledge>);

impl Engine for Forgetful {
    fn dial(&self, _: Duration) -> Result<Box<dyn Wire>, EngineError> {
        Ok(Box::new(self.clone()))
    }
}

impl Wire for Forgetful {
    fn hello(&mut self, _: &Life, _: u64) -> Result<Hello, EngineError> {
        Ok(Hello {
            incarnation: "i".into(),
            open: true,
            state: *self.0.state.lock().expect("no panic"),
        })
    }

    fn run(
        &mut self,
        _: &str,
        life: &Life,
        calls: &[Call<'_>],
        _: Duration,
    ) -> Result<Vec<Reply>, EngineError> {
        let mut state = self.0.state.lock().expect("no panic");
        let mut replies = Vec::new();
        for call in calls {
            let is_last_word =
                matches!(call, Call::Forget | Call::Run { command: Command::Down, .. });
            replies.push(match call {
                Call::Enter { .. } => {
                    *state = Some(LifeState::Here);
                    Reply::Done
                }
                Call::Run { command: Command::Down, .. } if state.is_some() => {
                    *state = Some(LifeState::Down);
                    Reply::Left(vec![(
                        life.clone(),
                        Name::new("bob").expect("a name"),
                        vec![three_lines()],
                    )])
                }
                Call::Run { .. } if state.is_none() => Reply::Unknown,
                Call::Renew { .. } => {
                    let lives = vec![(life.clone(), LifeState::Here, 1)];
                    Reply::Lives { open: true, lives }
                }
                Call::Forget => {
                    *state = None;
                    Reply::Done
                }
                _ => Reply::Done,
            });
            let lose = |losses: usize| losses.checked_sub(1);
            if is_last_word && self.0.losses.fetch_update(SeqCst, SeqCst, lose).is_ok() {
                return Err(EngineError("the connection is closed".to_owned()));
            }
        }
        Ok(replies)
    }

    fn read(
        &mut self,
        _: &Life,
        _: &mut String,
        _: Duration,
        _: Duration,
    ) -> Result<Vec<Entry>, EngineError> {
        Ok(Vec::new())
    }
}

fn three_lines() -> Arrived {
    Arrived {
        deliveries: vec![(1, 1)],
        sender: Name::new("alice").expect("a name"),
        room: None,
        from: 1,
        lowest: 1,
        first_line: 1,
        messages: 3,
        frames: 0..0,
    }
}

/// A drain with much time.
#[derive(Debug)]
struct Draining;

impl Stop for Draining {
    fn is_shutdown(&self) -> bool {
        true
    }
    fn release_is_due(&self) -> bool {
        false
    }
    fn routing_expired(&self) -> bool {
        false
    }
    fn time_left(&self) -> Option<Duration> {
        Some(Duration::from_secs(30))
    }
}

/// It is the only one who can name it, whichever answer it was that did not come.
#[test]
fn what_was_held_at_the_last_end_is_named_though_answers_are_lost() {
    for losses in 0..4 {
        let engine = Forgetful::default();
        engine.0.losses.store(losses, SeqCst);
        let (link, life) = (Arc::new(Link::default()), Life::new("a.1"));
        let hello = Hello { incarnation: "i".into(), open: true, state: None };
        let options = Cluster::new("redis://localhost", Name::new("a").expect("a name"));
        let engine_of_it = Arc::new(engine.clone());
        let stop = Arc::new(Draining);
        let egress = Egress::new(engine_of_it, Arc::clone(&link), stop, &life, &options, &hello);
        let (orders, receiver) = crossbeam_channel::unbounded();
        drop(orders);
        let exit = egress.run(&receiver);
        assert_eq!(
            exit.left,
            [(life, Name::new("bob").expect("a name"), 3)],
            "{losses} answers lost"
        );
        assert!(link.take_renewal().is_none(), "it was not taken for dead");
        assert_eq!(*engine.0.state.lock().expect("no panic"), None, "the engine has forgotten it");
    }
}
