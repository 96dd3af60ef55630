//! `connect`: a client for people at a terminal and for programs in a pipe.

// In the order in which a line meets them, then what these use.
mod terminal;
mod pipe;
mod input;
mod reconnect;
mod escape;
mod status;

use std::error::Error;
use std::process::ExitCode;

use a_chat::client::ConnectError;

use crate::cli::ConnectArgs;

/// Connects, and stays until the input ends and everything queued was received: success if the
/// server accepted every line, or with `--confirm` if it delivered every line.
pub(crate) fn run(args: &ConnectArgs) -> Result<ExitCode, Box<dyn Error>> {
    let at_terminal = terminal::is_interactive() && !args.receive;
    let status = if at_terminal { terminal::run(args) } else { pipe::run(args) };
    Ok(status.map_err(name_the_flag)?.into())
}

/// Adds what the user can do about a token that was not sent.
fn name_the_flag(error: Box<dyn Error>) -> Box<dyn Error> {
    match error.downcast_ref() {
        Some(ConnectError::PlaintextToken { .. }) => {
            format!("{error}; --tls encrypts it, --plaintext-token sends it all the same").into()
        }
        _ => error,
    }
}
