//! The commands in the documentation: each names tests, benches and files that exist, and flags
//! that the program has.

use std::path::Path;
use std::process::Command;

use super::{SOURCES, assert_none, pages, read, root};

/// Subcommands of cargo that the pages may use.
const CARGO: [&str; 13] = [
    "bench", "build", "check", "clippy", "deny", "doc", "fetch", "fmt", "fuzz", "install", "miri",
    "run", "test",
];

/// Variables that may stand before a command, besides those that the sources read.
const VARIABLES: [&str; 5] =
    ["CARGO_TARGET_DIR", "LOOM_MAX_PREEMPTIONS", "RUSTDOCFLAGS", "RUSTFLAGS", "RUST_TEST_THREADS"];

/// Splits a line of shell into commands, and each of them into words. Redirections end a command.
fn split(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quote) = (String::new(), None);
    let end_word = |word: &mut String, commands: &mut Vec<Vec<String>>| {
        if let (false, Some(command)) = (word.is_empty(), commands.last_mut()) {
            command.push(std::mem::take(word));
        }
    };
    for char in line.chars() {
        match char {
            _ if quote == Some(char) => quote = None,
            _ if quote.is_some() => word.push(char),
            '\'' | '"' => quote = Some(char),
            '#' if word.is_empty() => break,
            '|' | '&' | ';' | '>' | '<' => {
                end_word(&mut word, &mut commands);
                commands.push(Vec::new());
            }
            _ if char.is_whitespace() => end_word(&mut word, &mut commands),
            _ => word.push(char),
        }
    }
    end_word(&mut word, &mut commands);
    commands
}

/// The lines of shell on a page: in fenced blocks of `sh`, in indented blocks, in code spans that
/// begin like a command, and behind `ExecStart=` or in an `ENTRYPOINT`.
fn lines_of(page: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, part) in page.split("\n```").enumerate() {
        let (language, text) = part.split_once('\n').unwrap_or((part, ""));
        if index % 2 == 0 {
            let indented = part.lines().filter_map(|line| line.strip_prefix("    "));
            lines.extend(indented.map(str::to_owned));
            let spans = part.lines().flat_map(super::code_spans);
            lines.extend(spans.filter(|span| begins_like_a_command(span)).map(str::to_owned));
        } else if language == "sh" {
            lines.extend(text.lines().map(str::to_owned));
        } else {
            let starts = text.lines().filter_map(|line| line.strip_prefix("ExecStart="));
            lines.extend(starts.map(str::to_owned));
            let entries = text.lines().filter_map(|line| line.strip_prefix("ENTRYPOINT "));
            lines.extend(entries.map(|words| words.replace(['[', ']', '"', ','], " ")));
        }
    }
    lines
}

fn begins_like_a_command(span: &str) -> bool {
    let mut words = span.split(' ').skip_while(|word| word.contains('='));
    matches!((words.next(), words.next()), (Some("cargo" | "a-chat"), Some(_)))
}

/// Steps of a script: what follows `step` or `run:`, and lines that run cargo.
fn steps_of(script: &str) -> Vec<String> {
    let lines = script.replace("\\\n", " ");
    let steps = lines.lines().filter_map(|line| {
        let line = line.trim().trim_start_matches("- ").trim_start_matches("# ").trim_start();
        let step = line.strip_prefix("step ").or_else(|| line.strip_prefix("run: "));
        step.or_else(|| begins_like_a_command(line).then_some(line)).map(str::to_owned)
    });
    steps.collect()
}

/// Why a command would not work; `None` if nothing is known against it.
fn fault(words: &[String]) -> Option<String> {
    let mut words = words.iter().map(String::as_str).skip_while(|word| *word == "env").peekable();
    while let Some((variable, _)) = words.peek().and_then(|word| word.split_once('=')) {
        let known = VARIABLES.contains(&variable)
            || SOURCES.iter().any(|source| source.text.contains(&format!("\"{variable}\"")));
        if !known {
            return Some(format!("no source reads the variable {variable}"));
        }
        words.next();
    }
    let program = words.next()?;
    let arguments: Vec<_> = words.collect();
    match Path::new(program).file_name()?.to_str()? {
        "cargo" => fault_of_cargo(&arguments),
        "a-chat" => fault_of_a_chat(&arguments),
        _ if program.starts_with("docs/") || program.starts_with(".ci/") => {
            (!root().join(program).exists()).then(|| format!("there is no {program}"))
        }
        _ => None,
    }
}

fn fault_of_cargo(arguments: &[&str]) -> Option<String> {
    let mut arguments = arguments.iter().copied().skip_while(|word| word.starts_with('+'));
    let subcommand = arguments.next()?;
    if !CARGO.contains(&subcommand) {
        return Some(format!("no such subcommand: cargo {subcommand}"));
    }
    let mut before: Vec<_> = arguments.collect();
    let after = before.iter().position(|word| *word == "--").map_or(Vec::new(), |at| {
        let after = before.split_off(at);
        after[1..].to_vec()
    });
    if subcommand == "run" && !before.contains(&"--example") {
        return fault_of_a_chat(&after);
    }
    let manifest = read(&root().join("Cargo.toml"));
    let (mut words, mut filters, mut target) = (before.into_iter(), Vec::new(), None);
    while let Some(word) = words.next() {
        let path = match word {
            "--test" | "--bench" | "--example" => {
                let name = words.next().unwrap_or_default();
                format!("{}{}/{name}.rs", &word[2..], if word == "--bench" { "es" } else { "s" })
            }
            "run" if subcommand == "fuzz" => {
                format!("fuzz/fuzz_targets/{}.rs", words.next().unwrap_or_default())
            }
            "--features" => {
                let mut features = words.next().unwrap_or_default().split(',');
                let is_missing = |feature: &&str| !manifest.contains(&format!("\n{feature} = ["));
                if let Some(feature) = features.find(is_missing) {
                    return Some(format!("no such feature: {feature}"));
                }
                continue;
            }
            "--target" => {
                words.next();
                continue;
            }
            _ => {
                filters.extend((!word.starts_with('-')).then_some(word));
                continue;
            }
        };
        // A test of several files is a folder.
        let folder = path.trim_end_matches(".rs").to_owned();
        match [&path, &folder].into_iter().find(|path| root().join(path).exists()) {
            Some(path) => target = Some(path.clone()),
            None => return Some(format!("there is no {path}")),
        }
    }
    // The number of threads is no name.
    let names = |word: &&str| !word.starts_with('-') && word.parse::<usize>().is_err();
    filters.extend(after.into_iter().filter(names));
    let known = |filter: &&str| match (subcommand, &target) {
        ("test", Some(target)) => {
            let target = root().join(target);
            let mut sources = SOURCES.iter().filter(|source| source.path.starts_with(&target));
            sources.any(|source| source.has(filter, false))
        }
        ("test" | "miri", None) => filter.split("::").all(|name| {
            let mut sources = SOURCES.iter();
            sources.any(|source| source.path.ends_with(name) || source.has(name, false))
        }),
        ("bench", _) => filter.split('|').all(|name| {
            let group = name.split('/').next().unwrap_or_default();
            let benches = root().join("benches");
            let mut benches = SOURCES.iter().filter(|source| source.path.starts_with(&benches));
            benches.any(|source| source.text.contains(group))
        }),
        _ => true,
    };
    let unknown = filters.iter().find(|filter| !known(filter));
    unknown.map(|filter| format!("nothing is called {filter} there"))
}

/// The program itself says whether it knows the flags: asked for help, it reads what stands before.
fn fault_of_a_chat(arguments: &[&str]) -> Option<String> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_a-chat"));
    let output = program.args(arguments).arg("--help").output().expect("the program runs");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn commands_in_the_text_work() {
    let mut lines: Vec<(String, String)> = Vec::new();
    for page in pages() {
        let found = lines_of(&read(&page)).into_iter();
        lines.extend(found.map(|line| (page.display().to_string(), line)));
    }
    for script in [".ci/run", ".github/workflows/ci.yml", "docs/check-memory.sh"] {
        let found = steps_of(&read(&root().join(script))).into_iter();
        lines.extend(found.map(|line| (script.to_owned(), line)));
    }
    let (mut checked, mut faults) = (0, Vec::new());
    for (file, line) in &lines {
        for words in split(line) {
            faults.extend(fault(&words).map(|fault| format!("{file}: {line}: {fault}")));
            checked += usize::from(words.iter().any(|word| word == "cargo" || word == "a-chat"));
        }
    }
    assert_none(&faults);
    assert!(checked > 40, "only {checked} commands: the pages are not read right");
}

#[test]
fn commands_that_would_not_work_are_found() {
    for line in [
        "cargo tset",
        "cargo test --test no_such_file",
        "cargo test --test relay -- no_such_test",
        "cargo test --lib no_such_module::model",
        "cargo bench --bench peers",
        "cargo bench --bench stress -- 'mesh|no_such_row'",
        "cargo run --example manual",
        "cargo build --features no_such_feature",
        "cargo +nightly fuzz run no_such_target",
        "cargo run --release -- serve --no-such-flag",
        "NO_SUCH_VARIABLE=1 cargo test",
        "generate | a-chat conect",
        "a-chat stress meshes",
        "/usr/local/bin/a-chat serve --listne 127.0.0.1:8080",
        "docs/no-such-script",
    ] {
        assert!(split(line).iter().any(|words| fault(words).is_some()), "{line}");
    }
}
