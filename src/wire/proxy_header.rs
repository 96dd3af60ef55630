//! The PROXY protocol's header, versions 1 and 2, by which a proxy in front says who its client is.
//! Pure: takes bytes, says how many more it wants, and never wants one that is not the header's.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The maximum length of a version 1 header, in bytes, its line end included.
const MAX_V1: usize = 107;

/// The maximum length of a version 2 header, in bytes. Proxies append certificates' names and the
/// like; `HAProxy` and nginx read no more than this either.
pub(crate) const MAX_HEADER: usize = 4096;

/// The shortest header of version 1, `PROXY UNKNOWN` and its line end. One of version 2 is longer.
const MIN_V1: usize = 15;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The length of what every version 2 header begins with.
const V2_FIXED: usize = 16;

/// How far the header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// At least this many further bytes belong to it, at least one.
    Wants(usize),
    /// It is complete. `None` if the proxy speaks for itself, as in a health check, or does not know
    /// the client's address.
    Complete(Option<SocketAddr>),
}

/// The bytes are no header, whatever may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoHeader;

/// What these bytes, the first of a connection, say or still want.
pub(crate) fn parse(bytes: &[u8]) -> Result<Progress, NoHeader> {
    let starts = |start: &[u8]| {
        let length = bytes.len().min(start.len());
        bytes[..length] == start[..length]
    };
    if starts(V2_START) {
        parse_v2(bytes)
    } else if starts(V1_START) {
        parse_v1(bytes)
    } else {
        Err(NoHeader)
    }
}

/// A line of text: `PROXY TCP4 203.0.113.7 192.0.2.1 56324 8080`.
fn parse_v1(bytes: &[u8]) -> Result<Progress, NoHeader> {
    match memchr::memchr(b'\n', bytes) {
        Some(end) if end + 1 == bytes.len() => {
            let line = bytes.strip_suffix(b"\r\n").ok_or(NoHeader)?;
            let line = std::str::from_utf8(line).map_err(|_| NoHeader)?;
            parse_line(line).map(Progress::Complete)
        }
        // More was read than asked for.
        Some(_) => Err(NoHeader),
        None => {
            let line_end = if bytes.ends_with(b"\r") { 1 } else { 2 };
            let wanted = MIN_V1.saturating_sub(bytes.len()).max(line_end);
            if bytes.len() + wanted > MAX_V1 { Err(NoHeader) } else { Ok(Progress::Wants(wanted)) }
        }
    }
}

fn parse_line(line: &str) -> Result<Option<SocketAddr>, NoHeader> {
    let mut words = line.split(' ');
    let family = words.nth(1).ok_or(NoHeader)?;
    if family == "UNKNOWN" {
        // Whatever follows is to be ignored.
        return Ok(None);
    }
    let mut word = || words.next().ok_or(NoHeader);
    let (source, destination) = (word()?, word()?);
    let (source_port, destination_port) = (word()?, word()?);
    if words.next().is_some() {
        return Err(NoHeader);
    }
    let address = |text: &str| -> Result<IpAddr, NoHeader> {
        match family {
            "TCP4" => text.parse().map(IpAddr::V4).map_err(|_| NoHeader),
            "TCP6" => text.parse().map(IpAddr::V6).map_err(|_| NoHeader),
            _ => Err(NoHeader),
        }
    };
    let port = |text: &str| -> Result<u16, NoHeader> {
        // The standard library's parser takes a sign, too.
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_plain).ok_or(NoHeader)
    };
    address(destination)?;
    port(destination_port)?;
    Ok(Some(SocketAddr::new(address(source)?, port(source_port)?)))
}

/// Binary: a signature, a command, a family, a length, and as many bytes of addresses and more.
fn parse_v2(bytes: &[u8]) -> Result<Progress, NoHeader> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else {
        // Both versions are longer than what tells them apart.
        return Ok(Progress::Wants(MIN_V1.max(bytes.len() + 1).min(V2_FIXED) - bytes.len()));
    };
    let (version, command, family) = (fixed[12] >> 4, fixed[12] & 0x0F, fixed[13]);
    let length = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > MAX_HEADER || version != 2 || command > 1 {
        return Err(NoHeader);
    }
    if bytes.len() < length {
        return Ok(Progress::Wants(length - bytes.len()));
    }
    let addresses =
        bytes.get(V2_FIXED..length).filter(|_| bytes.len() == length).ok_or(NoHeader)?;
    let is_local = command == 0;
    let port = |at: usize| {
        let port = addresses.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
        port.map(u16::from_be_bytes).ok_or(NoHeader)
    };
    let source = match family {
        _ if is_local => None,
        // TCP over IPv4: two addresses, then two ports.
        0x11 => {
            let source = *addresses.first_chunk::<4>().ok_or(NoHeader)?;
            let source = SocketAddr::new(Ipv4Addr::from(source).into(), port(8)?);
            port(10)?;
            Some(source)
        }
        0x21 => {
            let source = *addresses.first_chunk::<16>().ok_or(NoHeader)?;
            let source = SocketAddr::new(Ipv6Addr::from(source).into(), port(32)?);
            port(34)?;
            Some(source)
        }
        // Unix sockets, datagrams, and what is not specified: nobody's address.
        _ => None,
    };
    Ok(Progress::Complete(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a stream as a connection would: as many bytes as are wanted, or fewer. Returns the
    /// client's address and how many bytes were the header's; `None` if it is incomplete.
    fn feed(
        stream: &[u8],
        at_most: usize,
    ) -> Result<Option<(Option<SocketAddr>, usize)>, NoHeader> {
        let mut taken = 0;
        loop {
            match parse(&stream[..taken])? {
                Progress::Complete(source) => return Ok(Some((source, taken))),
                Progress::Wants(0) => panic!("it wants nothing"),
                Progress::Wants(_) if taken == stream.len() => return Ok(None),
                Progress::Wants(wanted) => {
                    taken = (taken + wanted.min(at_most)).min(stream.len());
                }
            }
        }
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).expect("short").to_be_bytes();
        [V2_START, &[0x20 | command, family], &length, payload].concat()
    }

    fn ipv4_payload() -> Vec<u8> {
        [&[203, 0, 113, 7, 192, 0, 2, 1][..], &56324_u16.to_be_bytes(), &[0x1F, 0x90]].concat()
    }

    fn ipv6_payload() -> Vec<u8> {
        let source: Ipv6Addr = "2001:db8::7".parse().expect("an address");
        [&source.octets()[..], &[0; 16], &56324_u16.to_be_bytes(), &[0x1F, 0x90]].concat()
    }

    /// Whole headers, and whom they name.
    fn headers() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let v1 = |line: &str| format!("PROXY {line}\r\n").into_bytes();
        let with_tlvs = [ipv4_payload(), vec![0x04; 300]].concat();
        vec![
            (v1("TCP4 203.0.113.7 192.0.2.1 56324 8080"), Some("203.0.113.7:56324")),
            (v1("TCP6 2001:db8::7 2001:db8::1 56324 8080"), Some("[2001:db8::7]:56324")),
            (v1("UNKNOWN"), None),
            (v1("UNKNOWN and four words or more"), None),
            (v1("UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535"), None),
            (v2(1, 0x11, &ipv4_payload()), Some("203.0.113.7:56324")),
            (v2(1, 0x11, &with_tlvs), Some("203.0.113.7:56324")),
            (v2(1, 0x21, &ipv6_payload()), Some("[2001:db8::7]:56324")),
            (v2(0, 0x00, &[]), None),
            (v2(0, 0x11, &ipv4_payload()), None),
            (v2(1, 0x00, &[1, 2, 3]), None),
            (v2(1, 0x31, &[0; 216]), None),
            (v2(1, 0x12, &ipv4_payload()), None),
            (v2(0, 0x00, &[0; MAX_HEADER - V2_FIXED]), None),
        ]
    }

    #[test]
    fn a_header_names_the_client_and_takes_no_byte_of_what_follows() {
        for (header, source) in headers() {
            let source = source.map(|text| text.parse().expect("an address"));
            for rest in [&b""[..], b"alice\n", b"\n", b"\r\n", b"PROXY ", b"\x16\x03\x01"] {
                let stream = [&header, rest].concat();
                for at_most in [1, 2, 3, 7, 16, usize::MAX] {
                    assert_eq!(feed(&stream, at_most), Ok(Some((source, header.len()))));
                }
            }
        }
    }

    #[test]
    fn a_part_of_a_header_is_incomplete() {
        for (header, _) in headers() {
            for length in 0..header.len() {
                assert_eq!(feed(&header[..length], usize::MAX), Ok(None), "{length}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_it_shows() {
        for text in [
            "alice\n",
            "PROXYalice\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 56324 8080\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 56324\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 56324 8080 9\r\n",
            "PROXY TCP4  203.0.113.7 192.0.2.1 56324 8080\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 +5632 8080\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 65536 8080\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 1 \r\n",
            "PROXY TCP4 2001:db8::7 192.0.2.1 1 2\r\n",
            "PROXY TCP6 203.0.113.7 2001:db8::1 1 2\r\n",
            "PROXY UDP4 203.0.113.7 192.0.2.1 1 2\r\n",
            "PROXY TCP4 203.0.113.007 192.0.2.1 1 2\r\n",
            "PROXY unknown and something\r\n",
            "PROXY \r\nPROXY \r\nPROXY\r\n",
            "GET / HTTP/1.1\r\n",
            "\r\n\r\nalice and the rest",
        ] {
            assert_eq!(feed(text.as_bytes(), usize::MAX), Err(NoHeader), "{text:?}");
        }
        let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
        assert_eq!(feed(&endless, usize::MAX), Err(NoHeader));
        for at_most in [1, 7, usize::MAX] {
            let mut header = v2(0, 0, &[]);
            header[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
            assert_eq!(feed(&header, at_most), Err(NoHeader), "longer than the maximum");
            assert_eq!(feed(&v2(0x10, 0x11, &ipv4_payload()), at_most), Err(NoHeader), "version 3");
            assert_eq!(feed(&v2(2, 0x11, &ipv4_payload()), at_most), Err(NoHeader), "command 2");
            assert_eq!(feed(&v2(1, 0x11, &[1, 2, 3]), at_most), Err(NoHeader), "half an address");
            assert_eq!(feed(&v2(1, 0x21, &ipv4_payload()), at_most), Err(NoHeader));
        }
    }
}
