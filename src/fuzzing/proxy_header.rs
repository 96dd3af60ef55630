//! The PROXY header of a connection whose bytes arrive in any pieces.

use crate::wire::proxy_header::{MAX_HEADER, Progress, parse};

/// Checks the header: the first byte of the input is the largest piece that arrives at once.
///
/// # Panics
///
/// If the outcome depends on the pieces, if more is wanted than a header may have, or if nothing is.
pub fn proxy_header(input: &[u8]) {
    let Some((&largest, stream)) = input.split_first() else { return };
    let pieces = read(stream, usize::from(largest).max(1));
    assert_eq!(pieces, read(stream, usize::MAX));
    assert_eq!(pieces, read(stream, 1));
    if let Some(Ok((_, taken))) = pieces {
        // Whatever follows changes nothing, and what is missing leaves it incomplete.
        assert_eq!(read(&[&stream[..taken], b"\n"].concat(), usize::MAX), pieces);
        assert_eq!(read(&stream[..taken - 1], usize::MAX), None);
    }
}

/// What the stream's header says, and its length; `None` if it is incomplete.
fn read(
    stream: &[u8],
    largest: usize,
) -> Option<Result<(Option<std::net::SocketAddr>, usize), ()>> {
    let mut taken = 0;
    loop {
        match parse(&stream[..taken]) {
            Err(_) => return Some(Err(())),
            Ok(Progress::Complete(source)) => return Some(Ok((source, taken))),
            Ok(Progress::Wants(wanted)) => {
                assert!(wanted > 0 && taken + wanted <= MAX_HEADER, "{taken} and {wanted}");
                if taken == stream.len() {
                    return None;
                }
                taken = (taken + wanted.min(largest)).min(stream.len());
            }
        }
    }
}
