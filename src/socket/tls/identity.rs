//! A server's certificate and private key, as rustls wants them. Plain functions; whoever reads the
//! files calls them.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, ServerConnection};

use super::session::{ALPN, Session};

/// What a server shows its clients: certificate, key, and how it speaks TLS.
#[derive(Clone, Debug)]
pub(crate) struct Identity(Arc<ServerConfig>);

/// Why a certificate and a key cannot be used.
#[derive(Clone, Debug)]
pub(crate) enum IdentityError {
    /// The file with the certificate holds none.
    NoCertificate,
    /// The file with the key holds none.
    NoKey,
    /// They do not match, or rustls takes them for something else.
    Refused(rustls::Error),
}

impl Identity {
    /// Makes sure that the two match, so a pair that is renewed one file after the other is refused
    /// in between.
    pub(crate) fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<_, _>>()
            .map_err(|_| IdentityError::NoCertificate)?;
        if certificates.is_empty() {
            return Err(IdentityError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| IdentityError::NoKey)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
            .map_err(IdentityError::Refused)?;
        // A browser that is led here by another service's page asks for another protocol.
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Nothing is sent after the handshake that a client which never reads would answer with a
        // reset, and no state is kept for clients that are gone.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self(Arc::new(config)))
    }

    /// The session of a client that has just connected.
    pub(crate) fn session(&self) -> Result<Session, rustls::Error> {
        ServerConnection::new(Arc::clone(&self.0)).map(Session::new)
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str("no certificate in PEM format"),
            Self::NoKey => f.write_str("no private key in PEM format"),
            Self::Refused(rustls::Error::InconsistentKeys(_)) => {
                f.write_str("the private key does not belong to the certificate")
            }
            Self::Refused(error) => error.fmt(f),
        }
    }
}
