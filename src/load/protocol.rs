//! The protocols that the load speaks: handshakes, lines to send, and the frames that arrive. Pure:
//! bytes only.
//!
//! Names have a fixed width within a population, and so do texts. All frames a client receives in
//! one run therefore have the same length, and reading them needs no search for line ends: each
//! frame starts one stride after the last and carries its stamp at a fixed place.

use std::fmt::Write;

use super::tokens;
use super::topology::ROOM;

/// The server's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The server under test.
    Chat,
    /// The baseline: a relay that forwards bytes without looking at them.
    Raw,
    /// `nats-server`.
    Nats,
    /// `redis-server`, Pub/Sub.
    Redis,
}

/// Length of a stamp, in bytes: the sender's number, then the message's. Every text begins with
/// one.
pub const STAMP: usize = 6;

/// Length of a stamp followed by a time.
pub const TIMED: usize = STAMP + 8;

/// Number of senders that a stamp can tell apart.
pub const SENDERS: usize = 1 << 12;

/// Message numbers wrap around at this value.
pub(super) const NUMBERS: u32 = 1 << 24;

/// How a connection is prepared.
#[derive(Debug)]
pub struct Handshake {
    /// What the client sends.
    pub request: String,
    /// The end of the server's reply; empty if there is none.
    pub reply_end: String,
    /// True if other lines may precede it.
    pub chatty: bool,
}

/// One line to send, or several end to end.
#[derive(Clone, Debug)]
pub struct Lines {
    /// All of them.
    pub bytes: Vec<u8>,
    /// Offset of the stamp in each line.
    pub stamp: usize,
    /// Length of a line.
    pub stride: usize,
}

/// The layout of a frame that arrives.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Offset of the stamp.
    pub stamp: usize,
    /// Length of a frame.
    pub stride: usize,
}

impl Protocol {
    /// The subject that a client called `name` subscribes to. NATS and Redis deliver to groups
    /// through a common subject.
    pub fn subject(self, name: &str, group: bool) -> &str {
        match self {
            Self::Nats | Self::Redis if group || name == ROOM => "all",
            _ => name,
        }
    }

    /// The handshake of the receiving connection.
    pub fn handshake(self, name: &str, subject: &str) -> Handshake {
        let (request, reply_end) = match self {
            Self::Raw => (String::new(), String::new()),
            // All of a room's members are in it before anything is sent.
            Self::Chat if subject == ROOM => {
                let login = tokens::login(name);
                (format!("{login}\n/join {ROOM}\n/who {name}\n"), format!("here: {name}\n"))
            }
            Self::Chat => {
                let login = tokens::login(name);
                (format!("{login}\n/who {name}\n"), format!("notice: line 1: here: {name}\n"))
            }
            Self::Nats => {
                // A client gets what it sends to itself, but not what it sends to a group. Protocol 1 would
                // ask for news of the cluster, which may come at any time.
                let echo = subject == name;
                let options = r#""verbose":false,"pedantic":false,"protocol":0,"echo""#;
                (
                    format!("CONNECT {{{options}:{echo}}}\r\nSUB {subject} 1\r\nPING\r\n"),
                    "PONG\r\n".to_owned(),
                )
            }
            Self::Redis => (format!("SUBSCRIBE {subject}\r\n"), ":1\r\n".to_owned()),
        };
        Handshake { request, reply_end, chatty: self != Self::Chat || subject == ROOM }
    }

    /// Whether clients that subscribe to a subject receive what they send to it themselves: those of
    /// Redis do, on another connection than the one that sends.
    pub fn echoes(self) -> bool {
        self == Self::Redis
    }

    /// The handshake of the sending connection, where the receiving one cannot send.
    pub fn sender_handshake(self) -> Option<Handshake> {
        // Publishers turn replies off, the fastest mode of Redis; the `PONG` still arrives.
        let request = "PING\r\nCLIENT REPLY OFF\r\n".to_owned();
        (self == Self::Redis).then(|| Handshake {
            request,
            reply_end: "+PONG\r\n".to_owned(),
            chatty: true,
        })
    }

    /// A line to all of `to` with a text of `size` bytes.
    pub fn line(self, from: &str, to: &[&str], size: usize) -> Lines {
        assert!(size >= STAMP, "a text holds its stamp");
        let subject = to.first().map_or("", |name| self.subject(name, to.len() > 1));
        let head = match self {
            Self::Chat => format!("{}:", to.join(",")),
            Self::Raw => format!("from {from}: "),
            Self::Nats => format!("PUB {subject} {size}\r\n"),
            Self::Redis => {
                let length = subject.len();
                format!("*3\r\n$7\r\nPUBLISH\r\n${length}\r\n{subject}\r\n${size}\r\n")
            }
        };
        let bytes = [head.as_bytes(), &vec![b'x'; size], self.line_end()].concat();
        Lines { stamp: head.len(), stride: bytes.len(), bytes }
    }

    /// The layout of a frame with a text of `size` bytes for a client that subscribes to `subject`.
    pub fn frame(self, from: &str, subject: &str, size: usize) -> Frame {
        let stamp = match self {
            Self::Chat | Self::Raw => format!("from {from}: ").len(),
            Self::Nats => format!("MSG {subject} 1 {size}\r\n").len(),
            Self::Redis => {
                let mut head = format!("*3\r\n$7\r\nmessage\r\n${}\r\n", subject.len());
                let _ = write!(head, "{subject}\r\n${size}\r\n");
                head.len()
            }
        };
        Frame { stamp, stride: stamp + size + self.line_end().len() }
    }

    /// The first byte of every frame, and of nothing else a server sends.
    pub(super) fn first_byte(self) -> u8 {
        match self {
            Self::Chat | Self::Raw => b'f',
            Self::Nats => b'M',
            Self::Redis => b'*',
        }
    }

    /// What may stand between two frames.
    pub(super) fn interlude(self) -> &'static [u8] {
        // The server sends it some seconds after a login; it may stay unanswered for an hour.
        if self == Self::Nats { b"PING\r\n" } else { b"" }
    }

    fn line_end(self) -> &'static [u8] {
        match self {
            Self::Chat | Self::Raw => b"\n",
            Self::Nats | Self::Redis => b"\r\n",
        }
    }
}

impl Lines {
    /// This line, `count` times.
    pub fn repeat(self, count: usize) -> Self {
        Self { bytes: self.bytes.repeat(count), ..self }
    }

    /// Stamps all lines as `sender`'s, numbered from `first`.
    pub fn number(&mut self, sender: usize, first: u32) {
        for (line, number) in self.bytes.chunks_exact_mut(self.stride).zip(first..) {
            write_stamp(&mut line[self.stamp..], sender, number);
        }
    }
}

/// Writes a stamp: six bits a byte, all printable; a sender's number below 4,096 and a message's
/// number modulo 2^24. A gap of 2^24 messages would show in the total count.
pub fn write_stamp(text: &mut [u8], sender: usize, number: u32) {
    let sender = u32::try_from(sender).expect("a small number");
    text[..2].copy_from_slice(&encode_bits(sender).to_le_bytes()[..2]);
    text[2..STAMP].copy_from_slice(&encode_bits(number).to_le_bytes());
}

/// The sender's number, and the message's as encoded by [`encode_bits`].
pub fn read_stamp(text: &[u8]) -> (usize, u32) {
    let &[low, high, ref number @ ..] = text.first_chunk::<STAMP>().expect("room for a stamp");
    // Invalid bytes give a number that no sender has.
    let bits = |byte: u8| usize::from(byte.wrapping_sub(0x30));
    (bits(low) | bits(high) << 6, u32::from_le_bytes(*number))
}

/// Writes the time after a stamp: 48 bits of nanoseconds, three days.
pub(super) fn write_time(text: &mut [u8], nanoseconds: u64) {
    let low = u32::try_from(nanoseconds & 0xff_ffff).expect("24 bits");
    let high = u32::try_from(nanoseconds >> 24 & 0xff_ffff).expect("24 bits");
    text[STAMP..STAMP + 4].copy_from_slice(&encode_bits(low).to_le_bytes());
    text[STAMP + 4..TIMED].copy_from_slice(&encode_bits(high).to_le_bytes());
}

/// The time in a text, if there is one.
pub(super) fn read_time(text: &[u8]) -> Option<u64> {
    let number = |at: usize| {
        let bytes = text.get(at..at + 4)?.try_into().ok()?;
        decode_bits(u32::from_le_bytes(bytes)).map(u64::from)
    };
    Some(number(STAMP)? | number(STAMP + 4)? << 24)
}

/// The inverse of [`encode_bits`], if the digits are valid.
pub(super) fn decode_bits(encode_bits: u32) -> Option<u32> {
    let bits = encode_bits.wrapping_sub(0x3030_3030);
    let number =
        bits & 0x3f | (bits & 0x3f00) >> 2 | (bits & 0x3f_0000) >> 4 | (bits & 0x3f00_0000) >> 6;
    (self::encode_bits(number) == encode_bits).then_some(number)
}

/// Encodes 24 bits, six to a byte.
pub fn encode_bits(number: u32) -> u32 {
    let bits = number & 0x3f
        | (number & 0xfc0) << 2
        | (number & 0x3_f000) << 4
        | (number & 0xfc_0000) << 6;
    // `0x30 + six bits` ranges from '0' to 'o'.
    bits + 0x3030_3030
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_and_times_round_trip() {
        let mut text = vec![b'x'; TIMED];
        for (sender, number, time) in
            [(0, 0, 0), (4095, 0xff_ffff, (1 << 48) - 1), (70, 64, 1 << 30)]
        {
            write_stamp(&mut text, sender, number);
            write_time(&mut text, time);
            let (there, bits) = read_stamp(&text);
            assert_eq!(
                (there, decode_bits(bits), read_time(&text)),
                (sender, Some(number), Some(time))
            );
        }
        assert_eq!(read_time(b"0123456 no time"), None);
        assert_eq!(decode_bits(u32::from_le_bytes(*b"a \nb")), None);
    }
}
