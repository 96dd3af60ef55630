#![no_main]

use std::sync::OnceLock;

use a_chat::fuzzing::tls::{TlsPair, records};

fn pair() -> &'static TlsPair {
    static PAIR: OnceLock<TlsPair> = OnceLock::new();
    PAIR.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let made = made.expect("a certificate");
        TlsPair::new(&made.cert.pem(), &made.key_pair.serialize_pem())
    })
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| records(pair(), input));
