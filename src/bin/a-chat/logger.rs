//! The log's thread: it owns what the log is written to, and ends with the process.
//!
//! Nobody who logs may wait for whoever reads the log: a pipe that nobody reads would hold up the
//! ends of connections, and the drain. So simplelog writes its lines into a queue, and a thread
//! takes them from there. If they are not taken the oldest are dropped and counted, and the log
//! says in their place how many they were; the last line of all, the report, is always kept.

use std::convert::Infallible;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use log::LevelFilter;
use simplelog::{ConfigBuilder, WriteLogger};

/// How much may wait to be written, in bytes: what ten thousand clients' ends add to the log when
/// the server stops.
const QUEUE_BYTES: usize = 2 * 1024 * 1024;

/// How long the log is waited for at the end of the process: with the default drain that is still
/// sooner than `docker stop` kills.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends this process's log to `out`, by the line and in UTC.
pub(crate) fn start(
    level: LevelFilter,
    out: impl Write + Send + 'static,
) -> Result<(), Box<dyn std::error::Error>> {
    let config =
        ConfigBuilder::new().set_time_format_rfc3339().set_target_level(LevelFilter::Off).build();
    let lines = Lines::written_to(out, QUEUE_BYTES)
        .map_err(|error| format!("cannot start the log's thread: {error}"))?;
    Ok(WriteLogger::init(level, config, lines)?)
}

/// What the thread is sent.
#[derive(Debug)]
enum Entry {
    Line(Line),
    /// Dropped when everything before it is written.
    Flush(#[expect(dead_code, reason = "it is dropped, not used")] Sender<Infallible>),
}

/// A whole line, its line end included.
#[derive(Debug)]
struct Line {
    /// How many came before it: where some are missing the thread sees by that.
    number: u64,
    text: Vec<u8>,
}

/// The way to the thread; what is written here never waits.
#[derive(Debug)]
struct Lines {
    /// The line that is being written.
    text: Vec<u8>,
    /// How many lines were written before it.
    number: u64,
    queue: Sender<Entry>,
    /// The queue's other end, to drop the oldest line.
    oldest: Receiver<Entry>,
    /// How many bytes are in the queue, and how many may be.
    queued: Arc<AtomicUsize>,
    limit: usize,
}

impl Lines {
    /// Starts the thread.
    fn written_to(out: impl Write + Send + 'static, limit: usize) -> io::Result<Self> {
        let (queue, entries) = unbounded();
        let (oldest, queued) = (entries.clone(), Arc::default());
        let bytes = Arc::clone(&queued);
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || write_all(&entries, &bytes, BufWriter::new(out)))?;
        Ok(Self { text: Vec::new(), number: 0, queue, oldest, queued, limit })
    }

    /// Queues the line that was written, and makes room for it if need be.
    fn push(&mut self) {
        let line = Line { number: self.number, text: std::mem::take(&mut self.text) };
        self.number += 1;
        let length = line.text.len();
        while self.queued.load(Relaxed) + length > self.limit {
            // Nobody else adds lines meanwhile, so this ends.
            let Ok(Entry::Line(oldest)) = self.oldest.try_recv() else { break };
            self.queued.fetch_sub(oldest.text.len(), Relaxed);
        }
        self.queued.fetch_add(length, Relaxed);
        // Fails only without a receiver, and one is here.
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

    /// Waits until everything is written, but no longer than [`PATIENCE`].
    fn flush(&mut self) -> io::Result<()> {
        let (token, written) = bounded(0);
        let _ = self.queue.send(Entry::Flush(token));
        match written.recv_timeout(PATIENCE) {
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Disconnected) => Ok(()),
            Ok(never) => match never {},
        }
    }
}

/// The thread: writes what comes, as much at once as there is.
fn write_all(entries: &Receiver<Entry>, queued: &AtomicUsize, mut out: impl Write) {
    let (mut next, mut missing) = (0, 0);
    for entry in entries {
        let Entry::Line(line) = entry else {
            // Here and below: what can not be written stays in the buffer for the next time.
            let _ = out.flush();
            continue;
        };
        queued.fetch_sub(line.text.len(), Relaxed);
        missing += line.number - next;
        next = line.number + 1;
        if missing > 0 && out.write_all(&gap(missing, &line.text)).is_ok() {
            missing = 0;
        }
        // A full disk or a closed pipe costs lines, and nothing else.
        if missing > 0 || out.write_all(&line.text).is_err() {
            missing += 1;
        }
        if entries.is_empty() {
            let _ = out.flush();
        }
    }
}

/// What stands in place of lines that are missing before `next`, at the time of that one.
fn gap(missing: u64, next: &[u8]) -> Vec<u8> {
    let time = next.split(|&byte| byte == b' ').next().unwrap_or_default();
    let words = format!(" [WARN] {missing} lines are missing here, they could not be written\n");
    [time, words.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Somewhere to write to that takes nothing unless it may.
    #[derive(Clone, Default)]
    struct Sink {
        /// Locked by the test, every write has to wait.
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

    /// How many lines are written or said to be missing, which come one after the other.
    fn account(lines: &[String]) -> usize {
        let (mut next, mut gaps) = (0, 0);
        for line in lines {
            let (time, rest) = line.split_once(' ').expect("a time");
            if let Some(rest) = rest.strip_prefix("[WARN] ") {
                let missing: usize = rest.split(' ').next().expect("a number").parse().expect(rest);
                (next, gaps) = (next + missing, gaps + 1);
                assert_eq!(time, format!("t{next}"), "the gap has the next line's time: {line}");
            } else {
                assert_eq!(*line, said(next).trim_end());
                next += 1;
            }
        }
        assert!(gaps > 0, "{lines:#?}");
        next
    }

    /// A line of a hundred bytes.
    fn said(number: usize) -> String {
        let line = format!("t{number} [INFO] ");
        format!("{line}{}\n", "x".repeat(99 - line.len()))
    }

    #[test]
    fn a_sink_that_takes_nothing_costs_the_oldest_lines_and_nobodys_time() {
        let sink = Sink::default();
        let mut lines = Lines::written_to(sink.clone(), 1000).expect("a thread");
        {
            let _nothing_is_taken = sink.written.lock().expect("no panic");
            for number in 0..500 {
                // In parts, as simplelog writes.
                let line = said(number);
                lines.write_all(&line.as_bytes()[..20]).expect("it never fails");
                lines.write_all(&line.as_bytes()[20..]).expect("it never fails");
            }
            assert!(lines.queued.load(Relaxed) <= 1000);
        }
        lines.flush().expect("in time");
        let written = sink.lines();
        assert_eq!(account(&written), 500);
        assert_eq!(written.last().map(String::as_str), Some(said(499).trim_end()));
    }

    #[test]
    fn what_a_full_disk_costs_is_said_when_there_is_room_again() {
        let sink = Sink::default();
        let mut lines = Lines::written_to(sink.clone(), 1 << 20).expect("a thread");
        sink.is_full.store(1, Relaxed);
        for number in 0..500 {
            lines.write_all(said(number).as_bytes()).expect("it never fails");
        }
        lines.flush().expect("in time");
        assert_eq!(sink.lines(), [""; 0]);
        sink.is_full.store(0, Relaxed);
        lines.write_all(said(500).as_bytes()).expect("it never fails");
        lines.flush().expect("in time");
        assert_eq!(account(&sink.lines()), 501);
    }

    #[test]
    fn a_sink_that_takes_nothing_is_waited_for_no_longer_than_that() {
        let sink = Sink::default();
        let mut lines = Lines::written_to(sink.clone(), 1000).expect("a thread");
        let _nothing_is_taken = sink.written.lock().expect("no panic");
        lines.write_all(b"stopped\n").expect("it never fails");
        assert_eq!(lines.flush().expect_err("too late").kind(), io::ErrorKind::TimedOut);
    }
}
