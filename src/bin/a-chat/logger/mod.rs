//! The log's thread. It owns the log's output, and lasts until the process exits.
//!
//! A thread that logs must not wait for the log's reader: a pipe that is never read would block
//! connections that close, and the drain. So lines go into a queue, and this thread writes them out.
//! When the queue is full the oldest lines are dropped, and the log states in their place how many
//! they were; the very last line, the report, is always kept.
//!
//! It also opens a log file anew on request, so that the lines before the request are in the old file
//! and those after it in the new one.

mod budget;
mod format;
mod output;

use std::convert::Infallible;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use log::{Level, LevelFilter, Log, Metadata, Record};
use time::OffsetDateTime;

use self::budget::Budget;
use self::format::Format;
use self::output::Output;

pub(crate) use self::format::{LogFormat, priority};
pub(crate) use self::output::is_journal;

/// Maximum bytes that wait to be written: the lines of ten thousand clients that disconnect when the
/// server shuts down.
const QUEUE_BYTES: usize = 2 * 1024 * 1024;

/// Maximum time to flush the log at exit. With the default drain timeout the process still exits
/// before `docker stop` kills it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// A record with this key is about one connection, and clients decide how many there are.
const CONNECTION: &str = "connection";

/// Sends this process's log to a file, or to standard error, line by line and in UTC.
pub(crate) fn start(
    level: LevelFilter,
    format: LogFormat,
    path: Option<&Path>,
) -> Result<LogHandle, Box<dyn std::error::Error>> {
    let Output { file, path, is_journal } = output::open(path)?;
    let format = Format { format, is_journal };
    let reopen = move || path.as_deref().map(output::reopen);
    let lines = Lines::written_to(file, reopen, format, QUEUE_BYTES)
        .map_err(|error| format!("cannot start the log's thread: {error}"))?;
    let handle = LogHandle { queue: lines.queue.clone(), reopens: Arc::clone(&lines.reopens) };
    log::set_boxed_logger(Box::new(Logger { level, format, lines: Mutex::new(lines) }))?;
    log::set_max_level(level);
    Ok(handle)
}

/// Checks that the log can be written to this file.
pub(crate) fn check(path: Option<&Path>) -> Result<(), String> {
    match path.filter(|path| *path != Path::new("-") && !path.exists()) {
        // Whoever only asks gets no file.
        Some(path) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let is_there = folder.is_none_or(Path::is_dir);
            is_there.then_some(()).ok_or_else(|| format!("{} has no folder", path.display()))
        }
        None => output::open(path).map(drop),
    }
}

/// Asks the log's thread for something. It lasts as long as the process, as the thread does.
#[derive(Clone, Debug)]
pub(crate) struct LogHandle {
    queue: Sender<Entry>,
    /// Whether a request is in the queue: while the log is blocked, one is enough.
    reopens: Arc<AtomicBool>,
}

impl LogHandle {
    /// Opens the log's file anew, once everything logged so far is written. If that fails, the log
    /// stays where it is and says so.
    pub(crate) fn reopen(&self) {
        if !self.reopens.swap(true, Relaxed) {
            // Fails only without a receiver, and the logger holds one.
            let _ = self.queue.send(Entry::Reopen);
        }
    }
}

/// The process's logger, which any thread may call.
#[derive(Debug)]
struct Logger {
    level: LevelFilter,
    format: Format,
    lines: Mutex<Lines>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let body = self.format.body(record);
            let is_bounded = record.key_values().get(CONNECTION.into()).is_some();
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.log(record.level(), body, is_bounded, self.format);
        }
    }

    /// Waits until everything is written, at most [`FLUSH_TIMEOUT`].
    fn flush(&self) {
        // A log that cannot be written has no place to say so.
        let _ = self.lines.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }
}

/// An entry of the queue.
#[derive(Debug)]
enum Entry {
    Line(Line),
    /// The log's file is to be opened anew.
    Reopen,
    /// Dropped once everything before it is written.
    Flush(#[expect(dead_code, reason = "it is dropped, not used")] Sender<Infallible>),
}

/// A line without its time and level, and without its end.
#[derive(Debug)]
struct Line {
    /// The number of lines before it; the thread finds dropped ones by it.
    number: u64,
    time: OffsetDateTime,
    level: Level,
    body: Vec<u8>,
}

/// The sending side of the queue; adding to it never blocks.
#[derive(Debug)]
struct Lines {
    /// The number of lines so far.
    number: u64,
    queue: Sender<Entry>,
    /// The queue's receiving side, for dropping the oldest line.
    oldest: Receiver<Entry>,
    /// Bytes in the queue, and their maximum.
    queued: Arc<AtomicUsize>,
    limit: usize,
    reopens: Arc<AtomicBool>,
    /// For lines about connections: those of warnings must not lose their room to others.
    budget: Budget,
    warnings: Budget,
}

impl Lines {
    /// Spawns the thread.
    fn written_to<W: Write + Send + 'static>(
        out: W,
        reopen: impl FnMut() -> Option<Result<W, String>> + Send + 'static,
        format: Format,
        limit: usize,
    ) -> io::Result<Self> {
        let (queue, entries) = unbounded();
        let (oldest, queued) = (entries.clone(), Arc::default());
        let (bytes, reopens) = (Arc::clone(&queued), Arc::<AtomicBool>::default());
        let thread = thread::Builder::new().name("log".to_owned());
        let writing =
            Writing { out: BufWriter::new(out), reopen, reopens: Arc::clone(&reopens), format };
        thread.spawn(move || writing.write_all(&entries, &bytes))?;
        let now = Instant::now();
        let (budget, warnings) = (Budget::new(now), Budget::new(now));
        Ok(Self { number: 0, queue, oldest, queued, limit, reopens, budget, warnings })
    }

    /// Queues a line, unless too many of its kind were.
    fn log(&mut self, level: Level, body: Vec<u8>, is_bounded: bool, format: Format) {
        let left_out = if is_bounded {
            let is_warning = level <= Level::Warn;
            let budget = if is_warning { &mut self.warnings } else { &mut self.budget };
            let Some(before) = budget.spend(Instant::now()) else { return };
            before
        } else {
            self.budget.take_left_out() + self.warnings.take_left_out()
        };
        if left_out > 0 {
            let text = format!(
                "{left_out} log lines about connections were left out here, since there were more \
                 than 100 a second"
            );
            self.push(Level::Warn, format.own_body(&text));
        }
        self.push(level, body);
    }

    /// Queues a line, dropping the oldest ones if there is no room.
    fn push(&mut self, level: Level, body: Vec<u8>) {
        let line = Line { number: self.number, time: OffsetDateTime::now_utc(), level, body };
        self.number += 1;
        let length = line.body.len();
        while self.queued.load(Relaxed) + length > self.limit {
            // No other thread adds lines meanwhile, so this loop ends.
            match self.oldest.try_recv() {
                Ok(Entry::Line(oldest)) => {
                    self.queued.fetch_sub(oldest.body.len(), Relaxed);
                }
                // Whoever waits for it has given up, or soon will.
                Ok(Entry::Flush(_)) => {}
                Ok(Entry::Reopen) => {
                    // The lines before it are gone, so it may as well come a little later.
                    let _ = self.queue.send(Entry::Reopen);
                    break;
                }
                Err(_) => break,
            }
        }
        self.queued.fetch_add(length, Relaxed);
        // Fails only without a receiver, and this struct holds one.
        let _ = self.queue.send(Entry::Line(line));
    }

    /// Waits until everything is written, at most [`FLUSH_TIMEOUT`].
    fn flush(&mut self) -> io::Result<()> {
        let (token, written) = bounded(0);
        let _ = self.queue.send(Entry::Flush(token));
        match written.recv_timeout(FLUSH_TIMEOUT) {
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Disconnected) => Ok(()),
            Ok(never) => match never {},
        }
    }
}

/// The thread's state.
struct Writing<W: Write, R> {
    out: BufWriter<W>,
    reopen: R,
    reopens: Arc<AtomicBool>,
    format: Format,
}

impl<W: Write, R: FnMut() -> Option<Result<W, String>>> Writing<W, R> {
    /// The thread: writes entries as they come, and flushes when the queue is empty.
    fn write_all(mut self, entries: &Receiver<Entry>, queued: &AtomicUsize) {
        let (mut next, mut dropped) = (0, 0);
        for entry in entries {
            match entry {
                Entry::Line(line) => {
                    queued.fetch_sub(line.body.len(), Relaxed);
                    dropped += line.number - next;
                    next = line.number + 1;
                    if dropped > 0 && self.write_own(line.time, &dropped_notice(dropped)).is_ok() {
                        dropped = 0;
                    }
                    let text = self.format.line(line.time, line.level, &line.body);
                    // A full disk or a closed pipe costs lines and does no other harm.
                    if dropped > 0 || self.out.write_all(&text).is_err() {
                        dropped += 1;
                    }
                }
                Entry::Reopen => self.open_anew(),
                // Flushed below: bytes that cannot be written stay in the buffer for the next time.
                Entry::Flush(_) => {
                    let _ = self.out.flush();
                    continue;
                }
            }
            if entries.is_empty() {
                let _ = self.out.flush();
            }
        }
    }

    fn open_anew(&mut self) {
        self.reopens.store(false, Relaxed);
        // What the old file does not take any more, as on a full disk, the new one gets.
        let _ = self.out.flush();
        match (self.reopen)() {
            Some(Ok(file)) => {
                let old = std::mem::replace(&mut self.out, BufWriter::new(file));
                // What the old buffer still holds follows in the new file.
                let (_, unwritten) = old.into_parts();
                if let Ok(rest) = unwritten {
                    let _ = self.out.write_all(&rest);
                }
            }
            Some(Err(error)) => {
                let text = format!("the log goes on in the old file: {error}");
                let _ = self.write_own(OffsetDateTime::now_utc(), &text);
            }
            None => {}
        }
    }

    /// Writes a warning of the log about itself.
    fn write_own(&mut self, time: OffsetDateTime, text: &str) -> io::Result<()> {
        let body = self.format.own_body(text);
        self.out.write_all(&self.format.line(time, Level::Warn, &body))
    }
}

/// The text of the line that stands for those dropped.
fn dropped_notice(dropped: u64) -> String {
    let lines = if dropped == 1 { "line was" } else { "lines were" };
    format!("{dropped} log {lines} dropped here because the log could not be written")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output that can be blocked or full.
    #[derive(Clone, Default)]
    struct Sink {
        /// While the test holds the lock, every write blocks.
        written: Arc<Mutex<Vec<u8>>>,
        is_full: Arc<AtomicUsize>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.is_full.load(Relaxed) > 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink {
        fn lines(&self) -> Vec<String> {
            let written = self.written.lock().expect("no panic");
            let text = std::str::from_utf8(&written).expect("text");
            assert!(text.is_empty() || text.ends_with('\n'), "{text}");
            text.lines().map(str::to_owned).collect()
        }
    }

    /// The number of lines written or reported as dropped; asserts that they are in sequence.
    fn account(lines: &[String]) -> usize {
        let (mut next, mut gaps) = (0, 0);
        for line in lines {
            let (_time, rest) = line.split_once(' ').expect("a time");
            if let Some(rest) = rest.strip_prefix("[WARN] ") {
                let dropped: usize = rest.split(' ').next().expect("a number").parse().expect(rest);
                (next, gaps) = (next + dropped, gaps + 1);
            } else {
                assert_eq!(rest, format!("[INFO] {}", body_of(next)));
                next += 1;
            }
        }
        assert!(gaps > 0, "{lines:#?}");
        next
    }

    /// A log line's body of a hundred bytes.
    fn body_of(number: usize) -> String {
        let body = format!("line {number} ");
        format!("{body}{}", "x".repeat(100 - body.len()))
    }

    fn lines_to(sink: &Sink, limit: usize) -> Lines {
        let mut opened = 0;
        let next = sink.clone();
        let reopen = move || {
            opened += 1;
            Some(if opened == 1 { Err("it is gone".to_owned()) } else { Ok(next.clone()) })
        };
        Lines::written_to(sink.clone(), reopen, Format::default(), limit).expect("a thread")
    }

    fn push(lines: &mut Lines, number: usize) {
        lines.push(Level::Info, body_of(number).into_bytes());
    }

    #[test]
    fn a_blocked_sink_costs_the_oldest_lines_and_blocks_no_thread_that_logs() {
        let sink = Sink::default();
        let mut lines = lines_to(&sink, 1000);
        {
            let _blocked = sink.written.lock().expect("no panic");
            for number in 0..500 {
                push(&mut lines, number);
            }
            assert!(lines.queued.load(Relaxed) <= 1000);
        }
        lines.flush().expect("in time");
        let written = sink.lines();
        assert_eq!(account(&written), 500);
        assert!(written.last().is_some_and(|line| line.ends_with(&body_of(499))), "{written:?}");
    }

    #[test]
    fn log_lines_lost_to_a_full_disk_are_counted_once_there_is_space() {
        let sink = Sink::default();
        let mut lines = lines_to(&sink, 1 << 20);
        sink.is_full.store(1, Relaxed);
        for number in 0..500 {
            push(&mut lines, number);
        }
        lines.flush().expect("in time");
        assert_eq!(sink.lines(), [""; 0]);
        sink.is_full.store(0, Relaxed);
        push(&mut lines, 500);
        lines.flush().expect("in time");
        assert_eq!(account(&sink.lines()), 501);
    }

    #[test]
    fn a_flush_gives_up_on_a_blocked_sink_after_its_timeout() {
        let sink = Sink::default();
        let mut lines = lines_to(&sink, 1000);
        let _blocked = sink.written.lock().expect("no panic");
        push(&mut lines, 0);
        assert_eq!(lines.flush().expect_err("too late").kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_log_that_cannot_be_opened_anew_stays_where_it_is_and_says_so() {
        let sink = Sink::default();
        let mut lines = lines_to(&sink, 1 << 20);
        let handle = LogHandle { queue: lines.queue.clone(), reopens: Arc::clone(&lines.reopens) };
        for round in 0..2 {
            push(&mut lines, round);
            handle.reopen();
            lines.flush().expect("in time");
        }
        push(&mut lines, 2);
        lines.flush().expect("in time");
        let texts: Vec<_> =
            sink.lines().iter().map(|line| line[28..].trim_end_matches('x').to_owned()).collect();
        let failed = "[WARN] the log goes on in the old file: it is gone";
        assert_eq!(texts, ["[INFO] line 0 ", failed, "[INFO] line 1 ", "[INFO] line 2 "]);
    }

    #[test]
    fn requests_to_open_a_blocked_log_anew_do_not_pile_up() {
        let sink = Sink::default();
        let mut lines = lines_to(&sink, 1000);
        let handle = LogHandle { queue: lines.queue.clone(), reopens: Arc::clone(&lines.reopens) };
        let blocked = sink.written.lock().expect("no panic");
        for number in 0..500 {
            push(&mut lines, number);
            handle.reopen();
        }
        assert!(lines.queue.len() < 20, "{} entries", lines.queue.len());
        drop(blocked);
        lines.flush().expect("in time");
    }

    #[test]
    fn lines_left_out_are_counted_before_the_next_one_of_another_kind() {
        let sink = Sink::default();
        let mut lines = lines_to(&sink, 64 << 20);
        let format = Format::default();
        for number in 0..30_000 {
            lines.log(Level::Info, body_of(number).into_bytes(), true, format);
        }
        lines.log(Level::Warn, b"lost".to_vec(), true, format);
        lines.log(Level::Info, b"stopped".to_vec(), false, format);
        lines.flush().expect("in time");
        let written = sink.lines();
        let [.., lost, notice, stopped] = &written[..] else { panic!("{written:?}") };
        assert!(lost.ends_with("[WARN] lost") && stopped.ends_with("[INFO] stopped"), "{notice}");
        let (notices, logged): (Vec<_>, Vec<_>) =
            written.iter().partition(|line| line.contains("were left out here"));
        let left_out = notices.iter().map(|notice| {
            let number = notice.split(' ').nth(2).and_then(|number| number.parse::<usize>().ok());
            number.unwrap_or_else(|| panic!("{notice}"))
        });
        // The two others are logged too.
        assert_eq!(logged.len() - 2 + left_out.sum::<usize>(), 30_000);
    }
}
