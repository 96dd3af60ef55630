//! Ending a session from other threads. Plain state, shared by a session and its handles.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::super::threads::AbortHandle;

/// Ends a [`Session`](super::Session) from any thread, a signal handler's included.
#[derive(Clone, Debug)]
pub struct SessionHandle(pub(super) Arc<Control>);

impl SessionHandle {
    /// Ends the input, as if every [`LineSender`](super::LineSender) were dropped: the lines that
    /// were handed over are still sent. If there never was a connection, the session ends at once.
    pub fn stop(&self) {
        self.0.stopped.set();
        self.0.cancelled.set();
    }

    /// Ends the session at once if there never was a connection; otherwise it changes nothing.
    pub fn cancel_connecting(&self) {
        self.0.cancelled.set();
    }

    /// Ends the session at once. It still reports the lines that are in doubt or not accepted.
    pub fn abort(&self) {
        self.0.stopped.set();
        self.0.aborted.set();
        if let Some(connection) = &*self.0.connection() {
            connection.abort();
        }
    }
}

/// What a session has been asked to do.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(super) cancelled: Signal,
    pub(super) stopped: Signal,
    pub(super) aborted: Signal,
    connection: Mutex<Option<AbortHandle>>,
}

impl Control {
    /// Sets the connection that [`SessionHandle::abort`] ends.
    pub(super) fn set_connection(&self, connection: Option<AbortHandle>) {
        let mut current = self.connection();
        if let Some(connection) = connection.as_ref().filter(|_| self.aborted.is_set()) {
            connection.abort();
        }
        *current = connection;
    }

    fn connection(&self) -> std::sync::MutexGuard<'_, Option<AbortHandle>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Set once; can be waited for together with channels.
#[derive(Debug)]
pub(super) struct Signal {
    /// Dropped to set the signal.
    sender: Mutex<Option<Sender<Infallible>>>,
    /// Disconnected once the signal is set.
    pub(super) receiver: Receiver<Infallible>,
}

impl Default for Signal {
    fn default() -> Self {
        let (sender, receiver) = bounded(0);
        Self { sender: Mutex::new(Some(sender)), receiver }
    }
}

impl Signal {
    fn set(&self) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn is_set(&self) -> bool {
        self.receiver.try_recv() == Err(TryRecvError::Disconnected)
    }
}
