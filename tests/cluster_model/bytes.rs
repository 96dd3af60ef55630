//! What several topics write alike, in bytes: entries of inboxes and commands, sets, and lines.

use crate::pack::{Pack, packed};

packed! {
/// An entry of an inbox, or a command; each topic says what its fields are for each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry { pub kind: u8, pub a: u8, pub b: u8, pub c: u8, pub d: u8, }
}

/// The set of this number alone.
pub fn bit(number: u8) -> u8 {
    1 << number
}

/// The numbers in a set.
pub fn bits(mask: u8) -> impl Iterator<Item = usize> {
    (0..8).filter(move |number| mask & bit(*number) != 0).map(usize::from)
}

/// A line: who says it, and which of its lines it is.
pub fn line_of(client: usize, number: u8) -> u8 {
    (client as u8) << 4 | number
}

pub fn sender(line: u8) -> usize {
    usize::from(line >> 4)
}

pub fn number_of(line: u8) -> usize {
    usize::from(line & 15)
}
