//! What a node's state orders: from egress ([`Order`]), and from the broker ([`Effect`]). Plain values.

use std::ops::Range;
use std::sync::Arc;

use crate::cluster::engine::{Command, Entrance, Life, Recipient, Session};
use crate::cluster::outgoing::{LostElsewhere, Unsettled};
use crate::cluster::parcel::Arrived;
use crate::cluster::ranges::Ranges;
use crate::wire::batch::Frames;
use crate::wire::loss::{LossReason, LostLines};
use crate::wire::name::Name;
use crate::wire::room::Room;

/// Frames on their way to other nodes.
#[derive(Clone, Debug)]
pub(crate) struct Forward {
    /// The number of the delivery to the first of `names`; the others follow.
    pub(crate) first: u64,
    pub(crate) names: Vec<Recipient>,
    pub(crate) from: Name,
    pub(crate) session: Session,
    pub(crate) room: Option<Room>,
    pub(crate) lowest: u64,
    pub(crate) first_line: u64,
    pub(crate) messages: u32,
    pub(crate) frames: Frames,
    pub(crate) range: Range<u32>,
}

/// What the broker orders from egress.
#[derive(Debug)]
pub(crate) enum Order {
    Forward(Forward),
    Command(Command),
    /// This node's broker has these deliveries of an origin, which will send nothing below `lowest`
    /// again.
    Handled {
        origin: Life,
        numbers: Ranges,
        lowest: u64,
    },
    /// Every copy of it is written or given up.
    Settled {
        origin: Life,
        number: u64,
    },
    /// Nothing more will be told of these: they are delivered, or their loss was told.
    Finished {
        origin: Life,
        numbers: Ranges,
    },
    /// All messages of a delivery are lost, and nothing more will be told of it.
    Lost {
        origin: Life,
        number: u64,
        messages: u32,
        reason: LossReason,
    },
    /// A connection has lost some of a client's lines.
    LostLines {
        origin: Life,
        session: Session,
        lines: LostLines,
        recipient: Name,
        reason: LossReason,
    },
    /// A new incarnation, or a new life, begins; nothing else is sent before `Restart`.
    Enter {
        life: Life,
        entrance: Entrance,
    },
    /// In the new incarnation: first these, then these claims, questions and `Cut`, then what waits and
    /// is no line.
    Restart {
        forwards: Vec<Forward>,
        claims: Vec<Command>,
    },
}

/// What a delivery needs until it is settled.
#[derive(Debug)]
pub(crate) struct Payload<C> {
    pub(crate) from: Name,
    pub(crate) room: Option<Room>,
    pub(crate) frames: Frames,
    pub(crate) range: Range<u32>,
    /// The charge on the sender's window.
    pub(crate) charge: C,
}

/// What the broker has to do.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Give these frames to a session, or count them as lost if it is gone.
    Deliver(Delivery),
    /// Give these frames to all members of the room that are here.
    Spread(Delivery),
    /// The other node has lost them: the sender is to be told.
    Lost(LostElsewhere),
    /// Everything that the session has sent to other nodes is delivered, or its loss was told.
    Accounted { session: Session },
    /// There is room again for lines to this recipient.
    Freed(Recipient),
    /// Somebody came to a room, or left it.
    Moved { room: Room, name: Name, has_joined: bool },
    /// The session has its name from now on.
    LoggedIn { session: Session },
    /// Somebody else has the name; or nobody could be asked.
    LoginRefused { session: Session, is_reachable: bool },
    /// Replies may be due.
    Answered { session: Session },
    /// The engine's answer to `/who`.
    Who { session: Session, question: u64, count: u64, names: Vec<Name> },
    /// Something that was forwarded will not be heard of again.
    Unsettled(Unsettled),
    /// The node that has taken it over has ended, and told no end of it; that node's report does.
    Unconfirmed(Unsettled),
    /// A hold has ended here, so its lines are lost here; the origin is told.
    HoldOver { name: Name, origin: Life, messages: u32 },
}

/// Frames of another node.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) session: Session,
    pub(crate) origin: Life,
    pub(crate) number: u64,
    pub(crate) piece: Arc<Arrived>,
    pub(crate) frames: Frames,
}
