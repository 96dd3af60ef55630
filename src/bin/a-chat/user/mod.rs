//! `user`: adds, changes, removes and lists the users in a user file. Runs on the main thread.

#[cfg(feature = "users")]
mod edit;
#[cfg(feature = "users")]
mod file;
#[cfg(feature = "users")]
mod tool;

use std::error::Error;
use std::process::ExitCode;

#[cfg(not(feature = "users"))]
use crate::cli::NOT_BUILT_IN;
use crate::cli::UserArgs;

/// Without users there is nothing to do.
#[cfg(not(feature = "users"))]
pub(crate) fn run(_: &UserArgs) -> Result<ExitCode, Box<dyn Error>> {
    Err(NOT_BUILT_IN.into())
}

/// Does what the command says.
#[cfg(feature = "users")]
pub(crate) fn run(args: &UserArgs) -> Result<ExitCode, Box<dyn Error>> {
    use crate::cli::UserAction;

    match &args.action {
        UserAction::Add { user, rate } => tool::add(user, *rate)?,
        UserAction::Token { user, only } => tool::token(user, *only)?,
        UserAction::Remove { user } => tool::remove(user)?,
        UserAction::List { file } => tool::list(file)?,
        UserAction::Check { file } => tool::check(file)?,
    }
    Ok(ExitCode::SUCCESS)
}
