//! The TLS of one connection: bytes in, bytes out. It touches no socket, and every call is short, so
//! a lock around it is never held across a wait.

use std::io::{self, IoSlice, Read, Write};

use rustls::Connection;

/// The largest piece that is one record, in bytes.
pub(crate) const MAX_RECORD: usize = 16 * 1024;

/// The protocol inside, as both sides name it (ALPN). Without a name, neither asks for one.
pub(crate) const ALPN: &[u8] = b"a-chat";

/// The state of both directions.
#[derive(Debug)]
pub(crate) struct Session {
    rustls: Connection,
    /// A record was wrong, or a thread panicked in the middle of one.
    broken: bool,
    /// Our side has said that it ends. Whatever arrives from then on is discarded undecrypted.
    closed: bool,
}

/// What became of some ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fed {
    /// How much of it was taken.
    pub(crate) consumed: usize,
    /// How much plaintext there was room for, of this and of earlier ciphertext.
    pub(crate) produced: usize,
    /// The other side has said that it sends no more.
    pub(crate) ended: bool,
}

impl Session {
    pub(crate) fn new(rustls: impl Into<Connection>) -> Self {
        let mut rustls = rustls.into();
        // No piece is larger than a record, and each is taken out at once; with a limit, rustls
        // would take only a part of it.
        rustls.set_buffer_limit(None);
        Self { rustls, broken: false, closed: false }
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.rustls.is_handshaking()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The connection cannot go on: nothing is encrypted or decrypted any more.
    pub(crate) fn break_off(&mut self) {
        self.broken = true;
    }

    /// Processes ciphertext until the handshake is over, and returns how much of it that took.
    pub(crate) fn handshake(&mut self, input: &[u8]) -> io::Result<usize> {
        let mut rest = input;
        while !rest.is_empty() && self.is_handshaking() {
            self.process(&mut rest)?;
        }
        Ok(input.len() - rest.len())
    }

    /// Decrypts as much of `input` as fits into `output`.
    ///
    /// Without input it only takes plaintext that had no room before.
    pub(crate) fn feed(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Fed> {
        let (mut rest, mut produced, mut ended) = (input, 0, self.closed);
        while produced < output.len() && !ended {
            match self.rustls.reader().read(&mut output[produced..]) {
                Ok(0) => ended = true,
                Ok(count) => {
                    #[cfg(test)]
                    crate::fault::point("panic-decrypting", &output[produced..produced + count]);
                    produced += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if rest.is_empty() && !self.broken {
                        break;
                    }
                    if let Err(error) = self.process(&mut rest) {
                        // What came before is good, and the next call fails as well.
                        if produced > 0 {
                            break;
                        }
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if ended {
            // To be ignored, says RFC 8446 of what follows a `close_notify`.
            rest = &[];
        }
        Ok(Fed { consumed: input.len() - rest.len(), produced, ended })
    }

    /// Passes some of `rest`, which must not be empty, to rustls. An empty slice would be the end of
    /// the stream.
    fn process(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        if self.broken || self.closed {
            return Err(broken());
        }
        debug_assert!(!rest.is_empty(), "an empty slice would end the stream");
        if self.rustls.read_tls(rest)? == 0 {
            // It takes nothing after a `close_notify`, which its reader reports.
            *rest = &[];
            return Ok(());
        }
        self.rustls.process_new_packets().map(drop).map_err(|error| {
            self.broken = true;
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }

    /// Encrypts the first record of `parts`, which must not be empty, into `output`. Returns how
    /// much plaintext it has.
    pub(crate) fn encrypt(
        &mut self,
        parts: &[IoSlice<'_>],
        output: &mut Vec<u8>,
    ) -> io::Result<usize> {
        if self.broken || self.closed || self.is_handshaking() {
            return Err(broken());
        }
        let (plain, before) = (self.encrypt_record(parts)?, output.len());
        self.take_output(output);
        if plain == 0 || output.len() == before {
            // With keys that are used up, for example, rustls takes everything and encrypts nothing.
            self.broken = true;
            return Err(broken());
        }
        Ok(plain)
    }

    fn encrypt_record(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(swallowed) = fault(parts) {
            return Ok(swallowed);
        }
        let first = parts.iter().find(|part| !part.is_empty());
        if let Some(first) = first.filter(|it| it.len() >= MAX_RECORD || parts.len() == 1) {
            return self.rustls.writer().write(&first[..first.len().min(MAX_RECORD)]);
        }
        let (mut record, mut room) = (Vec::with_capacity(parts.len()), MAX_RECORD);
        for part in parts {
            let taken = part.len().min(room);
            room -= taken;
            record.push(IoSlice::new(&part[..taken]));
            if room == 0 {
                break;
            }
        }
        self.rustls.writer().write_vectored(&record)
    }

    /// Says that our side sends no more, and takes the ciphertext of that. It still receives.
    pub(crate) fn end_sending(&mut self, output: &mut Vec<u8>) {
        self.rustls.send_close_notify();
        self.take_output(output);
    }

    /// Says that our side ends, and takes the ciphertext of that. What was broken off ends with an
    /// alert instead, and a handshake before its answer with nothing.
    ///
    /// Once a server has answered, its client's handshake is over or about to be, and an end without
    /// a `close_notify` would look to it as if somebody had cut the connection.
    pub(crate) fn close(&mut self, output: &mut Vec<u8>) {
        if !self.is_handshaking() || self.rustls.negotiated_cipher_suite().is_some() {
            self.rustls.send_close_notify();
        }
        self.closed = true;
        self.take_output(output);
    }

    /// Appends all ciphertext that rustls has for the other side.
    pub(crate) fn take_output(&mut self, output: &mut Vec<u8>) {
        while self.rustls.wants_write() {
            // Memory takes everything.
            if !matches!(self.rustls.write_tls(output), Ok(1..)) {
                break;
            }
        }
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the TLS connection is broken")
}

/// What a test asks for: a panic, or a piece that disappears.
#[cfg(test)]
fn fault(parts: &[IoSlice<'_>]) -> Option<usize> {
    for part in parts {
        crate::fault::point("from alice: panic-encrypting", part);
    }
    parts.iter().find(|part| part.starts_with(b"swallowed by a fault")).map(|part| part.len())
}
