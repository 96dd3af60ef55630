//! The two threads of a connection: started and joined here, and ended by force if need be.

use std::io;
use std::net::Shutdown;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::inbox::Block;
use super::ledger::Sent;
use super::outcome::{ConnectionOutcome, DisconnectReason};
use super::reader::{Reader, ReaderEnd};
use super::shared::Shared;
use super::transport::Transport;
use super::update::Update;
use super::writer::Writer;

/// The threads of one connection, until they are joined.
#[derive(Debug)]
pub(crate) struct Threads {
    abort: AbortHandle,
    /// The writer and the reader.
    handles: Option<(JoinHandle<u64>, JoinHandle<ReaderEnd>)>,
}

/// The ends of the channels that the threads of a connection hold the other ends of.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) queue: Sender<Sent>,
    pub(crate) updates: Receiver<Update>,
    pub(crate) blocks: Receiver<Block>,
}

/// Ends a connection at once, from any thread.
#[derive(Clone, Debug)]
pub(crate) struct AbortHandle {
    socket: Arc<Transport>,
    shared: Arc<Shared>,
}

impl AbortHandle {
    pub(crate) fn abort(&self) {
        self.shared.set_aborted();
        // Fails only if the connection is gone already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Threads {
    /// Starts the threads of a connection. `who_query` is the client's question, and `checkpoint`
    /// the number of bytes after which the writer asks it.
    pub(crate) fn start(
        socket: Transport,
        shared: &Arc<Shared>,
        who_query: Vec<u8>,
        checkpoint: usize,
    ) -> io::Result<(Self, Ends)> {
        let socket = Arc::new(socket);
        let (queue, queued) = unbounded();
        let (ledger, sent) = unbounded();
        let (updates, reported) = unbounded();
        let (inbox, blocks) = unbounded();
        let writer = Writer::new(
            Arc::clone(&socket),
            queued,
            ledger,
            updates.clone(),
            who_query.into(),
            checkpoint,
        );
        let reader = Reader::new(Arc::clone(&socket), sent, updates, Arc::clone(shared));
        let writer = spawn("client-writer", || writer.run())?;
        let reader = match spawn("client-reader", move || reader.run(inbox)) {
            Ok(reader) => reader,
            Err(error) => {
                drop(queue);
                // It has nothing to write, so it exits at once.
                let _ = writer.join();
                return Err(error);
            }
        };
        let abort = AbortHandle { socket, shared: Arc::clone(shared) };
        let threads = Self { abort, handles: Some((writer, reader)) };
        Ok((threads, Ends { queue, updates: reported, blocks }))
    }

    pub(crate) fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    /// Joins the threads, whose queue is gone, and sums up. If the server did not close in time
    /// the connection is aborted; if it did after this side `left`, all is well.
    pub(crate) fn end(mut self, in_time: bool, left: bool) -> ConnectionOutcome {
        if !in_time {
            self.abort.abort();
        }
        let aborted = self.abort.shared.is_aborted();
        let (written, ReaderEnd { mut ledger, sent, reason }) = self.join();
        sent.try_iter().for_each(|sent| ledger.push(sent));
        let reason = match reason {
            Some(said @ (DisconnectReason::ShutDown | DisconnectReason::Rejected(_))) => said,
            _ if aborted => DisconnectReason::GivenUp,
            Some(lost) => lost,
            None if left && ledger.all_accepted() => DisconnectReason::Left,
            None => DisconnectReason::Lost(None),
        };
        ledger.settle(reason, written)
    }

    fn join(&mut self) -> (u64, ReaderEnd) {
        let (writer, reader) = self.handles.take().expect("they are joined once");
        let written = writer.join().unwrap_or_else(|panic| resume_unwind(panic));
        (written, reader.join().unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some((writer, reader)) = self.handles.take() {
            self.abort.abort();
            // A panic has no caller left to resume in.
            let _ = (writer.join(), reader.join());
        }
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(run)
}
