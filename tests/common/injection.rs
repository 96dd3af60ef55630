//! Fault injection: strace(1) stands between the executable and the kernel, and fails chosen system
//! calls or interrupts them with a signal.
//!
//! The executable is the real one and cannot tell such an error from a real one. A shortage that
//! would not affect the rest of the machine is better tested for real.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use std::fs;
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use crate::common::skipped;

/// A launcher that makes strace follow all threads of the executable, which remains the caller's
/// child. Only the chosen system calls are traced.
pub struct Injection {
    pub launcher: Vec<String>,
    trace: NamedTempFile,
}

impl Injection {
    /// Injects a fault in the syntax of strace(1)'s `inject`, such as
    /// `accept4:error=ENFILE:when=3..5`; each thread's calls are counted separately. Returns `None`,
    /// and prints why, if processes cannot be traced here.
    pub fn of(fault: &str) -> Option<Self> {
        let (calls, _) = fault.split_once(':').expect("calls and their fault");
        let mut injection = Self::trace_only(calls)?;
        injection.launcher.extend(["-e".to_owned(), format!("inject={fault}")]);
        Some(injection)
    }

    /// Traces these system calls without failing them.
    pub fn trace_only(calls: &str) -> Option<Self> {
        let trace = NamedTempFile::new().expect("a file");
        let path = trace.path().to_str().expect("a path in UTF-8");
        let launcher = format!("strace -D -f -qq -o {path} -e trace={calls}");
        let launcher: Vec<_> = launcher.split(' ').map(str::to_owned).collect();
        let mut attempt = Command::new(&launcher[0]);
        attempt.args(&launcher[1..]).arg("true").stdin(Stdio::null()).stderr(Stdio::null());
        if attempt.status().is_ok_and(|status| status.success()) {
            return Some(Self { launcher, trace });
        }
        skipped("faults cannot be injected: strace is missing or not permitted to trace");
        None
    }

    /// The trace so far, one line per system call: the thread's id, the call, its arguments and its
    /// result.
    pub fn calls(&self) -> Vec<String> {
        let trace = fs::read_to_string(self.trace.path()).expect("a file");
        trace.lines().map(str::to_owned).collect()
    }

    /// How many faults have been injected so far.
    pub fn injected(&self) -> usize {
        self.calls().iter().filter(|call| call.ends_with("(INJECTED)")).count()
    }
}
