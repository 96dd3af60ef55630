//! The kinds of floods: what their clients send, and whether they read the replies.

use std::sync::Arc;

use crate::crowd::{Buffer, Plan, Reading, Sending};

/// The most names that one line may list.
const MAX_RECIPIENTS: usize = 1024;

/// How large the block is that is sent over and over, in bytes, at least.
const BLOCK: usize = 64 * 1024;

/// What a flood consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Questions about as many present names as a line may list, with all replies read.
    WhoLists,
    /// The same, with no reply read.
    WhoListsUnread,
    /// The question who is there.
    BareWho,
    /// Empty messages to itself, with an empty line after each, and nothing read.
    SelfSends,
    /// The same, with everything read.
    SelfSendsRead,
    /// Lines without a colon: each has an error for a reply, and none is read.
    Refusals,
    /// Long lists of unknown names with nothing to say, and no reply read.
    RunsToUnknown,
    /// Empty messages to everybody who is there.
    ManyNames,
    /// Long messages to everybody who is there.
    ManyNamesWithText,
    /// Long messages to itself, and nothing read.
    LongTexts,
    /// All but the end of a long line.
    HalfLines,
}

impl Kind {
    pub const ALL: [Self; 11] = [
        Self::WhoLists,
        Self::WhoListsUnread,
        Self::BareWho,
        Self::SelfSends,
        Self::SelfSendsRead,
        Self::Refusals,
        Self::RunsToUnknown,
        Self::ManyNames,
        Self::ManyNamesWithText,
        Self::LongTexts,
        Self::HalfLines,
    ];

    /// The plans of this many clients that flood.
    pub fn plans(self, clients: usize) -> Vec<Plan> {
        let names = names(clients);
        let present = names[..clients.min(MAX_RECIPIENTS)].join(",");
        let shared = match self {
            Self::WhoLists | Self::WhoListsUnread => Some(format!("/who {present}\n")),
            Self::BareWho => Some("/who\n".to_owned()),
            Self::Refusals => Some("~\n".to_owned()),
            Self::RunsToUnknown => Some(format!("{}:\n", "~".repeat(700))),
            Self::ManyNames => Some(format!("{present}:\n")),
            Self::ManyNamesWithText => {
                let room = 60_000_usize.saturating_sub(present.len());
                Some(format!("{present}: {}\n", "x".repeat(room)))
            }
            Self::SelfSends | Self::SelfSendsRead | Self::LongTexts | Self::HalfLines => None,
        };
        let shared = shared.map(|lines| block(&lines));
        let plan = |name: &String| {
            let sending = match self {
                Self::SelfSends | Self::SelfSendsRead => block(&format!("{name}:\n\n")),
                Self::LongTexts => block(&format!("{name}: {}\n", "x".repeat(1000))),
                Self::HalfLines => return half_line(name),
                _ => Arc::clone(shared.as_ref().expect("the same for all")),
            };
            self.plan(name, Sending::Forever(sending))
        };
        names.iter().map(plan).collect()
    }

    fn plan(self, name: &str, sending: Sending) -> Plan {
        match self {
            Self::WhoLists
            | Self::BareWho
            | Self::SelfSendsRead
            | Self::ManyNames
            | Self::ManyNamesWithText => Plan::new(name, sending, Reading::Everything),
            _ => Plan::new(name, sending, Reading::Nothing).with_buffer(Buffer::Bytes(4096)),
        }
    }
}

/// A client whose line never ends.
fn half_line(name: &str) -> Plan {
    let line = format!("{name}: {}", "x".repeat(60_000));
    Plan::new(name, Sending::Once(Arc::new(line.into_bytes())), Reading::Nothing)
}

/// Lines, as often as a packet has room for them.
pub fn block(lines: &str) -> Arc<Vec<u8>> {
    Arc::new(lines.repeat(BLOCK.div_ceil(lines.len())).into_bytes())
}

/// This many short names: all of two letters, as long as there are any.
pub fn names(count: usize) -> Vec<String> {
    let letters = || ('a'..='z').chain('A'..='Z');
    let pairs = letters().flat_map(|first| letters().map(move |second| format!("{first}{second}")));
    let more = (0..).map(|number: u32| format!("x{number}"));
    pairs.chain(more).take(count).collect()
}
