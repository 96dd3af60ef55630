//! What a server needs to speak TLS: its certificate, read again whenever it has changed, and who may
//! stay without. The files are read on a helper thread; readers take what it has read last.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::socket::peer::Peer;
use crate::socket::tls::identity::Identity;
use crate::socket::tls::session::Session;
use crate::socket::watch::{Rights, Watch, Watched};

/// TLS 1.3 for a server's clients, on the port that clients without TLS use: the first byte tells
/// them apart.
///
/// ```no_run
/// use a_chat::{Config, PlainText, Server, ServerTls};
///
/// let tls = ServerTls::from_pem_files("fullchain.pem", "privkey.pem")?.plain(PlainText::Refused);
/// let report = Server::bind("[::]:8080", Config::default())?.tls(tls).run()?;
/// # let _ = report;
/// # Ok::<(), a_chat::Error>(())
/// ```
///
/// Both files are read again when they change. A pair that does not match, as halfway through a
/// renewal, is not used: the one before stays, and that is logged once. Clients that are connected
/// keep their connections.
#[derive(Debug)]
#[must_use = "a server has to be given it"]
pub struct ServerTls {
    identity: Arc<Mutex<Option<Identity>>>,
    files: Watch,
    plain: PlainText,
}

/// Which clients of a server with TLS may do without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlainText {
    /// None.
    Refused,
    /// Those on this host, so `nc` goes on working there. Whatever forwards connections from this
    /// host, such as an SSH tunnel or a container's published port, makes its clients look like that.
    #[default]
    FromLoopback,
    /// All.
    Accepted,
}

impl ServerTls {
    /// Reads a certificate, followed by those that lead to the root if there are any, and its private
    /// key, both in PEM format.
    ///
    /// # Errors
    ///
    /// [`Error::Tls`] if a file cannot be read, if they do not belong together, or if every user of
    /// this machine can read the key.
    pub fn from_pem_files(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Self, Error> {
        let files = vec![
            Watched { path: certificate.into(), rights: Rights::Any },
            Watched { path: key.into(), rights: Rights::NoReading },
        ];
        let identity = Arc::new(Mutex::new(None));
        let newest = Arc::clone(&identity);
        let load = move |contents: &[Vec<u8>]| {
            let [certificate, key] = contents else { return Ok(()) };
            let read = Identity::from_pem(certificate, key).map_err(|error| error.to_string())?;
            *newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
            Ok(())
        };
        let files = Watch::start("certificate", files, load).map_err(Error::Tls)?;
        Ok(Self { identity, files, plain: PlainText::default() })
    }

    /// Which clients may do without. By default those on this host.
    pub fn plain(mut self, plain: PlainText) -> Self {
        self.plain = plain;
        self
    }

    /// The files that are read again.
    pub(crate) fn watch(&self) -> &Watch {
        &self.files
    }

    /// Whether this client, as the socket sees it, may do without.
    pub(crate) fn allows_plain(&self, peer: Peer) -> bool {
        match self.plain {
            PlainText::Refused => false,
            PlainText::FromLoopback => peer.is_local(),
            PlainText::Accepted => true,
        }
    }

    /// The session of a client that has just connected, with the newest certificate.
    pub(crate) fn session(&self) -> Result<Session, String> {
        // Nobody waits for this look: a file system that hangs must not keep clients out.
        self.files.request();
        let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let session = identity.map(|identity| identity.session());
        session.ok_or("no certificate")?.map_err(|error| error.to_string())
    }
}
