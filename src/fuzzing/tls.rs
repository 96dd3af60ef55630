//! The TLS of a server's connection, fed by a fuzzer through memory: with bytes that are no TLS, and
//! with a real client's records, cut, changed, delayed and mixed with what else a client may send.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::{FIRST_SIGN, Step, steps};
use crate::socket::position::Plain;
use crate::socket::stream::ReadResult;
use crate::socket::tls::channel::Channel;
use crate::socket::tls::identity::Identity;

/// With more changes of its keys than this in a row, a client is disconnected.
const MAX_KEY_CHANGES: u32 = 30;

/// A certificate for `localhost` with its key, and a client that trusts it.
#[derive(Clone, Debug)]
pub struct TlsPair {
    identity: Identity,
    client: Arc<ClientConfig>,
}

impl TlsPair {
    /// From PEM.
    ///
    /// # Panics
    ///
    /// If they are no pair.
    #[must_use]
    pub fn new(certificate: &str, key: &str) -> Self {
        let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes());
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
        roots.add(root).expect("a certificate");
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("a version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { identity: identity.expect("a pair"), client: Arc::new(client) }
    }

    fn client(&self) -> ClientConnection {
        let name = ServerName::try_from("localhost").expect("a name");
        ClientConnection::new(Arc::clone(&self.client), name).expect("a session")
    }
}

/// Whatever comes first, a handshake ends or waits; nothing panics, and nothing goes in circles.
///
/// # Panics
///
/// If it does not hold.
pub fn first_bytes(pair: &TlsPair, input: &[u8]) {
    let pieces: Vec<_> = steps(input).collect();
    let mut up = VecDeque::new();
    let channel = Channel::new(pair.identity.session().expect("a session"), &[]);
    for piece in pieces {
        match piece {
            Step::Data(bytes) => up.extend(bytes),
            Step::Sign(sign) => up.push_back(sign),
        }
        let mut calls = 0;
        let recv = |to: &mut [u8]| {
            calls += 1;
            assert!(calls < 1000, "it goes in circles");
            receive(&mut up, to)
        };
        match channel.handshake(recv, |bytes| Ok(bytes.len())) {
            Ok(is_over) => assert!(!is_over, "nobody has answered"),
            Err(_) => return,
        }
    }
}

/// A connection as a fuzzer drives it, and what must come of it.
struct Driven {
    channel: Channel,
    client: ClientConnection,
    up: VecDeque<u8>,
    /// How much of `up` has arrived.
    arrived_up: usize,
    down: Vec<u8>,
    arrived_down: usize,
    room: usize,
    /// What the client has said, and how much of that was received.
    said: Vec<u8>,
    received: usize,
    /// What the server has written, and how much of that the client has decrypted.
    written: u64,
    heard: u64,
    /// A record was changed on the way: what was said after that is never received.
    is_changed: bool,
    client_ended: bool,
    /// Since it said something.
    key_changes: u32,
}

/// What arrives is what was said, in order; what counts as acknowledged is what the client can decrypt
/// of what has arrived; and after a record that was changed nothing more is received or sent.
///
/// # Panics
///
/// If it does not hold.
pub fn records(pair: &TlsPair, input: &[u8]) {
    let mut driven = Driven::new(pair);
    for step in steps(input) {
        match step {
            Step::Data(bytes) if !driven.client_ended => {
                driven.key_changes = 0;
                driven.said.extend_from_slice(bytes);
                driven.client.writer().write_all(bytes).expect("memory");
            }
            Step::Data(bytes) => driven.up.extend(bytes),
            Step::Sign(sign) => match sign - FIRST_SIGN {
                0 if !driven.client_ended && driven.key_changes < MAX_KEY_CHANGES => {
                    driven.key_changes += 1;
                    driven.client.refresh_traffic_keys().expect("TLS 1.3");
                }
                1 => {
                    driven.client.send_close_notify();
                    driven.client_ended = true;
                }
                2 => {
                    if let Some(byte) = driven.up.back_mut() {
                        *byte ^= 0x10;
                        driven.is_changed = true;
                    }
                }
                3 => driven.arrived_up += (driven.up.len() - driven.arrived_up) / 2,
                4 => driven.write(20_000),
                5 => driven.room = 7,
                6 => driven.room = usize::MAX,
                _ => driven.write(3),
            },
        }
        driven.pass_up();
        driven.read();
        driven.acknowledge();
    }
    driven.arrived_up = driven.up.len();
    driven.read();
    if !driven.is_changed && !driven.client_ended {
        assert_eq!(driven.received, driven.said.len(), "something is missing");
    }
}

impl Driven {
    fn new(pair: &TlsPair) -> Self {
        let channel = Channel::new(pair.identity.session().expect("a session"), &[]);
        let mut driven = Self {
            channel,
            client: pair.client(),
            up: VecDeque::new(),
            arrived_up: 0,
            down: Vec::new(),
            arrived_down: 0,
            room: usize::MAX,
            said: Vec::new(),
            received: 0,
            written: 0,
            heard: 0,
            is_changed: false,
            client_ended: false,
            key_changes: 0,
        };
        loop {
            driven.pass_up();
            let Self { channel, up, down, .. } = &mut driven;
            let send = |bytes: &[u8]| {
                down.extend_from_slice(bytes);
                Ok(bytes.len())
            };
            if channel.handshake(|to| receive(up, to), send).expect("a handshake") {
                break;
            }
            let flight = std::mem::take(&mut driven.down);
            driven.hear(&flight);
        }
        (driven.arrived_up, driven.up) = (0, VecDeque::new());
        driven
    }

    /// What the client has encrypted is on its way.
    fn pass_up(&mut self) {
        while self.client.wants_write() {
            let mut bytes = Vec::new();
            self.client.write_tls(&mut bytes).expect("memory");
            self.up.extend(bytes);
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        let (mut rest, mut plain) = (bytes, Vec::new());
        while !rest.is_empty() && self.client.read_tls(&mut rest).expect("room") > 0 {
            self.client.process_new_packets().expect("good records");
            let _ = self.client.reader().read_to_end(&mut plain);
        }
        self.heard += plain.len() as u64;
    }

    /// The server reads what has arrived.
    fn read(&mut self) {
        let (mut buffer, mut calls) = ([0; 1000], 0);
        let available = self.arrived_up.min(self.up.len());
        let mut arrived: VecDeque<_> = self.up.drain(..available).collect();
        self.arrived_up -= available;
        loop {
            calls += 1;
            assert!(calls < 10_000, "it goes in circles");
            let recv = |to: &mut [u8]| receive(&mut arrived, to);
            match self.channel.read(recv, &mut buffer, &mut usize::MAX.clone()) {
                Ok(ReadResult::Bytes(count)) => {
                    let expected = self.said.get(self.received..self.received + count);
                    assert_eq!(Some(&buffer[..count]), expected, "what was said");
                    self.received += count;
                }
                Ok(ReadResult::WouldBlock) => return,
                Ok(ReadResult::Eof) => {
                    assert!(self.client_ended, "nobody has ended");
                    return;
                }
                Err(_) => {
                    assert!(self.is_changed || self.client_ended, "nothing was changed");
                    return;
                }
            }
        }
    }

    fn write(&mut self, length: usize) {
        let text = vec![b'x'; length];
        let Self { channel, down, room, .. } = self;
        let send = |bytes: &[u8]| {
            let count = bytes.len().min(*room);
            *room -= count;
            down.extend_from_slice(&bytes[..count]);
            Ok(count)
        };
        if let Ok(count) = channel.write(send, || true, &[IoSlice::new(&text)]) {
            self.written += count as u64;
        }
    }

    /// Some of what the server has sent arrives.
    fn acknowledge(&mut self) {
        let next = self.down.len().min(self.arrived_down + 5000);
        let bytes = self.down[self.arrived_down..next].to_vec();
        self.hear(&bytes);
        self.arrived_down = next;
        let left = (self.down.len() - self.arrived_down) as u64;
        let acknowledged = self.channel.acknowledged(|| left);
        assert_eq!(acknowledged.plain, Plain(self.heard), "what the client can decrypt");
        assert!(self.heard <= self.written);
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as a socket's call")]
fn receive(from: &mut VecDeque<u8>, to: &mut [u8]) -> io::Result<ReadResult> {
    match from.read(to).expect("memory") {
        0 => Ok(ReadResult::WouldBlock),
        count => Ok(ReadResult::Bytes(count)),
    }
}
