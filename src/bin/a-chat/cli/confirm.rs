//! The flag of `connect` that waits for deliveries. Plain data.

use clap::Args;
use clap::builder::FalseyValueParser;

/// Whether to exit only when everything is delivered.
#[derive(Debug, Args)]
pub(crate) struct ConfirmArgs {
    /// At the end of the input, wait until every line is delivered to all its recipients
    ///
    /// Exit status 0 then promises that nothing was refused or lost, and that each connection's
    /// server confirmed its lines; 1 means that a line was refused or lost, which is named; 3 that
    /// everything was accepted, and that a shutdown or a broken connection came before the
    /// confirmation. `--wait` bounds how long it takes.
    #[arg(long, env = "A_CHAT_CONFIRM", value_parser = FalseyValueParser::new())]
    pub(crate) confirm: bool,
}
