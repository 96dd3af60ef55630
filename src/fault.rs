//! Panics on request, in unit tests only.

/// Panics if `text` contains these words.
pub(crate) fn point(words: &str, text: &[u8]) {
    assert!(memchr::memmem::find(text, words.as_bytes()).is_none(), "as the test has asked");
}
