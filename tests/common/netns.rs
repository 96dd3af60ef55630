//! Hosts that are network namespaces of this machine, with links between them that can be slow,
//! lossy, or down. Everything they consist of exists only inside these namespaces and disappears
//! with them; the machine's own interfaces, routes and filters are not touched.
#![allow(dead_code, unreachable_pub, reason = "as in the other helpers")]

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::common::skipped;

/// Runs a command that must succeed.
fn run(command: &str) {
    let failed = attempt(command).err();
    assert_eq!(failed, None, "{command}");
}

fn attempt(command: &str) -> Result<(), String> {
    let mut words = command.split_whitespace();
    let mut process = Command::new(words.next().expect("a program"));
    let output = process.args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    let message = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(message()) }
}

/// A host; dropping it removes it and all its links.
#[derive(Debug)]
pub struct Host {
    namespace: String,
}

impl Host {
    fn new() -> Result<Self, String> {
        static HOSTS: AtomicUsize = AtomicUsize::new(0);
        // The first one on a machine creates the directory that holds all of them.
        static CREATING: Mutex<()> = Mutex::new(());
        let _one_by_one = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
        let number = HOSTS.fetch_add(1, Relaxed);
        let namespace = format!("a-chat-{}-{number}", std::process::id());
        attempt(&format!("ip netns add {namespace}"))?;
        Ok(Self { namespace })
    }

    /// Runs `act` on this host. A socket opened there stays there, but can be used from anywhere.
    pub fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace)).expect("a namespace");
        let inside = || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind)
                .expect("permission, as for creating it");
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join()).expect("no panic there")
    }

    /// A launcher of programs on this host.
    pub fn launcher(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.namespace]
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A process still running there keeps it alive; the name is free at once.
        let _ = attempt(&format!("ip netns del {}", self.namespace));
    }
}

/// A server's host and its clients' hosts, each of them at the other end of its own link.
#[derive(Debug)]
pub struct Network {
    pub server: Host,
    pub clients: Vec<Host>,
}

impl Network {
    /// Returns `None`, and prints why, if this machine does not permit it.
    pub fn new(clients: usize) -> Option<Self> {
        let netns: Result<Vec<_>, _> = (0..=clients).map(|_| Host::new()).collect();
        let mut netns = match netns {
            Ok(netns) => netns,
            Err(error) => {
                skipped(&format!("network namespaces cannot be created here: {error}"));
                return None;
            }
        };
        let server = netns.pop().expect("one more than clients");
        for (number, client) in netns.iter().enumerate() {
            let (near, far) = (&server.namespace, &client.namespace);
            run(&format!(
                "ip -n {near} link add to{number} type veth peer name server netns {far}"
            ));
            run(&format!("ip -n {near} address add {}/30 dev to{number}", address_of(number)));
            run(&format!("ip -n {far} address add 10.77.{number}.2/30 dev server"));
            run(&format!("ip -n {near} link set to{number} up"));
            run(&format!("ip -n {far} link set server up"));
        }
        Some(Self { server, clients: netns })
    }

    /// Takes a client's link down.
    pub fn unplug(&self, client: usize) {
        run(&format!("ip -n {} link set server down", self.clients[client].namespace));
    }

    /// Brings it up again.
    pub fn plug_in(&self, client: usize) {
        run(&format!("ip -n {} link set server up", self.clients[client].namespace));
    }

    /// The namespace and device at the server's end of a link, and at the client's.
    fn devices(&self, client: usize) -> [(&str, String); 2] {
        let near = (self.server.namespace.as_str(), format!("to{client}"));
        [near, (self.clients[client].namespace.as_str(), "server".to_owned())]
    }

    /// Limits a link's rate in both directions, so packets queue up. Returns false, and prints why,
    /// if this kernel cannot.
    pub fn slow_down(&self, client: usize, rate: &str) -> bool {
        self.add_qdisc(client, &format!("tbf rate {rate} burst 4kb latency 200ms"))
    }

    /// Makes a link delay, drop, duplicate and reorder packets. Returns false, and prints why, if
    /// this kernel cannot.
    pub fn impair(&self, client: usize) -> bool {
        self.add_qdisc(client, "netem delay 20ms 10ms loss 3% duplicate 1% reorder 5%")
    }

    fn add_qdisc(&self, client: usize, discipline: &str) -> bool {
        self.devices(client).iter().all(|(namespace, device)| {
            let command = format!("tc -n {namespace} qdisc add dev {device} root {discipline}");
            let added = attempt(&command).inspect_err(|error| {
                skipped(&format!("a link cannot be impaired by {discipline:?} here: {error}"));
            });
            added.is_ok()
        })
    }

    /// Makes a client's host drop one in `packets` packets that it sends or receives. Returns false,
    /// and prints why, if it cannot.
    pub fn drop_one_in(&self, client: usize, packets: u32) -> bool {
        let host = &self.clients[client].namespace;
        let nft = |rule: &str| attempt(&format!("ip netns exec {host} nft {rule}"));
        let mut rules = vec!["add table ip lossy".to_owned()];
        for hook in ["input", "output"] {
            let chain = "{ type filter hook HOOK priority 0 ; }".replace("HOOK", hook);
            rules.push(format!("add chain ip lossy {hook} {chain}"));
            rules.push(format!("add rule ip lossy {hook} numgen random mod {packets} == 0 drop"));
        }
        let added = rules.iter().try_for_each(|rule| nft(rule)).inspect_err(|error| {
            skipped(&format!("nft cannot drop packets here: {error}"));
        });
        added.is_ok()
    }
}

/// The server's address on the link to a client.
pub fn address_of(client: usize) -> String {
    format!("10.77.{client}.1")
}
