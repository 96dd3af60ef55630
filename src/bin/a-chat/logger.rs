//! The log's thread. It owns the log's output, and lasts until the process exits.
//!
//! A thread that logs must not wait for the log's reader: a pipe that is never read would block
//! connections that close, and the drain. So simplelog writes its lines into a queue, and this
//! thread writes them out. When the queue is full the oldest lines are dropped, and the log states
//! in their place how many they were; the very last line, the report, is always kept.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use log::LevelFilter;
use simplelog::{ConfigBuilder, FormatItem, WriteLogger};
use time::macros::format_description;

/// Maximum bytes that wait to be written: the lines of ten thousand clients that disconnect when the
/// server shuts down.
const QUEUE_BYTES: usize = 2 * 1024 * 1024;

/// Maximum time to flush the log at exit. With the default drain timeout the process still exits
/// before `docker stop` kills it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// RFC 3339 with microseconds, so every time stamp has the same width.
const TIME_FORMAT: &[FormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Opens the log's output: standard error for `-` and for no path, otherwise a file to append to.
pub(crate) fn open(path: Option<&Path>) -> Result<File, String> {
    let opened = match path.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let is_fifo = path.metadata().is_ok_and(|file| file.file_type().is_fifo());
            // Opening a FIFO to write blocks until a reader opens it. With a read end of its own the
            // server starts, and a reader that comes later gets what the FIFO holds by then.
            OpenOptions::new().create(true).append(true).read(is_fifo).open(path)
        }
        // A duplicate descriptor: a blocked write to the log must not hold standard error's lock.
        None => io::stderr().as_fd().try_clone_to_owned().map(File::from),
    };
    let name = path.unwrap_or(Path::new("standard error")).display();
    opened.map_err(|error| format!("cannot open {name}: {error}"))
}

/// Sends this process's log to `out`, line by line and in UTC.
pub(crate) fn start(
    level: LevelFilter,
    out: impl Write + Send + 'static,
) -> Result<(), Box<dyn std::error::Error>> {
    let config = ConfigBuilder::new()
        .set_time_format_custom(TIME_FORMAT)
        .set_target_level(LevelFilter::Off)
        .build();
    let lines = Lines::written_to(out, QUEUE_BYTES)
        .map_err(|error| format!("cannot start the log's thread: {error}"))?;
    Ok(WriteLogger::init(level, config, lines)?)
}

/// An entry of the queue.
#[derive(Debug)]
enum Entry {
    Line(Line),
    /// Dropped once everything before it is written.
    Flush(#[expect(dead_code, reason = "it is dropped, not used")] Sender<Infallible>),
}

/// A whole line, including its line end.
#[derive(Debug)]
struct Line {
    /// The number of lines before it; the thread finds dropped ones by it.
    number: u64,
    text: Vec<u8>,
}

/// The sending side of the queue; writing to it never blocks.
#[derive(Debug)]
struct Lines {
    /// The line being written.
    text: Vec<u8>,
    /// The number of lines before it.
    number: u64,
    queue: Sender<Entry>,
    /// The queue's receiving side, for dropping the oldest line.
    oldest: Receiver<Entry>,
    /// Bytes in the queue, and their maximum.
    queued: Arc<AtomicUsize>,
    limit: usize,
}

impl Lines {
    /// Spawns the thread.
    fn written_to(out: impl Write + Send + 'static, limit: usize) -> io::Result<Self> {
        let (queue, entries) = unbounded();
        let (oldest, queued) = (entries.clone(), Arc::default());
        let bytes = Arc::clone(&queued);
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || write_all(&entries, &bytes, BufWriter::new(out)))?;
        Ok(Self { text: Vec::new(), number: 0, queue, oldest, queued, limit })
    }

    /// Queues the finished line, dropping the oldest ones if there is no room.
    fn push(&mut self) {
        let line = Line { number: self.number, text: std::mem::take(&mut self.text) };
        self.number += 1;
        let length = line.text.len();
        while self.queued.load(Relaxed) + length > self.limit {
            // No other thread adds lines meanwhile, so this loop ends.
            let Ok(Entry::Line(oldest)) = self.oldest.try_recv() else { break };
            self.queued.fetch_sub(oldest.text.len(), Relaxed);
        }
        self.queued.fetch_add(length, Relaxed);
        // Fails only without a receiver, and this struct holds one.
        let _ = self.queue.send(Entry::Line(line));
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        if self.text.ends_with(b"\n") {
            self.push();
        }
        Ok(bytes.len())
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

/// The thread: writes entries as they come, and flushes when the queue is empty.
fn write_all(entries: &Receiver<Entry>, queued: &AtomicUsize, mut out: impl Write) {
    let (mut next, mut dropped) = (0, 0);
    for entry in entries {
        let Entry::Line(line) = entry else {
            // Here and below: bytes that cannot be written stay in the buffer for the next time.
            let _ = out.flush();
            continue;
        };
        queued.fetch_sub(line.text.len(), Relaxed);
        dropped += line.number - next;
        next = line.number + 1;
        if dropped > 0 && out.write_all(&dropped_notice(dropped, &line.text)).is_ok() {
            dropped = 0;
        }
        // A full disk or a closed pipe costs lines and does no other harm.
        if dropped > 0 || out.write_all(&line.text).is_err() {
            dropped += 1;
        }
        if entries.is_empty() {
            let _ = out.flush();
        }
    }
}

/// The line that stands for those dropped before `next`, with the time stamp of `next`.
fn dropped_notice(dropped: u64, next: &[u8]) -> Vec<u8> {
    let time = next.split(|&byte| byte == b' ').next().unwrap_or_default();
    let lines = if dropped == 1 { "line was" } else { "lines were" };
    let words = format!(
        " [WARN] {dropped} log {lines} dropped here because the log could not be written\n"
    );
    [time, words.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

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
            let (time, rest) = line.split_once(' ').expect("a time");
            if let Some(rest) = rest.strip_prefix("[WARN] ") {
                let dropped: usize = rest.split(' ').next().expect("a number").parse().expect(rest);
                (next, gaps) = (next + dropped, gaps + 1);
                assert_eq!(time, format!("t{next}"), "the notice has the next line's time: {line}");
            } else {
                assert_eq!(*line, line_of(next).trim_end());
                next += 1;
            }
        }
        assert!(gaps > 0, "{lines:#?}");
        next
    }

    /// A log line of a hundred bytes.
    fn line_of(number: usize) -> String {
        let line = format!("t{number} [INFO] ");
        format!("{line}{}\n", "x".repeat(99 - line.len()))
    }

    #[test]
    fn a_blocked_sink_costs_the_oldest_lines_and_blocks_no_thread_that_logs() {
        let sink = Sink::default();
        let mut lines = Lines::written_to(sink.clone(), 1000).expect("a thread");
        {
            let _blocked = sink.written.lock().expect("no panic");
            for number in 0..500 {
                // In parts, as simplelog writes it.
                let line = line_of(number);
                lines.write_all(&line.as_bytes()[..20]).expect("it never fails");
                lines.write_all(&line.as_bytes()[20..]).expect("it never fails");
            }
            assert!(lines.queued.load(Relaxed) <= 1000);
        }
        lines.flush().expect("in time");
        let written = sink.lines();
        assert_eq!(account(&written), 500);
        assert_eq!(written.last().map(String::as_str), Some(line_of(499).trim_end()));
    }

    #[test]
    fn log_lines_lost_to_a_full_disk_are_counted_once_there_is_space() {
        let sink = Sink::default();
        let mut lines = Lines::written_to(sink.clone(), 1 << 20).expect("a thread");
        sink.is_full.store(1, Relaxed);
        for number in 0..500 {
            lines.write_all(line_of(number).as_bytes()).expect("it never fails");
        }
        lines.flush().expect("in time");
        assert_eq!(sink.lines(), [""; 0]);
        sink.is_full.store(0, Relaxed);
        lines.write_all(line_of(500).as_bytes()).expect("it never fails");
        lines.flush().expect("in time");
        assert_eq!(account(&sink.lines()), 501);
    }

    #[test]
    fn a_flush_gives_up_on_a_blocked_sink_after_its_timeout() {
        let sink = Sink::default();
        let mut lines = Lines::written_to(sink.clone(), 1000).expect("a thread");
        let _blocked = sink.written.lock().expect("no panic");
        lines.write_all(b"stopped\n").expect("it never fails");
        assert_eq!(lines.flush().expect_err("too late").kind(), io::ErrorKind::TimedOut);
    }
}
