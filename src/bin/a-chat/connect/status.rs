//! How `connect` ends. Pure.

use std::process::ExitCode;

use a_chat::client::SessionSummary;

/// The exit status of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// All went well.
    Success,
    /// A line was not accepted, or was refused; with `--confirm` also if one was lost.
    Failure,
    /// With `--confirm`: the server accepted everything, and did not confirm that it was delivered.
    Unconfirmed,
}

impl Status {
    /// The status of a session without `--confirm`.
    pub(crate) fn of_accepted(accepted: bool) -> Self {
        if accepted { Self::Success } else { Self::Failure }
    }

    /// The status of a session with `--confirm`; `complete` if its input was read to the end.
    pub(crate) fn of_confirmed(summary: &SessionSummary, complete: bool) -> Self {
        let SessionSummary { refused, lost, in_doubt, confirmed, .. } = *summary;
        if refused || lost || in_doubt || !complete || !summary.unaccepted.is_empty() {
            Self::Failure
        } else if confirmed {
            Self::Success
        } else {
            Self::Unconfirmed
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        match status {
            Status::Success => Self::SUCCESS,
            Status::Failure => Self::FAILURE,
            Status::Unconfirmed => Self::from(3),
        }
    }
}
