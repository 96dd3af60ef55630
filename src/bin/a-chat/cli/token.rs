//! The flags of the commands that log in with tokens. Plain data.

use std::path::PathBuf;

use clap::Args;

/// How a client proves its name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Login")]
pub(crate) struct TokenFlags {
    /// Log in with the token in this file; without it, with the one in the variable `A_CHAT_TOKEN`
    ///
    /// A token is no argument, since arguments show in the list of processes.
    #[arg(long, value_name = "FILE", env = "A_CHAT_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// Send the token unencrypted, wherever the server is; otherwise it is sent so only to this host
    #[arg(long)]
    pub(crate) plaintext_token: bool,
}

/// How the clients of a load prove their names.
#[derive(Debug, Args)]
pub(crate) struct LoginsFlags {
    /// Log in with the names and tokens in this file, a name and its token in each line; for a server
    /// with users
    #[arg(long, value_name = "FILE", requires = "addresses")]
    pub(crate) token_file: Option<PathBuf>,

    /// Send the tokens unencrypted, wherever the server is; otherwise they are sent so only to this
    /// host
    #[arg(long, requires = "token_file")]
    pub(crate) plaintext_token: bool,
}
