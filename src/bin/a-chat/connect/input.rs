//! The thread `input`: reads standard input as blocks of lines. It owns the stream, and exits at its
//! end, or when it is stopped: then it still reads what is there at that moment, as the server does
//! at its shutdown. It also stops when the reader of standard output is gone, as in `| head -1`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use a_chat::client::{LineBlocks, LineSender};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::pipe::PipeFlags;

/// Standard input, up to its end or to where it was stopped.
#[derive(Debug)]
pub(crate) struct StandardInput {
    file: File,
    /// It is a regular file. All of it is there at once, so when stopped the rest is not read.
    on_disk: bool,
    stop: Stop,
    /// Once stopped: how many of the bytes that were there then are still to be read.
    remaining: Option<usize>,
    /// The end of the file was read: a terminal can be read beyond it.
    ended: bool,
    /// The last byte so far left a line without its end.
    in_line: bool,
    /// The writing end of an input that never has anything to read.
    _writer: Option<OwnedFd>,
}

/// Stops a thread that reads from a terminal or a pipe. Any thread may use it.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<OwnedFd>);

impl StandardInput {
    /// Takes over standard input.
    pub(crate) fn new() -> io::Result<Self> {
        Self::of(File::from(io::stdin().as_fd().try_clone_to_owned()?), None)
    }

    /// An input that stays open and empty until it is stopped, instead of standard input.
    pub(crate) fn silent() -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        Self::of(File::from(reader), Some(writer))
    }

    fn of(file: File, writer: Option<OwnedFd>) -> io::Result<Self> {
        let on_disk = file.metadata()?.is_file();
        Ok(Self {
            file,
            on_disk,
            stop: Stop::new()?,
            remaining: None,
            ended: false,
            in_line: false,
            _writer: writer,
        })
    }

    pub(crate) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Waits for something to read, or to be stopped.
    fn wait(&mut self) -> io::Result<()> {
        let stdout = io::stdout();
        let mut all = [
            PollFd::new(&self.file, PollFlags::IN),
            PollFd::new(&*self.stop.0, PollFlags::IN),
            // Only for the error that a closed pipe reports.
            PollFd::new(&stdout, PollFlags::empty()),
        ];
        poll(&mut all, None)?;
        if all[1..].iter().all(|fd| fd.revents().is_empty()) {
            return Ok(());
        }
        // A file that cannot tell, such as a device, holds nothing that would be missed.
        let available = rustix::io::ioctl_fionread(&self.file).unwrap_or(0);
        if self.on_disk && available > 0 {
            return Err(io::Error::other("stopped before its end"));
        }
        self.remaining = Some(usize::try_from(available).unwrap_or(usize::MAX));
        Ok(())
    }
}

impl Stop {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub(crate) fn stop(&self) {
        // It is never read, so it stays readable. This fails only if it is full, which is as good.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// Readable once stopped.
impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for StandardInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !buffer.is_empty() {
            if self.remaining.is_none() {
                self.wait()?;
            }
            let max = self.remaining.unwrap_or(usize::MAX).min(buffer.len());
            let count = match self.file.read(&mut buffer[..max]) {
                // The file is non-blocking, and another process was faster.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ended = self.remaining.is_some();
                    continue;
                }
                result => result?,
            };
            self.remaining = self.remaining.map(|remaining| remaining - count);
            if let Some(&last) = buffer[..count].last() {
                self.in_line = last != b'\n';
                return Ok(count);
            }
            self.ended = true;
            // At a clean end the last line needs no line end. When stopped it may be incomplete.
            if self.in_line && self.remaining.is_none() {
                buffer[0] = b'\n';
                return Ok(1);
            }
        }
        Ok(0)
    }
}

/// How reading the input ended.
#[derive(Debug, Default)]
pub(crate) struct InputSummary {
    /// How many lines were passed on.
    pub(crate) lines: u64,
    /// Lines that the session did not take any more.
    pub(crate) unsent: Vec<u8>,
    /// The beginning of a line, if the input was stopped in the middle of it.
    pub(crate) unfinished: Vec<u8>,
    /// The error that ended the reading.
    pub(crate) error: Option<io::Error>,
}

/// The thread's main loop: passes on `first`, which was read before, then the input. It returns at
/// the input's end or when the receiver of the lines is dropped.
pub(crate) fn read(
    first: Vec<u8>,
    mut blocks: LineBlocks<StandardInput>,
    lines: &LineSender,
) -> InputSummary {
    let mut summary = InputSummary::default();
    let mut next = Some(first);
    while let Some(block) = next {
        let count = memchr::memchr_iter(b'\n', &block).count() as u64;
        if count > 0 && lines.send_lines(&*block).is_err() {
            summary.unsent = block;
            return summary;
        }
        summary.lines += count;
        next = match blocks.next_block() {
            Ok(block) => block.map(<[u8]>::to_vec),
            Err(error) => {
                summary.error = Some(error);
                return summary;
            }
        };
    }
    summary.unfinished = blocks.unfinished().to_vec();
    summary
}
