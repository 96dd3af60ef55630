//! How the account of what a client did not receive gets back to the senders, without a channel that
//! points back: a reader waits for its writer's account and sends it to the broker, which it has a
//! sender to anyway. Runs on that reader's thread, at the end of a connection.

use std::sync::Arc;
use std::thread::{self, JoinHandle, Thread};

use crate::server::broker::Event;
use crate::server::context::{Events, Shared};
use crate::server::delivery::token::park_until;
use crate::server::report::CloseReason;
use crate::server::shutdown::Phase;
use crate::server::writer::{Account, WriterExit};
use crate::socket::connection::Connection;
use crate::wire::loss::LossReason;
use crate::wire::name::Name;

/// Held by a writer for as long as it runs: when it is dropped, even by a panic, the connection is
/// marked as settled and its reader woken.
#[derive(Debug)]
pub(crate) struct SettledOnDrop {
    connection: Arc<Connection>,
    reader: Thread,
}

impl SettledOnDrop {
    /// To be called by the connection's reader.
    pub(crate) fn new(connection: &Arc<Connection>) -> Self {
        Self { connection: Arc::clone(connection), reader: thread::current() }
    }
}

impl Drop for SettledOnDrop {
    fn drop(&mut self) {
        self.connection.set_settled();
        self.reader.unpark();
    }
}

/// Joins the writer of a client that has left or failed, after its `Leave`, and reports what was lost
/// to the broker.
///
/// The writer may still deliver and linger for minutes. The broker sender is held meanwhile, but
/// never once shutdown has begun: the drain ends only when all of them are dropped. The acceptor
/// then unparks every reader. The phase is looked at before each wait, so neither that nor the
/// writer's end can come unnoticed.
pub(crate) fn join_and_report(
    writer: JoinHandle<WriterExit>,
    name: &Name,
    broker: Events<Event>,
    (connection, shared): (&Connection, &Shared),
) -> WriterExit {
    park_until(|| connection.is_settled() || shared.shutdown.phase() != Phase::Running);
    // A settled writer waits for nothing any more, so it can be joined in either case.
    let broker = connection.is_settled().then_some(broker);
    let (mut exit, has_died) = match writer.join() {
        Ok(exit) => (exit, false),
        Err(_) => (WriterExit::without_deliveries(CloseReason::Panicked), true),
    };
    if let Some(broker) = broker.as_ref().filter(|_| has_died) {
        let unsettled = Box::default();
        let _ = broker.send(Event::Settled { unsettled, is_complete: false });
    }
    let account = std::mem::take(&mut exit.account);
    let mut untold = exit.lost;
    if let (Some(account), Some(broker)) = (account, broker) {
        let Account { losses, unsettled } = *account;
        let reason = loss_reason(&exit);
        let is_complete = losses.total() == exit.lost;
        for report in losses.into_reports(name.clone(), reason) {
            let deliveries = report.total();
            if broker.send(Event::Lost(Box::new(report))).is_ok() {
                untold = untold.saturating_sub(deliveries);
            }
        }
        if !unsettled.is_empty() || !is_complete {
            // Behind the losses: whoever asks is told of these first.
            let unsettled = Box::new(unsettled);
            let _ = broker.send(Event::Settled { unsettled, is_complete });
        }
    }
    shared.counters.lost_untold.add(untold);
    exit
}

/// Joins the writer of a client that was connected when shutdown began: what it lost is in the
/// report only.
pub(crate) fn join_in_drain(writer: JoinHandle<WriterExit>, shared: &Shared) -> WriterExit {
    let exit = writer.join();
    let exit = exit.unwrap_or_else(|_| WriterExit::without_deliveries(CloseReason::Panicked));
    shared.counters.lost_untold.add(exit.lost);
    exit
}

/// What senders are told of the end of a connection.
fn loss_reason(exit: &WriterExit) -> LossReason {
    match exit.reason {
        CloseReason::Evicted => LossReason::Evicted,
        CloseReason::Broken(_) if !exit.had_left => LossReason::ConnectionBroken,
        CloseReason::Panicked | CloseReason::ServerFailed => LossReason::ServerError,
        _ => LossReason::Left,
    }
}
