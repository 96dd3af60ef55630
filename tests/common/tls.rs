//! A certificate of the tests' own, and a client's TLS that is not the one under test: rustls, driven
//! by a few lines that hide nothing. They tell an end with a `close_notify` from one without.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use rustix::event::{PollFd, PollFlags, poll};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tempfile::TempDir;

/// How much is encrypted at a time: one record.
const MAX_RECORD: usize = 16 * 1024;

/// A certificate for `localhost` and the loopback, its key, and who trusts it.
#[derive(Debug)]
pub struct Certificate {
    folder: TempDir,
    client: Arc<ClientConfig>,
}

impl Certificate {
    pub fn new() -> Self {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("a version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let certificate = Self { folder, client: Arc::new(client) };
        std::fs::write(certificate.certificate(), made.cert.pem()).expect("written");
        std::fs::write(certificate.key(), made.key_pair.serialize_pem()).expect("written");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(certificate.key(), private).expect("a mode");
        certificate
    }

    /// The file with the certificate, which is its own authority.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// Replaces certificate and key by those of another.
    pub fn renew_from(&self, other: &Self) {
        for (from, to) in [(other.certificate(), self.certificate()), (other.key(), self.key())] {
            std::fs::copy(from, to).expect("copied");
        }
    }

    pub fn server_tls(&self) -> a_chat::ServerTls {
        a_chat::ServerTls::from_pem_files(self.certificate(), self.key()).expect("a good pair")
    }

    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    pub fn rustls(&self) -> ClientConnection {
        let name = ServerName::try_from("localhost").expect("a name");
        ClientConnection::new(Arc::clone(&self.client), name).expect("a session")
    }
}

/// The certificate that all servers of a test share.
pub fn certificate() -> &'static Certificate {
    static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
    CERTIFICATE.get_or_init(Certificate::new)
}

/// The session of one client. One thread may read and another write.
#[derive(Debug)]
pub struct Session {
    rustls: Mutex<ClientConnection>,
    /// Decrypted and not read.
    plain: Mutex<Vec<u8>>,
    /// Encrypted and not sent: the rest of one record, if any.
    pending: Mutex<Pending>,
}

/// What waits for room in the socket.
#[derive(Debug, Default)]
struct Pending {
    ciphertext: Vec<u8>,
    /// How much plaintext the record has that these bytes end.
    plain: usize,
}

impl Session {
    /// Shakes hands; `None` if the server answers without TLS, as it does where it refuses a client.
    pub fn connect(mut socket: &TcpStream) -> io::Result<Option<Self>> {
        let mut rustls = certificate().rustls();
        // Should the server have closed already, it may have said why.
        let sent = rustls.write_tls(&mut socket);
        let mut first = [0];
        if socket.peek(&mut first)? > 0 && first[0].is_ascii_graphic() {
            return Ok(None);
        }
        // A reset that was reported here is not reported again.
        sent?;
        while rustls.is_handshaking() {
            if rustls.wants_write() {
                rustls.write_tls(&mut socket)?;
            } else if rustls.read_tls(&mut socket)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            rustls.process_new_packets().map_err(io::Error::other)?;
        }
        while rustls.wants_write() {
            rustls.write_tls(&mut socket)?;
        }
        Ok(Some(Self {
            rustls: Mutex::new(rustls),
            plain: Mutex::default(),
            pending: Mutex::default(),
        }))
    }

    fn rustls(&self) -> MutexGuard<'_, ClientConnection> {
        self.rustls.lock().expect("no panic")
    }

    pub fn has_buffered(&self) -> bool {
        !self.plain.lock().expect("no panic").is_empty()
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.lock().expect("no panic").ciphertext.is_empty()
    }

    /// How much plaintext the record has of which the socket has not taken the last byte.
    pub fn unsent(&self) -> u64 {
        let pending = self.pending.lock().expect("no panic");
        if pending.ciphertext.is_empty() { 0 } else { pending.plain as u64 }
    }

    pub fn read(&self, mut socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut plain = self.plain.lock().expect("no panic");
            if self.take(&mut plain)? && plain.is_empty() {
                return Ok(0);
            }
            if !plain.is_empty() {
                let count = plain.len().min(buffer.len());
                buffer[..count].copy_from_slice(&plain[..count]);
                plain.drain(..count);
                return Ok(count);
            }
            drop(plain);
            // Not under a lock: another thread may have to write meanwhile.
            let mut chunk = [0; 4096];
            let count = socket.read(&mut chunk)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (mut rest, mut plain) = (&chunk[..count], self.plain.lock().expect("no panic"));
            while !rest.is_empty() && self.rustls().read_tls(&mut rest)? > 0 {
                self.rustls().process_new_packets().map_err(io::Error::other)?;
                self.take(&mut plain)?;
            }
        }
    }

    /// Takes what is decrypted; true if the server has said that it sends no more.
    fn take(&self, plain: &mut Vec<u8>) -> io::Result<bool> {
        match self.rustls().reader().read_to_end(plain) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Encrypts one record when everything before is sent. The rest of it may stay behind.
    pub fn write(&self, socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        self.flush(socket)?;
        let bytes = &bytes[..bytes.len().min(MAX_RECORD)];
        let mut pending = self.pending.lock().expect("no panic");
        {
            let mut rustls = self.rustls();
            rustls.writer().write_all(bytes)?;
            while rustls.wants_write() {
                rustls.write_tls(&mut pending.ciphertext)?;
            }
            pending.plain = bytes.len();
        }
        match send(&mut pending, socket) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(bytes.len()),
        }
    }

    pub fn flush(&self, socket: &TcpStream) -> io::Result<()> {
        send(&mut self.pending.lock().expect("no panic"), socket)
    }

    /// Says that this side sends no more, behind everything else.
    pub fn finish(&self, socket: &TcpStream) -> io::Result<()> {
        let mut pending = self.pending.lock().expect("no panic");
        {
            let mut rustls = self.rustls();
            rustls.send_close_notify();
            while rustls.wants_write() {
                rustls.write_tls(&mut pending.ciphertext)?;
            }
        }
        loop {
            match send(&mut pending, socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(socket, PollFlags::OUT)], None);
                }
                sent => return sent,
            }
        }
    }

    /// Asks the server for new keys, and changes ours.
    pub fn refresh_keys(&self) {
        self.rustls().refresh_traffic_keys().expect("TLS 1.3");
    }
}

fn send(pending: &mut Pending, mut socket: &TcpStream) -> io::Result<()> {
    while !pending.ciphertext.is_empty() {
        let count = socket.write(&pending.ciphertext)?;
        pending.ciphertext.drain(..count);
    }
    Ok(())
}
