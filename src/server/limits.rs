//! What this machine can hold: the number of connections that no limit of the system is reached
//! at. No thread runs here.
//!
//! Past some of these limits a thread start does not fail but aborts the process, so the server
//! has to know them beforehand. Sources: getrlimit(2), proc(5) and cgroups(7).

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

use crate::socket::sys;

/// A connection has a reader and a writer.
const THREADS: u64 = 2;

/// A thread has a stack and its guard. Where the standard library handles faults, to tell whose stack
/// has overflowed, it also has a signal stack and its guard.
const STACK_MAPPINGS: u64 = 2;
const SIGNAL_STACK_MAPPINGS: u64 = 2;

/// Descriptors kept for everything else: the listener, the latches, refused clients, log files,
/// and what the embedding program opens.
const SPARE_FILES: u64 = 128;

/// Threads kept for everything else, this program's and others'.
const SPARE_THREADS: u64 = 512;

/// Mappings kept for everything else, the allocator's arenas and large buffers above all.
const SPARE_MAPPINGS: u64 = 4096;

const IN_MAPPINGS: &str = "memory mappings (vm.max_map_count)";

/// How many connections the machine can hold, and what limits it.
///
/// ```
/// let capacity = a_chat::Capacity::detect();
/// assert!(capacity.connections > 0);
/// println!("{capacity}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capacity {
    /// The number of connections, at least 1.
    pub connections: usize,
    /// The limit that is reached first.
    pub limited_by: &'static str,
}

impl Capacity {
    /// Reads the limits that hold for this process now. Limits that can not be read, or that do
    /// not exist here, do not count.
    #[must_use]
    pub fn detect() -> Self {
        let threads = |limit: Option<u64>| limit.map(|limit| per(limit, SPARE_THREADS, THREADS));
        // Root's threads are not counted against RLIMIT_NPROC, see getrlimit(2).
        let nproc = getrlimit(Resource::Nproc).current.filter(|_| !geteuid().is_root());
        let limits = [
            (
                getrlimit(Resource::Nofile).current.map(|limit| per(limit, SPARE_FILES, 1)),
                "open files (RLIMIT_NOFILE)",
            ),
            (room_in_mappings(), IN_MAPPINGS),
            (threads(number_in("/proc/sys/kernel/threads-max")), "threads (kernel.threads-max)"),
            (threads(number_in("/proc/sys/kernel/pid_max")), "threads (kernel.pid_max)"),
            (threads(cgroup_pids_max()), "threads (pids cgroup)"),
            (threads(nproc), "threads (RLIMIT_NPROC)"),
        ];
        let known = limits.into_iter().filter_map(|(limit, name)| Some((limit?, name)));
        let (connections, limited_by) =
            known.min_by_key(|(connections, _)| *connections).unwrap_or((1000, "a guess"));
        Self { connections: usize::try_from(connections).unwrap_or(usize::MAX), limited_by }
    }

    /// As many connections as are wanted, but no more than there are memory mappings for: past
    /// every other limit a client is refused or has to wait, past this one the process aborts.
    pub(crate) fn wanted(connections: usize) -> Self {
        let room = room_in_mappings().and_then(|room| usize::try_from(room).ok());
        match room.filter(|room| *room < connections) {
            Some(connections) => Self { connections, limited_by: IN_MAPPINGS },
            None => Self { connections, limited_by: "max_connections" },
        }
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections, limited by {}", self.connections, self.limited_by)
    }
}

/// Raises the soft limit of open files to the hard one, which needs no privilege.
///
/// It is the process's limit, so the program decides: the binary does this at its start, an
/// embedding program may. Where the system refuses, the limit stays as it is.
pub fn raise_nofile_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // A refusal is no loss: the capacity is computed from the limit that holds then.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// In how many slots the kernel keeps the threads that sleep: with ten thousand of them there are
/// about ten in each. A slot takes 64 bytes of the kernel's memory.
const FUTEX_HASH_SLOTS: u32 = 1024;

/// Has the kernel find a thread that is to be woken quickly, however many others sleep.
///
/// Since Linux 6.16 each process has a table of its own for that, of 16 slots on two processors
/// and each slot a list. With 5,000 idle clients to walk past, a message took twice the processor
/// time. Before the first thread is started this costs nothing, later it waits for all processors,
/// for some 10 ms. It is the process's table, so the program decides: the binary does this at its
/// start, an embedding program may. Where the system refuses, the table stays as it is.
pub fn enlarge_futex_hash() {
    // A refusal is no loss: older systems have one table for all processes, a large one.
    let _ = sys::set_futex_hash_slots(FUTEX_HASH_SLOTS);
}

/// How many connections there are memory mappings for.
fn room_in_mappings() -> Option<u64> {
    let signal_stack = if sys::has_fault_handlers() { SIGNAL_STACK_MAPPINGS } else { 0 };
    let each = THREADS * (STACK_MAPPINGS + signal_stack);
    number_in("/proc/sys/vm/max_map_count").map(|limit| per(limit, SPARE_MAPPINGS, each))
}

/// How many connections fit under a limit that each of them takes `each` of.
fn per(limit: u64, spare: u64, each: u64) -> u64 {
    // Under a very low limit the spare is what the connections leave, a quarter at least.
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

/// The folders that may hold a pids limit, from the lines of `/proc/self/cgroup`.
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
    fn the_spare_is_kept_but_never_all_there_is() {
        assert_eq!(per(20_000, 128, 1), 19_872);
        assert_eq!(per(65_530, 4096, 8), 7679);
        assert_eq!(per(100, 512, 2), 37);
        assert_eq!(per(0, 512, 2), 1);
    }

    #[test]
    fn control_groups_of_both_versions_are_found() {
        let folders = pids_groups("0::/system.slice/chat.service\n");
        let expected = [
            "/sys/fs/cgroup/system.slice/chat.service",
            "/sys/fs/cgroup/system.slice",
            "/sys/fs/cgroup/",
        ];
        assert_eq!(folders, expected.map(PathBuf::from));
        let folders = pids_groups("5:cpu,cpuacct:/a\n3:pids:/b\n");
        assert_eq!(folders, ["/sys/fs/cgroup/pids/b", "/sys/fs/cgroup/pids/"].map(PathBuf::from));
        assert_eq!(pids_groups("nonsense"), Vec::<PathBuf>::new());
    }
}
