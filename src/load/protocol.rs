//! The protocols that the load speaks: how a client says hello, what a line to send looks like,
//! and what arrives of it. Pure: bytes only.
//!
//! Names have a fixed width within a population, and so does a text. All frames that one client
//! gets in one run are thus equally long, and reading them needs no search for line ends: each
//! frame is one stride further, and carries a stamp at a known place.

use std::fmt::Write;

/// Who is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The server under test.
    Chat,
    /// The floor: a relay that reads and writes and looks at nothing.
    Raw,
    /// `nats-server`.
    Nats,
    /// `redis-server`, Pub/Sub.
    Redis,
}

/// How long a stamp is, in bytes: the sender's number, then that of its message. It opens the
/// text of each message.
pub const STAMP: usize = 6;

/// How long it is with a time after it.
pub const TIMED: usize = STAMP + 8;

/// A stamp has room for so many senders.
pub const SENDERS: usize = 1 << 12;

/// The numbers of messages begin again after so many.
pub(super) const NUMBERS: u32 = 1 << 24;

/// How a connection is made ready for work.
#[derive(Debug)]
pub struct Greeting {
    /// What the client says.
    pub says: String,
    /// The last bytes of the answer; nothing to wait for if empty.
    pub hears: String,
    /// Whether something else may come before.
    pub chatty: bool,
}

/// One line to send, or many of them end to end.
#[derive(Clone, Debug)]
pub struct Lines {
    /// All of them.
    pub bytes: Vec<u8>,
    /// Where the stamp stands in each line.
    pub stamp: usize,
    /// How long a line is.
    pub stride: usize,
}

/// Where to find things in what arrives.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Where the stamp stands.
    pub stamp: usize,
    /// How long a frame is.
    pub stride: usize,
}

impl Protocol {
    /// What a client called `name` listens to. The peers deliver to many by a common subject.
    pub fn subject(self, name: &str, group: bool) -> &str {
        match self {
            Self::Nats | Self::Redis if group => "all",
            _ => name,
        }
    }

    /// The connection that receives.
    pub fn greeting(self, name: &str, subject: &str) -> Greeting {
        let (says, hears) = match self {
            Self::Raw => (String::new(), String::new()),
            Self::Chat => {
                (format!("{name}\n/who {name}\n"), format!("notice: line 1: here: {name}\n"))
            }
            Self::Nats => {
                let options = r#"{"verbose":false,"pedantic":false}"#;
                (format!("CONNECT {options}\r\nSUB {subject} 1\r\nPING\r\n"), "PONG\r\n".to_owned())
            }
            Self::Redis => (format!("SUBSCRIBE {subject}\r\n"), ":1\r\n".to_owned()),
        };
        Greeting { says, hears, chatty: self != Self::Chat }
    }

    /// The connection that sends, where the receiving one can not.
    pub fn second_greeting(self) -> Option<Greeting> {
        // Publishers do without replies, the fastest that Redis offers: the last `PONG` is heard
        // before replies are off.
        let says = "PING\r\nCLIENT REPLY OFF\r\n".to_owned();
        (self == Self::Redis).then(|| Greeting {
            says,
            hears: "+PONG\r\n".to_owned(),
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
        let bytes = [head.as_bytes(), &vec![b'x'; size], self.end()].concat();
        Lines { stamp: head.len(), stride: bytes.len(), bytes }
    }

    /// What a client that listens to `subject` gets of a text of `size` bytes.
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
        Frame { stamp, stride: stamp + size + self.end().len() }
    }

    /// The first byte of every frame, and of nothing else that a server says.
    pub(super) fn opening(self) -> u8 {
        match self {
            Self::Chat | Self::Raw => b'f',
            Self::Nats => b'M',
            Self::Redis => b'*',
        }
    }

    /// What may stand between two frames and is none.
    pub(super) fn interlude(self) -> &'static [u8] {
        // Sent by the server some seconds after a login; it may go unanswered for an hour.
        if self == Self::Nats { b"PING\r\n" } else { b"" }
    }

    fn end(self) -> &'static [u8] {
        match self {
            Self::Chat | Self::Raw => b"\n",
            Self::Nats | Self::Redis => b"\r\n",
        }
    }
}

impl Lines {
    /// This one line, `count` times.
    pub fn times(self, count: usize) -> Self {
        Self { bytes: self.bytes.repeat(count), ..self }
    }

    /// Numbers all lines as `sender`'s, from `first` on.
    pub fn number(&mut self, sender: usize, first: u32) {
        for (line, number) in self.bytes.chunks_exact_mut(self.stride).zip(first..) {
            write_stamp(&mut line[self.stamp..], sender, number);
        }
    }
}

/// Stamps are six bits a byte, all of them graphic: a sender's number below 4,096, and a
/// message's modulo 2^24. A gap of as many messages would be found by the count of them all.
pub fn write_stamp(text: &mut [u8], sender: usize, number: u32) {
    let sender = u32::try_from(sender).expect("a small number");
    text[..2].copy_from_slice(&spread(sender).to_le_bytes()[..2]);
    text[2..STAMP].copy_from_slice(&spread(number).to_le_bytes());
}

/// The sender's number, and the message's as [`spread`] has it.
pub fn read_stamp(text: &[u8]) -> (usize, u32) {
    let &[low, high, ref number @ ..] = text.first_chunk::<STAMP>().expect("room for a stamp");
    // Nonsense gives a number that no sender has.
    let bits = |byte: u8| usize::from(byte.wrapping_sub(0x30));
    (bits(low) | bits(high) << 6, u32::from_le_bytes(*number))
}

/// The time that follows a stamp: forty-eight bits of nanoseconds, which is three days.
pub(super) fn write_time(text: &mut [u8], nanoseconds: u64) {
    let low = u32::try_from(nanoseconds & 0xff_ffff).expect("24 bits");
    let high = u32::try_from(nanoseconds >> 24 & 0xff_ffff).expect("24 bits");
    text[STAMP..STAMP + 4].copy_from_slice(&spread(low).to_le_bytes());
    text[STAMP + 4..TIMED].copy_from_slice(&spread(high).to_le_bytes());
}

/// The time in a text, if there is one.
pub(super) fn read_time(text: &[u8]) -> Option<u64> {
    let number = |at: usize| {
        let bytes = text.get(at..at + 4)?.try_into().ok()?;
        gather(u32::from_le_bytes(bytes)).map(u64::from)
    };
    Some(number(STAMP)? | number(STAMP + 4)? << 24)
}

/// What [`spread`] has made this of, if it has.
pub(super) fn gather(spread: u32) -> Option<u32> {
    let bits = spread.wrapping_sub(0x3030_3030);
    let number =
        bits & 0x3f | (bits & 0x3f00) >> 2 | (bits & 0x3f_0000) >> 4 | (bits & 0x3f00_0000) >> 6;
    (self::spread(number) == spread).then_some(number)
}

/// Twenty-four bits, six to a byte.
pub fn spread(number: u32) -> u32 {
    let bits = number & 0x3f
        | (number & 0xfc0) << 2
        | (number & 0x3_f000) << 4
        | (number & 0xfc_0000) << 6;
    // `0x30 + six bits` reaches from '0' to 'o'.
    bits + 0x3030_3030
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_survive() {
        let mut text = vec![b'x'; TIMED];
        for (sender, number, time) in
            [(0, 0, 0), (4095, 0xff_ffff, (1 << 48) - 1), (70, 64, 1 << 30)]
        {
            write_stamp(&mut text, sender, number);
            write_time(&mut text, time);
            let (there, bits) = read_stamp(&text);
            assert_eq!((there, gather(bits), read_time(&text)), (sender, Some(number), Some(time)));
        }
        assert_eq!(read_time(b"0123456 no time"), None);
        assert_eq!(gather(u32::from_le_bytes(*b"a \nb")), None);
    }
}
