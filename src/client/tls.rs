//! What a client needs to speak TLS: whom it trusts, and the name that it expects. Plain values; the
//! thread that connects reads the files.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{error, fmt, fs, io};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};

use crate::socket::tls::blocking::Blocking;
use crate::socket::tls::session::{ALPN, Session};
use crate::wire::reasons::{ERROR, Rejection};

/// How much of an answer without TLS is read, in bytes.
const MAX_PLAIN_ANSWER: usize = 512;

/// What the text of a certificate holds that is an authority's own.
const AUTHORITY: &str = "CaUsedAsEndEntity";

/// TLS 1.3 for a client's connections.
///
/// ```no_run
/// use a_chat::Name;
/// use a_chat::client::{Options, Tls};
///
/// let tls = Tls::trusting_system()?.server_name("chat.example.org");
/// let name = Name::new("alice")?;
/// let client = Options::new(&name).tls(tls).connect("chat.example.org:8080")?;
/// # drop(client);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Tls {
    config: Arc<ClientConfig>,
    server_name: Option<String>,
}

impl Tls {
    /// Trusts the authorities that this system trusts.
    ///
    /// # Errors
    ///
    /// If none of their certificates can be read.
    pub fn trusting_system() -> io::Result<Self> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Some systems carry a few that cannot be parsed.
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let problem = found.errors.first().map_or_else(String::new, |it| format!(": {it}"));
            let text = format!("this system has no certificates of authorities{problem}");
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        Ok(Self::trusting(roots))
    }

    /// Trusts only the certificates in this file, in PEM format: an authority's, or the server's own.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or holds no certificate.
    pub fn trusting_file(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let about = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
        let pem = fs::read(path).map_err(|it| io::Error::new(it.kind(), about(&it)))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let added = certificate
                .map_err(|error| about(&error))
                .and_then(|certificate| roots.add(certificate).map_err(|error| about(&error)));
            added.map_err(|text| io::Error::new(io::ErrorKind::InvalidData, text))?;
        }
        if roots.is_empty() {
            let text = about(&"no certificate in PEM format");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self::trusting(roots))
    }

    fn trusting(roots: RootCertStore) -> Self {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has the version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Self { config: Arc::new(config), server_name: None }
    }

    /// The name or address that the server's certificate must have. By default the address that was
    /// connected to; a [`Session`](super::Session) knows the name that it looked up.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets the name unless there is one: that of `HOST:PORT`.
    pub(crate) fn or_server_name_of(mut self, address: &str) -> Self {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
        self.server_name.get_or_insert_with(|| host.to_owned());
        self
    }

    /// The TLS of a connection to this address, before its handshake.
    pub(crate) fn session(&self, address: SocketAddr) -> Result<Session, TlsError> {
        let expected = self.expected(address);
        let fail = |problem| TlsError { expected: expected.clone(), problem };
        let name = ServerName::try_from(expected.clone()).map_err(|_| fail(Problem::Name))?;
        let rustls = ClientConnection::new(Arc::clone(&self.config), name);
        Ok(Session::new(rustls.map_err(|error| fail(Problem::Tls(error)))?))
    }

    /// Why the handshake with this address failed. `answer` is what the server said instead of it.
    pub(crate) fn error(
        &self,
        address: SocketAddr,
        error: io::Error,
        answer: Option<String>,
    ) -> TlsError {
        let cause = || error.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>()).cloned();
        let problem = match answer {
            Some(line) => Problem::Unencrypted(line),
            None => cause().map_or_else(|| Problem::Socket(error), Problem::Tls),
        };
        TlsError { expected: self.expected(address), problem }
    }

    /// The line of a server that answers without TLS, as it does where it refuses a connection before
    /// it has read anything; `None` if a record begins, or nothing came.
    pub(crate) fn plain_answer(answer: &[u8]) -> Option<String> {
        let answer = &answer[..answer.len().min(MAX_PLAIN_ANSWER)];
        let line = answer.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let is_text = line.first().is_some_and(u8::is_ascii_graphic);
        is_text.then(|| String::from_utf8_lossy(line).trim_end().to_owned())
    }

    /// The name that the server's certificate must have.
    fn expected(&self, address: SocketAddr) -> String {
        self.server_name.clone().unwrap_or_else(|| address.ip().to_string())
    }

    /// Completes the handshake on a socket that has just connected.
    pub(crate) fn connect(
        &self,
        socket: &TcpStream,
        address: SocketAddr,
        timeout: Duration,
    ) -> Result<Blocking, TlsError> {
        let session = self.session(address)?;
        let deadline = Instant::now().checked_add(timeout);
        let mut plain = None;
        let recv = |to: &mut [u8]| {
            limit_wait(socket, deadline)?;
            match plain.get_or_insert_with(|| peek_plain_answer(socket)) {
                Some(_) => Err(io::ErrorKind::InvalidData.into()),
                None => io::Read::read(&mut &*socket, to),
            }
        };
        let send = |bytes: &[u8]| io::Write::write_all(&mut &*socket, bytes);
        let connected = Blocking::connect(session, recv, send);
        let _ = socket.set_read_timeout(None);
        connected.map_err(|error| self.error(address, error, plain.flatten()))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Lets the next read wait no longer than the handshake may last.
fn limit_wait(socket: &TcpStream, deadline: Option<Instant>) -> io::Result<()> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    match left {
        Some(Duration::ZERO) => Err(io::ErrorKind::TimedOut.into()),
        left => socket.set_read_timeout(left),
    }
}

/// The [`Tls::plain_answer`] that has arrived, if there is one.
fn peek_plain_answer(socket: &TcpStream) -> Option<String> {
    let mut answer = [0; MAX_PLAIN_ANSWER];
    // A server sends that line at once, in one piece.
    let count = socket.peek(&mut answer).ok()?;
    Tls::plain_answer(&answer[..count])
}

/// Why no encrypted connection came about.
#[derive(Debug)]
pub struct TlsError {
    /// The name that the certificate was to have.
    expected: String,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    /// The name is none.
    Name,
    /// What the server said without TLS.
    Unencrypted(String),
    Tls(rustls::Error),
    Socket(io::Error),
}

impl TlsError {
    /// Why the server rejected the connection, if it said so without TLS. Anyone between here and
    /// the server may have said it instead.
    pub(crate) fn rejection(&self) -> Option<Rejection> {
        match &self.problem {
            Problem::Unencrypted(line) => line.strip_prefix(ERROR).map(Rejection::parse),
            _ => None,
        }
    }

    /// Whether another attempt, later, may work.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match &self.problem {
            // Nothing is wrong with the server, which would have said it encrypted.
            Problem::Unencrypted(_) => self.rejection().is_some_and(|it| it.is_temporary()),
            Problem::Socket(_) => true,
            Problem::Name | Problem::Tls(_) => false,
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expected = &self.expected;
        let error = match &self.problem {
            Problem::Name => return write!(f, "{expected} is no name that a certificate can have"),
            Problem::Unencrypted(line) => {
                write!(f, "it said, unencrypted: {line:?}")?;
                let knows_tls = self.rejection().is_some_and(|it| it.is_temporary());
                return if knows_tls { Ok(()) } else { f.write_str("; it may not speak TLS") };
            }
            Problem::Socket(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return f.write_str("it closed the connection in the middle of the TLS handshake");
            }
            Problem::Socket(error)
                if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) =>
            {
                return f.write_str("it did not complete the TLS handshake in time");
            }
            Problem::Socket(error) => return write!(f, "the TLS handshake broke off: {error}"),
            Problem::Tls(error) => error,
        };
        let rustls::Error::InvalidCertificate(certificate) = error else {
            return write!(f, "TLS failed: {error}");
        };
        f.write_str("its certificate is not accepted: ")?;
        match certificate {
            // An authority of the same name has signed nothing of it.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => f.write_str(
                "no authority that is trusted here has signed it (--ca FILE trusts another)",
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                f.write_str("it has expired; the server's operator has to renew it")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                f.write_str("it is not valid yet; is the clock right here?")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                write!(f, "it is not for {expected} (--server-name NAME expects another name")?;
                if expected.parse::<IpAddr>().is_ok() {
                    f.write_str(", which most certificates have instead of an address")?;
                }
                f.write_str(")")
            }
            other if format!("{other:?}").contains(AUTHORITY) => f.write_str(
                "it is an authority's and not a server's; \
                 `openssl req -x509` makes one for a server with \
                 -addext basicConstraints=critical,CA:FALSE",
            ),
            _ => write!(f, "{error}"),
        }
    }
}

impl error::Error for TlsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_name_is_the_host_of_the_address() {
        let mut roots = RootCertStore::empty();
        let made = rcgen::generate_simple_self_signed(["x".to_owned()]).expect("a certificate");
        roots.add(made.cert.der().clone()).expect("a certificate");
        let tls = Tls::trusting(roots);
        for (address, name) in
            [("chat.example.org:8080", "chat.example.org"), ("[::1]:8080", "::1")]
        {
            let named = tls.clone().or_server_name_of(address);
            assert_eq!(named.server_name.as_deref(), Some(name));
        }
        let named = tls.server_name("other").or_server_name_of("chat.example.org:8080");
        assert_eq!(named.server_name.as_deref(), Some("other"));
    }

    #[test]
    fn a_refusal_without_tls_is_temporary_if_its_cause_is() {
        let said = |line: &str| TlsError {
            expected: "x".to_owned(),
            problem: Problem::Unencrypted(line.to_owned()),
        };
        let full = said("error: server is full");
        assert_eq!(full.to_string(), "it said, unencrypted: \"error: server is full\"");
        assert!(full.is_temporary());
        let other = said("SSH-2.0-OpenSSH_9.2p1");
        assert!(!other.is_temporary() && other.to_string().ends_with("it may not speak TLS"));
    }
}
