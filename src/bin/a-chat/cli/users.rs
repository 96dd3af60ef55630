//! The flags of `serve` that say who may log in, and the command `user`. Plain data.

use std::path::PathBuf;

use a_chat::{Config, Name};
use clap::{ArgAction, Args, Subcommand};

use super::values::{FAILED_LOGINS, FailedLogins, NAME, RATE_LIMIT, UID, YES_OR_NO};

/// Why a flag is of no use in this build.
#[cfg(not(feature = "users"))]
pub(crate) const NOT_BUILT_IN: &str =
    "this a-chat was built without users; cargo install a-chat --features users has them";

/// Who may log in to a server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Users")]
pub(super) struct UserFlags {
    /// File of the names that only their users can take, with hashes of the tokens that prove them;
    /// see `a-chat user` [default: anyone can take any name]
    #[arg(long, value_name = "FILE", env = "A_CHAT_USERS")]
    pub(super) users: Option<PathBuf>,

    /// Whether names that are not in the user file can be taken by anyone
    #[arg(
        long,
        value_name = "yes|no",
        env = "A_CHAT_GUESTS",
        action = ArgAction::Set,
        default_value = "no",
        value_parser = YES_OR_NO
    )]
    guests: bool,

    /// A login that proves its name takes it over from an earlier connection, once in 10 s
    #[arg(
        long,
        value_name = "yes|no",
        env = "A_CHAT_TAKEOVER",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "yes",
        default_value = "no",
        value_parser = YES_OR_NO
    )]
    takeover: bool,

    /// Numbers of this host's users whose processes may take any name without a token over a Unix
    /// socket, with commas; they never take one that is in use [default: none]
    ///
    /// Nobody is believed on sockets that `--proxy-from unix` takes for a proxy's. Without `--users`
    /// anyone can take any name anyway.
    #[arg(
        long,
        value_name = "UID,...",
        env = "A_CHAT_TRUST_UNIX",
        value_delimiter = ',',
        value_parser = UID
    )]
    pub(super) trust_unix: Vec<u32>,

    /// Wrong tokens from one address in a time, as in 10/60s, before it is refused for as long;
    /// `no` for no limit. TLS handshakes that fail count, too. An address with somebody logged in is
    /// never refused, nor is loopback
    #[arg(
        long,
        value_name = "COUNT/TIME",
        env = "A_CHAT_FAILED_LOGINS",
        default_value = "10/60s",
        value_parser = FAILED_LOGINS
    )]
    pub(super) failed_logins: FailedLogins,
}

/// How much strangers and users may do.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct RateFlags {
    /// Maximum number of connections before their login; the oldest of the address with the most
    /// makes room for a new one [default: a quarter of the connections, from 8 to 512]
    #[arg(
        long,
        value_name = "COUNT",
        env = "A_CHAT_MAX_LOGINS",
        value_parser = super::values::COUNT
    )]
    max_logins: Option<usize>,

    /// Maximum lines a second from one client; a faster one is slowed down and loses nothing
    /// [default: no limit]
    #[arg(long, value_name = "LINES", env = "A_CHAT_RATE", value_parser = RATE_LIMIT)]
    rate: Option<u32>,
}

impl UserFlags {
    #[cfg(feature = "users")]
    pub(super) fn apply(&self, config: Config) -> Config {
        let (count, time) = self.failed_logins.0.unzip();
        let config = config.users(self.users.clone()).guests(self.guests).takeover(self.takeover);
        let config = config.failed_logins(count).trust_unix(self.trust_unix.iter().copied());
        match time {
            Some(time) => config.failed_logins_time(time),
            None => config,
        }
    }

    #[cfg(not(feature = "users"))]
    pub(super) fn apply(&self, config: Config) -> Config {
        let Self { guests: _, takeover: _, trust_unix: _, failed_logins: FailedLogins(_), .. } =
            self;
        config
    }
}

impl RateFlags {
    pub(super) fn apply(&self, config: Config) -> Config {
        config.max_logins(self.max_logins).rate(self.rate)
    }
}

/// The arguments of `user`.
#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    #[command(subcommand)]
    pub(crate) action: UserAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserAction {
    /// Add a user and print the token, which is stored nowhere.
    Add {
        #[command(flatten)]
        user: UserName,

        /// Maximum lines a second from this user, instead of the server's
        #[arg(long, value_name = "LINES", value_parser = RATE_LIMIT)]
        rate: Option<u32>,
    },

    /// Give a user another token and print it; the last one stays valid until the next change.
    Token {
        #[command(flatten)]
        user: UserName,

        /// Revoke all earlier tokens, which disconnects whoever uses one
        #[arg(long)]
        only: bool,
    },

    /// Remove a user, who is disconnected.
    Remove {
        #[command(flatten)]
        user: UserName,
    },

    /// List the users, with the number of their tokens.
    List {
        /// The user file
        file: PathBuf,
    },

    /// Check a user file as a server would.
    Check {
        /// The user file
        file: PathBuf,
    },
}

/// A user in a file.
#[derive(Debug, Args)]
pub(crate) struct UserName {
    /// The user file; `add` creates it
    pub(crate) file: PathBuf,

    /// The user
    #[arg(value_parser = NAME)]
    pub(crate) name: Name,
}
