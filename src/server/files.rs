//! The files that a server reads again when they change, as the embedding program sees them.

use std::sync::Arc;

use crate::server::context::Shared;
use crate::socket::watch::Watch;

/// Asks a server to look at its files. Cheap to clone, and usable from any thread.
///
/// ```
/// use a_chat::{Config, Server};
///
/// let server = Server::bind("127.0.0.1:0", Config::default())?;
/// let files = server.files_handle();
/// // A server without files has nothing to do.
/// files.check_now();
/// assert!(files.status().is_empty());
/// # Ok::<(), a_chat::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FilesHandle {
    shared: Arc<Shared>,
}

/// What a server has of one of its files, or of several that are read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileStatus {
    /// What the files are for, such as `users`.
    pub name: &'static str,
    /// The files could not be used when they last changed, so what they held before is in force.
    pub failed: bool,
}

impl FilesHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Has the server look at its files now, instead of within a second. This does not block; what
    /// comes of it is logged.
    pub fn check_now(&self) {
        self.shared.watches().for_each(Watch::request);
    }

    /// All files and their state.
    #[must_use]
    pub fn status(&self) -> Vec<FileStatus> {
        let status = self.shared.watches();
        status.map(|watch| FileStatus { name: watch.name(), failed: watch.has_failed() }).collect()
    }
}
