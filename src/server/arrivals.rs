//! What a client was sent from other nodes, until its kernel has acknowledged it: then the origins are
//! told. Plain state, owned by the broker; the asking is done by markers, as for a `/sync`.
//!
//! A client is asked once at a time, about everything that was queued for it until then, so this costs
//! each writer a look some times a second, however much arrives.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};

use crossbeam_channel::Sender;

use crate::cluster::engine::Life;
use crate::cluster::orders::Order;
use crate::cluster::ranges::Ranges;
use crate::server::delivery::token::{Share, Token, TokenEnd};

/// One client's part.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    fresh: Fresh,
    /// Exists while the client is being asked.
    asked: Weak<Token>,
}

/// Nobody was asked about these yet.
#[derive(Debug, Default)]
struct Fresh {
    /// Deliveries to this client.
    own: Vec<(Life, Ranges)>,
    /// Copies for several clients of this node.
    shared: Vec<Arc<SharedArrival>>,
}

/// A delivery to several clients: dropped with the last of them, and then its origin is told, unless
/// it is not known what one of them got.
#[derive(Debug)]
pub(crate) struct SharedArrival {
    orders: Sender<Order>,
    origin: Life,
    number: u64,
    is_unknown: AtomicBool,
}

impl SharedArrival {
    pub(crate) fn new(orders: Sender<Order>, origin: Life, number: u64) -> Self {
        Self { orders, origin, number, is_unknown: AtomicBool::new(false) }
    }
}

impl Drop for SharedArrival {
    fn drop(&mut self) {
        if !self.is_unknown.load(SeqCst) {
            let mut numbers = Ranges::default();
            numbers.insert(self.number);
            // Fails only if egress has panicked, and then nobody can be told.
            let _ = self.orders.send(Order::Finished { origin: self.origin.clone(), numbers });
        }
    }
}

impl Arrivals {
    /// A delivery was queued for the client. True if it is the first one since the client was asked.
    pub(crate) fn add(&mut self, origin: &Life, number: u64) -> bool {
        let was_empty = self.is_empty();
        let place = self.fresh.own.iter().position(|(life, _)| life == origin);
        let place = place.unwrap_or_else(|| {
            self.fresh.own.push((origin.clone(), Ranges::default()));
            self.fresh.own.len() - 1
        });
        self.fresh.own[place].1.insert(number);
        was_empty
    }

    /// The same for a delivery to several.
    pub(crate) fn add_shared(&mut self, arrival: Arc<SharedArrival>) -> bool {
        let was_empty = self.is_empty();
        self.fresh.shared.push(arrival);
        was_empty
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fresh.own.is_empty() && self.fresh.shared.is_empty()
    }

    /// Whether the client is being asked about what came before.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.strong_count() > 0
    }

    /// Asks about what came since: the share is for the client's writer. `None` if nothing did.
    pub(crate) fn ask(&mut self, orders: &Sender<Order>) -> Option<Share> {
        if self.is_empty() {
            return None;
        }
        let fresh = std::mem::take(&mut self.fresh);
        let (token, share) = Token::with_end(Box::new(Asked { orders: orders.clone(), fresh }));
        self.asked = token;
        Some(share)
    }
}

/// A question that is on its way.
#[derive(Debug)]
struct Asked {
    orders: Sender<Order>,
    fresh: Fresh,
}

impl TokenEnd for Asked {
    fn ended(self: Box<Self>, is_confirmed: bool) {
        let Self { orders, fresh: Fresh { own, shared } } = *self;
        if is_confirmed {
            for (origin, numbers) in own {
                let _ = orders.send(Order::Finished { origin, numbers });
            }
        } else {
            // The origin keeps its account, and names it as unconfirmed.
            for arrival in shared {
                arrival.is_unknown.store(true, SeqCst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, unbounded};

    use super::*;

    fn finished(orders: &Receiver<Order>) -> Vec<String> {
        let told = orders.try_iter().map(|order| match order {
            Order::Finished { origin, numbers } => format!("{origin} {numbers}"),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    #[test]
    fn origins_are_told_when_the_last_share_is_settled() {
        let (sender, orders) = unbounded();
        let (a, b) = (Life::new("a.1"), Life::new("b.2"));
        let mut arrivals = Arrivals::default();
        assert!(arrivals.ask(&sender).is_none());
        assert!(arrivals.add(&a, 4));
        assert!(!arrivals.add(&a, 5) && !arrivals.add(&b, 1));
        let share = arrivals.ask(&sender).expect("a question");
        assert!(arrivals.is_empty() && arrivals.is_asked());
        assert!(arrivals.add(&a, 6));
        share.settle();
        assert!(!arrivals.is_asked());
        assert_eq!(finished(&orders), ["a.1 4-5", "b.2 1"]);
    }

    #[test]
    fn a_copy_for_several_is_finished_with_the_last_of_them_and_never_if_one_is_unknown() {
        let (sender, orders) = unbounded();
        for settles in [true, false] {
            let arrival = SharedArrival::new(sender.clone(), Life::new("a.1"), 7);
            let arrival = Arc::new(arrival);
            let (mut first, mut second) = (Arrivals::default(), Arrivals::default());
            first.add_shared(Arc::clone(&arrival));
            second.add_shared(arrival);
            let shares = [&mut first, &mut second].map(|it| it.ask(&sender).expect("a question"));
            let [one, other] = shares;
            if settles {
                one.settle();
            } else {
                drop(one);
            }
            assert!(finished(&orders).is_empty());
            other.settle();
            assert_eq!(finished(&orders).len(), usize::from(settles));
        }
    }
}
