//! The exact account of a server that has ended: its report, the records of its connections, and
//! whether both agree with each other and with what the clients saw.

use std::net::SocketAddr;
use std::time::Duration;

use crate::crowd::{End, Member};

/// What the log says of a connection that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub address: SocketAddr,
    pub name: String,
    pub reason: String,
    pub accepted: u64,
    pub delivered: u64,
    pub lost: u64,
    pub unacknowledged: u64,
}

/// The numbers of the report.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub connections: u64,
    pub accepted: u64,
    pub owed: u64,
    pub delivered: u64,
    pub lost_before_drain: u64,
    pub lost_in_drain: u64,
    pub drained: Duration,
    pub forced: bool,
}

#[derive(Debug)]
pub struct Account {
    pub status: i32,
    pub log: Vec<String>,
    /// From the signal to the end of the process.
    pub took: Duration,
    pub report: Report,
    /// How the log says that connections ended.
    pub records: Vec<Record>,
}

impl Account {
    /// Reads the log of a server and checks that it is consistent.
    pub fn read(status: i32, log: Vec<String>, took: Duration) -> Self {
        let is_gap = |line: &String| {
            line.contains(" are missing here") || line.contains(" were dropped here because")
        };
        let gap = log.iter().find(|line| is_gap(line));
        assert_eq!(gap, None, "a log with gaps proves nothing");
        let report = log.iter().find_map(|line| report(line)).expect("a report in the log");
        let records = log.iter().filter_map(|line| record(line)).collect();
        let account = Self { status, log, took, report, records };
        account.check();
        account
    }

    fn check(&self) {
        let Report { accepted, owed, delivered, .. } = self.report;
        let lost = self.report.lost_before_drain + self.report.lost_in_drain;
        let sum = |part: fn(&Record) -> u64| self.records.iter().map(part).sum::<u64>();
        let summary = self.summary();
        assert_eq!(owed, delivered + lost, "the report adds up: {summary}");
        assert_eq!(sum(|record| record.accepted), accepted, "accepted, by the records: {summary}");
        assert_eq!(sum(|record| record.delivered), delivered, "delivered: {summary}");
        assert_eq!(sum(|record| record.lost), lost, "lost: {summary}");
        assert!(self.report.connections >= self.records.len() as u64, "{summary}");
        assert_eq!(self.status, i32::from(self.report.lost_in_drain > 0), "{summary}");
    }

    /// The report's line, without its names.
    pub fn summary(&self) -> String {
        let is_report = |line: &&String| report(line).is_some();
        let line = self.log.iter().find(is_report).expect("a report");
        line.chars().take(300).collect()
    }

    /// The record of the last client that was logged in from an address.
    pub fn record(&self, address: SocketAddr) -> &Record {
        let record = self.records.iter().rev().find(|record| record.address == address);
        record.unwrap_or_else(|| panic!("no record of {address}: {}", self.summary()))
    }

    /// How many connections ended for a reason that begins like this.
    pub fn ended_by(&self, reason: &str) -> usize {
        self.records.iter().filter(|record| record.reason.starts_with(reason)).count()
    }

    /// Compares what a client has sent and received with its record.
    pub fn check_member(&self, member: &Member) {
        let record = self.record(member.address);
        let seen = || format!("{member:#?}\n{record:#?}\n{}", self.summary());
        assert_eq!(record.name, member.name, "{}", seen());
        if let Some(accepted) = member.received.accepted {
            assert_eq!(accepted, record.accepted, "the closing notice: {}", seen());
        }
        assert!(record.accepted <= member.lines_sent, "more than was sent: {}", seen());
        let received = member.received.messages;
        if member.end == Some(End::Clean) && record.lost == 0 {
            assert_eq!(received, record.delivered, "all that was delivered: {}", seen());
        }
        assert!(received >= record.delivered, "acknowledged, so it is here: {}", seen());
        assert!(received <= record.delivered + record.lost, "{}", seen());
        assert_eq!(member.received.fault, None, "{}", seen());
    }

    pub fn check_members<'a>(&self, members: impl IntoIterator<Item = &'a Member>) {
        members.into_iter().for_each(|member| self.check_member(member));
    }
}

/// Reads `alice disconnected (connection 2, 127.0.0.1:52398): left; 3 lines in, 4 messages out`, or
/// `alice went, connection 2 from 127.0.0.1:52398: left; 3 lines in, 4 messages out`. A loss adds
/// `, 5 lost, 600 B unacknowledged`.
fn record(line: &str) -> Option<Record> {
    let (before, rest) = line
        .split_once(" disconnected (connection ")
        .or_else(|| line.split_once(" went, connection "))?;
    let (place, rest) = rest.split_once(": ")?;
    let address = place.trim_end_matches(')').rsplit([' ', ',']).next()?;
    let (reason, numbers) = rest.rsplit_once("; ")?;
    let number = |words: &[&str]| {
        let part = numbers.split(", ").find(|part| words.iter().any(|word| part.ends_with(word)));
        part.and_then(|part| part.split(' ').next()?.parse().ok())
    };
    Some(Record {
        address: address.parse().ok()?,
        name: before.rsplit(' ').next()?.to_owned(),
        reason: reason.to_owned(),
        accepted: number(&[" lines in", " line in"])?,
        delivered: number(&[" messages out", " message out"])?,
        lost: number(&[" lost"]).unwrap_or(0),
        unacknowledged: number(&[" B unacknowledged"]).unwrap_or(0),
    })
}

/// Reads `stopped: 9 connections, 0 refused, 8 lines accepted, 8 deliveries owed, 8 delivered, 0
/// lost before the drain, 0 lost during it, drained in 1.001 s`.
fn report(line: &str) -> Option<Report> {
    let (_, rest) =
        line.split_once("stopped: ").or_else(|| line.split_once("stopped with losses: "))?;
    let sum = rest.split("; ").next()?;
    let number = |words: &[&str]| {
        let part = sum.split(", ").find(|part| words.iter().any(|word| part.contains(word)));
        part.and_then(|part| part.split(' ').next()?.parse().ok())
    };
    let (_, drained) = sum.split_once("drained in ")?;
    let drained = drained.split(' ').next()?.parse().ok()?;
    Some(Report {
        connections: number(&[" connection"])?,
        accepted: number(&[" lines accepted", " line accepted"])?,
        owed: number(&[" owed"])?,
        delivered: number(&[" delivered"])?,
        lost_before_drain: number(&[" lost before the drain"])?,
        lost_in_drain: number(&[" lost in it", " lost during it"])?,
        drained: Duration::from_secs_f64(drained),
        forced: sum.ends_with(" by force") || sum.ends_with("(forced)"),
    })
}
