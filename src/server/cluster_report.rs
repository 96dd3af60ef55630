//! What a node of a cluster did for others, and what became of it. Plain values.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::engine::Recipient;
use crate::cluster::outgoing::Unsettled;
use crate::server::counted::Counted;
use crate::wire::loss::LossReason;
use crate::wire::name::Name;
use crate::wire::room::Room;

/// A node's dealings with the others of its cluster, in messages.
///
/// At every moment one node answers for a message: the sender's node until the recipient's node has
/// taken it over, the recipient's from then on. So for each node `owed + arrived = delivered + lost +
/// handed_over + in_doubt`, with the numbers of the [`Report`](crate::Report) that holds this; and if
/// no node died and the engine lost nothing, the sum of all `handed_over` is the sum of all `arrived`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ClusterReport {
    /// The name of the node, and what tells this run of it from others.
    pub life: String,
    /// Taken over from other nodes.
    pub arrived: u64,
    /// Taken over by other nodes, or held for a client that was to come back.
    pub handed_over: u64,
    /// They may have arrived: the node that had them died, or the engine lost its data.
    pub in_doubt: u64,
    /// Those of them that became so during the drain.
    pub in_doubt_in_drain: u64,
    /// Handed over without word of their end, by the life that has them; `held` stands for those
    /// that were held for a client.
    pub unconfirmed: BTreeMap<String, u64>,
    /// Rooms: each message goes once to each other node with members, and these copies have sums of
    /// their own. What the members are owed is counted where they are.
    pub room_copies: RoomCopies,
    /// What was lost between nodes, or is in doubt, for the first thousand cases.
    pub losses: Vec<NodeLoss>,
}

/// Copies of rooms' messages between nodes, as in [`ClusterReport`]; without a dead node, the sum of
/// all `handed_over` is the sum of all `arrived`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RoomCopies {
    /// Taken over from other nodes.
    pub arrived: u64,
    /// Taken over by other nodes.
    pub handed_over: u64,
    /// They may have arrived.
    pub in_doubt: u64,
    /// They were never sent, since the engine was not reachable.
    pub lost: u64,
}

/// Messages that were lost between nodes, or are in doubt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NodeLoss {
    /// The recipient; `None` if it had left when its message arrived, and for a room.
    pub name: Option<Name>,
    /// The room, if it was a copy for the members at one node.
    pub room: Option<Room>,
    /// The other node, if one is known.
    pub node: Option<String>,
    /// The number of the first of the sender's lines, if it was this node's client.
    pub first_line: Option<u64>,
    /// How many messages.
    pub messages: u64,
    /// What became of them.
    pub reason: NodeLossReason,
}

/// What became of messages between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum NodeLossReason {
    /// They may have arrived: the node that had them is gone, or the engine lost its data.
    InDoubt,
    /// They were never sent, since the engine was not reachable.
    Unreachable,
    /// The recipient left before they arrived.
    LeftBefore,
    /// The recipient did not come back in time after its node had stopped.
    DidNotComeBack,
}

impl NodeLoss {
    pub(crate) fn of(unsettled: &Unsettled) -> Self {
        let reason =
            if unsettled.in_doubt { NodeLossReason::InDoubt } else { NodeLossReason::Unreachable };
        let (name, room, node) = match &unsettled.name {
            Recipient::Client(name) => (Some(name.clone()), None, unsettled.at.as_ref()),
            Recipient::Room(room, life) => (None, Some(room.clone()), Some(life)),
        };
        Self {
            name,
            room,
            node: node.map(|life| life.node().to_owned()),
            first_line: Some(unsettled.first_line),
            messages: u64::from(unsettled.messages),
            reason,
        }
    }

    pub(crate) fn left(node: &str, messages: u64) -> Self {
        let (node, reason) = (Some(node.to_owned()), NodeLossReason::LeftBefore);
        Self { name: None, room: None, node, first_line: None, messages, reason }
    }

    pub(crate) fn held(name: Name, node: &str, messages: u64) -> Self {
        let (node, reason) = (Some(node.to_owned()), NodeLossReason::DidNotComeBack);
        Self { name: Some(name), room: None, node, first_line: None, messages, reason }
    }

    /// As senders are told.
    pub(crate) fn told_as(&self) -> LossReason {
        match self.reason {
            NodeLossReason::InDoubt => LossReason::NodeGone,
            NodeLossReason::Unreachable => LossReason::Unreachable,
            NodeLossReason::LeftBefore => LossReason::Left,
            NodeLossReason::DidNotComeBack => LossReason::DidNotComeBack,
        }
    }
}

impl fmt::Display for NodeLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages = Counted(self.messages, "message", "messages");
        let room = self.room.as_ref().map_or("a client that has left", Room::as_str);
        let name = self.name.as_ref().map_or(room, Name::as_str);
        let node = self.node.as_deref().unwrap_or("?");
        match self.reason {
            NodeLossReason::InDoubt => {
                write!(f, "{messages} for {name} (node {node}) in doubt: they may have arrived")
            }
            NodeLossReason::Unreachable => {
                write!(f, "{messages} for {name} lost: cluster not reachable")
            }
            NodeLossReason::LeftBefore => {
                write!(f, "{messages} from node {node} for {name} lost: they came too late")
            }
            NodeLossReason::DidNotComeBack => {
                write!(f, "{messages} from node {node} for {name} lost: it did not come back")
            }
        }
    }
}
