//! Redis, Valkey, and whatever else has the Streams and Lua of Redis 6.2: runs the scripts in
//! `scripts/`, reads one stream. Used by `ingress` and `egress`, each with a connection of its own.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use redis::{Client, Cmd, Connection, RedisError, Value};

use super::dialler::{Dialler, said};
use super::{
    Call, Command, Engine, EngineError, Entry, Hello, Life, LifeState, Piece, Place, Recipient,
    Reply, Wire,
};
use crate::cluster::parcel::{self, Arrived};
use crate::cluster::ranges;
use crate::wire::name::Name;
use crate::wire::protocol::MAX_WHO_NAMES;
use crate::wire::room::Room;

/// How many entries are read at once. Under load an entry is a whole cycle of another node's egress.
const READ_ENTRIES: usize = 64;

/// How many entries, and bytes in them, may have been read before the engine has to forget them: a trim
/// costs it as much as a read.
const MAX_UNTRIMMED: (usize, usize) = (64, 256 * 1024);

/// How many names one script frees when a hold is over.
const FREE_NAMES: usize = 500;

/// Each script with what has to stand before it, and its place in [`RedisWire::digests`].
const SCRIPTS: [&[&str]; Script::COUNT] = [
    &[COMMON, REGISTER, include_str!("scripts/hello.lua")],
    &[COMMON, REGISTER, include_str!("scripts/enter.lua")],
    &[COMMON, REGISTER, include_str!("scripts/open.lua")],
    &[COMMON, include_str!("scripts/send.lua")],
    &[COMMON, REGISTER, include_str!("scripts/claim.lua")],
    &[COMMON, REGISTER, include_str!("scripts/free.lua")],
    &[COMMON, REGISTER, include_str!("scripts/who.lua")],
    &[COMMON, REGISTER, include_str!("scripts/join_room.lua")],
    &[COMMON, REGISTER, include_str!("scripts/part_room.lua")],
    &[COMMON, REGISTER, include_str!("scripts/who_in.lua")],
    &[COMMON, REGISTER, include_str!("scripts/leave.lua")],
    &[COMMON, REGISTER, include_str!("scripts/cut.lua")],
    &[COMMON, REGISTER, include_str!("scripts/release.lua")],
    &[COMMON, REGISTER, include_str!("scripts/down.lua")],
    &[COMMON, REGISTER, include_str!("scripts/forget.lua")],
    &[COMMON, REGISTER, include_str!("scripts/end_hold.lua")],
    &[COMMON, include_str!("scripts/ack.lua")],
    &[COMMON, include_str!("scripts/renew.lua")],
    &[COMMON, REGISTER, include_str!("scripts/reap.lua")],
];
const COMMON: &str = include_str!("scripts/common.lua");
const REGISTER: &str = include_str!("scripts/register.lua");

#[derive(Clone, Copy, Debug)]
enum Script {
    Hello,
    Enter,
    Open,
    Send,
    Claim,
    Free,
    Who,
    JoinRoom,
    PartRoom,
    WhoIn,
    Leave,
    Cut,
    Release,
    Down,
    Forget,
    EndHold,
    Ack,
    Renew,
    Reap,
}

impl Script {
    const COUNT: usize = Self::Reap as usize + 1;
}

/// The engine at one address.
pub(crate) struct RedisEngine {
    dialler: Dialler,
    /// What all keys begin with: one hash tag, so that all of them are on one shard.
    prefix: String,
}

impl std::fmt::Debug for RedisEngine {
    /// Without the address, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisEngine").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl RedisEngine {
    /// The engine at `url`, for the cluster of this name.
    pub(crate) fn new(
        url: &str,
        password: Option<&str>,
        cluster: &str,
    ) -> Result<Self, EngineError> {
        use redis::IntoConnectionInfo;
        let info = url.into_connection_info().map_err(|error| said(&error))?;
        let info = match password {
            Some(password) => {
                let settings = info.redis_settings().clone().set_password(password);
                info.set_redis_settings(settings)
            }
            None => info,
        };
        let client = Client::open(info).map_err(|error| said(&error))?;
        Ok(Self { dialler: Dialler::new(client), prefix: format!("{{a-chat:{cluster}}}:") })
    }

    fn connect(&self, timeout: Duration) -> Result<RedisWire, EngineError> {
        let until = Instant::now() + timeout;
        let connection = self.dialler.dial(timeout)?;
        let mut wire = RedisWire {
            connection,
            timeout: Duration::ZERO,
            prefix: self.prefix.as_str().into(),
            digests: Vec::new(),
            packed: Vec::new(),
            read: Read::default(),
        };
        wire.set_timeout(until.saturating_duration_since(Instant::now()))?;
        wire.load_scripts()?;
        // What is asked next is still a part of the dialling.
        wire.set_timeout(until.saturating_duration_since(Instant::now()))?;
        Ok(wire)
    }

    /// Everything that the engine holds for this cluster, as text.
    #[cfg(test)]
    pub(crate) fn dump(&self, timeout: Duration) -> Result<Vec<String>, EngineError> {
        let mut wire = self.connect(timeout)?;
        let mut cmd = redis::cmd("KEYS");
        // The hash tag's braces are plain characters to this command, its brackets would not be.
        cmd.arg(format!("{}*", self.prefix));
        let Value::Array(keys) = wire.ask(&cmd)? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for key in keys {
            let key = text(&key).unwrap_or_default();
            let mut cmd = redis::cmd("DUMP");
            cmd.arg(&key);
            let value = wire.ask(&cmd)?;
            all.push(format!("{key} {value:?}"));
        }
        Ok(all)
    }

    /// Why this engine must not be used, or what to warn of.
    pub(crate) fn check(&self, timeout: Duration) -> Result<Option<String>, EngineError> {
        let mut wire = self.connect(timeout)?;
        let mut cmd = redis::cmd("CONFIG");
        cmd.arg("GET").arg("maxmemory-policy");
        let Value::Array(found) = wire.ask(&cmd)? else {
            return Ok(Some("cannot tell the engine's maxmemory-policy".to_owned()));
        };
        match found.get(1).and_then(text).as_deref() {
            Some("noeviction") => Ok(None),
            Some(policy) => Err(EngineError(format!(
                "the engine's maxmemory-policy is {policy}, which may delete any key; \
                 it must be noeviction"
            ))),
            None => Ok(Some("cannot tell the engine's maxmemory-policy".to_owned())),
        }
    }
}

impl Engine for RedisEngine {
    fn dial(&self, timeout: Duration) -> Result<Box<dyn Wire>, EngineError> {
        Ok(Box::new(self.connect(timeout)?))
    }
}

struct RedisWire {
    connection: Connection,
    timeout: Duration,
    prefix: Arc<str>,
    digests: Vec<String>,
    /// The commands of a cycle, as they are sent.
    packed: Vec<u8>,
    read: Read,
}

/// What of the inbox was read, and is not trimmed yet.
#[derive(Debug, Default)]
struct Read {
    up_to: String,
    entries: usize,
    bytes: usize,
    /// Nothing came for a while.
    is_idle: bool,
}

impl Read {
    fn note(&mut self, fields: &[Value]) {
        let length = |field: &Value| match field {
            Value::BulkString(bytes) => bytes.len(),
            _ => 0,
        };
        self.is_idle = false;
        self.entries += 1;
        self.bytes += fields.iter().map(length).sum::<usize>();
    }

    fn is_worth_a_trim(&self) -> bool {
        let (entries, bytes) = MAX_UNTRIMMED;
        self.entries >= entries || self.bytes >= bytes || (self.is_idle && self.entries > 0)
    }
}

impl RedisWire {
    fn load_scripts(&mut self) -> Result<(), EngineError> {
        self.packed.clear();
        for script in SCRIPTS {
            let mut cmd = redis::cmd("SCRIPT");
            cmd.arg("LOAD").arg(script.concat());
            cmd.write_packed_command(&mut self.packed);
        }
        let replies = self.exchange(SCRIPTS.len())?;
        for reply in replies {
            match text(&reply) {
                Some(digest) => self.digests.push(digest),
                None => return Err(EngineError(format!("a script is refused: {}", shown(&reply)))),
            }
        }
        Ok(())
    }

    fn exchange(&mut self, count: usize) -> Result<Vec<Value>, EngineError> {
        let until = Instant::now() + self.timeout;
        self.connection.send_packed_command(&self.packed).map_err(|error| said(&error))?;
        let mut replies = Vec::with_capacity(count);
        // The client library's own loop waits once more for each reply after one that has not come.
        while replies.len() < count {
            if Instant::now() > until {
                return Err(EngineError("it takes too long to answer".to_owned()));
            }
            replies.push(self.connection.recv_response().map_err(|error| said(&error))?);
        }
        Ok(replies)
    }

    fn ask(&mut self, cmd: &Cmd) -> Result<Value, EngineError> {
        self.packed.clear();
        cmd.write_packed_command(&mut self.packed);
        let mut replies = self.exchange(1)?;
        Ok(replies.pop().unwrap_or(Value::Nil))
    }

    fn set_timeout(&mut self, timeout: Duration) -> Result<(), EngineError> {
        // Zero would mean no limit at all.
        let timeout = timeout.max(Duration::from_millis(1));
        if timeout != self.timeout {
            let set = |error: RedisError| said(&error);
            self.connection.set_read_timeout(Some(timeout)).map_err(set)?;
            self.connection.set_write_timeout(Some(timeout)).map_err(set)?;
            self.timeout = timeout;
        }
        Ok(())
    }

    fn script(&self, script: Script, incarnation: &str, life: &Life) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        let digest = self.digests.get(script as usize).map_or("", String::as_str);
        cmd.arg(digest).arg(1).arg(&*self.prefix).arg(incarnation).arg(life.as_str());
        cmd
    }

    /// A numbered command.
    fn command(
        &self,
        incarnation: &str,
        life: &Life,
        (number, overdue): (u64, &str),
        command: &Command,
    ) -> Cmd {
        let script = |script| self.script(script, incarnation, life);
        match command {
            Command::Send(pieces) => {
                let mut cmd = script(Script::Send);
                cmd.arg(number);
                push_pieces(&mut cmd, pieces);
                cmd
            }
            Command::Claim { name, session } => {
                let mut cmd = script(Script::Claim);
                cmd.arg(number).arg(name.as_str()).arg(session).arg(overdue);
                cmd
            }
            Command::Free { name, session, .. } => {
                let mut cmd = script(Script::Free);
                cmd.arg(number).arg(name.as_str()).arg(session);
                cmd
            }
            Command::Who { question, names } => {
                let mut cmd = script(Script::Who);
                cmd.arg(number).arg(question).arg(MAX_WHO_NAMES);
                for name in names {
                    cmd.arg(name.as_str());
                }
                cmd
            }
            Command::JoinRoom { question, room, name } => {
                let mut cmd = script(Script::JoinRoom);
                cmd.arg(number).arg(room.as_str()).arg(name.as_str()).arg(question);
                cmd
            }
            Command::PartRoom { room, name } => {
                let mut cmd = script(Script::PartRoom);
                cmd.arg(number).arg(room.as_str()).arg(name.as_str());
                cmd
            }
            Command::WhoIn { question, room } => {
                let mut cmd = script(Script::WhoIn);
                cmd.arg(number).arg(room.as_str()).arg(question).arg(MAX_WHO_NAMES);
                cmd
            }
            Command::Leave | Command::Cut | Command::Down => {
                let mut cmd = script(match command {
                    Command::Leave => Script::Leave,
                    Command::Cut => Script::Cut,
                    _ => Script::Down,
                });
                cmd.arg(number);
                cmd
            }
            Command::Release { regardless } => {
                let mut cmd = script(Script::Release);
                cmd.arg(number).arg(if *regardless { "regardless" } else { "" });
                cmd
            }
            Command::EndHold { life } => {
                let mut cmd = script(Script::EndHold);
                cmd.arg(number).arg(life.as_str()).arg(FREE_NAMES);
                cmd
            }
        }
    }

    /// What a call is to the engine: one script.
    fn cmd(&self, incarnation: &str, life: &Life, call: &Call<'_>) -> Cmd {
        let script = |script| self.script(script, incarnation, life);
        match call {
            Call::Run { number, command, overdue } => {
                self.command(incarnation, life, (*number, overdue), command)
            }
            Call::Ack { origin, text } => {
                let mut cmd = script(Script::Ack);
                cmd.arg(origin.as_str()).arg(*text);
                cmd
            }
            Call::Renew { ping } => {
                let mut cmd = script(Script::Renew);
                cmd.arg(if *ping { "ping" } else { "" });
                cmd
            }
            Call::Reap { life, counter } => {
                let mut cmd = script(Script::Reap);
                cmd.arg(life.as_str()).arg(counter);
                cmd
            }
            Call::Enter { entrance, last } => {
                let mut cmd = script(Script::Enter);
                cmd.arg(entrance.state.as_str()).arg(last);
                cmd.arg(if entrance.fresh { "fresh" } else { "" });
                cmd.arg(entrance.known.len()).arg(entrance.names.len()).arg(entrance.seats.len());
                for (origin, text) in &entrance.known {
                    cmd.arg(origin.as_str()).arg(text);
                }
                for (name, session, claim) in &entrance.names {
                    cmd.arg(name.as_str()).arg(session).arg(claim);
                }
                for (room, name) in &entrance.seats {
                    cmd.arg(room.as_str()).arg(name.as_str());
                }
                cmd
            }
            Call::Open => script(Script::Open),
            Call::Forget => script(Script::Forget),
        }
    }
}

/// Pieces that are for the same recipients, and their numbers.
struct Bundle<'a> {
    /// The indices of the names.
    names: String,
    numbers: String,
    pieces: Vec<&'a [u8]>,
}

/// Pieces for one client are put into one bundle, so that the engine has less to do, unless something
/// for several or for a room stands between them: what one client sends to another has to stay in
/// order, whichever way it takes.
fn bundle<'a>(pieces: &'a [Piece]) -> (Vec<&'a Recipient>, Vec<Bundle<'a>>) {
    let mut names: Vec<&Recipient> = Vec::new();
    // The index of a name, counted from 1, and its bundle that may still grow.
    let mut known: HashMap<&Recipient, (usize, usize), RandomState> = HashMap::default();
    let mut bundles: Vec<Bundle<'a>> = Vec::new();
    // Bundles before this one do not grow.
    let mut from = 0;
    for piece in pieces {
        let [Recipient::Client(_)] = &*piece.names else {
            let mut list = String::new();
            for name in &piece.names {
                let (index, _) = *known.entry(name).or_insert_with(|| {
                    names.push(name);
                    (names.len(), usize::MAX)
                });
                let comma = if list.is_empty() { "" } else { "," };
                let _ = write!(list, "{comma}{index}");
            }
            let numbers = piece.first.to_string();
            bundles.push(Bundle { names: list, numbers, pieces: vec![&piece.body] });
            from = bundles.len();
            continue;
        };
        let name = &piece.names[0];
        let (index, open) = known.entry(name).or_insert_with(|| {
            names.push(name);
            (names.len(), usize::MAX)
        });
        if let Some(bundle) = bundles.get_mut(*open).filter(|_| *open >= from) {
            let _ = write!(bundle.numbers, "+{}", piece.first);
            bundle.pieces.push(&piece.body);
        } else {
            *open = bundles.len();
            let (names, numbers) = (index.to_string(), piece.first.to_string());
            bundles.push(Bundle { names, numbers, pieces: vec![&piece.body] });
        }
    }
    (names, bundles)
}

/// The first and the last delivery, the names once each, then the bundles.
fn push_pieces(cmd: &mut Cmd, pieces: &[Piece]) {
    let (names, bundles) = bundle(pieces);
    let first = pieces.first().map_or(0, |piece| piece.first);
    let last = pieces.last().map_or(0, |piece| piece.first + piece.names.len() as u64 - 1);
    cmd.arg(first).arg(last).arg(names.len());
    for name in names {
        cmd.arg(name.text().as_bytes());
    }
    for Bundle { names, numbers, pieces } in &bundles {
        cmd.arg(names).arg(numbers);
        match &pieces[..] {
            [piece] => cmd.arg(*piece),
            pieces => cmd.arg(pieces.concat()),
        };
    }
}

impl Wire for RedisWire {
    fn hello(&mut self, life: &Life, random: u64) -> Result<Hello, EngineError> {
        let mut cmd = self.script(Script::Hello, "", life);
        cmd.arg(format!("{random:016x}"));
        let reply = self.ask(&cmd)?;
        let Value::Array(parts) = &reply else {
            return Err(EngineError(shown(&reply)));
        };
        let part = |at: usize| parts.get(at).and_then(text).unwrap_or_default();
        if part(3) != "1" {
            let format = part(3);
            return Err(EngineError(format!("its keys have the format {format}, not 1")));
        }
        let (incarnation, open) = (part(0).as_str().into(), part(1) == "open");
        Ok(Hello { incarnation, open, state: LifeState::parse(&part(2)) })
    }

    fn run(
        &mut self,
        incarnation: &str,
        life: &Life,
        calls: &[Call<'_>],
        timeout: Duration,
    ) -> Result<Vec<Reply>, EngineError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        self.set_timeout(timeout)?;
        self.packed.clear();
        for call in calls {
            self.cmd(incarnation, life, call).write_packed_command(&mut self.packed);
        }
        let values = self.exchange(calls.len())?;
        let replies = calls.iter().zip(values).map(|(call, value)| reply_to(call, value)).collect();
        Ok(replies)
    }

    fn read(
        &mut self,
        life: &Life,
        after: &mut String,
        wait: Duration,
        timeout: Duration,
    ) -> Result<Vec<Entry>, EngineError> {
        let key = format!("{}in:{life}", self.prefix);
        self.set_timeout(wait + timeout)?;
        self.packed.clear();
        let mut count = 1;
        if self.read.is_worth_a_trim() {
            let read = std::mem::take(&mut self.read).up_to;
            let mut trim = redis::cmd("XTRIM");
            // Exact: what was read is of no use any more. MINID keeps the entry itself.
            trim.arg(&key).arg("MINID").arg("=").arg(read);
            trim.write_packed_command(&mut self.packed);
            count += 1;
        }
        let mut cmd = redis::cmd("XREAD");
        cmd.arg("COUNT").arg(READ_ENTRIES);
        if !wait.is_zero() {
            cmd.arg("BLOCK").arg(u64::try_from(wait.as_millis()).unwrap_or(1).max(1));
        }
        cmd.arg("STREAMS").arg(&key).arg(after.as_str());
        cmd.write_packed_command(&mut self.packed);
        let reply = self.exchange(count)?.pop().unwrap_or(Value::Nil);
        let entries = match reply {
            Value::Nil => {
                self.read.is_idle = true;
                return Ok(Vec::new());
            }
            Value::Array(streams) => streams.into_iter().next(),
            other => return Err(EngineError(shown(&other))),
        };
        let Some(Value::Array(stream)) = entries else { return Ok(Vec::new()) };
        let Some(Value::Array(entries)) = stream.into_iter().nth(1) else { return Ok(Vec::new()) };
        let mut read = Vec::with_capacity(entries.len());
        for entry in entries {
            let Value::Array(parts) = entry else { continue };
            let mut parts = parts.into_iter();
            if let Some(id) = parts.next().as_ref().and_then(text) {
                *after = id;
            }
            let Some(Value::Array(fields)) = parts.next() else { continue };
            self.read.note(&fields);
            read.push(entry_of(fields).unwrap_or(Entry::Unreadable));
        }
        self.read.up_to.clone_from(after);
        Ok(read)
    }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Okay => Some("OK".to_owned()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A reply that was not expected, as it may stand in a log.
fn shown(value: &Value) -> String {
    match value {
        Value::ServerError(error) => match error.details() {
            Some(details) => format!("{} {details}", error.code()),
            None => error.code().to_owned(),
        },
        other => format!("an answer that this version does not know: {other:?}"),
    }
}

fn reply_to(call: &Call<'_>, value: Value) -> Reply {
    match value {
        Value::ServerError(ref error) if error.code() == "OOM" => Reply::Full,
        Value::ServerError(ref error) if shown(&value).contains("OOM") => {
            log::trace!("refused: {error}");
            Reply::Full
        }
        Value::Array(parts) => match call {
            Call::Renew { .. } => lives(&parts),
            _ if parts.first().and_then(text).as_deref() == Some("LAST") => left(parts),
            _ => Reply::Done,
        },
        value => match text(&value).as_deref() {
            Some("OK" | "DONE") => Reply::Done,
            Some("UNKNOWN") => Reply::Unknown,
            Some("EARLY") => Reply::Early,
            Some("FENCED") => Reply::Fenced,
            _ => Reply::Failed(shown(&value)),
        },
    }
}

fn lives(parts: &[Value]) -> Reply {
    let open = parts.first().and_then(text).as_deref() == Some("open");
    let lives = parts.get(1..).unwrap_or_default().chunks_exact(3).filter_map(|life| {
        let state = LifeState::parse(&text(&life[1])?)?;
        Some((Life::new(&text(&life[0])?), state, text(&life[2])?.parse().ok()?))
    });
    Reply::Lives { open, lives: lives.collect() }
}

fn left(parts: Vec<Value>) -> Reply {
    let mut held = Vec::new();
    let mut parts = parts.into_iter().skip(1);
    while let (Some(origin), Some(number), Some(name), Some(body)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    {
        let parcel = || -> Option<(Life, Name, Vec<Arrived>)> {
            let mut parcel = format!("{}:1;", text(&number)?).into_bytes();
            parcel.extend(bytes(body)?);
            let pieces = parcel::read_parcel(&parcel)?;
            Some((Life::new(&text(&origin)?), Name::new(text(&name)?).ok()?, pieces))
        };
        held.extend(parcel());
    }
    Reply::Left(held)
}

/// Reads the fields of an entry. Whatever stands in an inbox is checked before it counts.
fn entry_of(fields: Vec<Value>) -> Option<Entry> {
    let mut values: Vec<Vec<u8>> = Vec::with_capacity(fields.len());
    for field in fields {
        values.push(bytes(field)?);
    }
    let kind = *values.first()?.first()?;
    let mut values = values.into_iter();
    let mut next = || {
        values.next()?;
        values.next()
    };
    let string = |bytes: Option<Vec<u8>>| String::from_utf8(bytes?).ok();
    let life = |bytes: Option<Vec<u8>>| Some(Life::new(&string(bytes)?));
    let number = |bytes: Option<Vec<u8>>| string(bytes)?.parse::<u64>().ok();
    let name = |bytes: Option<Vec<u8>>| Name::new(bytes?).ok();
    Some(match kind {
        b'm' => {
            let (origin, parcel) = (life(next())?, next()?);
            let Some(pieces) = parcel::read_parcel(&parcel) else {
                log::error!("a parcel of {origin} is damaged, its lines are not delivered");
                return None;
            };
            Entry::Message { origin, pieces, frames: Arc::new(parcel) }
        }
        b'p' => {
            let range = string(next())?;
            let (first, last) = range.split_once(' ')?;
            let places = string(next())?;
            let places = places.lines().map(|line| {
                let (name, place) = line.split_once(' ')?;
                let place = match place {
                    "-" => None,
                    "+" => Some(Place::Held),
                    life => Some(Place::At(Life::new(life))),
                };
                Some((Recipient::parse(name)?, place))
            });
            let places = places.collect::<Option<Vec<_>>>()?;
            Entry::Placed { first: first.parse().ok()?, last: last.parse().ok()?, places }
        }
        b'h' => {
            let life = life(next())?;
            let numbers = string(next())?;
            let numbers = numbers.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
            Entry::Moved { life, numbers }
        }
        b'a' => {
            let (from, text) = (life(next())?, string(next())?);
            ranges::is_acknowledgement(&text).then_some(Entry::Ack { from, text })?
        }
        b'l' => {
            let session = number(next())?;
            Entry::Mark { session, name: name(next())?, claim: number(next())? }
        }
        b't' => Entry::Taken { session: number(next())? },
        b'w' => Entry::ClaimLater { session: number(next())? },
        b'r' => match string(next())?.as_str() {
            "released" => Entry::Released,
            _ => Entry::ReleaseLater,
        },
        b'q' => {
            let (question, count) = (number(next())?, number(next())?);
            let names = string(next())?;
            let names = names.split(' ').filter(|name| !name.is_empty()).map(Name::new);
            Entry::Who { question, count, names: names.collect::<Result<_, _>>().ok()? }
        }
        b'j' => {
            let room = Room::new(next()?).ok()?;
            let lives = string(next())?;
            let lives = lives.split(' ').filter(|life| !life.is_empty()).map(Life::new).collect();
            let moved = string(next())?;
            let moved = match moved.split_at_checked(1) {
                None => None,
                Some((sign, name)) => Some((Name::new(name).ok()?, sign == "+")),
            };
            Entry::Room { room, lives, moved }
        }
        b'e' => {
            let life = life(next())?;
            Entry::Event { life, state: LifeState::parse(&string(next())?)? }
        }
        b'o' => {
            let lives = string(next())?;
            Entry::Open { lives: lives.split(' ').map(Life::new).collect() }
        }
        b'g' => Entry::Ping { counter: number(next())? },
        b'x' => {
            let (name, origin) = (name(next())?, life(next())?);
            Entry::HoldOver { name, origin, pieces: parcel::read_parcel(&next()?)? }
        }
        _ => return None,
    })
}
