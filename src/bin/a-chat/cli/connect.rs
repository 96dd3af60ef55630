//! The flags of `connect`.

use std::time::Duration;

use a_chat::Name;
use clap::Args;

use super::confirm::ConfirmArgs;
use super::tls::ClientTlsArgs;
use super::token::TokenFlags;
use super::values::{ADDRESS, NAME, TIME};

/// The arguments of `connect`.
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Address of the server, or its Unix socket as in `unix:/run/a-chat.sock`; of several, the
    /// first that answers, and with `--reconnect` the next when one stops
    #[arg(
        value_name = "ADDR:PORT",
        env = "A_CHAT_CONNECT",
        default_value = "127.0.0.1:8080",
        value_delimiter = ',',
        value_parser = ADDRESS
    )]
    pub(crate) addresses: Vec<String>,

    /// Name to log in with [default: prompted for at a terminal, the first line in a pipe]
    #[arg(short, long, value_name = "NAME", env = "A_CHAT_NAME", value_parser = NAME)]
    pub(crate) name: Option<Name>,

    #[command(flatten)]
    pub(crate) token: TokenFlags,

    /// Send nothing, and stay until the server closes the connection or a signal arrives
    #[arg(long, requires = "name", conflicts_with = "wait")]
    pub(crate) receive: bool,

    /// Reconnect after a shutdown and resend only the lines that were not accepted
    #[arg(long)]
    pub(crate) reconnect: bool,

    /// After a reconnect, send lines at once instead of waiting for their recipients
    #[arg(long, requires = "reconnect")]
    pub(crate) no_wait: bool,

    #[command(flatten)]
    pub(crate) confirm: ConfirmArgs,

    /// Maximum time to stay once all input is sent, or to look for a server that accepts the rest
    /// [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = TIME)]
    pub(crate) wait: Option<Duration>,

    #[command(flatten)]
    pub(crate) tls: ClientTlsArgs,
}
