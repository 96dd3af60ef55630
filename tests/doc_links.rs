//! What the documents point at is there: links lead to files, a name in a link stands in the file
//! that the link leads to, and the pictures are those of their sources.
//!
//! So a test or a function that is renamed is renamed in the text, too. Links out of the
//! repository are left alone.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder of the repository that end with this.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.to_string_lossy().ends_with(end)).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Text and target of each `[text](target)` outside of code blocks.
fn links(document: &str) -> Vec<(&str, &str)> {
    let prose = document.split("\n```").step_by(2);
    let ends =
        prose.flat_map(|text| text.match_indices("](").map(move |(at, _)| text.split_at(at)));
    let links = ends.map(|(before, after)| {
        let (_, text) = before.rsplit_once('[').expect("a link's text");
        let (target, _) = after[2..].split_once(')').expect("a link's target");
        (text, target)
    });
    links.collect()
}

/// What a link's text says is in the file: `` `Type::function` `` names the function, and
/// `` `the_beginning_of_…` `` what begins like this. `None` if the text is no such name.
fn name_in(text: &str) -> Option<(&str, bool)> {
    let name = text.strip_prefix('`')?.strip_suffix('`')?;
    let (name, whole) = name.strip_suffix('…').map_or((name, true), |name| (name, false));
    let name = name.rsplit("::").next()?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some((name, whole))
}

/// Whether a file has this name, or one that begins like it.
fn has(file: &str, name: &str, whole: bool) -> bool {
    let mut words = file.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    words.any(|word| if whole { word == name } else { word.starts_with(name) })
}

/// The anchors that GitHub gives to a document's headings.
fn anchors(document: &str) -> impl Iterator<Item = String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    headings.map(|heading| {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|char| char.is_alphanumeric() || "-_".contains(*char)).collect()
    })
}

#[test]
fn links_lead_to_what_they_name() {
    let documents = ["", "docs", "benches"].map(|folder| files(folder, ".md")).concat();
    let mut checked = 0;
    for document in documents {
        let contents = read(&document);
        for (text, target) in links(&contents).into_iter().filter(|link| !link.1.contains("://")) {
            let at = format!("{}: [{text}]({target})", document.display());
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file =
                if file.is_empty() { document.clone() } else { document.with_file_name(file) };
            assert!(file.exists(), "{at}: no such file");
            if !anchor.is_empty() {
                assert!(
                    anchors(&read(&file)).any(|there| there == anchor),
                    "{at}: no such heading"
                );
            }
            if let Some((name, whole)) = name_in(text) {
                assert!(has(&read(&file), name, whole), "{at}: no such name");
                checked += 1;
            }
        }
    }
    assert!(checked > 10, "only {checked} links with a name: the documents are not read right");
}

#[test]
fn pictures_are_those_of_their_sources() {
    let sources = files("docs/pictures", ".pikchr");
    assert!(!sources.is_empty());
    for source in sources {
        let picture = source.with_extension("svg");
        let same = read(&picture).contains(read(&source).trim_end());
        assert!(same, "{} is out of date: run docs/pictures/draw", picture.display());
    }
}
