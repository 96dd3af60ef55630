//! From the command line to a session, which survives restarts of the server.

use a_chat::Name;
use a_chat::client::Session;

use crate::cli::ConnectArgs;

/// The session that the command line asks for.
pub(crate) fn session(args: &ConnectArgs, name: &Name) -> Session {
    let session = Session::new(&args.address, name)
        .reconnect(args.reconnect)
        .wait_for_recipients(!args.no_wait);
    match args.wait {
        Some(stay) => session.stay(stay),
        None => session,
    }
}
