//! Properties that hold for any bytes that clients may send: each check takes a fuzzer's input,
//! runs the server's own code beside a plain model of it, and panics where they disagree.
//!
//! The fuzz targets in `fuzz/` call these checks, and so do the tests below, which replay the
//! corpus in `tests/corpus`. Not part of a normal build of the library.

mod batches;
mod framing;
mod model;
#[cfg(feature = "proxy")]
mod proxy_header;
mod relay;
#[cfg(feature = "users")]
mod users;
#[cfg(feature = "tls")]
pub mod tls;

pub use batches::batches;
pub use framing::framing;
#[cfg(feature = "proxy")]
pub use proxy_header::proxy_header;
pub use relay::relay;
#[cfg(feature = "users")]
pub use users::users;

/// Bytes from here on are commands: they say what happens between pieces of data. They never occur
/// in UTF-8, and inserting or removing one leaves the rest of an input as it was, so small changes
/// of an input are small changes of behaviour.
const FIRST_SIGN: u8 = 0xF8;

/// One step of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step<'a> {
    /// A piece of data that arrives at once.
    Data(&'a [u8]),
    /// A command, whose meaning each check defines.
    Sign(u8),
}

/// The steps of an input.
fn steps(input: &[u8]) -> impl Iterator<Item = Step<'_>> {
    let mut rest = input;
    std::iter::from_fn(move || {
        let is_sign = |byte: &u8| *byte >= FIRST_SIGN;
        let length = rest.iter().position(is_sign).unwrap_or(rest.len()).max(1);
        let (step, later) = rest.split_at_checked(length)?;
        rest = later;
        Some(if is_sign(&step[0]) { Step::Sign(step[0]) } else { Step::Data(step) })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// Runs a check on all inputs of its corpus folder.
    fn replay(folder: &str, check: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(folder);
        let mut replayed = 0;
        for entry in fs::read_dir(&folder).expect("a corpus") {
            let path = entry.expect("an entry").path();
            let input = fs::read(&path).expect("a file");
            let passed = catch_unwind(AssertUnwindSafe(|| check(&input)));
            assert!(passed.is_ok(), "{}: {}", path.display(), input.escape_ascii());
            replayed += 1;
        }
        assert!(replayed > 0, "no input in {}", folder.display());
    }

    #[test]
    fn corpus_of_framing() {
        replay("framing", framing);
    }

    #[test]
    fn corpus_of_batches() {
        replay("batches", batches);
    }

    #[cfg(feature = "proxy")]
    #[test]
    fn corpus_of_proxy_header() {
        replay("proxy_header", proxy_header);
    }

    #[test]
    fn corpus_of_relay() {
        replay("relay", relay);
    }

    #[cfg(feature = "users")]
    #[test]
    fn corpus_of_users() {
        replay("users", users);
    }

    /// Lines made of what user files are made of.
    #[cfg(feature = "users")]
    fn user_file() -> impl Strategy<Value = Vec<u8>> {
        let hash = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let other = format!("sha256:{}", "f".repeat(64));
        let words = [" ", "\t", "\n", "\r", "#", "a", "A", "bob", "disabled", "rate=", "9", ","];
        let words = words.map(str::to_owned).into_iter().chain([hash, other]);
        let words: Vec<_> = words.chain(["since=2026-11-25".to_owned()]).collect();
        prop::collection::vec(prop::sample::select(words), 0..40)
            .prop_map(|words| words.concat().into_bytes())
    }

    /// A certificate for the checks of TLS.
    #[cfg(feature = "tls")]
    fn pair() -> &'static tls::TlsPair {
        static PAIR: std::sync::OnceLock<tls::TlsPair> = std::sync::OnceLock::new();
        PAIR.get_or_init(|| {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
            let made = made.expect("a certificate");
            tls::TlsPair::new(&made.cert.pem(), &made.key_pair.serialize_pem())
        })
    }

    #[cfg(feature = "tls")]
    #[test]
    fn corpus_of_tls() {
        replay("tls", |input| {
            tls::first_bytes(pair(), input);
            tls::records(pair(), input);
        });
    }

    /// Inputs made of meaningful and meaningless words.
    fn input() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            8 => prop::sample::select(
                [
                    ":", ",", "\n", "\r\n", " ", "/who", "c0", "c1", "c2: ", "c0, c1: x\n", "\u{a0}",
                    "#dev", "#dev: x\n", "/join #dev\n", "/join #ops loud\n", "/leave #dev\n",
                    "/who #dev\n", " loud", " quiet\n", "#",
                ]
                .map(str::as_bytes).map(<[u8]>::to_vec).to_vec(),
            ),
            2 => prop::collection::vec(FIRST_SIGN..=u8::MAX, 1),
            2 => prop::collection::vec(any::<u8>(), 0..4),
            1 => prop::collection::vec(b'a'..b'e', 0..200),
        ];
        prop::collection::vec(word, 0..100).prop_map(|words| words.concat())
    }

    #[cfg(feature = "users")]
    proptest! {
        #[test]
        fn users_of_any_file(file in user_file()) {
            users(&file);
        }
    }

    /// Headers, whole, torn and damaged.
    #[cfg(feature = "proxy")]
    fn header() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            8 => prop::sample::select(
                [
                    &b"PROXY "[..], b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"203.0.113.7 ", b"::1 ", b"1 2",
                    b"\r\n", b"\r\n\r\n\0\r\nQUIT\n", b"\x21\x11\0\x0c", b"\x20\0\0\0",
                    b"\x21\x21\0\x24", &[7; 12], &[9; 36],
                ]
                .map(<[u8]>::to_vec).to_vec(),
            ),
            1 => prop::collection::vec(any::<u8>(), 0..4),
        ];
        let words = prop::collection::vec(word, 0..12).prop_map(|words| words.concat());
        (any::<u8>(), words).prop_map(|(largest, words)| [vec![largest], words].concat())
    }

    #[cfg(feature = "proxy")]
    proptest! {
        #[test]
        fn proxy_header_of_any_input(input in header()) {
            proxy_header(&input);
        }
    }

    proptest! {
        #[test]
        fn framing_of_any_input(input in input()) {
            framing(&input);
        }

        #[test]
        fn batches_of_any_input(input in input()) {
            batches(&input);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        #[cfg(feature = "tls")]
        #[test]
        fn tls_of_any_input(input in input()) {
            tls::first_bytes(pair(), &input);
            tls::records(pair(), &input);
        }

        #[test]
        fn relay_of_any_input(input in input()) {
            relay(&input);
        }
    }
}
