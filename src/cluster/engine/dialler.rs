//! Connects to the engine within a time, whatever the name service or the engine's host does meanwhile:
//! a thread of its own connects, and whoever dials waits for that, no longer than it may. Used by
//! `ingress` and `egress`.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use redis::{Client, Connection, RedisError, RedisResult};

use super::EngineError;

/// Dials one engine. Nothing interrupts a look-up of a name, or a connection to a Unix socket whose
/// queue is full. So an attempt that takes too long is left alone, and whoever dials next waits for that
/// same one: there are never more of them than threads that dial.
pub(super) struct Dialler {
    client: Client,
    pending: Mutex<Vec<Receiver<RedisResult<Connection>>>>,
}

impl Dialler {
    pub(super) fn new(client: Client) -> Self {
        Self { client, pending: Mutex::default() }
    }

    /// Connects, within `timeout`.
    pub(super) fn dial(&self, timeout: Duration) -> Result<Connection, EngineError> {
        let until = Instant::now() + timeout;
        let attempt = match self.pending().pop() {
            Some(attempt) => attempt,
            None => self.attempt(timeout)?,
        };
        match attempt.recv_deadline(until) {
            Ok(connection) => connection.map_err(|error| said(&error)),
            Err(RecvTimeoutError::Timeout) => {
                self.pending().push(attempt);
                Err(EngineError("it takes too long to connect".to_owned()))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(EngineError("the thread that connects has failed".to_owned()))
            }
        }
    }

    fn attempt(&self, timeout: Duration) -> Result<Receiver<RedisResult<Connection>>, EngineError> {
        let (sender, attempt) = bounded(1);
        let client = self.client.clone();
        let connect = move || {
            // Fails only if the engine itself is not needed any more.
            let _ = sender.send(client.get_connection_with_timeout(timeout));
        };
        // Not joined: it may take longer than everything else.
        let spawned = thread::Builder::new().name("dial".to_owned()).spawn(connect);
        spawned.map_err(|error| EngineError(format!("no thread can be spawned: {error}")))?;
        Ok(attempt)
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Vec<Receiver<RedisResult<Connection>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What went wrong, without the address: that may hold a password.
pub(super) fn said(error: &RedisError) -> EngineError {
    EngineError(error.to_string())
}
