//! The capacity of this machine: the number of connections at which no limit of the system is
//! reached. Plain functions.
//!
//! Past some of these limits spawning a thread aborts the process instead of failing, so the server
//! has to know them in advance. Sources: getrlimit(2), proc(5) and cgroups(7).

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use rustix::process::{Resource, Rlimit, geteuid, setrlimit};

use crate::server::config::Config;
use crate::server::context::STACK_SIZE;
use crate::server::counted::Counted;
use crate::socket::sys;

/// A connection has a reader and a writer.
const THREADS: u64 = 2;

/// A thread has a stack and its guard. Where the standard library handles faults, to name a thread
/// whose stack overflowed, it also has an alternate signal stack and its guard.
const STACK_MAPPINGS: u64 = 2;
const SIGNAL_STACK_MAPPINGS: u64 = 2;

/// Descriptors reserved for everything else: the listener, the latches, refused clients, log files,
/// and those of the embedding program.
const SPARE_FILES: u64 = 128;

/// Descriptors that the server and its program still open after the capacity is computed, and a few
/// for refused clients.
const FURTHER_FILES: u64 = 8;

/// Threads reserved for everything else, in this program and others.
const SPARE_THREADS: u64 = 512;

/// Mappings reserved for everything else, the allocator's arenas and large buffers above all.
const SPARE_MAPPINGS: u64 = 4096;

/// The limit of memory mappings where it is not configured (`DEFAULT_MAX_MAP_COUNT` of Linux). It
/// cannot be read where procfs is mounted for processes only, as by `ProcSubset=pid` of systemd.
const DEFAULT_MAPPINGS: u64 = 65_530;

/// Memory reserved for everything else, in bytes.
const SPARE_MEMORY: u64 = 16 * 1024 * 1024;

/// Memory of a thread in addition to its stack, in bytes: guard pages, and an alternate signal stack.
const THREAD_EXTRAS: u64 = 32 * 1024;

/// Maximum size of a connection's read buffer, and of the batch that waits for its window, each in
/// addition to the longest line and in bytes.
const READ_BUFFER: u64 = 128 * 1024;
const WAITING_BATCH: u64 = 128 * 1024;

/// Maximum memory for data in flight to one client, in bytes: frames, and the lengths of messages.
const IN_FLIGHT: u64 = (2 * 256 + 256) * 1024;

/// Address space of one of malloc's arenas, in bytes (`HEAP_MAX_SIZE` of the GNU C library).
const ARENA: u64 = 64 * 1024 * 1024;

const IN_MAPPINGS: &str = "memory mappings (vm.max_map_count)";

/// How many connections the machine can hold, and the limit that binds.
///
/// ```
/// let capacity = a_chat::Capacity::detect();
/// assert!(capacity.connections > 0);
/// println!("{capacity}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Capacity {
    /// The number of connections, at least 1.
    pub connections: usize,
    /// The limit that is reached first.
    pub limited_by: &'static str,
}

impl Capacity {
    /// Reads the limits that apply to this process now, for a server with the default [`Config`]. A
    /// limit that does not exist here, or cannot be read, is skipped; that of memory mappings then
    /// counts as 65,530, its default.
    #[must_use]
    pub fn detect() -> Self {
        Self::detect_for(&Config::default())
    }

    /// As [`detect`](Self::detect), for a server with this configuration, apart from its
    /// `max_connections`.
    pub(crate) fn detect_for(config: &Config) -> Self {
        let guess = Self { connections: 1000, limited_by: "a guess" };
        Self::limits(config).first().copied().unwrap_or(guess)
    }

    /// Every limit of this machine that can be read, the lowest first: as many connections as each
    /// allows to a server with this configuration, apart from its `max_connections`.
    ///
    /// ```
    /// use a_chat::{Capacity, Config};
    ///
    /// let limits = Capacity::limits(&Config::default());
    /// assert!(limits.iter().all(|limit| limit.connections >= limits[0].connections));
    /// ```
    #[must_use]
    pub fn limits(config: &Config) -> Vec<Self> {
        let threads = |limit: Option<u64>| {
            limit.map(|limit| connections_within(limit, SPARE_THREADS, THREADS))
        };
        // Root's threads are not counted against RLIMIT_NPROC, see getrlimit(2).
        let nproc = soft_limit(libc::RLIMIT_NPROC).filter(|_| !geteuid().is_root());
        let files = soft_limit(libc::RLIMIT_NOFILE);
        let limits = [
            (files.map(|limit| room_in_files(limit, open_files())), "open files (RLIMIT_NOFILE)"),
            (threads(number_in("/proc/sys/kernel/threads-max")), "threads (kernel.threads-max)"),
            (threads(number_in("/proc/sys/kernel/pid_max")), "threads (kernel.pid_max)"),
            (threads(cgroup_pids_max()), "threads (pids cgroup)"),
            (threads(nproc), "threads (RLIMIT_NPROC)"),
        ];
        let all = room_in_memory(config).into_iter().chain(limits);
        let known = all.filter_map(|(limit, limited_by)| {
            let connections = usize::try_from(limit?).unwrap_or(usize::MAX);
            Some(Self { connections, limited_by })
        });
        let mut limits: Vec<_> = known.collect();
        limits.sort_by_key(|limit| limit.connections);
        limits
    }

    /// The capacity of a server with this configuration. More than `max_connections` are never
    /// accepted, nor more than memory allows: past every other limit a client is refused or has to
    /// wait, past those of memory the process aborts.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let Some(connections) = config.max_connections else {
            return Self::detect_for(config);
        };
        let room =
            room_in_memory(config).into_iter().filter_map(|(room, name)| Some((room?, name)));
        let room = room.min_by_key(|(room, _)| *room);
        let room = room.and_then(|(room, name)| Some((usize::try_from(room).ok()?, name)));
        let (connections, limited_by) = room
            .filter(|(room, _)| *room < connections)
            .unwrap_or((connections, "max_connections"));
        Self { connections, limited_by }
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = Counted(self.connections as u64, "connection", "connections");
        write!(f, "{connections}, limited by {}", self.limited_by)
    }
}

/// Raises the soft limit of open files to the hard one, which needs no privilege. Returns the limit
/// that is in force then; `u64::MAX` is none.
///
/// It is the process's limit, so the program decides: the binary does this at its start, an
/// embedding program may.
///
/// ```
/// let files = a_chat::raise_nofile_limit()?;
/// assert!(files > 0);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// As getrlimit(2) and setrlimit(2). It does no harm: the capacity is computed from the limit in force.
pub fn raise_nofile_limit() -> io::Result<u64> {
    let (_, hard) = sys::resource_limit(libc::RLIMIT_NOFILE)?;
    let maximum = Some(hard).filter(|limit| *limit != u64::MAX);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(hard)
}

/// Buckets of the kernel's futex hash table: ten thousand sleeping threads make about ten in each.
/// A bucket takes 64 bytes of kernel memory.
const FUTEX_HASH_SLOTS: u32 = 1024;

/// Speeds up futex wake-ups in a process with thousands of sleeping threads.
///
/// Since Linux 6.16 each process has its own futex hash table, of 16 buckets on two CPUs, and each
/// bucket is a list. With 5,000 idle clients to walk past, a message took twice the CPU time. Before
/// the first thread is spawned this call costs nothing; later it waits for all CPUs, for some 10 ms.
/// The table is the process's, so the program decides: the binary does this at its start, an
/// embedding program may.
///
/// # Errors
///
/// As prctl(2), on an older system for one. It does no harm there: all processes share one large
/// table.
pub fn enlarge_futex_hash() -> io::Result<()> {
    sys::set_futex_hash_slots(FUTEX_HASH_SLOTS)
}

/// Keeps malloc from reserving address space for one arena after the other, if `RLIMIT_AS` limits the
/// address space. Call it before the first thread is spawned.
///
/// The GNU C library reserves 64 MiB for each of up to eight arenas per CPU, which under a limit leaves
/// next to nothing for connections. With one arena, threads that allocate wait for each other a little
/// more often. It is the process's allocator, so the program decides: the binary does this at its
/// start, an embedding program may. Without it a server counts all arenas against its capacity.
pub fn limit_malloc_arenas() {
    if soft_limit(libc::RLIMIT_AS).is_some() && sys::set_max_arenas(1) {
        ONE_ARENA.store(true, Relaxed);
    }
}

/// A limit of this process; `None` if there is none, or if it cannot be read.
fn soft_limit(resource: sys::Resource) -> Option<u64> {
    sys::resource_limit(resource).ok().map(|(soft, _)| soft).filter(|soft| *soft != u64::MAX)
}

/// Set once malloc keeps to a single arena.
static ONE_ARENA: AtomicBool = AtomicBool::new(false);

/// The number of connections that each limit of memory allows: past any of them the process aborts.
/// `docs/security.md` lists the terms.
fn room_in_memory(config: &Config) -> [(Option<u64>, &'static str); 3] {
    let (window, line) = (config.window as u64, config.max_line as u64);
    let each = (THREADS * (STACK_SIZE as u64 + THREAD_EXTRAS) + READ_BUFFER + IN_FLIGHT)
        .saturating_add(WAITING_BATCH.min(window / 2))
        .saturating_add(line.saturating_mul(2))
        .saturating_add(window);
    let room = |limit: Option<u64>, used: &str, arenas: u64| {
        let used = memory_in_use(used).saturating_add(arenas);
        limit.map(|limit| connections_within(limit.saturating_sub(used), SPARE_MEMORY, each))
    };
    let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    let arenas = if ONE_ARENA.load(Relaxed) { 0 } else { ARENA * 8 * cpus };
    let address_space = soft_limit(libc::RLIMIT_AS);
    let data = soft_limit(libc::RLIMIT_DATA);
    [
        (Some(room_in_mappings()), IN_MAPPINGS),
        (room(address_space, "VmSize:", arenas), "address space (RLIMIT_AS)"),
        // Of an arena only the part in use counts.
        (room(data, "VmData:", 0), "data segment (RLIMIT_DATA)"),
    ]
}

/// A value of `/proc/self/status` in bytes; 0 if it cannot be read.
fn memory_in_use(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The number of open descriptors of this process; 0 if they cannot be counted.
fn open_files() -> u64 {
    // The descriptor that reads the directory is one of them.
    fs::read_dir("/proc/self/fd").map_or(0, |files| (files.count() as u64).saturating_sub(1))
}

/// The number of connections that the limit of open files allows.
fn room_in_files(limit: u64, open: u64) -> u64 {
    let spare = SPARE_FILES.min(limit / 4).max(open + FURTHER_FILES);
    limit.saturating_sub(spare).max(1)
}

/// The number of connections that memory mappings allow.
fn room_in_mappings() -> u64 {
    let signal_stack = if sys::has_fault_handlers() { SIGNAL_STACK_MAPPINGS } else { 0 };
    let each = THREADS * (STACK_MAPPINGS + signal_stack);
    // Past this limit the process aborts, so one that cannot be read counts as it is by default.
    let limit = number_in("/proc/sys/vm/max_map_count").unwrap_or(DEFAULT_MAPPINGS);
    connections_within(limit, SPARE_MAPPINGS, each)
}

/// The number of connections that fit under a limit of which each takes `each`.
fn connections_within(limit: u64, spare: u64, each: u64) -> u64 {
    // Under a very low limit the reserve shrinks, to a quarter of the limit.
    (limit.saturating_sub(spare.min(limit / 4)) / each).max(1)
}

fn number_in(path: impl AsRef<Path>) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The lowest pids limit of this process's control group and those above it.
fn cgroup_pids_max() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    pids_groups(&groups).iter().filter_map(|group| number_in(group.join("pids.max"))).min()
}

/// The directories that may hold a pids limit, from the lines of `/proc/self/cgroup`.
fn pids_groups(groups: &str) -> Vec<PathBuf> {
    let group = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let root = match controllers {
            "" => "/sys/fs/cgroup",
            _ if controllers.split(',').any(|name| name == "pids") => "/sys/fs/cgroup/pids",
            _ => return None,
        };
        let path = Path::new(path.trim_start_matches('/'));
        Some(path.ancestors().map(|above| Path::new(root).join(above)).collect::<Vec<_>>())
    };
    groups.lines().filter_map(group).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept_but_is_never_the_whole_limit() {
        assert_eq!(connections_within(20_000, 128, 1), 19_872);
        assert_eq!(connections_within(65_530, 4096, 8), 7679);
        assert_eq!(connections_within(100, 512, 2), 37);
        assert_eq!(connections_within(0, 512, 2), 1);
    }

    #[test]
    fn open_descriptors_are_no_room_for_connections() {
        assert_eq!(room_in_files(1_048_576, 10), 1_048_448);
        assert_eq!(room_in_files(100, 10), 75);
        assert_eq!(room_in_files(20, 7), 5);
        assert_eq!(room_in_files(12, 9), 1);
    }

    #[test]
    fn memory_in_use_is_read_in_bytes() {
        assert!(memory_in_use("VmSize:") > memory_in_use("VmData:"));
        assert!(memory_in_use("VmData:") > 4096);
        assert_eq!(memory_in_use("VmNonsense:"), 0);
    }

    #[test]
    fn cgroups_of_both_versions_are_found() {
        let directories = pids_groups("0::/system.slice/chat.service\n");
        let expected = [
            "/sys/fs/cgroup/system.slice/chat.service",
            "/sys/fs/cgroup/system.slice",
            "/sys/fs/cgroup/",
        ];
        assert_eq!(directories, expected.map(PathBuf::from));
        let directories = pids_groups("5:cpu,cpuacct:/a\n3:pids:/b\n");
        assert_eq!(
            directories,
            ["/sys/fs/cgroup/pids/b", "/sys/fs/cgroup/pids/"].map(PathBuf::from)
        );
        assert_eq!(pids_groups("nonsense"), Vec::<PathBuf>::new());
    }
}
