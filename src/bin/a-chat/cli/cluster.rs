//! The flags of `serve` that make the server a node of a cluster. Plain data.

use std::path::PathBuf;
use std::time::Duration;

use a_chat::Name;
use clap::Args;
use clap::error::ErrorKind;
use clap::parser::ValueSource;

use super::values::{NAME, TIME};

/// The arguments of `serve` about other nodes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Be one of several nodes that are one relay, over the Redis or Valkey server at this URL
    ///
    /// The form is `redis://host:port/database` or `redis+unix:///path`. It needs an a-chat that is
    /// built with the feature `cluster`.
    #[arg(long, value_name = "URL", env = "A_CHAT_CLUSTER", hide_env_values = true)]
    pub(crate) cluster: Option<String>,

    /// The node's name, different from the others' [default: the host's name]
    #[arg(long, value_name = "NAME", env = "A_CHAT_NODE", value_parser = NAME)]
    pub(crate) node: Option<Name>,

    /// The cluster's name: clusters of different names can share one engine
    #[arg(
        long,
        value_name = "NAME",
        env = "A_CHAT_CLUSTER_NAME",
        default_value = "a-chat",
        value_parser = NAME
    )]
    pub(crate) cluster_name: Name,

    /// Read the engine's password from the first line of this file
    #[arg(long, value_name = "FILE", env = "A_CHAT_CLUSTER_PASSWORD_FILE")]
    pub(crate) cluster_password_file: Option<PathBuf>,

    /// How long lines for a client of a node that has stopped wait for it to log in elsewhere
    #[arg(
        long,
        value_name = "TIME",
        env = "A_CHAT_CLUSTER_HOLD",
        default_value = "10s",
        value_parser = TIME
    )]
    pub(crate) cluster_hold: Duration,

    /// How long a node may be silent before the others take it for dead
    #[arg(
        long,
        value_name = "TIME",
        env = "A_CHAT_CLUSTER_LEASE",
        default_value = "10s",
        value_parser = TIME
    )]
    pub(crate) cluster_lease: Duration,

    /// This is the first node of a new cluster: do not wait a lease for others to come back
    #[arg(long, env = "A_CHAT_CLUSTER_FIRST")]
    pub(crate) cluster_first: bool,
}

/// The shortest lease: five renewals within it have to get through.
const MIN_LEASE: Duration = Duration::from_secs(1);

impl ClusterArgs {
    /// Refuses what cannot work; a password on the command line is everybody's to read.
    pub(super) fn validate(
        &self,
        command: &clap::Command,
        source: Option<ValueSource>,
    ) -> Result<(), clap::Error> {
        let refuse =
            |text: &str| Err(command.clone().error(ErrorKind::ValueValidation, text.to_owned()));
        let Some(url) = &self.cluster else { return Ok(()) };
        let authority = url.split_once("://").map_or("", |(_, rest)| rest);
        let authority = authority.split('/').next().unwrap_or_default();
        let has_password = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
        // That of a URL with the path of a Unix socket.
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let has_password = has_password || query.split('&').any(|it| it.starts_with("pass="));
        if has_password && source == Some(ValueSource::CommandLine) {
            return refuse(
                "the engine's password must not be on the command line, where everybody can read \
                 it: use --cluster-password-file or A_CHAT_CLUSTER",
            );
        }
        if self.cluster_lease < MIN_LEASE {
            return refuse("--cluster-lease must be at least 1s");
        }
        Ok(())
    }
}
