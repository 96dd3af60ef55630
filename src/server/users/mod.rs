//! Names that only their users can take. The table is read by a helper thread, looked at by readers
//! that log clients in, and by the broker, which parts with clients whose access has ended.
//!
//! A table that changed reaches the broker in two ways, whichever is faster: with the next login,
//! and through the acceptor, which polls [`Users::changed`]. The helper itself must hold no sender,
//! since the broker exits only once the last one is dropped.

pub(crate) mod failed_logins;
pub(crate) mod table;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};

use self::table::UserTable;
use crate::error::Error;
use crate::server::report::CloseReason;
use crate::socket::watch::{Rights, Watch, Watched, read_once};
use crate::wire::name::Name;
use crate::wire::token::{Token, TokenHash};

/// A user table and its number: a later one has a larger number.
#[derive(Debug)]
pub(crate) struct Version {
    number: u64,
    pub(crate) table: UserTable,
}

/// How a client has proven that it may have its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Not at all: no user has the name.
    Guest,
    /// With the token of this hash.
    Token(TokenHash),
    /// By its process's user, whom the operator trusts with every name.
    Process,
}

/// A client's right to its name.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) proof: Proof,
    /// The table that granted it.
    pub(crate) version: Arc<Version>,
    /// How many lines a second it may send, if that differs from the server's limit.
    pub(crate) rate: Option<u32>,
    /// Whether it may take its name from another connection that has proven it, too.
    pub(crate) takes_over: bool,
    /// When it last did so.
    pub(crate) taken_over_at: Option<Instant>,
}

/// The users of a running server.
#[derive(Debug)]
pub(crate) struct Users {
    latest: Arc<Latest>,
    watch: Watch,
    guests: bool,
    takeover: bool,
}

/// What the helper thread replaces.
#[derive(Debug)]
struct Latest {
    version: Mutex<Arc<Version>>,
    /// Readable while the acceptor has not fetched the table.
    changed: OwnedFd,
}

impl Latest {
    fn get(&self) -> Arc<Version> {
        Arc::clone(&self.version.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, table: UserTable) {
        let mut version = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        *version = Arc::new(Version { number: version.number + 1, table });
        drop(version);
        // Fails only if nobody has fetched 2^64 - 2 tables.
        let _ = rustix::io::write(&self.changed, &1_u64.to_ne_bytes());
    }
}

impl Version {
    #[cfg(test)]
    pub(crate) fn new(number: u64, table: UserTable) -> Arc<Self> {
        Arc::new(Self { number, table })
    }

    pub(crate) fn is_newer_than(&self, other: &Self) -> bool {
        self.number > other.number
    }

    /// Why a client that has its name by this proof must not have it by this table.
    pub(crate) fn refuses(&self, name: &Name, proof: &Proof) -> Option<CloseReason> {
        match proof {
            Proof::Guest => self.table.reserves(name.as_str()).then_some(CloseReason::NameReserved),
            Proof::Token(hash) => {
                let user = self.table.find(name.as_str()).filter(|user| !user.disabled);
                let is_valid = user.is_some_and(|user| is_one_of(*hash, &user.hashes));
                (!is_valid).then_some(CloseReason::Revoked)
            }
            Proof::Process => None,
        }
    }
}

/// Whether the hash is among these; takes as long whichever it is.
fn is_one_of(hash: TokenHash, hashes: &[TokenHash]) -> bool {
    hashes.iter().filter(|other| **other == hash).count() > 0
}

impl UserTable {
    /// Reads a user file, as a server does.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be read, breaks the format, or can be written by others than its
    /// owner.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let file = Watched { path: path.into(), rights: Rights::NoWriting };
        let cannot =
            |problem: String| Error::File(format!("cannot use {}: {problem}", file.path.display()));
        let bytes = read_once(&file).map_err(cannot)?;
        Self::parse(&bytes).map_err(|error| cannot(error.to_string()))
    }
}

impl Users {
    /// Reads the user file, and watches it from now on.
    ///
    /// # Errors
    ///
    /// The file and what is wrong with it, for people.
    pub(crate) fn start(path: PathBuf, guests: bool, takeover: bool) -> Result<Self, String> {
        let changed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| format!("cannot create a descriptor: {error}"))?;
        let version = Mutex::new(Arc::new(Version { number: 0, table: UserTable::default() }));
        let latest = Arc::new(Latest { version, changed });
        let replaced = Arc::clone(&latest);
        let load = move |contents: &[Vec<u8>]| {
            let file = contents.first().map_or(&[][..], Vec::as_slice);
            let table = UserTable::parse(file).map_err(|error| error.to_string())?;
            replaced.replace(table);
            Ok(())
        };
        let files = vec![Watched { path, rights: Rights::NoWriting }];
        let watch = Watch::start("users", files, load)?;
        Ok(Self { latest, watch, guests, takeover })
    }

    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// A descriptor that is readable while there is a table to [`fetch`](Self::fetch).
    pub(crate) fn changed(&self) -> BorrowedFd<'_> {
        self.latest.changed.as_fd()
    }

    /// The latest table, if nobody has fetched it yet.
    pub(crate) fn fetch(&self) -> Option<Arc<Version>> {
        let mut count = [0; 8];
        rustix::io::read(&self.latest.changed, &mut count).ok()?;
        Some(self.latest.get())
    }

    /// Decides whether a client may have this name; one that is trusted needs no token. First the file
    /// is looked at, for as long as `next_check` allows.
    pub(crate) fn admit(
        &self,
        name: &Name,
        token: Option<&[u8]>,
        is_trusted: bool,
        next_check: impl FnMut() -> Option<Instant>,
    ) -> Result<Access, CloseReason> {
        self.watch.look(next_check);
        let version = self.latest.get();
        let Some(token) = token else {
            let may_be_guest = self.guests && !version.table.reserves(name.as_str());
            let proof = match (is_trusted, may_be_guest) {
                (true, _) => Proof::Process,
                (false, true) => Proof::Guest,
                (false, false) => return Err(CloseReason::NeedsToken),
            };
            // Never `takes_over`: it may be anyone, so it must not end the session of one who is not.
            return Ok(Access {
                proof,
                version,
                rate: None,
                takes_over: false,
                taken_over_at: None,
            });
        };
        let hash = Token::new(token).map_err(|_| CloseReason::WrongToken)?.hash();
        let proof = Proof::Token(hash);
        if version.refuses(name, &proof).is_some() {
            return Err(CloseReason::WrongToken);
        }
        let rate = version.table.find(name.as_str()).and_then(|user| user.rate);
        Ok(Access { proof, version, rate, takes_over: self.takeover, taken_over_at: None })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a valid name")
    }

    #[expect(clippy::unnecessary_wraps, reason = "it stands for what may give up")]
    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(30))
    }

    struct File {
        folder: tempfile::TempDir,
    }

    impl File {
        fn new(text: &str) -> Self {
            let file = Self { folder: tempfile::tempdir().expect("a folder") };
            file.write(text);
            file
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("users")
        }

        fn write(&self, text: &str) {
            fs::write(self.path(), text).expect("written");
        }

        fn start(&self, guests: bool) -> Users {
            Users::start(self.path(), guests, false).expect("a valid file")
        }
    }

    #[test]
    fn only_the_right_token_proves_a_name() {
        let (alice, bob) = (Token::generate().expect("random"), Token::generate().expect("random"));
        let file = File::new(&format!("alice {}\nbob {} rate=7\n", alice.hash(), bob.hash()));
        let users = file.start(false);
        let admit = |who, token: Option<&str>| {
            users.admit(&name(who), token.map(str::as_bytes), false, soon).map(|access| access.rate)
        };
        assert_eq!(admit("alice", Some(alice.expose())), Ok(None));
        assert_eq!(admit("bob", Some(bob.expose())), Ok(Some(7)));
        for (who, token) in [("alice", &bob), ("bob", &alice), ("carol", &alice), ("Alice", &alice)]
        {
            assert_eq!(admit(who, Some(token.expose())), Err(CloseReason::WrongToken), "{who}");
        }
        for odd in ["", "hunter2", "achat_", &alice.expose().to_uppercase()] {
            assert_eq!(admit("alice", Some(odd)), Err(CloseReason::WrongToken), "{odd}");
        }
        for who in ["alice", "carol"] {
            assert_eq!(admit(who, None), Err(CloseReason::NeedsToken), "{who}");
        }
    }

    #[test]
    fn guests_take_what_no_user_has_in_any_case() {
        let token = Token::generate().expect("random");
        let users = File::new(&format!("alice {}\n", token.hash()));
        let users = users.start(true);
        for taken in ["alice", "Alice", "ALICE"] {
            let refused = users.admit(&name(taken), None, false, soon).map(drop);
            assert_eq!(refused, Err(CloseReason::NeedsToken), "{taken}");
        }
        let guest = users.admit(&name("alice2"), None, false, soon).expect("a free name");
        assert_eq!(guest.proof, Proof::Guest);
    }

    #[test]
    fn whom_the_operator_trusts_takes_any_name_and_no_token_that_is_wrong() {
        let (token, other) =
            (Token::generate().expect("random"), Token::generate().expect("random"));
        let file = File::new(&format!("alice {}\n", token.hash()));
        for guests in [false, true] {
            let users = file.start(guests);
            for who in ["alice", "Alice", "bob"] {
                let access = users.admit(&name(who), None, true, soon).expect("any name");
                assert_eq!((access.proof, access.takes_over), (Proof::Process, false), "{who}");
            }
            let wrong = Some(other.expose().as_bytes());
            let refused = users.admit(&name("alice"), wrong, true, soon).map(drop);
            assert_eq!(refused, Err(CloseReason::WrongToken));
        }
    }

    #[test]
    fn a_login_is_judged_by_the_file_as_it_is_then() {
        let (old, new) = (Token::generate().expect("random"), Token::generate().expect("random"));
        let file = File::new("");
        let users = file.start(false);
        let is_admitted = |token: &Token| {
            users.admit(&name("alice"), Some(token.expose().as_bytes()), false, soon).is_ok()
        };
        for (line, is_old, is_new) in [
            (format!("alice {}", old.hash()), true, false),
            (format!("alice {},{}", old.hash(), new.hash()), true, true),
            (format!("alice {}", new.hash()), false, true),
            // A broken file changes nothing.
            ("alice hunter2".to_owned(), false, true),
            (format!("alice {} disabled", new.hash()), false, false),
            (String::new(), false, false),
        ] {
            file.write(&line);
            assert_eq!((is_admitted(&old), is_admitted(&new)), (is_old, is_new), "{line}");
        }
    }

    #[test]
    fn a_new_table_is_fetched_once() {
        let file = File::new("");
        let users = file.start(false);
        let first = users.fetch().expect("the first table");
        assert!(users.fetch().is_none());
        file.write("dave disabled");
        assert!(users.watch().look(soon));
        let second = users.fetch().expect("another table");
        assert!(second.is_newer_than(&first) && users.fetch().is_none());
    }
}
