//! Clients whose TCP is this file, on a host that is no more than a device: they acknowledge when
//! and what they like, and offer any window. The kernel of the server has to believe them.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the fields of a header are as wide as they are"
)]

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::crowd::Received;
use crate::netns::Host;
use crate::tun::{SERVER, Tun};

/// The address of all these clients.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);

/// The largest segment in each direction, in bytes.
const SEGMENT: usize = 1400;

/// How many bits windows are shifted by.
const SCALE: u8 = 14;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// How a client acknowledges what it receives.
#[derive(Clone, Copy, Debug)]
pub enum Acks {
    AtOnce,
    /// So much later, as if the link were long.
    Late(Duration),
    /// No more than this many bytes a second, however much has arrived.
    Rate(u64),
    /// Nothing any more.
    Never,
    /// Everything that the server has not even sent yet, so many bytes ahead.
    Ahead(u32),
}

/// A client, and its connection's state.
#[derive(Debug)]
pub struct RawClient {
    pub acks: Acks,
    /// The window that it offers, in bytes.
    pub window: u32,
    pub received: Received,
    /// The server's end: a FIN, or a reset.
    pub ended: Option<u8>,
    pub port: u16,
    /// The most that arrived and was not acknowledged yet, in bytes.
    pub most_unacknowledged: u32,
    server_port: u16,
    /// What it sends next, and what is acknowledged of that.
    next: u32,
    acknowledged_by_server: u32,
    /// What it expects next from the server, and what it has acknowledged of that.
    expected: u32,
    acknowledged: u32,
    output: VecDeque<u8>,
    arrivals: VecDeque<(Instant, u32)>,
    since: Instant,
    base: u32,
    established: bool,
    last_sent: Instant,
}

impl RawClient {
    /// Acknowledges like this from now on.
    pub fn acknowledge(&mut self, acks: Acks) {
        (self.acks, self.since, self.base) = (acks, Instant::now(), self.acknowledged);
    }
}

/// All such clients of one server.
pub struct RawHost {
    tun: Tun,
    server: Ipv4Addr,
    pub clients: Vec<RawClient>,
}

impl RawHost {
    /// `None`, and a word on why, if it cannot be here.
    pub fn new(host: &Host) -> Option<Self> {
        let tun = Tun::new(host, SERVER, 1500)?;
        Some(Self { tun, server: SERVER.parse().expect("an address"), clients: Vec::new() })
    }

    /// Begins a connection, and sends this once it stands.
    pub fn connect(&mut self, server_port: u16, output: &[u8], window: u32, acks: Acks) -> usize {
        let number = self.clients.len();
        let now = Instant::now();
        let client = RawClient {
            acks,
            window,
            received: Received::default(),
            ended: None,
            port: 10_000 + u16::try_from(number).expect("not that many"),
            most_unacknowledged: 0,
            server_port,
            next: 1_000,
            acknowledged_by_server: 1_000,
            expected: 0,
            acknowledged: 0,
            output: output.iter().copied().collect(),
            arrivals: VecDeque::new(),
            since: now,
            base: 0,
            established: false,
            last_sent: now,
        };
        self.clients.push(client);
        self.send(number, SYN, &[]);
        self.clients[number].next += 1;
        number
    }

    /// Lets all clients act until a condition holds, or for so long; true if it holds.
    pub fn run_until(
        &mut self,
        time: Duration,
        mut done: impl FnMut(&[RawClient]) -> bool,
    ) -> bool {
        let end = Instant::now() + time;
        let mut buffer = vec![0; 64 * 1024];
        while !done(&self.clients) {
            if Instant::now() >= end {
                return false;
            }
            // Some packets, then what is due by the clock.
            for _ in 0..64 {
                let Some(packet) = self.tun.receive(&mut buffer, Duration::from_millis(1)) else {
                    break;
                };
                let packet = packet.to_vec();
                self.take(&packet);
            }
            (0..self.clients.len()).for_each(|number| self.tick(number));
        }
        true
    }

    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn take(&mut self, packet: &[u8]) {
        let Some(segment) = Segment::parse(packet) else { return };
        let number = self.clients.iter().position(|client| client.port == segment.to);
        let Some(number) = number else { return };
        let client = &mut self.clients[number];
        if segment.flags & RST != 0 {
            client.ended = Some(RST);
            return;
        }
        if segment.flags & ACK != 0 && before(client.acknowledged_by_server, segment.ack) {
            client.acknowledged_by_server = segment.ack;
        }
        if segment.flags & SYN != 0 {
            client.expected = segment.seq.wrapping_add(1);
            client.acknowledged = client.expected;
            client.base = client.expected;
            client.since = Instant::now();
            client.established = true;
            self.send(number, ACK, &[]);
            return;
        }
        // A probe, or a repetition: the kernel wants to hear of the window.
        let wants_answer = segment.data.is_empty() || segment.seq != client.expected;
        if segment.seq == client.expected {
            client.expected = client.expected.wrapping_add(segment.data.len() as u32);
            client.received.feed(segment.data);
            if segment.flags & FIN != 0 {
                client.expected = client.expected.wrapping_add(1);
                client.ended.get_or_insert(FIN);
            }
            client.arrivals.push_back((Instant::now(), client.expected));
        }
        if wants_answer && !matches!(self.clients[number].acks, Acks::Never) {
            self.send(number, ACK, &[]);
        }
        if self.clients[number].ended == Some(FIN) {
            self.clients[number].acknowledged = self.clients[number].expected;
            self.send(number, ACK | FIN, &[]);
        }
    }

    /// Acknowledges and sends what it is time for.
    fn tick(&mut self, number: usize) {
        let now = Instant::now();
        let client = &mut self.clients[number];
        if client.ended.is_some() || !client.established {
            return;
        }
        let arrived = client.expected.wrapping_sub(client.acknowledged);
        client.most_unacknowledged = client.most_unacknowledged.max(arrived);
        let mut acknowledge = client.acknowledged;
        match client.acks {
            Acks::AtOnce => acknowledge = client.expected,
            Acks::Late(delay) => {
                while let Some((time, end)) = client.arrivals.front() {
                    if now.duration_since(*time) < delay {
                        break;
                    }
                    acknowledge = *end;
                    client.arrivals.pop_front();
                }
            }
            Acks::Rate(rate) => {
                let allowed = u128::from(rate) * client.since.elapsed().as_millis() / 1000;
                let allowed = u32::try_from(allowed).unwrap_or(u32::MAX);
                let arrived = client.expected.wrapping_sub(client.base);
                let end = client.base.wrapping_add(allowed.min(arrived));
                if before(acknowledge, end) {
                    acknowledge = end;
                }
            }
            Acks::Never => {}
            Acks::Ahead(bytes) => acknowledge = client.expected.wrapping_add(bytes),
        }
        if !matches!(client.acks, Acks::Late(_)) {
            client.arrivals.clear();
        }
        if acknowledge != client.acknowledged {
            client.acknowledged = acknowledge;
            self.send(number, ACK, &[]);
        }
        let client = &mut self.clients[number];
        let in_flight = client.next.wrapping_sub(client.acknowledged_by_server) as usize;
        if in_flight < 32 * 1024 && !client.output.is_empty() {
            let count = client.output.len().min(SEGMENT);
            let data: Vec<_> = client.output.drain(..count).collect();
            self.send(number, ACK | PSH, &data);
            self.clients[number].next = self.clients[number].next.wrapping_add(count as u32);
        }
    }

    fn send(&mut self, number: usize, flags: u8, data: &[u8]) {
        let client = &mut self.clients[number];
        client.last_sent = Instant::now();
        let window = client.window;
        let syn = flags & SYN != 0;
        let window = if syn { window.min(65_535) } else { (window >> SCALE).min(65_535) };
        let options: &[u8] = if syn {
            let [high, low] = (SEGMENT as u16).to_be_bytes();
            &[2, 4, high, low, 1, 3, 3, SCALE]
        } else {
            &[]
        };
        let mut tcp = Vec::with_capacity(20 + options.len() + data.len());
        tcp.extend(client.port.to_be_bytes());
        tcp.extend(client.server_port.to_be_bytes());
        tcp.extend(client.next.to_be_bytes());
        tcp.extend(client.acknowledged.to_be_bytes());
        tcp.push((((20 + options.len()) / 4) << 4) as u8);
        tcp.push(flags);
        tcp.extend((window as u16).to_be_bytes());
        tcp.extend([0, 0, 0, 0]);
        tcp.extend(options);
        tcp.extend(data);
        let checksum = {
            let mut pseudo = Vec::with_capacity(12 + tcp.len());
            pseudo.extend(CLIENT.octets());
            pseudo.extend(self.server.octets());
            pseudo.extend([0, 6]);
            pseudo.extend((tcp.len() as u16).to_be_bytes());
            pseudo.extend(&tcp);
            checksum(&pseudo)
        };
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        let mut packet = vec![0x45, 0];
        packet.extend((20 + tcp.len() as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        packet.extend(CLIENT.octets());
        packet.extend(self.server.octets());
        let header = self::checksum(&packet);
        packet[10..12].copy_from_slice(&header.to_be_bytes());
        packet.extend(tcp);
        self.tun.send(&packet);
    }
}

/// Whether a position in a stream comes before another.
fn before(one: u32, other: u32) -> bool {
    (other.wrapping_sub(one) as i32) > 0
}

/// The Internet checksum of RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

struct Segment<'a> {
    to: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    data: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Reads a packet of TCP over IPv4.
    fn parse(packet: &'a [u8]) -> Option<Self> {
        if packet.len() < 40 || packet[0] >> 4 != 4 || packet[9] != 6 {
            return None;
        }
        let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let tcp = packet.get(usize::from(packet[0] & 15) * 4..total)?;
        let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
        let data = tcp.get(usize::from(*tcp.get(12)? >> 4) * 4..)?;
        Some(Self { to: word(0)? as u16, seq: word(4)?, ack: word(8)?, flags: tcp[13], data })
    }
}
