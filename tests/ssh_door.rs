//! The recipe of `contrib/ssh`, with a real sshd on a loopback port: a key is a name, and no key opens
//! the relay's socket to other names.

mod common;

use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use a_chat::{Config, Listener, Server, UnixOptions};
use common::{TestServer, skipped, wait_until};

/// A process that is killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn key(folder: &Path, name: &str) -> bool {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", ""]).arg("-f").arg(folder.join(name));
    command.status().is_ok_and(|status| status.success())
}

/// Starts an sshd whose one key runs this command, with the recipe's settings for the test's user.
fn sshd(folder: &Path, port: u16, line: &str, user: &str, recipe: &str) -> Option<Killed> {
    let public = fs::read_to_string(folder.join("alice.pub")).expect("a key");
    fs::write(folder.join("authorized_keys"), format!("{line} {public}")).expect("a file");
    let settings = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nPidFile none\nUsePAM no\n\
         StrictModes no\nPermitRootLogin yes\nAuthorizedKeysFile {0}/authorized_keys\n{1}\n",
        folder.display(),
        recipe.replace("Match User chat", &format!("Match User {user}")),
    );
    let path = folder.join("sshd_config");
    fs::write(&path, settings).expect("a file");
    let mut command = Command::new("/usr/sbin/sshd");
    command.arg("-D").arg("-f").arg(path).stderr(Stdio::null());
    let sshd = Killed(command.spawn().ok()?);
    wait_until("sshd", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    Some(sshd)
}

fn ssh(folder: &Path, port: u16, user: &str) -> Command {
    let mut command = Command::new("ssh");
    command.arg("-i").arg(folder.join("alice")).args(["-p", &port.to_string(), "-F", "/dev/null"]);
    command.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
    command.args(["-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]);
    command.arg(format!("{user}@127.0.0.1"));
    command
}

#[test]
fn a_key_is_a_name_and_opens_no_way_to_the_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("a mode");
    let is_root = rustix::process::getuid().is_root();
    if !is_root || !Path::new("/usr/sbin/sshd").exists() || !key(folder, "host") {
        return skipped("sshd is not installed, or this is not root");
    }
    assert!(key(folder, "alice"));
    fs::create_dir_all("/run/sshd").expect("the folder that sshd wants");
    let (user, socket) = ("root", folder.join("chat.sock"));
    let mut listeners = Listener::bind_tcp(["127.0.0.1:0"]).expect("a free port");
    listeners.push(Listener::bind_unix(&socket, UnixOptions::default()).expect("a free path"));
    let config = Config::default().linger(Duration::from_millis(100));
    let server = TestServer::of(Server::from_listeners(listeners, config).expect("a server"));
    let mut bob = server.login("bob");

    let command =
        format!("{} connect --name alice unix:{}", env!("CARGO_BIN_EXE_a-chat"), socket.display());
    let recipe = include_str!("../contrib/ssh/sshd_config");
    let cases = [
        (format!("restrict,pty,command=\"{command}\""), recipe, ""),
        // Each of the two suffices,
        (format!("restrict,pty,command=\"{command}\""), "", ""),
        (format!("command=\"{command}\""), recipe, ""),
        // and without both, whoever has a key has every name.
        (format!("command=\"{command}\""), "", "notice: line 1: here: mallory\n"),
    ];
    for (line, recipe, expected) in cases {
        let port = free_port();
        let Some(_sshd) = sshd(folder, port, &line, user, recipe) else {
            return skipped("sshd does not start");
        };
        let mut client = ssh(folder, port, user);
        let client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut client = Killed(client.expect("ssh"));
        let mut input = client.0.stdin.take().expect("a pipe");
        input.write_all(b"bob: through ssh\n").expect("ssh reads");
        drop(input);
        bob.expect_line("from alice: through ssh");
        assert!(client.0.wait().expect("ssh").success());

        let way = free_port();
        let mut forward = ssh(folder, port, user);
        forward.args(["-N", "-L", &format!("127.0.0.1:{way}:{}", socket.display())]);
        let _forward = Killed(forward.stderr(Stdio::null()).spawn().expect("ssh"));
        wait_until("ssh to listen", || TcpStream::connect(("127.0.0.1", way)).is_ok());
        let mut mallory = common::Client::from_stream(
            TcpStream::connect(("127.0.0.1", way)).expect("ssh listens"),
        );
        // ssh opens the way only when somebody comes, and sshd refuses it then.
        let _ = mallory.stream.write_all(b"mallory\n/who mallory\n");
        let _ = mallory.stream.shutdown(Shutdown::Write);
        let seen = mallory.drain();
        assert_eq!(String::from_utf8_lossy(&seen), expected, "{line}, {recipe}");
    }
    assert_eq!(server.stop().lost(), 0);
}
