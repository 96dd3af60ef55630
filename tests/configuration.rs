//! The configuration file sets what flags set, behind flags and variables; whatever is wrong in it is
//! an error that names the line. `--check` and `--print-limits` tell what a start would do.
//!
//! Each case writes a file and runs the executable with it.
#![cfg(feature = "cli")]
#![allow(clippy::print_stdout, reason = "a test that cannot run here prints why")]

mod common;
#[path = "common/process.rs"]
mod process;

use std::fs;
#[cfg(any(feature = "tls", feature = "users"))]
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use common::{Client, skipped, wait_until};
use process::{Process, executable, run, serve, serve_through, through};
use tempfile::TempDir;

/// A folder with a configuration of this text.
fn configuration(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a-chat.conf");
    fs::write(&path, text).expect("room");
    (folder, path)
}

/// `a-chat serve` with a configuration of this text.
fn configured(text: &str) -> (TempDir, Command) {
    let (folder, path) = configuration(text);
    let mut command = executable();
    command.args(["serve", "--config"]).arg(path);
    (folder, command)
}

/// The command line is refused with status 2, in a text that holds all of these.
fn assert_refused(command: Command, named: &[&str]) {
    let (status, stdout, stderr) = run(command);
    assert_eq!((status, stdout.as_slice()), (2, [].as_slice()), "{stderr:#?}");
    let text = stderr.join("\n");
    for named in named {
        assert!(text.contains(named), "{named:?} in {text}");
    }
}

/// What `--print-limits` prints for a setting.
fn setting(mut command: Command, flag: &str) -> String {
    command.arg("--print-limits");
    let (status, stdout, stderr) = run(command);
    assert_eq!((status, stderr.as_slice()), (0, [].as_slice()));
    let line = stdout.iter().find(|line| line.split(' ').next() == Some(flag));
    let words = line.unwrap_or_else(|| panic!("{flag} in {stdout:#?}")).split_whitespace();
    words.skip(1).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_file_sets_what_flags_set() {
    let text = "\u{feff}# A comment\r\n\r\n  listen = 127.0.0.1:0\r\nmax-line=10\n\
                login-timeout = 50ms\nlog-file = logs/log # not a comment\n";
    let (folder, command) = configured(text);
    fs::create_dir(folder.path().join("logs")).expect("room");
    let mut process = Process::start(command);
    let mut silent = Client::connect(process.address());
    silent.expect_lines(&["error: login not in time"]);
    // On a busy machine one may be late.
    wait_until("a login in time", || {
        let mut alice = Client::connect(process.address());
        alice.send("a\na: sixteen bytes");
        alice.line().as_deref() == Some("error: line 1: longer than 10 bytes")
    });
    assert_eq!(process.terminate(), (0, Vec::new()));
    // The path is relative to the file, and only whole lines are comments.
    let log = fs::read_to_string(folder.path().join("logs/log # not a comment"));
    assert!(log.expect("a log file").contains("listening on 127.0.0.1:"));
}

#[test]
fn a_flag_precedes_a_variable_which_precedes_the_file_which_precedes_the_default() {
    let with = |flag: bool, variable: bool, file: bool| {
        let (folder, mut command) = configured(if file { "window = 3KiB\n" } else { "" });
        if flag {
            command.args(["--window", "1KiB"]);
        }
        if variable {
            command.env("A_CHAT_WINDOW", "2KiB");
        }
        let shown = setting(command, "window");
        shown.replace(&*folder.path().to_string_lossy(), "FOLDER")
    };
    let place = "3KiB FOLDER/a-chat.conf, line 1";
    for (flag, variable, file, expected) in [
        (true, true, true, "1KiB the command line"),
        (true, false, true, "1KiB the command line"),
        (false, true, true, "2KiB A_CHAT_WINDOW"),
        (false, true, false, "2KiB A_CHAT_WINDOW"),
        (false, false, true, place),
        (false, false, false, "256KiB default"),
    ] {
        assert_eq!(with(flag, variable, file), expected, "{flag} {variable} {file}");
    }
}

#[test]
fn a_variable_names_the_file_too_and_the_command_can_be_left_out() {
    let (_folder, path) = configuration("listen = 127.0.0.1:0\n");
    let mut command = executable();
    command.env("A_CHAT_CONFIG", &path);
    let mut process = Process::start(command);
    process.address();
    assert_eq!(process.terminate().0, 0);
    let mut command = executable();
    command.arg("--config").arg(&path);
    let mut process = Process::start(command);
    process.address();
    assert_eq!(process.terminate().0, 0);
}

#[test]
fn a_repeatable_flag_may_repeat_in_a_file_and_may_be_a_list() {
    for text in
        ["listen = 127.0.0.1:0\nlisten = 127.0.0.2:0\n", "listen = 127.0.0.1:0, 127.0.0.2:0\n"]
    {
        let (_folder, command) = configured(text);
        let mut process = Process::start(command);
        process.stdout.expect("a-chat listens on 127.0.0.1:");
        process.stdout.expect("a-chat listens on 127.0.0.2:");
        assert_eq!(process.terminate().0, 0);
    }
}

#[test]
fn a_wrong_line_is_refused_by_its_number_with_the_nearest_flag() {
    let cases: [(&str, &[&str]); 12] = [
        ("maxline = 3\n", &["a-chat.conf, line 1: unknown key 'maxline'; is 'max-line' meant?"]),
        ("\n# x\nzzz = 3\n", &["line 3: unknown key 'zzz'\n"]),
        ("window = 1KiB\n\nwindow = 1KiB\n", &["line 3: 'window' stands in line 1 already"]),
        ("window = x\n", &["line 1: invalid value 'x' for '--window': expected a number of bytes"]),
        ("log-level = warnin\n", &["line 1: ", "exists: 'warn'"]),
        ("window\n", &["line 1: expected `key = value`"]),
        ("window =\n", &["line 1: 'window' has no value"]),
        ("= 3\n", &["line 1: unknown key ''"]),
        ("config = other\n", &["line 1: 'config' stands on the command line only"]),
        ("check = yes\n", &["line 1: 'check' stands on the command line only"]),
        ("parent = 1\n", &["line 1: unknown key 'parent'"]),
        ("--window = 1KiB\n", &["line 1: unknown key '--window'"]),
    ];
    for (text, named) in cases {
        let (_folder, command) = configured(text);
        assert_refused(command, named);
    }
    // Limits that no server can work with are found when all of them are known.
    let (_folder, command) = configured("\nwindow = 0\n");
    assert_refused(command, &["invalid value '0' for '--window': must be at least 1", "line 2)"]);
    let (_folder, command) = configured("\u{1b}[2J = 1\n");
    assert_refused(command, &["unknown key '\\u{1b}[2J'"]);
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let mut command = serve(&["--config", "/does/not/exist"]);
    command.env_remove("A_CHAT_CONFIG");
    assert_refused(command, &["cannot read the configuration /does/not/exist: "]);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("binary"), b"window = \xff\n").expect("room");
    let mut command = serve(&["--config"]);
    command.arg(folder.path().join("binary"));
    assert_refused(command, &["cannot read the configuration ", "UTF-8"]);
}

#[test]
fn an_unknown_variable_is_a_warning_and_an_error_in_a_check() {
    // Kubernetes sets these in every container beside a service of the name a-chat.
    let variables = ["A_CHAT_PORT", "A_CHAT_SERVICE_HOST"];
    let with_variables = |mut command: Command| {
        command.envs(variables.map(|name| (name, "tcp://10.0.0.1:8080")));
        // What other commands read, and what is empty, is not unknown.
        command.env("A_CHAT_NAME", "alice").env("A_CHAT_NOTHING", "");
        command
    };
    let mut process = Process::start(with_variables(serve(&[])));
    process.address();
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    let warnings = log.iter().filter(|line| line.contains("ignored the environment variable "));
    assert_eq!(warnings.count(), 2, "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("10.0.0.1")), "values may be secret: {log:#?}");
    let command = with_variables(serve(&["--check"]));
    assert_refused(command, &["no flag has the environment variable A_CHAT_PORT"]);
}

#[test]
fn a_check_finds_what_a_start_would_and_starts_nothing() {
    let (folder, mut command) = configured("listen = 127.0.0.1:1\nlog-file = log\n");
    command.arg("--check");
    let (status, stdout, stderr) = run(command);
    assert_eq!((status, stderr.as_slice()), (0, [].as_slice()));
    assert_eq!(stdout, ["the configuration is valid"]);
    let names = fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(names, 1, "a check creates no log");
    for (text, named) in [
        ("listen = no-such-host.invalid:1\n", "no-such-host.invalid:1"),
        ("log-file = missing/log\n", "missing/log has no folder"),
    ] {
        let (_folder, mut command) = configured(text);
        command.arg("--check");
        let (status, stdout, stderr) = run(command);
        assert_eq!((status, stdout.len()), (1, 0), "{text}: {stderr:#?}");
        assert!(stderr[0].contains(named), "{text}: {stderr:#?}");
    }
}

#[cfg(feature = "users")]
#[test]
fn a_check_reads_the_user_file() {
    let (folder, mut command) = configured("users = users\n");
    command.arg("--check");
    let (status, _, stderr) = run(command);
    assert!(status == 1 && stderr[0].contains("users"), "there is none: {stderr:#?}");
    for (text, refused) in [("# nobody yet\n", None), ("alice\n", Some("line 1"))] {
        let file = folder.path().join("users");
        fs::write(&file, text).expect("room");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
        let mut command = executable();
        command.args(["serve", "--check", "--config"]).arg(folder.path().join("a-chat.conf"));
        let (status, _, stderr) = run(command);
        assert_eq!(status, i32::from(refused.is_some()), "{text:?}: {stderr:#?}");
        assert!(refused.is_none_or(|it| stderr[0].contains(it)), "{text:?}: {stderr:#?}");
    }
}

/// Without the feature it can join none.
#[test]
fn a_check_refuses_a_cluster_that_the_server_cannot_join() {
    for settings in
        ["cluster = redis://127.0.0.1:1/0\ncluster-password-file = /nowhere\n", "cluster = none\n"]
    {
        let (_folder, mut command) = configured(&format!("node = a\n{settings}"));
        command.arg("--check");
        let (status, _, stderr) = run(command);
        assert_eq!(status, 1, "{settings}: {stderr:#?}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_check_reads_the_certificate_and_its_key() {
    let pair = || {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned()];
        let params = rcgen::CertificateParams::new(names).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        (certificate, key.serialize_pem())
    };
    let ((certificate, key), (_, other)) = (pair(), pair());
    for (key, refused) in [(Some(&key), None), (Some(&other), Some("key")), (None, Some("key.pem"))]
    {
        let (folder, mut command) = configured("tls-cert = cert.pem\ntls-key = key.pem\n");
        fs::write(folder.path().join("cert.pem"), &certificate).expect("room");
        if let Some(key) = key {
            let file = folder.path().join("key.pem");
            fs::write(&file, key).expect("room");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
        }
        command.arg("--check");
        let (status, _, stderr) = run(command);
        assert_eq!(status, i32::from(refused.is_some()), "{stderr:#?}");
        assert!(refused.is_none_or(|it| stderr[0].contains(it)), "{stderr:#?}");
    }
}

#[test]
fn a_certificate_without_its_key_is_refused_by_the_line() {
    // A build without TLS refuses either for what it is, and names the line as well.
    for (text, flag) in [("\ntls-cert = cert.pem\n", "tls-cert"), ("\ntls-key = key\n", "tls-key")]
    {
        let (folder, command) = configured(text);
        let place = format!("({}, line 2)", folder.path().join("a-chat.conf").display());
        let expected = if cfg!(feature = "tls") { flag } else { "without TLS" };
        assert_refused(command, &[expected, &place]);
        // What a flag or a variable says does not stand in the file.
        let mut command = executable();
        command.args(["serve", "--tls-cert", "cert.pem", "--config"]);
        command.arg(folder.path().join("a-chat.conf"));
        if flag == "tls-cert" {
            let (status, _, stderr) = run(command);
            assert!(status == 2 && !stderr.join("\n").contains("line 2"), "{stderr:#?}");
        }
    }
}

/// The words in quotes of a line, as in `CMD ["a", "b"]`.
fn quoted(line: &str) -> Vec<String> {
    line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_image_and_the_example_for_kubernetes_fit_the_flags() {
    let contrib = |file: &str| {
        fs::read_to_string(format!("{}/contrib/{file}", env!("CARGO_MANIFEST_DIR"))).expect(file)
    };
    let image = contrib("Dockerfile");
    let words = |instruction: &str| {
        let line = image.lines().find(|line| line.starts_with(instruction));
        quoted(line.unwrap_or_else(|| panic!("{instruction} in {image}")))
    };
    let entry = words("ENTRYPOINT ");
    assert_eq!(entry, ["/usr/bin/a-chat", "serve"]);
    assert!(image.lines().any(|line| line == "STOPSIGNAL SIGTERM"), "{image}");
    assert!(image.lines().any(|line| line == "USER 65532:65532"), "{image}");
    let example = contrib("kubernetes/a-chat.yaml");
    let args = example.lines().filter_map(|line| line.trim().strip_prefix("- --"));
    let args: Vec<_> = args.map(|arg| format!("--{arg}")).collect();
    for flags in [words("CMD "), args.clone()] {
        let mut command = executable();
        command.arg(&entry[1]).args(&flags).arg("--check");
        let (status, _, stderr) = run(command);
        assert!(status == 0 && !flags.is_empty(), "{flags:?}: {stderr:#?}");
    }
    // The grace period is that of preStop, of the drain, and five seconds.
    let seconds = |before: &str, after: &str| {
        let found = example.lines().find_map(|line| line.trim().strip_prefix(before));
        let number = found.and_then(|rest| rest.strip_suffix(after)?.parse::<u64>().ok());
        number.unwrap_or_else(|| panic!("{before} in {example}"))
    };
    let drain = seconds("- --drain-timeout=", "s");
    let stop = seconds("exec: { command: [sleep, \"", "\"] }");
    assert_eq!(seconds("terminationGracePeriodSeconds: ", ""), stop + drain + 5);
    assert_eq!(seconds("replicas: ", ""), 1);
    for line in ["type: Recreate", "enableServiceLinks: false", "runAsUser: 65532"] {
        assert!(example.lines().any(|it| it.trim() == line), "{line}");
    }
    // The probes ask for what is there, on the port that is listened on.
    let status = args.iter().find_map(|arg| arg.strip_prefix("--status=0.0.0.0:"));
    let port = format!("containerPort: {} ", status.expect("a status"));
    assert!(example.contains("path: /livez") && example.contains("path: /readyz"), "{example}");
    assert!(example.contains(&port), "{port}");
}

#[test]
fn the_printed_limits_name_the_one_that_binds() {
    let limits = |flags: &[&str]| {
        let mut command = serve(flags);
        command.arg("--print-limits");
        let (status, stdout, stderr) = run(command);
        assert_eq!((status, stderr.as_slice()), (0, [].as_slice()));
        stdout
    };
    let lines = limits(&[]);
    let binding = lines.iter().find(|line| line.starts_with("* ")).expect("one that binds");
    let (number, name) = binding[2..].trim_start().split_once("  ").expect("a number and a name");
    let summary = format!("The server accepts {number} connections, limited by {name}. ");
    assert!(lines.iter().any(|line| line.starts_with(&summary)), "{lines:#?}");
    let first = lines.iter().position(|line| line.contains("The machine can hold:"));
    assert!(
        lines[first.expect("a heading") + 1].starts_with("* "),
        "the lowest is first: {lines:#?}"
    );
    assert!(lines.iter().any(|line| line.ends_with("memory mappings (vm.max_map_count)")));
    let lines = limits(&["--max-connections", "7"]);
    let summary = "The server accepts 7 connections, limited by max_connections. ";
    assert!(lines.iter().any(|line| line.starts_with(summary)), "{lines:#?}");
}

#[test]
fn a_limit_of_mappings_that_cannot_be_read_counts_as_its_default() {
    // As a service with `ProcSubset=pid` sees the world: there is no /proc/sys.
    let script = "mount -t proc -o subset=pid proc /proc && exec \"$0\" \"$@\"";
    let launcher = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script];
    let mut attempt = through(&launcher, "true");
    if !attempt.status().is_ok_and(|status| status.success()) {
        return skipped("procfs cannot be mounted here without its system part");
    }
    let (status, stdout, stderr) = run(serve_through(&launcher, &["--print-limits"]));
    assert_eq!((status, stderr.as_slice()), (0, [].as_slice()));
    let mappings = stdout.iter().find(|line| line.ends_with("memory mappings (vm.max_map_count)"));
    let mappings = mappings.expect("a limit that always counts");
    // 65,530 mappings, less a reserve, four for each client.
    assert!(mappings.contains(" 15358  "), "{stdout:#?}");
}
