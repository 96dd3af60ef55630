//! What the status endpoint can tell: the figures of the server, pulled when somebody asks. Used by the
//! thread `status` alone, except for the report at the end.

use std::sync::OnceLock;
use std::time::Instant;

use a_chat::{Capacity, ClientInfo, FilesHandle, Observer, Report, ShutdownHandle, StatsHandle};
use serde::Serialize;

use super::exposition::Exposition;
use super::process;
use crate::liveness::Liveness;

/// Where the figures come from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) stats: StatsHandle,
    pub(crate) observer: Observer,
    pub(crate) files: FilesHandle,
    pub(crate) shutdown: ShutdownHandle,
    pub(crate) capacity: Capacity,
    pub(crate) started: Instant,
    pub(crate) liveness: Liveness,
    /// Set once the server has stopped.
    pub(crate) report: OnceLock<Report>,
}

/// The answer to `/clients`.
#[derive(Serialize)]
struct Answer<'a> {
    state: &'static str,
    version: &'static str,
    running_for: f64,
    drain_seconds: f64,
    drain_timeout_seconds: f64,
    capacity: Capacity,
    clients: Vec<ClientInfo>,
    report: Option<&'a Report>,
}

impl Source {
    /// `running`, `draining` or `stopped`.
    pub(super) fn state(&self) -> &'static str {
        match (self.report.get(), self.shutdown.is_shutdown()) {
            (Some(_), _) => "stopped",
            (None, true) => "draining",
            (None, false) => "running",
        }
    }

    pub(super) fn clients(&self) -> String {
        let answer = Answer {
            state: self.state(),
            version: env!("CARGO_PKG_VERSION"),
            running_for: self.started.elapsed().as_secs_f64(),
            drain_seconds: self.shutdown.drain_elapsed().as_secs_f64(),
            drain_timeout_seconds: self.shutdown.drain_timeout().as_secs_f64(),
            capacity: self.capacity,
            clients: self.observer.clients(),
            report: self.report.get(),
        };
        // Plain values always have a form in JSON.
        serde_json::to_string(&answer).unwrap_or_default()
    }

    /// The metrics, and their content type.
    pub(super) fn metrics(&self, is_open_metrics: bool) -> (&'static str, String) {
        let mut to = Exposition::new(is_open_metrics);
        let content_type = to.content_type();
        self.add_server(&mut to);
        self.add_connections(&mut to);
        self.add_lines(&mut to);
        #[cfg(feature = "cluster")]
        self.add_cluster(&mut to);
        process::add(&mut to);
        (content_type, to.finish())
    }

    fn add_server(&self, to: &mut Exposition) {
        let stats = self.stats.read();
        let is_draining = self.shutdown.is_shutdown();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        to.info("achat_build_info", "The version that runs.", &version);
        to.gauge("achat_clients", "Clients that are logged in.", stats.connected);
        let limit = self.capacity.connections;
        to.gauge("achat_clients_limit", "Clients that can be connected at once.", limit);
        let is_ready = u8::from(!is_draining && self.liveness.is_alive(&self.stats));
        to.gauge("achat_ready", "1 while clients are accepted.", is_ready);
        to.gauge("achat_draining", "1 from the shutdown on.", u8::from(is_draining));
        let help = "Rounds in which the broker routed events.";
        to.counter("achat_broker_rounds_total", help, stats.broker_rounds);
        let help = "Events that the broker handled: batches of lines, logins, departures.";
        to.counter("achat_broker_events_total", help, stats.broker_events);
        let files = self.files.status();
        let files: Vec<_> =
            files.iter().map(|it| ([("file", it.name)], u8::from(it.failed))).collect();
        let help = "1 while a file cannot be used, so that what it held before is in force.";
        let samples = files.iter().map(|(labels, failed)| (&labels[..], failed));
        to.gauges("achat_reload_failed", help, samples);
    }

    fn add_connections(&self, to: &mut Exposition) {
        let stats = self.stats.read();
        to.counter("achat_connections_total", "Connections that were served.", stats.connections);
        let refused = self.stats.refusals();
        let refused: Vec<_> =
            refused.iter().map(|(it, count)| ([("reason", *it)], count)).collect();
        let help = "Connections that were refused at once.";
        let samples = refused.iter().map(|(labels, count)| (&labels[..], count));
        to.counters("achat_connections_refused_total", help, samples);
        let ends = self.stats.disconnects();
        let ends: Vec<_> = ends.iter().map(|(reason, it)| ([("reason", *reason)], it)).collect();
        let help = "Connections that ended.";
        let samples = ends.iter().map(|(labels, it)| (&labels[..], it.connections));
        to.counters("achat_disconnects_total", help, samples);
        let refused = ends.iter().filter(|(_, it)| it.refused_logins > 0);
        let samples = refused.map(|(labels, it)| (&labels[..], it.refused_logins));
        to.counters("achat_logins_refused_total", "Clients that were not let in.", samples);
        let help = "Clients that were evicted since they acknowledged too little.";
        to.counter("achat_evictions_total", help, stats.evicted);
        #[cfg(feature = "tls")]
        {
            let handshakes = self.stats.tls_handshakes();
            let handshakes: Vec<_> =
                handshakes.iter().map(|(result, count)| ([("result", *result)], count)).collect();
            let samples = handshakes.iter().map(|(labels, count)| (&labels[..], count));
            to.counters("achat_tls_handshakes_total", "TLS handshakes that ended.", samples);
        }
        let activity = self.observer.activity();
        let help = "Bytes received over TCP, as the kernel counts them.";
        to.counter("achat_received_bytes_total", help, activity.received_bytes);
        let help = "Bytes sent over TCP, those sent again not counted.";
        to.counter("achat_sent_bytes_total", help, activity.sent_bytes);
        let help = "Clients that are kept from sending since their windows are full.";
        to.gauge("achat_senders_waiting", help, activity.waiting);
    }

    #[cfg(feature = "cluster")]
    fn add_cluster(&self, to: &mut Exposition) {
        let Some(cluster) = self.stats.cluster() else { return };
        let help = "Messages taken over from other nodes.";
        to.counter("achat_cluster_arrived_total", help, cluster.arrived);
        // They sink when a node dies, so these are no counters.
        let help = "Messages taken over by other nodes.";
        to.gauge("achat_cluster_handed_over", help, cluster.handed_over);
        let help = "Messages of which nobody can tell whether they have arrived.";
        to.gauge("achat_cluster_in_doubt", help, cluster.in_doubt);
        let help = "Bytes on their way to other nodes, and not written by these yet.";
        to.gauge("achat_cluster_unsettled_bytes", help, cluster.unsettled_bytes);
        let help = "1 while the engine answers.";
        to.gauge("achat_cluster_reachable", help, u8::from(cluster.is_reachable));
        let help = "1 while nothing is held for clients of a node that has stopped.";
        to.gauge("achat_cluster_settled", help, u8::from(cluster.is_settled));
    }

    fn add_lines(&self, to: &mut Exposition) {
        let stats = self.stats.read();
        to.counter("achat_lines_accepted_total", "Lines accepted.", stats.accepted);
        let help = "Last lines without a line end, which were not accepted.";
        to.counter("achat_lines_unterminated_total", help, stats.unterminated);
        let refused: [(&[_], _); 2] = [
            (&[("reason", "malformed")], stats.refused_lines),
            (&[("reason", "no_such_peer")], stats.unreachable_lines),
        ];
        let help = "Lines that were answered by an error, for some recipient at least.";
        to.counters("achat_lines_refused_total", help, refused);
        let help = "Deliveries owed: one for each line and recipient.";
        to.counter("achat_deliveries_owed_total", help, stats.owed);
        let help = "Deliveries whose last byte was given to the recipient's socket.";
        to.counter("achat_deliveries_written_total", help, stats.written);
        let help = "Deliveries that were acknowledged up to the last byte.";
        to.counter("achat_deliveries_acknowledged_total", help, stats.delivered);
        let ends = self.stats.disconnects();
        let lost = ends.iter().flat_map(|(reason, it)| {
            let stages = [("before_write", it.lost_unwritten), ("after_write", it.lost_written)];
            stages.map(|(stage, lost)| ([("stage", stage), ("reason", *reason)], lost))
        });
        let lost: Vec<_> = lost.filter(|(_, lost)| *lost > 0).collect();
        let help =
            "Deliveries lost, before or after they were written, by why the connection ended.";
        let samples = lost.iter().map(|(labels, lost)| (&labels[..], lost));
        to.counters("achat_deliveries_lost_total", help, samples);
        let by_sender: [(&[_], _); 3] = [
            (&[("sender", "told")], stats.lost_told),
            (&[("sender", "gone")], stats.lost_sender_gone),
            (&[("sender", "untold")], stats.lost_untold),
        ];
        let help = "Deliveries lost, by whether their sender was told, had left, or was not told \
                    since the server shut down.";
        to.counters("achat_losses_total", help, by_sender);
        let help = "Bytes charged to the senders' windows: lines not yet written, with overhead.";
        to.gauge("achat_queued_bytes", help, stats.queued_bytes);
    }
}
