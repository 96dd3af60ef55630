//! The broker's part in users: who may have a name, who must leave it, and to whom. Runs on the
//! broker's thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Broker;
use crate::server::report::CloseReason;
use crate::server::users::{Access, Proof, Version};
use crate::wire::name::Name;
use crate::wire::protocol;
use crate::wire::reasons::Rejection;

/// How soon a name can be taken over again. Two clients that both come back at once would otherwise
/// take it from each other as fast as they can.
const TAKEOVER_INTERVAL: Duration = Duration::from_secs(10);

impl Broker {
    /// Judges a client that is about to join, by the latest table, and parts with the peer that has
    /// its name if it may take that over. Returns why it must not join.
    pub(super) fn judge(&mut self, name: &Name, access: &mut Access) -> Option<CloseReason> {
        self.adopt(&access.version);
        // The login may have been judged by an earlier table.
        let users = self.users.as_ref().unwrap_or(&access.version);
        if let Some(reason) = users.refuses(name, &access.proof) {
            return Some(reason);
        }
        let holder = *self.by_name.get(name.as_str().as_bytes())?;
        let Some(held) = &self.peers[holder].access else { return None };
        match (&held.proof, &access.proof) {
            (Proof::Guest, Proof::Token(_)) => self.part(holder, CloseReason::NameReserved),
            (Proof::Token(_) | Proof::Process, Proof::Token(_)) if access.takes_over => {
                let now = Instant::now();
                let is_recent = |then| now.saturating_duration_since(then) < TAKEOVER_INTERVAL;
                if !held.taken_over_at.is_some_and(is_recent) {
                    access.taken_over_at = Some(now);
                    self.part(holder, CloseReason::LoggedInElsewhere);
                }
            }
            _ => {}
        }
        None
    }

    /// Takes a table that is newer than the one at hand, and parts with every peer that must not
    /// have its name by it.
    pub(super) fn adopt(&mut self, version: &Arc<Version>) {
        if self.users.as_ref().is_some_and(|users| !version.is_newer_than(users)) {
            return;
        }
        self.users = Some(Arc::clone(version));
        let refused = self.peers.iter().filter_map(|(key, peer)| {
            let proof = &peer.access.as_ref()?.proof;
            Some((key, version.refuses(&peer.name, proof)?))
        });
        let refused: Vec<_> = refused.collect();
        for (key, reason) in refused {
            self.part(key, reason);
        }
    }

    /// Ends a peer's connection after what is queued for it, and tells it how many of its lines were
    /// accepted, and why.
    fn part(&mut self, key: usize, reason: CloseReason) {
        let rejection = match reason {
            CloseReason::LoggedInElsewhere => Rejection::LoggedInElsewhere,
            CloseReason::NameReserved => Rejection::NameReserved,
            _ => Rejection::Revoked,
        };
        if let Some(peer) = self.remove(key) {
            let text = protocol::parting_notice(peer.accepted) + &rejection.line();
            let departed = self.departed.add(key);
            peer.close(reason, Some(text.into_bytes()), Some(departed));
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, TryRecvError, unbounded};

    use super::*;
    use crate::server::broker::Event;
    use crate::server::delivery::window::Window;
    use crate::server::shutdown::ShutdownHandle;
    use crate::server::users::table::UserTable;
    use crate::server::writer::Outgoing;
    use crate::socket::connection::ConnectionId;
    use crate::wire::token::{Token, TokenHash};

    fn hash() -> TokenHash {
        Token::generate().expect("random numbers").hash()
    }

    fn version(number: u64, lines: &[(&str, TokenHash)]) -> Arc<Version> {
        let lines = lines.iter().map(|(name, hash)| format!("{name} {hash}\n"));
        let table = UserTable::parse(lines.collect::<String>().as_bytes()).expect("valid");
        Version::new(number, table)
    }

    fn access(version: &Arc<Version>, proof: Proof, takes_over: bool) -> Access {
        let version = Arc::clone(version);
        Access { proof, version, rate: None, takes_over, taken_over_at: None }
    }

    struct Bench(Broker);

    impl Bench {
        fn new() -> Self {
            let shutdown = ShutdownHandle::new(Duration::from_secs(3600)).expect("descriptors");
            Self(Broker::new(Arc::default(), shutdown, Duration::from_secs(1)))
        }

        fn join(&mut self, id: u64, name: &str, access: Access) -> Receiver<Outgoing> {
            let (queue, inbox) = unbounded();
            let name = Name::new(name).expect("a valid name");
            let access = Some(Box::new(access));
            let window = Arc::new(Window::new(1 << 20, Arc::default()));
            self.0.handle(Event::Join { id: ConnectionId(id), name, access, queue, window });
            inbox
        }

        fn connected(&self) -> u64 {
            self.0.counters.connected.get()
        }
    }

    /// Why the client was parted with, and what it was told; `None` if it was not.
    fn end(inbox: &Receiver<Outgoing>) -> Option<(CloseReason, String)> {
        match inbox.try_recv() {
            Ok(Outgoing::Close(close)) => {
                let text = close.text.unwrap_or_default();
                assert!(matches!(inbox.try_recv(), Err(TryRecvError::Disconnected)));
                Some((close.reason, String::from_utf8(text).expect("text")))
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(error, TryRecvError::Empty);
                None
            }
        }
    }

    fn reason(inbox: &Receiver<Outgoing>) -> Option<CloseReason> {
        end(inbox).map(|(reason, _)| reason)
    }

    #[test]
    fn a_user_whose_token_leaves_the_table_must_leave_and_nobody_else() {
        let (alice, bob, new) = (hash(), hash(), hash());
        let mut bench = Bench::new();
        let first = version(1, &[("alice", alice), ("bob", bob)]);
        let inboxes = [("alice", alice), ("bob", bob)].map(|(name, hash)| {
            let id = u64::from(name == "bob") + 1;
            bench.join(id, name, access(&first, Proof::Token(hash), false))
        });
        bench.0.handle(Event::Users(Arc::clone(&first)));
        assert_eq!(bench.connected(), 2);
        bench.0.handle(Event::Users(version(2, &[("alice", new), ("bob", bob)])));
        let (why, text) = end(&inboxes[0]).expect("it is parted with");
        assert_eq!(why, CloseReason::Revoked);
        let told = "notice: 0 of your lines were accepted\nerror: your token is no longer valid\n";
        assert_eq!(text, told);
        assert_eq!((reason(&inboxes[1]), bench.connected()), (None, 1));
        // Its name is free for the new token.
        let second = version(2, &[("alice", new), ("bob", bob)]);
        let inbox = bench.join(3, "alice", access(&second, Proof::Token(new), false));
        assert_eq!((reason(&inbox), bench.connected()), (None, 2));
        bench.0.handle(Event::Users(version(3, &[("alice", new)])));
        assert_eq!(reason(&inboxes[1]), Some(CloseReason::Revoked));
    }

    #[test]
    fn an_older_table_changes_nothing() {
        let (old, new) = (hash(), hash());
        let mut bench = Bench::new();
        let (first, second) = (version(1, &[("alice", old)]), version(2, &[("alice", new)]));
        let inbox = bench.join(1, "alice", access(&second, Proof::Token(new), false));
        bench.0.handle(Event::Users(Arc::clone(&first)));
        assert_eq!(reason(&inbox), None);
        // A login that was judged by the old one, and overtaken by the new one.
        let late = bench.join(2, "alice", access(&first, Proof::Token(old), true));
        assert_eq!(reason(&late), Some(CloseReason::Revoked));
        assert_eq!((reason(&inbox), bench.connected()), (None, 1));
    }

    #[test]
    fn the_table_of_a_login_is_in_force_even_before_it_was_announced() {
        let (alice, bob) = (hash(), hash());
        let mut bench = Bench::new();
        let first = version(1, &[("alice", alice)]);
        let inbox = bench.join(1, "alice", access(&first, Proof::Token(alice), false));
        let second = version(2, &[("bob", bob)]);
        let other = bench.join(2, "bob", access(&second, Proof::Token(bob), false));
        assert_eq!(reason(&inbox), Some(CloseReason::Revoked));
        assert_eq!(reason(&other), None);
    }

    #[test]
    fn a_guest_must_leave_a_name_that_becomes_a_users_in_any_case() {
        let mut bench = Bench::new();
        let first = version(1, &[]);
        let guests = ["Alice", "bob"].map(|name| {
            let id = u64::from(name == "bob") + 1;
            bench.join(id, name, access(&first, Proof::Guest, false))
        });
        bench.0.handle(Event::Users(version(2, &[("alice", hash())])));
        let (why, text) = end(&guests[0]).expect("it is parted with");
        assert_eq!(why, CloseReason::NameReserved);
        assert!(text.ends_with("error: your name belongs to a user of this server now\n"));
        assert_eq!(reason(&guests[1]), None);
    }

    #[test]
    fn a_user_takes_a_name_from_a_guest_whatever_is_configured() {
        let alice = hash();
        let mut bench = Bench::new();
        let guest = bench.join(1, "alice", access(&version(1, &[]), Proof::Guest, false));
        let users = version(2, &[("alice", alice)]);
        let user = bench.join(2, "alice", access(&users, Proof::Token(alice), false));
        assert_eq!(reason(&guest), Some(CloseReason::NameReserved));
        assert_eq!((reason(&user), bench.connected()), (None, 1));
    }

    #[test]
    fn a_trusted_process_takes_no_name_from_anyone_and_its_user_takes_it_back() {
        let alice = hash();
        let users = version(1, &[("alice", alice)]);
        let process = || access(&users, Proof::Process, false);
        let mut bench = Bench::new();
        let user = bench.join(1, "alice", access(&users, Proof::Token(alice), true));
        let guest = bench.join(2, "bob", access(&users, Proof::Guest, false));
        let refused = ["alice", "bob"].map(|name| {
            let inbox = bench.join(3, name, process());
            reason(&inbox)
        });
        assert_eq!(refused, [Some(CloseReason::NameTaken); 2]);
        assert_eq!((reason(&user), reason(&guest)), (None, None));
        // Nothing in the table is about it, so no change of the table ends it.
        let carol = bench.join(4, "carol", process());
        let (token, second) = (hash(), version(2, &[("alice", alice)]));
        bench.0.handle(Event::Users(second));
        assert_eq!(reason(&carol), None);
        let third = version(3, &[("alice", alice), ("carol", token)]);
        let owner = bench.join(5, "carol", access(&third, Proof::Token(token), false));
        assert_eq!(reason(&owner), Some(CloseReason::NameTaken));
        let owner = bench.join(6, "carol", access(&third, Proof::Token(token), true));
        assert_eq!(reason(&carol), Some(CloseReason::LoggedInElsewhere));
        assert_eq!(reason(&owner), None);
    }

    #[test]
    fn a_proven_name_is_taken_over_only_if_that_is_configured_and_not_at_once_again() {
        let alice = hash();
        let users = version(1, &[("alice", alice)]);
        let login = |takes_over| access(&users, Proof::Token(alice), takes_over);
        let mut bench = Bench::new();
        let first = bench.join(1, "alice", login(false));
        let refused = bench.join(2, "alice", login(false));
        assert_eq!(reason(&refused), Some(CloseReason::NameTaken));
        let second = bench.join(3, "alice", login(true));
        let (why, text) = end(&first).expect("it is parted with");
        assert_eq!(why, CloseReason::LoggedInElsewhere);
        let told = "notice: 0 of your lines were accepted\n\
                    error: your name has logged in elsewhere\n";
        assert_eq!((text.as_str(), reason(&second)), (told, None));
        let third = bench.join(4, "alice", login(true));
        assert_eq!(reason(&third), Some(CloseReason::NameTaken));
        // Ten seconds later.
        let (_, holder) = bench.0.peers.iter_mut().next().expect("a peer");
        let held = holder.access.as_mut().expect("a right");
        held.taken_over_at = held.taken_over_at.and_then(|at| at.checked_sub(TAKEOVER_INTERVAL));
        let fourth = bench.join(5, "alice", login(true));
        assert_eq!(reason(&second), Some(CloseReason::LoggedInElsewhere));
        assert_eq!((reason(&fourth), bench.connected()), (None, 1));
    }
}
