//! Files that may change while the server runs: the user file, certificates. Each group of files
//! has a helper thread that reads them and exits once the group's [`Watch`] is dropped.
//!
//! A file can hang, on a network mount that is gone, or a FUSE mount. So only the helper touches
//! files, and nobody joins it: a drain never waits for it, and a login only as long as it may.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use foldhash::fast::FixedState;
use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;

/// How often the files are looked at although nobody asks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Files that were seen to change this recently are read again at the next look. Time stamps are as
/// coarse as the kernel's tick, so a file may change once more without showing it.
const YOUNG: Duration = Duration::from_secs(2);

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const OTHERS_READ: u32 = 0o004;
const STICKY: u32 = 0o1000;

/// What may be done to a file by those who neither own it nor are root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Anyone may read it, and whoever may write it is the operator's business.
    Any,
    /// Nobody else may write it, or replace it in its folder. That others may read it is logged.
    NoWriting,
    /// Nobody else may write it or replace it in its folder, and only its group may read it.
    NoReading,
}

/// One file of a group.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) path: PathBuf,
    pub(crate) rights: Rights,
}

/// Files that are read together, and again whenever one of them has changed. Dropping it ends the
/// helper thread, unless that hangs.
#[derive(Debug)]
pub(crate) struct Watch {
    name: &'static str,
    requests: Sender<Request>,
    failed: Arc<AtomicBool>,
}

/// Asks the helper for a look, which begins after this was received.
#[derive(Debug)]
struct Request {
    done: Arc<AtomicBool>,
    /// Unparked then; `None` if nobody waits.
    waiting: Option<Thread>,
}

impl Watch {
    /// Reads the files and hands their contents to `load`, in this order; then again, on a thread of
    /// this `name`, whenever one of them has changed. What `load` refuses is logged once, and
    /// whatever it took before stays in force.
    ///
    /// # Errors
    ///
    /// If the first reading fails, or `load` refuses it: the file and the problem, for people.
    pub(crate) fn start(
        name: &'static str,
        files: Vec<Watched>,
        load: impl FnMut(&[Vec<u8>]) -> Result<(), String> + Send + 'static,
    ) -> Result<Self, String> {
        let mut group = Group::new(files, load);
        group.look()?;
        let (requests, inbox) = unbounded();
        let failed = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&failed);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || serve(group, &inbox, &shared))
            .map_err(|error| format!("cannot spawn the thread {name}: {error}"))?;
        Ok(Self { name, requests, failed })
    }

    /// What the thread and the figures call it.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the files could not be used when they last changed, so that what they held before is
    /// still in force.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Asks for a look without waiting for it.
    pub(crate) fn request(&self) {
        let _ = self.requests.send(Request { done: Arc::default(), waiting: None });
    }

    /// Asks for a look and waits for its end, parked, as long as `next_check` returns a time until
    /// which to wait; whoever unparks this thread makes it ask again. False if it gave up.
    pub(crate) fn look(&self, mut next_check: impl FnMut() -> Option<Instant>) -> bool {
        let done = Arc::new(AtomicBool::new(false));
        let request = Request { done: Arc::clone(&done), waiting: Some(thread::current()) };
        if self.requests.send(request).is_err() {
            return false;
        }
        while !done.load(Acquire) {
            let Some(until) = next_check() else { return false };
            thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
        true
    }
}

/// The helper thread: looks when it is asked to, and every now and then.
fn serve(
    mut group: Group<impl FnMut(&[Vec<u8>]) -> Result<(), String>>,
    inbox: &Receiver<Request>,
    failed: &AtomicBool,
) {
    loop {
        let first = match inbox.recv_timeout(INTERVAL) {
            Ok(request) => Some(request),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // One look is enough for all who asked before it.
        let requests: Vec<_> = first.into_iter().chain(inbox.try_iter()).collect();
        group.look_and_log(failed);
        for Request { done, waiting } in requests {
            done.store(true, Release);
            waiting.inspect(Thread::unpark);
        }
    }
}

/// What is known about a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Whoever sets the time of the last modification cannot set this one.
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// The helper's state.
struct Group<F> {
    files: Vec<Watched>,
    load: F,
    /// What the files looked like at the last look, and since when; `None` if they have to be read
    /// again anyway.
    seen: Option<(Vec<Option<Fingerprint>>, Instant)>,
    /// The contents in force, as a hash: some of them are secret.
    loaded: Option<u64>,
    /// Why the files cannot be used as they are.
    problem: Option<String>,
    warned: bool,
}

impl<F> fmt::Debug for Group<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<F: FnMut(&[Vec<u8>]) -> Result<(), String>> Group<F> {
    fn new(files: Vec<Watched>, load: F) -> Self {
        Self { files, load, seen: None, loaded: None, problem: None, warned: false }
    }

    /// Reads and loads the files if one of them has changed. True if the result is news: they were
    /// loaded, or cannot be used.
    fn look(&mut self) -> Result<bool, String> {
        // Taken before reading: a change in between shows at the next look.
        let fingerprint = |file: &Watched| fs::metadata(&file.path).ok();
        let now: Vec<_> = self
            .files
            .iter()
            .map(|file| fingerprint(file).map(|it| Fingerprint::of(&it)))
            .collect();
        let since = match self.seen.take() {
            Some((before, since)) if before == now => since,
            _ => Instant::now(),
        };
        let is_old = since.elapsed() >= YOUNG;
        self.seen = Some((now, since));
        if is_old {
            return Ok(false);
        }
        let mut contents = Vec::with_capacity(self.files.len());
        for file in &self.files {
            let (bytes, is_exposed) = read(file).map_err(|problem| {
                // What keeps it from being read may end without a change of the file.
                self.seen = None;
                format!("cannot use {}: {problem}", file.path.display())
            })?;
            if is_exposed && !self.warned {
                self.warned = true;
                log::warn!("{} can be read by every user of this machine", file.path.display());
            }
            contents.push(bytes);
        }
        let mut hasher = FixedState::default().build_hasher();
        for bytes in &contents {
            hasher.write(bytes);
            hasher.write_usize(bytes.len());
        }
        let hash = hasher.finish();
        if self.loaded == Some(hash) {
            return Ok(self.problem.is_some());
        }
        let paths: Vec<_> = self.files.iter().map(|file| file.path.display().to_string()).collect();
        (self.load)(&contents)
            .map_err(|problem| format!("cannot use {}: {problem}", paths.join(" with ")))?;
        self.loaded = Some(hash);
        Ok(true)
    }

    fn look_and_log(&mut self, failed: &AtomicBool) {
        match self.look() {
            Ok(false) => {}
            Ok(true) => {
                failed.store(false, Relaxed);
                let paths = self.files.iter().map(|file| file.path.display().to_string());
                log::info!("read {}", paths.collect::<Vec<_>>().join(" and "));
                self.problem = None;
            }
            Err(problem) => {
                failed.store(true, Relaxed);
                if self.problem.as_ref() != Some(&problem) {
                    log::error!("{problem}; what it held before stays in force");
                }
                self.problem = Some(problem);
            }
        }
    }
}

/// Reads a file as a [`Watch`] does, and forgets it.
pub(crate) fn read_once(file: &Watched) -> Result<Vec<u8>, String> {
    read(file).map(|(bytes, _)| bytes)
}

/// Reads a file, and says whether others can read it although that is worth a warning.
fn read(file: &Watched) -> Result<(Vec<u8>, bool), String> {
    // A FIFO without a writer would block here, and a terminal would become the process's own.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&file.path, flags, Mode::empty());
    let mut opened = File::from(opened.map_err(|error| io::Error::from(error).to_string())?);
    let metadata = opened.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    check_rights(file, &metadata)?;
    let mut bytes = Vec::new();
    let limit = MAX_BYTES + 1;
    opened.by_ref().take(limit).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 == limit {
        return Err(format!("it is larger than {} MiB", MAX_BYTES >> 20));
    }
    let others_read = metadata.mode() & OTHERS_READ != 0;
    Ok((bytes, others_read && file.rights == Rights::NoWriting))
}

fn check_rights(file: &Watched, metadata: &Metadata) -> Result<(), String> {
    if file.rights == Rights::Any {
        return Ok(());
    }
    if metadata.mode() & (GROUP_WRITES | OTHERS_WRITE) != 0 {
        return Err(format!("others can write it (mode {:03o})", metadata.mode() & 0o777));
    }
    if file.rights == Rights::NoReading && metadata.mode() & OTHERS_READ != 0 {
        return Err(format!("others can read it (mode {:03o})", metadata.mode() & 0o777));
    }
    // Both the folder of a symbolic link and that of the file: either decides what is read.
    let resolved = fs::canonicalize(&file.path).map_err(|error| error.to_string())?;
    for path in [&file.path, &resolved] {
        check_folder(path, metadata)?;
    }
    Ok(())
}

/// Whoever may write a folder can replace every file in it, unless the folder is sticky, which
/// leaves files to their owners.
fn check_folder(path: &Path, file: &Metadata) -> Result<(), String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let metadata = fs::metadata(folder).map_err(|error| error.to_string())?;
    let mode = metadata.mode();
    let is_open = mode & (GROUP_WRITES | OTHERS_WRITE) != 0;
    let is_ours = file.uid() == 0 || file.uid() == geteuid().as_raw();
    if is_open && !(mode & STICKY != 0 && is_ours) {
        let folder = folder.display();
        return Err(format!(
            "others can replace it in its folder {folder} (mode {:03o})",
            mode & 0o7777
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::Mutex;

    use rustix::fs::{CWD, FileType, Timestamps, mknodat, utimensat};
    use tempfile::TempDir;

    use super::*;

    type Seen = Arc<Mutex<Vec<String>>>;

    fn file(folder: &TempDir, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("a mode");
        path
    }

    type Load = Box<dyn FnMut(&[Vec<u8>]) -> Result<(), String>>;

    fn group(path: &Path, rights: Rights) -> (Group<Load>, Seen) {
        let seen = Seen::default();
        let loads = Arc::clone(&seen);
        let load = move |contents: &[Vec<u8>]| {
            let text = String::from_utf8_lossy(&contents[0]).into_owned();
            loads.lock().expect("no panic").push(text.clone());
            if text.contains("bad") { Err("line 1: bad".to_owned()) } else { Ok(()) }
        };
        (Group::new(vec![Watched { path: path.to_owned(), rights }], Box::new(load)), seen)
    }

    fn problem_with(path: &Path, rights: Rights) -> String {
        group(path, rights).0.look().expect_err("it is refused")
    }

    fn folder() -> TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[test]
    fn a_file_is_loaded_again_only_when_its_content_has_changed() {
        let folder = folder();
        let path = file(&folder, "users", "one", 0o600);
        let (mut group, seen) = group(&path, Rights::NoWriting);
        assert_eq!((group.look(), group.look()), (Ok(true), Ok(false)));
        // Of the same size, and perhaps within the same tick.
        fs::write(&path, "two").expect("written");
        assert_eq!((group.look(), group.look()), (Ok(true), Ok(false)));
        fs::remove_file(&path).expect("removed");
        group.look().expect_err("it is gone");
        file(&folder, "users", "two", 0o600);
        assert_eq!(group.look(), Ok(false));
        assert_eq!(*seen.lock().expect("no panic"), ["one", "two"]);
    }

    #[test]
    fn a_replaced_file_is_seen_even_with_the_size_and_time_of_the_old_one() {
        let folder = folder();
        let path = file(&folder, "users", "one", 0o600);
        let old = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
        let set = |path: &Path| {
            let times = Timestamps { last_access: old, last_modification: old };
            utimensat(CWD, path, &times, rustix::fs::AtFlags::empty()).expect("a time");
        };
        set(&path);
        let (mut group, seen) = group(&path, Rights::NoWriting);
        group.look().expect("a good file");
        let new = file(&folder, "new", "two", 0o600);
        set(&new);
        fs::rename(&new, &path).expect("renamed");
        assert_eq!(group.look(), Ok(true));
        assert_eq!(*seen.lock().expect("no panic"), ["one", "two"]);
    }

    #[test]
    fn a_broken_file_is_a_failure_until_it_is_mended() {
        let folder = folder();
        let path = file(&folder, "users", "good", 0o600);
        let (mut group, _) = group(&path, Rights::NoWriting);
        let failed = AtomicBool::new(false);
        for (text, is_broken) in [("bad", true), ("bad too", true), ("good", false), ("bad", true)]
        {
            fs::write(&path, text).expect("written");
            group.look_and_log(&failed);
            assert_eq!(failed.load(Relaxed), is_broken, "{text}");
        }
        fs::write(&path, "better").expect("written");
        group.look_and_log(&failed);
        assert!(!failed.load(Relaxed));
    }

    #[test]
    fn only_a_regular_file_of_a_sane_size_is_read() {
        let folder = folder();
        assert!(problem_with(folder.path(), Rights::Any).contains("not a regular file"));
        let fifo = folder.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        assert!(problem_with(&fifo, Rights::NoWriting).contains("not a regular file"));
        let huge = file(&folder, "huge", "", 0o600);
        File::options().write(true).open(&huge).expect("a file").set_len(1 << 30).expect("sparse");
        assert!(problem_with(&huge, Rights::NoWriting).contains("larger than 16 MiB"));
        let missing = problem_with(&folder.path().join("missing"), Rights::Any);
        assert!(missing.contains("No such file"), "{missing}");
    }

    #[test]
    fn a_file_that_others_can_write_or_replace_is_refused() {
        let folder = folder();
        let path = file(&folder, "users", "", 0o620);
        assert!(problem_with(&path, Rights::NoWriting).contains("others can write it (mode 620)"));
        file(&folder, "users", "", 0o602);
        assert!(problem_with(&path, Rights::NoReading).contains("others can write it"));
        file(&folder, "users", "", 0o644);
        assert!(problem_with(&path, Rights::NoReading).contains("others can read it (mode 644)"));
        for mode in [0o600, 0o640] {
            file(&folder, "users", "", mode);
            group(&path, Rights::NoReading).0.look().expect("its group may read it");
        }
        let mode = |mode| fs::set_permissions(folder.path(), PermissionsExt::from_mode(mode));
        mode(0o770).expect("a mode");
        assert!(problem_with(&path, Rights::NoWriting).contains("in its folder"));
        // As Kubernetes mounts secrets.
        mode(0o1777).expect("a mode");
        group(&path, Rights::NoWriting).0.look().expect("only its owner can replace it");
        mode(0o700).expect("a mode");
    }

    #[test]
    fn the_folder_of_a_symbolic_link_counts_as_much_as_that_of_its_file() {
        let (links, files) = (folder(), folder());
        let path = file(&files, "users", "", 0o600);
        let link = links.path().join("users");
        symlink(&path, &link).expect("a link");
        group(&link, Rights::NoWriting).0.look().expect("both folders are safe");
        for folder in [&links, &files] {
            let mode = |mode| fs::set_permissions(folder.path(), PermissionsExt::from_mode(mode));
            mode(0o777).expect("a mode");
            assert!(problem_with(&link, Rights::NoWriting).contains("in its folder"));
            mode(0o700).expect("a mode");
        }
    }

    #[test]
    fn a_look_that_is_asked_for_sees_what_was_written_before() {
        let folder = folder();
        let path = file(&folder, "users", "0", 0o600);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let loads = Arc::clone(&seen);
        let load = move |contents: &[Vec<u8>]| {
            *loads.lock().expect("no panic") = contents[0].clone();
            Ok(())
        };
        let files = vec![Watched { path: path.clone(), rights: Rights::NoWriting }];
        let watch = Watch::start("watch-test", files, load).expect("a good file");
        for round in 1..100 {
            fs::write(&path, round.to_string()).expect("written");
            assert!(watch.look(|| Some(Instant::now() + Duration::from_secs(30))));
            assert_eq!(*seen.lock().expect("no panic"), round.to_string().as_bytes());
        }
        assert!(!watch.has_failed());
        assert_eq!(watch.name(), "watch-test");
    }

    #[test]
    fn a_file_that_hangs_holds_nobody_up() {
        let folder = folder();
        let path = file(&folder, "users", "0", 0o600);
        let (hung, release) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (hangs, released) = (Arc::clone(&hung), Arc::clone(&release));
        let load = move |contents: &[Vec<u8>]| {
            while contents[0] == *b"hang" && !released.load(Relaxed) {
                hangs.store(true, Relaxed);
                thread::yield_now();
            }
            Ok(())
        };
        let files = vec![Watched { path: path.clone(), rights: Rights::Any }];
        let watch = Watch::start("watch-test", files, load).expect("a good file");
        fs::write(&path, "hang").expect("written");
        watch.request();
        while !hung.load(Relaxed) {
            thread::yield_now();
        }
        let deadline = Instant::now() + Duration::from_millis(20);
        assert!(!watch.look(|| (Instant::now() < deadline).then_some(deadline)));
        drop(watch);
        release.store(true, Relaxed);
    }
}
