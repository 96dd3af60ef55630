//! From the command line to a session, which survives restarts of the server.

use a_chat::Name;
use a_chat::client::{Options, Session};

use crate::cli::ConnectArgs;
use crate::token;

/// The session that the command line asks for.
pub(crate) fn session(args: &ConnectArgs, name: &Name) -> Result<Session, String> {
    let options = Options::new(name)
        .token(token::of(&args.token)?)
        .plaintext_token(args.token.plaintext_token);
    let (first, others) = args.addresses.split_first().ok_or("an address is missing")?;
    let session = others.iter().fold(Session::new(first, name), Session::or_at);
    let session = session
        .options(options)
        .reconnect(args.reconnect)
        .wait_for_recipients(!args.no_wait)
        .confirm(args.confirm.confirm && !args.receive);
    #[cfg(feature = "tls")]
    let session = match args.tls.tls().map_err(|error| format!("cannot use TLS: {error}"))? {
        Some(tls) => session.tls(tls),
        None => session,
    };
    Ok(match args.wait {
        Some(stay) => session.stay(stay),
        None => session,
    })
}
