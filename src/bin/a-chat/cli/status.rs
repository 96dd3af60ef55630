//! The flags of the status endpoint. Plain data.

use clap::Args;
use clap::builder::BoolishValueParser;

use super::values::STATUS;
use crate::status::StatusAddress;

/// The arguments of `serve` about its status endpoint.
#[derive(Debug, Args)]
#[command(next_help_heading = "Status")]
pub(crate) struct StatusArgs {
    /// Serve the status over HTTP on this address, or on `unix:PATH` [default: nowhere]
    ///
    /// /livez, /readyz and /healthz are probes, /metrics is for Prometheus, /clients lists the
    /// clients as JSON, and / is a page that shows it all.
    #[arg(long, value_name = "ADDR:PORT", env = "A_CHAT_STATUS", value_parser = STATUS)]
    pub(crate) status: Option<StatusAddress>,

    /// Show /clients and / even if `--status` is an address that other hosts reach
    #[arg(long, env = "A_CHAT_STATUS_CLIENTS", value_parser = BoolishValueParser::new())]
    pub(crate) status_clients: bool,
}
