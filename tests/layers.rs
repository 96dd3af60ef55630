//! The rule of the house: a folder of `src` uses only what stands below it, and no two files use
//! each other, not even in a circle of many.
//!
//! The sources are parsed; what counts is every path that names a module of the same crate, tests
//! within a file apart. A name that a `mod.rs` only passes on counts for the file it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, UseTree};

/// The floors, from the ground: what a file may use stands on a lower one, or on its own.
///
/// The longest prefix of a file's path counts. The program is a crate of its own above all of
/// them, so only circles are looked for in it.
const FLOORS: &[(&str, usize)] = &[
    ("src/wire/", 0),
    ("src/error.rs", 0),
    ("src/fault.rs", 0),
    ("src/socket/", 1),
    ("src/server/delivery/", 2),
    ("src/cluster/", 2),
    ("src/server/", 3),
    ("src/client/", 4),
    ("src/lib.rs", 5),
    ("src/load/", 6),
    ("src/fuzzing/", 6),
];

/// What the files of `src/server/delivery` may use of the floor above: plain values, no thread.
const SHARED_VALUES: &[&str] = &["src/server/stats.rs"];

/// What the client must not use although it stands below: a client needs no server.
const NOT_FOR_CLIENTS: &str = "src/server/";

/// A module: the names that lead to it from the crate's root.
type Module = Vec<String>;

/// One crate's files.
#[derive(Default)]
struct Sources {
    /// Each module's file, relative to the repository.
    files: BTreeMap<Module, String>,
    /// The syntax of each file.
    syntax: BTreeMap<Module, syn::File>,
    /// What a module passes on: the name, and the path that it comes from.
    passed_on: BTreeMap<Module, BTreeMap<String, Module>>,
}

/// The paths that a file names, as written.
#[derive(Default)]
struct Paths(Vec<Module>);

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let tokens = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            _ => String::new(),
        };
        attribute.path().is_ident("cfg") && tokens.contains("test")
    })
}

fn flatten(tree: &UseTree, prefix: &Module, found: &mut Vec<(Module, String)>) {
    let with = |name: String| prefix.iter().cloned().chain([name]).collect::<Module>();
    match tree {
        UseTree::Path(path) => flatten(&path.tree, &with(path.ident.to_string()), found),
        UseTree::Name(name) if name.ident == "self" => {
            found.push((prefix.clone(), prefix.last().cloned().unwrap_or_default()));
        }
        UseTree::Name(name) => found.push((with(name.ident.to_string()), name.ident.to_string())),
        UseTree::Rename(name) => {
            found.push((with(name.ident.to_string()), name.rename.to_string()));
        }
        UseTree::Glob(_) => found.push((prefix.clone(), String::new())),
        UseTree::Group(group) => {
            group.items.iter().for_each(|tree| flatten(tree, prefix, found));
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut found = Vec::new();
        flatten(&item.tree, &Vec::new(), &mut found);
        // What a `mod.rs` passes on it does not use; whoever takes it from there does.
        if matches!(item.vis, syn::Visibility::Inherited) {
            self.0.extend(found.into_iter().map(|(path, _)| path));
        }
    }

    /// `pub(crate)` is no use of the crate's root.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string());
        self.0.push(names.collect());
        visit::visit_path(self, path);
    }

    fn visit_stmt(&mut self, statement: &'ast syn::Stmt) {
        // A statement that only tests have, as a point that panics on demand.
        let attributes = match statement {
            syn::Stmt::Expr(syn::Expr::Call(call), _) => call.attrs.as_slice(),
            syn::Stmt::Expr(syn::Expr::If(condition), _) => condition.attrs.as_slice(),
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_stmt(self, statement);
        }
    }
}

impl Sources {
    /// Reads a crate from its root file on.
    fn of(root: &str) -> Self {
        let mut sources = Self::default();
        sources.read(Vec::new(), Path::new(root));
        assert!(sources.files.len() > 5, "{root}: its modules were not found");
        sources
    }

    fn read(&mut self, module: Module, file: &Path) {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file))
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let syntax =
            syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let folder = match file.file_name().and_then(|name| name.to_str()) {
            Some("lib.rs" | "main.rs" | "mod.rs") => file.parent().expect("a folder").to_owned(),
            _ => file.with_extension(""),
        };
        let mut passed_on = BTreeMap::new();
        for item in &syntax.items {
            match item {
                Item::Mod(ItemMod { ident, content: None, attrs, .. }) if !is_for_tests(attrs) => {
                    let child: Module = module.iter().cloned().chain([ident.to_string()]).collect();
                    let candidates = [
                        folder.join(format!("{ident}.rs")),
                        folder.join(format!("{ident}/mod.rs")),
                    ];
                    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
                    let file: Option<&PathBuf> =
                        candidates.iter().find(|file| root.join(file).exists());
                    self.read(child, file.unwrap_or_else(|| panic!("{candidates:?}")));
                }
                Item::Use(item) if !matches!(item.vis, syn::Visibility::Inherited) => {
                    let mut found = Vec::new();
                    flatten(&item.tree, &Vec::new(), &mut found);
                    passed_on.extend(found.into_iter().map(|(path, name)| (name, path)));
                }
                _ => {}
            }
        }
        self.files.insert(module.clone(), file.to_string_lossy().into_owned());
        self.passed_on.insert(module.clone(), passed_on);
        self.syntax.insert(module, syntax);
    }

    /// From the root, what `path` means in `module`; none if it leads out of the crate.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        let base: Module = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => module.split_last()?.1.to_vec(),
            // In Rust 2018 and later, a child of the module at hand.
            name => {
                let child: Module = module.iter().cloned().chain([name.to_owned()]).collect();
                return self
                    .files
                    .contains_key(&child)
                    .then(|| child.into_iter().chain(rest.iter().cloned()).collect());
            }
        };
        let mut base = base;
        let mut rest = rest;
        while rest.first().is_some_and(|name| name == "super") {
            base.pop()?;
            rest = &rest[1..];
        }
        Some(base.into_iter().chain(rest.iter().cloned()).collect())
    }

    /// The module that has what this absolute path names.
    fn home(&self, path: &Module, depth: usize) -> Module {
        let known = (0..=path.len()).rev().find(|&end| self.files.contains_key(&path[..end]));
        let (module, rest) = path.split_at(known.unwrap_or(0));
        let module = module.to_vec();
        let passed_on = rest.first().and_then(|name| self.passed_on.get(&module)?.get(name));
        match passed_on.and_then(|from| self.absolute(&module, from)) {
            Some(from) if depth < 8 => {
                self.home(&from.into_iter().chain(rest[1..].iter().cloned()).collect(), depth + 1)
            }
            _ => module,
        }
    }

    /// Which file uses which.
    fn arrows(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut arrows: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (module, syntax) in &self.syntax {
            let mut paths = Paths::default();
            paths.visit_file(syntax);
            let homes = paths.0.iter().filter_map(|path| self.absolute(module, path));
            let used = homes.map(|path| self.files[&self.home(&path, 0)].as_str());
            let file = self.files[module].as_str();
            arrows.entry(file).or_default().extend(used.filter(|used| *used != file));
        }
        arrows
    }
}

fn floor(file: &str) -> usize {
    let rooms = FLOORS.iter().filter(|(room, _)| file.starts_with(room));
    let room = rooms.max_by_key(|(room, _)| room.len());
    room.unwrap_or_else(|| panic!("{file} is in no room of this list")).1
}

/// A circle of files, if there is one.
fn circle<'a>(arrows: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Option<Vec<&'a str>> {
    fn visit<'a>(
        file: &'a str,
        arrows: &BTreeMap<&'a str, BTreeSet<&'a str>>,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<&'a str>> {
        if let Some(start) = path.iter().position(|earlier| *earlier == file) {
            return Some(path[start..].to_vec());
        }
        if !done.insert(file) {
            return None;
        }
        path.push(file);
        let found = arrows.get(file)?.iter().find_map(|next| visit(next, arrows, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|file| visit(file, arrows, &mut Vec::new(), &mut done))
}

#[test]
fn no_file_of_the_library_uses_what_stands_above_it() {
    let library = Sources::of("src/lib.rs");
    let mut seen = 0;
    for (file, used) in library.arrows() {
        for other in used {
            seen += 1;
            let is_value =
                file.starts_with("src/server/delivery/") && SHARED_VALUES.contains(&other);
            assert!(
                is_value || floor(other) <= floor(file),
                "{file} uses {other}, which is above it"
            );
            let is_client = file.starts_with("src/client/");
            assert!(!is_client || !other.starts_with(NOT_FOR_CLIENTS), "{file} uses {other}");
        }
    }
    assert!(seen > 50, "only {seen} arrows: the paths are not read right");
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    for root in ["src/lib.rs", "src/bin/a-chat/main.rs"] {
        let sources = Sources::of(root);
        if let Some(files) = circle(&sources.arrows()) {
            panic!("{root}: a circle of {}", files.join(" -> "));
        }
    }
}

#[test]
fn a_circle_is_found_where_there_is_one() {
    let arrow = |to: &[&'static str]| to.iter().copied().collect::<BTreeSet<_>>();
    let tree = BTreeMap::from([("a", arrow(&["b", "c"])), ("b", arrow(&["c"])), ("c", arrow(&[]))]);
    assert_eq!(circle(&tree), None);
    let ring = BTreeMap::from([("a", arrow(&["b"])), ("b", arrow(&["c"])), ("c", arrow(&["b"]))]);
    assert_eq!(circle(&ring), Some(vec!["b", "c"]));
}
