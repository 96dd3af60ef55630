//! Where the log goes: standard error or a file that can be opened anew. Plain functions; after the
//! start only the log's thread calls them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libc::{O_NOFOLLOW, O_NONBLOCK};

/// Who may read a log file that the server creates: its group too, since names and addresses are in
/// it.
const MODE: u32 = 0o640;

/// An open output.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) file: File,
    /// Opened again on request; `None` for what has no path of its own: standard error, a FIFO, a
    /// device.
    pub(super) path: Option<PathBuf>,
    /// Standard error leads to systemd's journal, which notes the time of each line itself and takes
    /// its priority from a number in front of it.
    pub(super) is_journal: bool,
}

/// Opens the log's output: standard error for `-` and for no path, otherwise a file to append to.
pub(super) fn open(path: Option<&Path>) -> Result<Output, String> {
    let opened = match path.filter(|path| *path != Path::new("-")) {
        Some(path) => open_file(path),
        None => standard_error(),
    };
    let name = path.unwrap_or(Path::new("standard error")).display();
    opened.map_err(|error| format!("cannot open {name}: {error}"))
}

fn open_file(path: &Path) -> io::Result<Output> {
    let is_fifo = path.metadata().is_ok_and(|file| file.file_type().is_fifo());
    // Opening a FIFO to write blocks until a reader opens it. With a read end of its own the server
    // starts, and a reader that comes later gets what the FIFO holds by then.
    let options = OpenOptions::new().create(true).append(true).read(is_fifo).mode(MODE).open(path);
    let file = options?;
    // Links are resolved once, here: later, somebody else may have put one in the file's place.
    let path = file.metadata()?.is_file().then(|| path.canonicalize().ok()).flatten();
    Ok(Output { file, path, is_journal: false })
}

fn standard_error() -> io::Result<Output> {
    // A duplicate descriptor: a blocked write to the log must not hold standard error's lock.
    let file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let is_journal = leads_to_journal(&file);
    Ok(Output { file, path: None, is_journal })
}

/// systemd names the device and the inode of the stream that leads to the journal, since a program in
/// between may have redirected it.
fn leads_to_journal(file: &File) -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    let named = named.as_deref().and_then(|it| it.split_once(':'));
    let Some((device, inode)) = named else { return false };
    let is = |name: &str, number: u64| name.parse() == Ok(number);
    file.metadata().is_ok_and(|file| is(device, file.dev()) && is(inode, file.ino()))
}

/// Whether what is written to standard error ends up in the journal, line by line.
pub(crate) fn is_journal() -> bool {
    standard_error().is_ok_and(|output| output.is_journal)
}

/// Opens the file at this path anew, which log rotation has moved away or not.
pub(super) fn reopen(path: &Path) -> Result<File, String> {
    // Neither a link nor a FIFO without a reader that now has the path may catch the log's thread.
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(MODE).custom_flags(O_NOFOLLOW | O_NONBLOCK);
    let file = options.open(path).and_then(|file| Ok((file.metadata()?.is_file(), file)));
    match file {
        Ok((true, file)) => Ok(file),
        Ok((false, _)) => Err(format!("{} is not a regular file", path.display())),
        Err(error) => Err(format!("cannot open {}: {error}", path.display())),
    }
}
