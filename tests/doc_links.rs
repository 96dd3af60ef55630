//! What the documentation points at exists: links lead to files and headings, names in code spans
//! occur in the sources, commands run, the demonstration happens, and pictures match their sources.
//!
//! So whoever renames a test, a function or a flag renames it in the text too. Links that leave
//! the repository are not followed.
#![cfg(feature = "cli")]
#![allow(clippy::print_stdout, reason = "a test that cannot run here prints why")]

mod common;
#[path = "common/process.rs"]
mod process;

#[path = "doc_links/commands.rs"]
mod commands;
#[path = "doc_links/demonstration.rs"]
mod demonstration;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files in a folder of the repository whose names end like this.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.is_file() && path.to_string_lossy().ends_with(end)).collect()
}

/// Every page of the documentation.
fn pages() -> Vec<PathBuf> {
    ["", "docs", "benches", "fuzz"].map(|folder| files(folder, ".md")).concat()
}

/// A Rust source.
struct Source {
    path: PathBuf,
    text: String,
    words: BTreeSet<String>,
}

/// All Rust sources but these, in which there are names that must not be found.
static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let mut folders = ["src", "tests", "benches", "examples", "fuzz"].map(PathBuf::from).to_vec();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.ends_with("target") || path.ends_with("doc_links") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = read(&path);
                let words = words(&text).map(str::to_owned).collect();
                sources.push(Source { path, text, words });
            }
        }
    }
    sources
});

impl Source {
    /// True if there is this word, or one that begins like it.
    fn has(&self, name: &str, whole: bool) -> bool {
        let next = self.words.range(name.to_owned()..).next();
        next.is_some_and(|word| if whole { word == name } else { word.starts_with(name) })
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_')
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A page without its fenced code blocks.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    page.split("\n```").step_by(2)
}

/// Text and target of each `[text](target)` outside of code blocks.
fn links(page: &str) -> Vec<(&str, &str)> {
    let ends =
        prose(page).flat_map(|text| text.match_indices("](").map(move |(at, _)| text.split_at(at)));
    let links = ends.map(|(before, after)| {
        let (_, text) = before.rsplit_once('[').expect("a link's text");
        let (target, _) = after[2..].split_once(')').expect("a link's target");
        (text, target)
    });
    links.collect()
}

/// The code spans of a line of prose.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// What a code span names: `` `Type::function` `` names the function, and
/// `` `the_beginning_of_…` `` everything that begins like this. `None` if it is no such name.
fn name_in(span: &str) -> Option<(&str, bool)> {
    let (name, whole) = span.strip_suffix('…').map_or((span, true), |name| (name, false));
    let name = name.rsplit("::").next()?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (is_name && !name.is_empty()).then_some((name, whole))
}

/// True if a text has this word, or one that begins like it.
fn has(text: &str, name: &str, whole: bool) -> bool {
    words(text).any(|word| if whole { word == name } else { word.starts_with(name) })
}

/// The anchors that GitHub gives to a page's headings.
fn anchors(page: &str) -> impl Iterator<Item = String> {
    let headings = prose(page).flat_map(str::lines).filter(|line| line.starts_with('#'));
    headings.map(|heading| {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|char| char.is_alphanumeric() || "-_".contains(*char)).collect()
    })
}

/// Fails with all faults at once, since a rename tends to cause several.
fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn links_lead_to_what_they_name() {
    let (mut checked, mut faults) = (0, Vec::new());
    for page in pages() {
        let contents = read(&page);
        for (text, target) in links(&contents).into_iter().filter(|link| !link.1.contains("://")) {
            let at = format!("{}: [{text}]({target})", page.display());
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            if !file.exists() {
                faults.push(format!("{at}: no such file"));
                continue;
            }
            if !anchor.is_empty() && anchors(&read(&file)).all(|there| there != anchor) {
                faults.push(format!("{at}: no such heading"));
            }
            let Some((name, whole)) = code_spans(text).next().and_then(name_in) else { continue };
            // The name of a file or folder is no name in it.
            if file.is_file() && !file.components().any(|part| part.as_os_str() == name) {
                checked += 1;
                if !has(&read(&file), name, whole) {
                    faults.push(format!("{at}: no such name"));
                }
            }
        }
    }
    assert_none(&faults);
    assert!(checked > 50, "only {checked} links with a name: the pages are not read right");
}

/// Tests above all: names of at least three words. In a line that says `` `hostile.rs`: `name` ``
/// the name has to stand in a file called so.
#[test]
fn names_in_the_text_occur_in_the_sources() {
    let (mut checked, mut faults) = (0, Vec::new());
    for page in pages() {
        let contents = read(&page);
        for line in prose(&contents).flat_map(str::lines) {
            let mut file = None;
            for span in code_spans(line) {
                let path = Path::new(span);
                if path.extension().is_some_and(|extension| extension == "rs") {
                    file = path.file_name();
                }
                let Some((name, whole)) = name_in(span) else { continue };
                if name.matches('_').count() < 2 || name.bytes().any(|c| c.is_ascii_uppercase()) {
                    continue;
                }
                checked += 1;
                let mut among = SOURCES
                    .iter()
                    .filter(|source| file.is_none() || source.path.file_name() == file);
                if !among.any(|source| source.has(name, whole)) {
                    let file = file.map_or("any source", |file| file.to_str().unwrap_or_default());
                    faults.push(format!("{}: {name} is not in {file}", page.display()));
                }
            }
        }
    }
    assert_none(&faults);
    assert!(checked > 50, "only {checked} names: the pages are not read right");
}

#[test]
fn environment_variables_in_the_text_exist() {
    let variables = |text: &str| -> HashSet<String> {
        let words = text.split(|char: char| !char.is_ascii_uppercase() && char != '_');
        words.filter(|word| word.starts_with("A_CHAT_")).map(str::to_owned).collect()
    };
    let known: HashSet<_> = SOURCES.iter().flat_map(|source| variables(&source.text)).collect();
    let mut checked = 0;
    for page in pages() {
        for variable in variables(&read(&page)).iter().filter(|name| !name.ends_with('_')) {
            assert!(known.contains(variable), "{}: {variable}", page.display());
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} variables: the pages are not read right");
}

#[test]
fn pictures_are_those_of_their_sources() {
    let sources = files("docs/pictures", ".pikchr");
    assert!(!sources.is_empty());
    for source in sources {
        let picture = read(&source.with_extension("svg"));
        let same = picture.contains(read(&source).trim_end());
        assert!(same, "{} is out of date: run docs/pictures/draw", source.display());
        let dark = picture.contains("@media (prefers-color-scheme:dark)");
        assert!(dark, "{} has no dark colours: run docs/pictures/draw", source.display());
    }
}

/// Files of these rooms have a link each, of others the folder has one.
#[test]
fn the_map_shows_every_file() {
    let map = read(&root().join("docs/architecture.md"));
    let rooms = ["", "/wire", "/socket", "/server", "/server/delivery", "/client", "/bin/a-chat"];
    let mut faults = Vec::new();
    for room in rooms.map(|room| format!("src{room}")) {
        for entry in fs::read_dir(root().join(&room)).expect("a folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            let path = format!("{room}/{name}");
            if [")", "/"].iter().all(|end| !map.contains(&format!("(../{path}{end}"))) {
                faults.push(format!("docs/architecture.md does not show {path}"));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn the_page_on_testing_lists_every_test() {
    let page = read(&root().join("docs/testing.md"));
    let mut faults = Vec::new();
    for entry in fs::read_dir(root().join("tests")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let is_test = path.extension().is_some() || path.join("main.rs").exists();
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        if is_test && !page.contains(&format!("`tests/{name}`")) {
            faults.push(format!("docs/testing.md does not list tests/{name}"));
        }
    }
    assert_none(&faults);
}

#[test]
fn the_oldest_rust_is_the_same_everywhere() {
    let manifest = read(&root().join("Cargo.toml"));
    let (_, rest) = manifest.split_once("\nrust-version = \"").expect("a rust-version");
    let (version, _) = rest.split_once('"').expect("its end");
    for (file, text) in [
        ("README.md", format!("Rust {version} ")),
        ("CONTRIBUTING.md", format!("Rust {version} ")),
        (".github/workflows/ci.yml", format!("cargo +{version} build")),
    ] {
        assert!(read(&root().join(file)).contains(&text), "{file} does not say {text:?}");
    }
}

#[test]
fn the_readme_stays_short() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= 200, "{lines} lines: move something to a page in docs");
}
