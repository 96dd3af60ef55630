//! How a node joins its cluster: the engine's address, names, and times. Plain data.

use std::fmt;
use std::time::Duration;

use super::engine::redis::RedisEngine;
use crate::Error;
use crate::wire::name::Name;

/// A node's place in a cluster of servers that are one relay. It needs the feature `cluster`.
///
/// ```
/// use std::time::Duration;
///
/// use a_chat::{Cluster, Name};
///
/// let cluster = Cluster::new("redis://127.0.0.1:6379/0", Name::new("a")?)
///     .name(Name::new("chat")?)
///     .hold(Duration::from_secs(20));
/// assert_eq!(cluster.node().as_str(), "a");
/// # Ok::<(), a_chat::InvalidName>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Cluster {
    pub(crate) url: String,
    pub(crate) password: Option<String>,
    pub(crate) node: Name,
    pub(crate) name: Option<Name>,
    pub(crate) hold: Duration,
    pub(crate) lease: Duration,
    pub(crate) first: bool,
}

impl Cluster {
    /// The node of this name, in the cluster whose engine is at this URL: `redis://host:port/db`.
    #[must_use]
    pub fn new(url: impl Into<String>, node: Name) -> Self {
        Self {
            url: url.into(),
            password: None,
            node,
            name: None,
            hold: Duration::from_secs(10),
            lease: Duration::from_secs(10),
            first: false,
        }
    }

    /// The engine's password, if it does not stand in the URL.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The cluster's name, `a-chat` unless given: several clusters can share one engine.
    #[must_use]
    pub fn name(mut self, name: Name) -> Self {
        self.name = Some(name);
        self
    }

    /// How long lines for a client are held after its node has stopped; 10 seconds unless given.
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// How long a node may be silent before the others take it for dead; 10 seconds unless given.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Whether this node is the cluster's first one: then it does not wait, for the time of a lease,
    /// for others that may have been there before the engine lost its data.
    #[must_use]
    pub fn first(mut self, first: bool) -> Self {
        self.first = first;
        self
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &Name {
        &self.node
    }

    /// Checks what can be checked without an engine.
    ///
    /// # Errors
    ///
    /// [`Error::Cluster`] if the URL is not that of an engine.
    pub fn validate(&self) -> Result<(), Error> {
        self.engine().map(drop)
    }

    /// The engine, without a connection to it.
    pub(crate) fn engine(&self) -> Result<RedisEngine, Error> {
        let name = self.name.as_ref().map_or("a-chat", |name| name.as_str());
        RedisEngine::new(&self.url, self.password.as_deref(), name)
            .map_err(|error| Error::Cluster(error.to_string()))
    }
}

impl fmt::Debug for Cluster {
    /// Without the URL and the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("node", &self.node)
            .field("name", &self.name)
            .field("hold", &self.hold)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
