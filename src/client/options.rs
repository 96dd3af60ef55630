//! Connecting and logging in, with every limit of a connection and its default.

use std::io::{self, Write};
use std::net::ToSocketAddrs;
use std::path::Path;
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::duplex::Client;
use super::error::ConnectError;
use super::inbox::Inbox;
use super::outbox::{Allowance, Ended, Outbox, Wait, who_query};
use super::outcome::DisconnectReason;
use super::shared::Shared;
use super::threads::{Ends, Threads};
#[cfg(feature = "tls")]
use super::tls::Tls;
use super::transport::Transport;
use super::update::Update;
use crate::socket::keepalive::keepalive;
use crate::socket::stream::Stream;
use crate::wire::endpoint::Endpoint;
use crate::wire::name::Name;
use crate::wire::token::{Token, wipe};

/// How many checkpoints fit into the room for lines on their way: with this many a sender hardly
/// ever waits for the reply to one.
const CHECKPOINTS: usize = 8;

/// How to connect: limits of time and memory, each with a default that suits most clients.
///
/// ```
/// use std::time::Duration;
///
/// use a_chat::client::Options;
/// # use a_chat::{Config, Name, Server};
/// # let server = Server::bind("127.0.0.1:0", Config::default())?.spawn()?;
/// # let (address, name) = (server.local_addr(), Name::new("alice")?);
///
/// // One of many clients in one process: little memory for each.
/// let mut client = Options::new(&name)
///     .login_timeout(Duration::from_secs(3))
///     .inbox_bytes(64 * 1024)
///     .unconfirmed_bytes(128 * 1024)
///     .connect(address)?;
/// client.send("alice: a note")?;
/// # server.shutdown_handle().shutdown();
/// # drop(client);
/// # server.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Options {
    name: Name,
    token: Option<Token>,
    plaintext_token: bool,
    after: u64,
    connect_timeout: Duration,
    login_timeout: Duration,
    inbox_bytes: usize,
    unconfirmed_bytes: usize,
    overflow_bytes: usize,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

impl Options {
    /// The defaults, for a client of this name.
    pub fn new(name: &Name) -> Self {
        Self {
            name: name.clone(),
            token: None,
            plaintext_token: false,
            after: 0,
            connect_timeout: Duration::from_secs(5),
            // A little longer than a server's default for its clients.
            login_timeout: Duration::from_secs(15),
            inbox_bytes: 1024 * 1024,
            unconfirmed_bytes: 1024 * 1024,
            overflow_bytes: 64 * 1024 * 1024,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Numbers lines from `after + 1` on, to go on with what an earlier connection began: see
    /// [`ConnectionOutcome::settled`](super::ConnectionOutcome::settled). Default 0.
    pub fn after(mut self, after: u64) -> Self {
        self.after = after;
        self
    }

    /// The number that lines are counted on from.
    pub(crate) fn number(&self) -> u64 {
        self.after
    }

    /// Proves the name with this token. It is sent only where nobody else can read it: to a loopback
    /// address, or encrypted. Default none.
    pub fn token(mut self, token: impl Into<Option<Token>>) -> Self {
        self.token = token.into();
        self
    }

    /// Whether the token may be sent unencrypted to any address. Default false.
    pub fn plaintext_token(mut self, may_be_sent: bool) -> Self {
        self.plaintext_token = may_be_sent;
        self
    }

    /// How long each address may take to answer the first packet. Default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the server may take to reply to the login. Default 15 s.
    pub fn login_timeout(mut self, timeout: Duration) -> Self {
        self.login_timeout = timeout;
        self
    }

    /// How many received bytes may wait in the inbox, give or take 64 KiB or one line. While more
    /// wait the connection is not read. Default 1 MiB.
    pub fn inbox_bytes(mut self, bytes: usize) -> Self {
        self.inbox_bytes = bytes.max(1);
        self
    }

    /// How many bytes of lines may be sent and not known to be accepted; each call of `send` adds
    /// 96. Sending waits while there are more. They are kept, since they may have to be sent again.
    /// Default 1 MiB.
    pub fn unconfirmed_bytes(mut self, bytes: usize) -> Self {
        self.unconfirmed_bytes = bytes.max(1);
        self
    }

    /// How many bytes either of the two above may grow to where waiting would be in vain, because
    /// the thread that waits is the one that empties the inbox. Beyond it,
    /// [`SendError::Full`](super::SendError::Full) is returned. Default 64 MiB.
    pub fn overflow_bytes(mut self, bytes: usize) -> Self {
        self.overflow_bytes = bytes;
        self
    }

    /// Encrypts the connection. Default no TLS.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Connects to the first of the addresses that answers, and logs in.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says what failed, and where.
    pub fn connect(&self, address: impl ToSocketAddrs) -> Result<Client, ConnectError> {
        let failure = |address, source| ConnectError::Connect { host: None, address, source };
        let addresses = address.to_socket_addrs().map_err(|source| failure(None, source))?;
        let mut last = None;
        for address in addresses {
            // The client speaks first, so the server could not keep it from giving the token away.
            let is_private = address.ip().to_canonical().is_loopback() || self.is_encrypted();
            if self.token.is_some() && !is_private && !self.plaintext_token {
                return Err(ConnectError::PlaintextToken { address });
            }
            let address = Endpoint::Tcp(address);
            match Stream::connect(&address, self.connect_timeout) {
                Ok(socket) => return self.start(socket, address),
                Err(error) => last = Some(failure(Some(address), error)),
            }
        }
        Err(last.unwrap_or_else(|| failure(None, io::ErrorKind::AddrNotAvailable.into())))
    }

    /// Connects to a server of this host by the path of its Unix socket, and logs in.
    ///
    /// ```
    /// use a_chat::client::Options;
    /// use a_chat::{Config, Listener, Name, Server, UnixOptions};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("chat.sock");
    /// let listener = Listener::bind_unix(&path, UnixOptions::default())?;
    /// let server = Server::from_listeners([listener], Config::default())?.spawn()?;
    ///
    /// let mut client = Options::new(&Name::new("alice")?).connect_unix(&path)?;
    /// client.send("alice: a note")?;
    /// # drop(client);
    /// # server.stop()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says what failed.
    pub fn connect_unix(&self, path: impl AsRef<Path>) -> Result<Client, ConnectError> {
        let endpoint = Endpoint::Unix(path.as_ref().to_owned());
        match Stream::connect(&endpoint, self.connect_timeout) {
            Ok(socket) => self.start(socket, endpoint),
            Err(source) => {
                Err(ConnectError::Connect { host: None, address: Some(endpoint), source })
            }
        }
    }

    /// Connects to what this text stands for: a host and a port, or `unix:` and a path.
    pub(crate) fn connect_to(&self, address: &str) -> Result<Client, ConnectError> {
        match Endpoint::unix_path(address) {
            Some(path) => self.connect_unix(path),
            None => self.connect(address),
        }
    }

    /// Starts the threads of a connection, and logs in.
    fn start(&self, socket: Stream, address: Endpoint) -> Result<Client, ConnectError> {
        if let Stream::Tcp(socket) = &socket {
            // The connection works without this, only less well.
            let _ = SockRef::from(socket).set_tcp_keepalive(&keepalive());
        }
        let socket = self.secure(socket, &address)?;
        // Should the server have closed already, reading finds out why.
        let mut line = self.login_line();
        let _ = (&socket).write_all(&line);
        wipe(&mut line);
        let who_query = who_query(slice::from_ref(&self.name));
        let shared = Arc::new(Shared::new(self.inbox_bytes, self.after));
        let checkpoint = self.unconfirmed_bytes / CHECKPOINTS;
        let (threads, Ends { queue, updates, blocks }) =
            Threads::start(socket, &shared, who_query, checkpoint).map_err(ConnectError::Start)?;
        let max = self.overflow_bytes.max(self.unconfirmed_bytes);
        let room = Allowance { usual: self.unconfirmed_bytes, max };
        let inbox = Inbox::new(blocks, Arc::clone(&shared));
        let outbox = Outbox::new(queue, updates, threads, Arc::clone(&shared), room, self.after);
        self.log_in(outbox, inbox, &shared, address)
    }

    /// The first line that a server gets. It may hold a secret.
    fn login_line(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(128);
        line.extend_from_slice(self.name.as_str().as_bytes());
        if let Some(token) = &self.token {
            line.push(b' ');
            line.extend_from_slice(token.expose().as_bytes());
        }
        line.push(b'\n');
        line
    }

    #[cfg_attr(not(feature = "tls"), expect(clippy::unused_self, reason = "as with TLS"))]
    fn is_encrypted(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Completes the TLS handshake, if there is to be one. Nothing leaves the host over a Unix socket.
    #[cfg(feature = "tls")]
    fn secure(&self, socket: Stream, address: &Endpoint) -> Result<Transport, ConnectError> {
        let (Some(tls), Stream::Tcp(tcp), Some(address)) = (&self.tls, &socket, address.tcp_addr())
        else {
            return Ok(socket.into());
        };
        match tls.connect(tcp, address, self.login_timeout) {
            Ok(tls) => Ok(Transport::encrypted(socket, tls)),
            Err(source) => Err(ConnectError::Tls { address, source }),
        }
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "as with TLS")]
    fn secure(&self, socket: Stream, _: &Endpoint) -> Result<Transport, ConnectError> {
        Ok(socket.into())
    }

    /// Waits for the reply to the first question, which shows that the login worked.
    fn log_in(
        &self,
        mut outbox: Outbox,
        inbox: Inbox,
        shared: &Shared,
        address: Endpoint,
    ) -> Result<Client, ConnectError> {
        // Other clients may be quick to send: that must not delay the reply.
        shared.set_limit(usize::MAX);
        let started = Instant::now();
        // If the connection has ended, that is the next update.
        let _ = outbox.ask(slice::from_ref(&self.name));
        loop {
            match outbox
                .next_update(Wait::at_most(self.login_timeout.saturating_sub(started.elapsed())))
            {
                Ok(Update::Answer(_)) => {
                    shared.set_limit(self.inbox_bytes);
                    return Ok(Client::of(outbox, inbox));
                }
                Ok(Update::Foreign(line)) => return Err(ConnectError::NotAChat { address, line }),
                Ok(update) => {
                    outbox.note(&update);
                    if matches!(update, Update::Broken) {
                        // Both threads exit now, after whatever there is left to read.
                        outbox.half_close();
                    }
                }
                Err(Ended::Threads | Ended::Time) => break,
            }
        }
        if let Some(line) = outbox.foreign.take() {
            return Err(ConnectError::NotAChat { address, line });
        }
        if shared.has_delivered() {
            // The login worked, only the server was shut down before it read the question. For the
            // server these messages are delivered, so they must not be lost here.
            shared.set_limit(self.inbox_bytes);
            return Ok(Client::of(outbox, inbox));
        }
        drop(inbox);
        let name = self.name.clone();
        match outbox.finish(Some(Duration::ZERO)).reason {
            DisconnectReason::GivenUp => Err(ConnectError::LoginTimeout { name, address }),
            reason => Err(ConnectError::Login { name, reason }),
        }
    }
}

impl Client {
    /// Connects to the first of the addresses that answers, and logs in. [`Options`] has more to
    /// choose from.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says what failed, and where.
    pub fn connect(address: impl ToSocketAddrs, name: &Name) -> Result<Self, ConnectError> {
        Options::new(name).connect(address)
    }
}
