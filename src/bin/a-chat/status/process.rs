//! What the system tells about this process, for the metrics that every process has. Plain functions;
//! what cannot be read here is left out.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::exposition::Exposition;

/// The size of a page and the clock's ticks, as Linux reports them to programs of this architecture.
const TICKS: f64 = 100.0;

pub(super) fn add(to: &mut Exposition) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the name in parentheses, may contain blanks.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split(' ').collect();
    // Counted from the third field of proc(5), behind the blank.
    let field = |number: usize| fields.get(number - 2).and_then(|it| it.parse::<f64>().ok());
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        let seconds = (user + system) / TICKS;
        to.counter("process_cpu_seconds_total", "CPU time of all threads.", seconds);
    }
    if let Some(threads) = field(20) {
        to.gauge("process_threads", "Threads of the process.", threads);
    }
    if let Some(start) = field(22).and_then(|ticks| Some(boot_time()? + ticks / TICKS)) {
        let help = "When the process started, in seconds since 1970.";
        to.gauge("process_start_time_seconds", help, start);
    }
    if let Some(bytes) = resident() {
        to.gauge("process_resident_memory_bytes", "Resident memory.", bytes);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // The descriptor that reads the directory is one of them.
        let open = files.count().saturating_sub(1);
        to.gauge("process_open_fds", "Open file descriptors.", open);
    }
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or_else(|| "+Inf".to_owned(), |limit| limit.to_string());
    to.gauge("process_max_fds", "Limit of open file descriptors.", limit);
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
