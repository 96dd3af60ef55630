//! A server's channel against a client's session, through memory: no socket, and a network that
//! takes and acknowledges what each test says.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use proptest::prelude::*;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::channel::Channel;
use super::identity::{Identity, IdentityError};
use super::session::MAX_RECORD;
use crate::socket::position::{Acknowledged, Plain};
use crate::socket::stream::ReadResult;

/// A certificate and its key, in PEM format.
fn certificate() -> (String, String, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    (made.cert.pem(), made.key_pair.serialize_pem(), made.cert.der().clone())
}

fn client(root: CertificateDer<'static>) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(root).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a session")
}

/// A server's channel and its client, which have logged in.
struct Pair {
    channel: Channel,
    client: ClientConnection,
    /// On the way to the server.
    up: VecDeque<u8>,
    /// Everything that the server's socket has taken.
    down: Vec<u8>,
    /// How much more it takes.
    room: usize,
    fin: std::cell::Cell<bool>,
}

impl Pair {
    fn new() -> Self {
        let (certificate, key, root) = certificate();
        let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).expect("a pair");
        let mut client = client(root);
        let mut first = Vec::new();
        client.write_tls(&mut first).expect("memory");
        let channel = Channel::new(identity.session().expect("a session"), &first);
        let (up, down, fin) = (VecDeque::new(), Vec::new(), std::cell::Cell::new(false));
        let mut pair = Self { channel, client, up, down, room: usize::MAX, fin };
        while !pair.handshake() {
            let flight = std::mem::take(&mut pair.down);
            pair.hear(&flight);
            pair.say(b"");
        }
        pair.down.clear();
        pair
    }

    fn handshake(&mut self) -> bool {
        let Self { channel, up, down, room, .. } = self;
        channel.handshake(|to| recv(up, to), |bytes| send(down, room, bytes)).expect("a handshake")
    }

    /// The client's program writes.
    fn say(&mut self, text: &[u8]) {
        self.client.writer().write_all(text).expect("memory");
        while self.client.wants_write() {
            let mut bytes = Vec::new();
            self.client.write_tls(&mut bytes).expect("memory");
            self.up.extend(bytes);
        }
    }

    /// The client's program reads what these bytes hold.
    fn hear(&mut self, bytes: &[u8]) -> Vec<u8> {
        let (mut rest, mut plain) = (bytes, Vec::new());
        while !rest.is_empty() && self.client.read_tls(&mut rest).expect("room") > 0 {
            self.client.process_new_packets().expect("good records");
            let _ = self.client.reader().read_to_end(&mut plain);
        }
        plain
    }

    fn read(&mut self, size: usize, budget: &mut usize) -> io::Result<(ReadResult, Vec<u8>)> {
        let mut buffer = vec![0; size];
        let up = &mut self.up;
        let result = self.channel.read(|to| recv(up, to), &mut buffer, budget)?;
        let ReadResult::Bytes(count) = result else { return Ok((result, Vec::new())) };
        buffer.truncate(count);
        Ok((result, buffer))
    }

    /// Everything that can be read now.
    fn read_all(&mut self, size: usize) -> io::Result<(ReadResult, Vec<u8>)> {
        let mut all = Vec::new();
        loop {
            match self.read(size, &mut usize::MAX.clone())? {
                (ReadResult::Bytes(_), bytes) => all.extend(bytes),
                (end, _) => return Ok((end, all)),
            }
        }
    }

    fn write(&mut self, parts: &[&[u8]]) -> io::Result<usize> {
        let parts: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let Self { channel, down, room, fin, .. } = self;
        channel.write(|bytes| send(down, room, bytes), || send_fin(fin), &parts)
    }

    fn flush(&mut self) {
        let Self { channel, down, room, fin, .. } = self;
        channel.flush(|bytes| send(down, room, bytes), || send_fin(fin)).expect("memory");
    }

    fn finish(&mut self) {
        let Self { channel, down, room, fin, .. } = self;
        channel.finish(|bytes| send(down, room, bytes), || send_fin(fin)).expect("memory");
    }

    /// If the client's kernel has this many of the bytes that the server's socket took.
    fn acknowledged(&self, arrived: usize) -> Acknowledged {
        self.channel.acknowledged(|| (self.down.len() - arrived) as u64)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as a socket's call")]
fn recv(from: &mut VecDeque<u8>, to: &mut [u8]) -> io::Result<ReadResult> {
    assert!(!to.is_empty());
    match from.read(to).expect("memory") {
        0 => Ok(ReadResult::WouldBlock),
        count => Ok(ReadResult::Bytes(count)),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as a socket's call")]
fn send(to: &mut Vec<u8>, room: &mut usize, bytes: &[u8]) -> io::Result<usize> {
    let count = bytes.len().min(*room);
    *room -= count;
    to.extend_from_slice(&bytes[..count]);
    Ok(count)
}

fn send_fin(fin: &std::cell::Cell<bool>) -> bool {
    assert!(!fin.replace(true), "one end");
    true
}

/// The handshake's ciphertext is acknowledged before the first record; tests count from there.
const TEXT: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn what_is_written_is_read_in_either_direction_whatever_the_buffers() {
    for size in [1, 7, 1000, 20_000] {
        let mut pair = Pair::new();
        let text = TEXT.repeat(1000);
        pair.say(&text);
        assert_eq!(
            pair.read_all(size).expect("good records"),
            (ReadResult::WouldBlock, text.clone())
        );
        let mut written = 0;
        while written < text.len() {
            written += pair.write(&[&text[written..]]).expect("memory");
        }
        let down = std::mem::take(&mut pair.down);
        assert_eq!(pair.hear(&down), text);
    }
}

#[test]
fn what_the_socket_has_no_room_for_is_neither_sent_nor_acknowledged() {
    let mut pair = Pair::new();
    let start = pair.channel.end();
    pair.room = 10;
    assert_eq!(pair.write(&[b"one", b"", b"two"]).expect("memory"), 6);
    assert!(pair.channel.has_pending());
    assert_eq!(pair.write(&[b"three"]).expect("memory"), 0, "nothing goes before what waits");
    assert_eq!(pair.acknowledged(10).plain, Plain(0));
    assert_eq!(pair.channel.unacknowledged(|| 0), pair.channel.end().0 - start.0 - 10);
    pair.room = usize::MAX;
    pair.flush();
    assert!(!pair.channel.has_pending());
    let all = pair.down.len();
    assert_eq!(pair.acknowledged(all - 1).plain, Plain(0), "without its tag a record is useless");
    assert_eq!(pair.acknowledged(all), Acknowledged { plain: Plain(6), wire: pair.channel.end() });
}

#[test]
fn the_end_of_our_side_never_overtakes_what_waits() {
    let mut pair = Pair::new();
    pair.room = 30;
    assert_eq!(pair.write(&[TEXT]).expect("memory"), TEXT.len());
    pair.finish();
    pair.finish();
    let mut turns = 0;
    while pair.channel.has_pending() {
        assert!(!pair.fin.get(), "after {} bytes", pair.down.len());
        pair.room = 1;
        pair.flush();
        turns += 1;
    }
    assert!(pair.fin.get() && turns > 70, "{turns}");
    let down = std::mem::take(&mut pair.down);
    assert_eq!(pair.hear(&down), TEXT);
    assert_eq!(pair.client.reader().read(&mut [0; 1]).expect("`close_notify` came before"), 0);
}

#[test]
fn after_its_end_our_side_decrypts_nothing_whatever_comes() {
    let mut pair = Pair::new();
    pair.finish();
    pair.say(b"late");
    pair.up.extend(std::iter::repeat_n(0, 70_000));
    pair.up.extend(b"\x17\x03\x03\x00\x20 no record at all");
    let (end, text) = pair.read_all(4096).expect("no error");
    assert_eq!((end, text.len()), (ReadResult::WouldBlock, 0));
    assert!(pair.write(&[b"late"]).is_err());
}

#[test]
fn a_client_that_ends_its_side_is_read_to_the_end_and_written_to() {
    let mut pair = Pair::new();
    pair.say(TEXT);
    pair.client.send_close_notify();
    pair.say(b"");
    // What follows is ignored, however much it is.
    pair.up.extend(std::iter::repeat_n(0x16, 1 << 20));
    assert_eq!(pair.read_all(10).expect("a clean end"), (ReadResult::Eof, TEXT.to_vec()));
    assert_eq!(pair.read_all(10).expect("it stays so").0, ReadResult::Eof);
    assert_eq!(pair.write(&[b"still due"]).expect("memory"), 9);
    let down = std::mem::take(&mut pair.down);
    assert_eq!(pair.hear(&down), b"still due");
}

#[test]
fn a_wrong_record_ends_both_directions() {
    let mut pair = Pair::new();
    pair.say(TEXT);
    let middle = pair.up.len() / 2;
    pair.up[middle] ^= 1;
    assert!(pair.read_all(100).is_err());
    assert!(pair.read_all(100).is_err(), "for good");
    assert!(pair.write(&[b"late"]).is_err());
    // An alert says why.
    pair.finish();
    assert!(pair.fin.get() && !pair.down.is_empty());
}

#[test]
fn an_empty_record_is_no_end() {
    let mut pair = Pair::new();
    for text in [&b""[..], b"one", b"", b"two"] {
        // rustls sends no empty record, so an alert that means nothing stands in for it.
        pair.say(text);
    }
    assert_eq!(pair.read_all(100).expect("good").1, b"onetwo");
}

#[test]
fn the_budget_counts_ciphertext_and_what_is_held_needs_none() {
    let mut pair = Pair::new();
    pair.say(&TEXT.repeat(100));
    let ciphertext = pair.up.len();
    let mut budget = ciphertext + 5;
    assert_eq!(pair.read(10, &mut budget).expect("good").1, &TEXT[..10]);
    assert_eq!(budget, 5, "all of it was received");
    pair.say(b"too late");
    let late = pair.up.len();
    let (mut all, mut budget) = (Vec::new(), 0);
    while let (ReadResult::Bytes(_), bytes) = pair.read(1000, &mut budget).expect("good") {
        all.extend(bytes);
    }
    assert_eq!((all.len(), pair.up.len()), (TEXT.len() * 100 - 10, late));
}

#[test]
fn a_torn_record_is_not_read() {
    let mut pair = Pair::new();
    pair.say(b"whole");
    let whole = pair.up.len();
    pair.say(b"torn");
    let mut budget = whole + 7;
    assert_eq!(pair.read(100, &mut budget).expect("good").1, b"whole");
    let (end, text) = pair.read(100, &mut budget).expect("good");
    assert_eq!((end, text.len(), budget), (ReadResult::WouldBlock, 0, 0));
}

#[test]
fn a_piece_of_several_records_is_acknowledged_record_by_record() {
    let mut pair = Pair::new();
    let text = vec![b'x'; 3 * MAX_RECORD - 10];
    // The client asks for new keys, so something else goes before the first record.
    pair.client.refresh_traffic_keys().expect("TLS 1.3");
    pair.say(b"");
    assert_eq!(pair.read_all(10).expect("good").1, b"");
    let start = pair.down.len();
    assert_eq!(start, 0, "the reader sends nothing");
    assert_eq!(pair.write(&[&text]).expect("memory"), text.len());
    let down = pair.down.clone();
    // At each byte, what counts as acknowledged is what the client can decrypt.
    let mut heard = 0;
    for arrived in 1..=down.len() {
        heard += pair.hear(&down[arrived - 1..arrived]).len();
        assert_eq!(pair.acknowledged(arrived).plain, Plain(heard as u64), "{arrived}");
    }
    assert_eq!(heard, text.len());
}

#[test]
fn eleven_requests_for_new_keys_are_answered_once_and_cost_no_memory() {
    let mut pair = Pair::new();
    for _ in 0..11 {
        pair.client.refresh_traffic_keys().expect("TLS 1.3");
        pair.say(b"x");
        assert_eq!(pair.read_all(10).expect("good").1, b"x");
    }
    assert!(!pair.channel.has_pending());
    pair.write(&[b"one"]).expect("memory");
    assert!(pair.down.len() < 100, "{}", pair.down.len());
    let down = std::mem::take(&mut pair.down);
    assert_eq!(pair.hear(&down), b"one");
}

#[test]
fn a_write_that_swallows_its_piece_breaks_the_connection() {
    let mut pair = Pair::new();
    let error = pair.write(&[b"one", b"swallowed by a fault"]).expect_err("nothing came out");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(pair.down, b"");
    assert!(pair.write(&[b"two"]).is_err());
}

#[test]
fn a_panic_under_the_lock_leaves_the_counts_readable() {
    for text in ["panic-decrypting", "from alice: panic-encrypting"] {
        let mut pair = Pair::new();
        pair.write(&[b"before"]).expect("memory");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pair.say(text.as_bytes());
            let _ = pair.read_all(100);
            let _ = pair.write(&[text.as_bytes()]);
        }));
        assert!(panicked.is_err(), "{text}");
        assert!(pair.read_all(100).is_err() && pair.write(&[b"late"]).is_err());
        let all = pair.down.len();
        assert_eq!(pair.acknowledged(all).plain, Plain(6));
        pair.finish();
        assert!(pair.fin.get());
    }
}

#[test]
fn a_key_that_belongs_to_another_certificate_is_refused() {
    let ((certificate, key, _), (_, other, _)) = (certificate(), certificate());
    let mismatch = Identity::from_pem(certificate.as_bytes(), other.as_bytes());
    let error = mismatch.expect_err("not a pair").to_string();
    assert_eq!(error, "the private key does not belong to the certificate");
    let nothing = Identity::from_pem(key.as_bytes(), key.as_bytes());
    assert!(matches!(nothing, Err(IdentityError::NoCertificate)));
    let nothing = Identity::from_pem(certificate.as_bytes(), certificate.as_bytes());
    assert!(matches!(nothing, Err(IdentityError::NoKey)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is written, whatever the socket takes, and whatever arrives: what counts as
    /// acknowledged is what the client can decrypt of what arrived.
    #[test]
    fn the_acknowledged_plaintext_is_what_the_client_can_decrypt(
        steps in proptest::collection::vec(
            (proptest::collection::vec(0_usize..30_000, 1..4), 0_usize..70_000, 0_usize..90_000, any::<u8>()),
            1..12,
        ),
    ) {
        let mut pair = Pair::new();
        let (mut arrived, mut heard, mut written) = (0, 0, 0);
        for (lengths, room, more, keys) in steps {
            if keys < 60 {
                pair.client.refresh_traffic_keys().expect("TLS 1.3");
                pair.say(b"x");
                prop_assert_eq!(pair.read_all(10).expect("good").1, b"x");
            }
            pair.room = room;
            let parts: Vec<_> = lengths.iter().map(|&length| vec![b'y'; length]).collect();
            let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
            written += pair.write(&parts).expect("memory");
            let next = pair.down.len().min(arrived + more);
            let bytes = pair.down[arrived..next].to_vec();
            heard += pair.hear(&bytes).len();
            arrived = next;
            prop_assert_eq!(pair.acknowledged(arrived).plain, Plain(heard as u64));
            prop_assert!(heard <= written);
        }
        pair.room = usize::MAX;
        pair.flush();
        let bytes = pair.down[arrived..].to_vec();
        heard += pair.hear(&bytes).len();
        prop_assert_eq!(heard, written);
        prop_assert_eq!(pair.acknowledged(pair.down.len()).plain, Plain(written as u64));
    }
}
