//! Ranges of addresses, as in `10.0.0.0/8`: which peers are proxies. Plain value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address, or all addresses that begin with the same bits.
///
/// ```
/// use a_chat::AddressRange;
///
/// let range: AddressRange = "192.0.2.0/24".parse()?;
/// assert!(range.contains([192, 0, 2, 7].into()));
/// assert!(!range.contains([192, 0, 3, 7].into()));
/// let one: AddressRange = "2001:db8::1".parse()?;
/// assert_eq!(one.to_string(), "2001:db8::1/128");
/// # Ok::<(), a_chat::InvalidRange>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(try_from = "String"))]
pub struct AddressRange {
    /// The bits after the prefix are zero.
    address: IpAddr,
    prefix: u8,
}

/// A text is no range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRange;

impl AddressRange {
    /// Whether an address is in this range. An IPv4 address in an IPv6 one counts as what it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(_), address @ IpAddr::V4(_)) | (IpAddr::V6(_), address @ IpAddr::V6(_)) => {
                masked(address, self.prefix) == self.address
            }
            _ => false,
        }
    }
}

/// The address with all bits after the prefix set to zero.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

impl FromStr for AddressRange {
    type Err = InvalidRange;

    /// Parses an address, or an address and the length of its prefix in bits.
    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidRange)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), |prefix| {
            let is_plain = prefix.bytes().all(|byte| byte.is_ascii_digit());
            prefix.parse().ok().filter(|prefix| is_plain && *prefix <= bits).ok_or(InvalidRange)
        })?;
        // Bits after the prefix are a mistake of which nobody knows what was meant.
        if masked(address, prefix) == address {
            Ok(Self { address, prefix })
        } else {
            Err(InvalidRange)
        }
    }
}

impl TryFrom<String> for AddressRange {
    type Error = InvalidRange;

    fn try_from(text: String) -> Result<Self, InvalidRange> {
        text.parse()
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Display for InvalidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected an address or a range of them, as in 192.0.2.1 or 192.0.2.0/24")
    }
}

impl std::error::Error for InvalidRange {}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().expect("a range")
    }

    #[test]
    fn a_range_holds_the_addresses_with_its_prefix() {
        let cases = [
            (
                "192.0.2.0/24",
                &["192.0.2.0", "192.0.2.255", "::ffff:192.0.2.9"][..],
                &["192.0.3.0"][..],
            ),
            ("192.0.2.7", &["192.0.2.7"], &["192.0.2.6", "2001:db8::1"]),
            ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::1"]),
            ("2001:db8::/32", &["2001:db8::", "2001:db8:ffff::1"], &["2001:db9::", "192.0.2.1"]),
            ("::/0", &["::1"], &["127.0.0.1"]),
            ("::1/128", &["::1"], &["::2"]),
        ];
        for (text, inside, outside) in cases {
            for address in inside {
                assert!(range(text).contains(address.parse().expect("one")), "{text} {address}");
            }
            for address in outside {
                assert!(!range(text).contains(address.parse().expect("one")), "{text} {address}");
            }
        }
    }

    #[test]
    fn a_text_that_is_no_range_is_refused() {
        for text in [
            "",
            "/",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.1/8",
            "10.0.0/8",
            "::1/129",
            "2001:db8::1/32",
            "localhost",
            "10.0.0.0/8/8",
            "10.0.0.0/256",
        ] {
            text.parse::<AddressRange>().expect_err(text);
        }
    }
}
