//! A system that fails on purpose: strace(1) stands between the executable and the kernel, and
//! answers chosen system calls with an error, or has a signal arrive in the middle of them.
//!
//! The executable is the real one, and so is the error as far as it can tell. What the machine is
//! short of is tested for real wherever that harms nobody else on it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use std::fs;
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use crate::common::skipped;

/// Behind this launcher strace follows all threads of the executable, which stays the child of
/// whoever starts it, and looks at no other system calls than it is told to.
pub struct Injection {
    pub launcher: Vec<String>,
    trace: NamedTempFile,
}

impl Injection {
    /// Has these system calls go wrong, as `inject` of strace(1) describes it:
    /// `accept4:error=ENFILE:when=3..5`, the calls of each thread counted for themselves. `None`,
    /// and a word on why, if a process can not be traced here.
    pub fn of(fault: &str) -> Option<Self> {
        let (calls, _) = fault.split_once(':').expect("calls and what becomes of them");
        let mut injection = Self::none(calls)?;
        injection.launcher.extend(["-e".to_owned(), format!("inject={fault}")]);
        Some(injection)
    }

    /// Only watches these system calls.
    pub fn none(calls: &str) -> Option<Self> {
        let trace = NamedTempFile::new().expect("a file");
        let path = trace.path().to_str().expect("a path in UTF-8");
        let launcher = format!("strace -D -f -qq -o {path} -e trace={calls}");
        let launcher: Vec<_> = launcher.split(' ').map(str::to_owned).collect();
        let mut attempt = Command::new(&launcher[0]);
        attempt.args(&launcher[1..]).arg("true").stdin(Stdio::null()).stderr(Stdio::null());
        if attempt.status().is_ok_and(|status| status.success()) {
            return Some(Self { launcher, trace });
        }
        skipped("system calls can not be made to fail: strace is missing, or may trace nothing");
        None
    }

    /// What was seen so far, a line for each system call: the thread's number, the call, its
    /// arguments and its result.
    pub fn calls(&self) -> Vec<String> {
        let trace = fs::read_to_string(self.trace.path()).expect("a file");
        trace.lines().map(str::to_owned).collect()
    }

    /// How many system calls have gone wrong on purpose so far.
    pub fn injected(&self) -> usize {
        self.calls().iter().filter(|call| call.ends_with("(INJECTED)")).count()
    }
}
