//! The flags of TLS, for `serve`, `connect` and `stress`. They exist in every build; one without TLS
//! says how to get it.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::error::ErrorKind;
use clap::{Args, Command};

use super::values::{PLAIN, Plain};

/// What a build without TLS says to whoever asks for it.
const NOT_BUILT_IN: &str =
    "this a-chat was built without TLS: `cargo install a-chat --features tls` builds one with it";

/// The flags of a server.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "parsed, and then refused"))]
pub(crate) struct ServerTlsArgs {
    /// Speak TLS 1.3 with this certificate, in PEM format, followed by the ones it is signed with;
    /// clients may still do without as `--plain` says
    ///
    /// It is read again when it changes. Only a build with TLS can do this.
    #[arg(long, value_name = "FILE", env = "A_CHAT_TLS_CERT")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key, in PEM format; not readable by everyone
    #[arg(long, value_name = "FILE", env = "A_CHAT_TLS_KEY")]
    tls_key: Option<PathBuf>,

    /// With a certificate: which clients may do without TLS
    ///
    /// What matters is the address that a connection comes from. Connections that this host
    /// forwards, as an SSH tunnel or a container's published port does, come from the loopback.
    #[arg(long, value_name = "WHO", env = "A_CHAT_PLAIN", default_value = "loopback", value_parser = PLAIN)]
    plain: Plain,
}

/// The flags of a client.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "parsed, and then refused"))]
pub(crate) struct ClientTlsArgs {
    /// Encrypt the connection with TLS 1.3
    #[arg(long, env = "A_CHAT_TLS", value_parser = FalseyValueParser::new())]
    pub(super) tls: bool,

    /// Trust the certificates in this file, in PEM format, instead of the system's
    #[arg(long, value_name = "FILE", env = "A_CHAT_CA", requires = "tls")]
    ca: Option<PathBuf>,

    /// Name that the server's certificate must have [default: the one connected to]
    #[arg(long, value_name = "NAME", env = "A_CHAT_SERVER_NAME", requires = "tls")]
    server_name: Option<String>,
}

impl ServerTlsArgs {
    /// Whether there is a certificate, and so TLS.
    pub(super) fn is_given(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// Refuses what cannot work. `place` tells where in a configuration file a flag was set, if it
    /// was set there.
    pub(super) fn validate(
        &self,
        command: &mut Command,
        place: impl Fn(&str) -> Option<String>,
    ) -> Result<(), clap::Error> {
        // Not left to clap, which does not ask for the one where a file or a variable sets the other.
        let (given, missing) = match (&self.tls_cert, &self.tls_key) {
            (None, None) => return Ok(()),
            (Some(_), _) if cfg!(not(feature = "tls")) => ("tls-cert", NOT_BUILT_IN),
            (None, _) if cfg!(not(feature = "tls")) => ("tls-key", NOT_BUILT_IN),
            (Some(_), Some(_)) => return Ok(()),
            (Some(_), None) => {
                ("tls-cert", "'--tls-cert' needs '--tls-key <FILE>', the certificate's private key")
            }
            (None, Some(_)) => {
                ("tls-key", "'--tls-key' needs '--tls-cert <FILE>', the key's certificate")
            }
        };
        let place = place(given).map(|place| format!(" ({place})")).unwrap_or_default();
        Err(command.error(ErrorKind::ValueValidation, format!("{missing}{place}")))
    }

    /// The TLS that they ask for.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Result<Option<a_chat::ServerTls>, a_chat::Error> {
        let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        let plain = match self.plain {
            Plain::No => a_chat::PlainText::Refused,
            Plain::Loopback => a_chat::PlainText::FromLoopback,
            Plain::Yes => a_chat::PlainText::Accepted,
        };
        Ok(Some(a_chat::ServerTls::from_pem_files(certificate, key)?.plain(plain)))
    }
}

impl ClientTlsArgs {
    /// Refuses what this build cannot do.
    pub(super) fn validate(&self, command: &mut Command) -> Result<(), clap::Error> {
        if self.tls && cfg!(not(feature = "tls")) {
            return Err(command.error(ErrorKind::ValueValidation, NOT_BUILT_IN));
        }
        Ok(())
    }

    /// The TLS that they ask for.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> std::io::Result<Option<a_chat::client::Tls>> {
        use a_chat::client::Tls;

        if !self.tls {
            return Ok(None);
        }
        let tls = match &self.ca {
            Some(file) => Tls::trusting_file(file)?,
            None => Tls::trusting_system()?,
        };
        Ok(Some(match &self.server_name {
            Some(name) => tls.server_name(name),
            None => tls,
        }))
    }
}
