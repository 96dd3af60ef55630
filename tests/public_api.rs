//! The public API is that of `docs/public-api.txt`, so a review sees every change of it.
//!
//! The list is made from the sources: each item that `src/lib.rs` and `src/client/mod.rs` export,
//! with its public fields, variants, methods and traits, as they are written. Hidden items are left
//! out, since they are no promise. To renew the list after a change:
//!
//! ```sh
//! A_CHAT_RENEW=1 cargo test --test public_api
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use syn::spanned::Spanned;
use syn::{Attribute, Fields, ImplItem, Item, TraitItem, Type, UseTree, Visibility};

/// The modules whose exports are public, with their files.
const EXPORTS: [(&str, &str); 2] =
    [("a_chat", "src/lib.rs"), ("a_chat::client", "src/client/mod.rs")];

/// The folders and files in which the exported items are defined.
const SOURCES: [&str; 6] =
    ["src/client", "src/cluster", "src/error.rs", "src/server", "src/socket", "src/wire"];

const LIST: &str = "docs/public-api.txt";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn parse(path: &Path) -> syn::File {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rust_files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a folder");
        let mut entries: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        entries.sort();
        for entry in &entries {
            rust_files(entry, found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
}

/// The source text of this, on one line.
fn text(item: &impl Spanned) -> String {
    let text = item.span().source_text().expect("a file that was parsed");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace("( ", "(").replace(", )", ")").replace(" )", ")").replace(",)", ")")
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn has(attributes: &[Attribute], what: &str) -> bool {
    attributes.iter().any(|attribute| text(attribute) == what)
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    has(attributes, "#[doc(hidden)]")
}

/// The attributes that are part of an item's interface.
fn attributes(attributes: &[Attribute]) -> String {
    let names = ["derive", "must_use", "non_exhaustive", "cfg_attr", "cfg"];
    let relevant = attributes
        .iter()
        .filter(|attribute| names.iter().any(|name| attribute.path().is_ident(name)));
    relevant.map(|attribute| text(attribute) + " ").collect()
}

/// The names that a `pub use` passes on.
fn names(tree: &UseTree, found: &mut Vec<String>) {
    match tree {
        UseTree::Path(path) => names(&path.tree, found),
        UseTree::Name(name) => found.push(name.ident.to_string()),
        UseTree::Rename(name) => found.push(name.rename.to_string()),
        UseTree::Glob(_) => panic!("an export names what it exports"),
        UseTree::Group(group) => group.items.iter().for_each(|tree| names(tree, found)),
    }
}

/// Everything that the sources define, by name.
#[derive(Default)]
struct Definitions {
    items: BTreeMap<String, Vec<String>>,
}

impl Definitions {
    fn add(&mut self, name: &impl ToString, lines: impl IntoIterator<Item = String>) {
        self.items.entry(name.to_string()).or_default().extend(lines);
    }

    fn read(&mut self, items: &[Item]) {
        for item in items {
            match item {
                Item::Struct(item) if is_public(&item.vis) => {
                    let head = format!(
                        "{}struct {}{}",
                        attributes(&item.attrs),
                        item.ident,
                        text_of(&item.generics)
                    );
                    self.add(&item.ident, [head].into_iter().chain(fields(&item.fields, true)));
                }
                Item::Enum(item) if is_public(&item.vis) => {
                    let mut lines = vec![format!("{}enum {}", attributes(&item.attrs), item.ident)];
                    for variant in &item.variants {
                        lines.push(format!("  {}{}", attributes(&variant.attrs), variant.ident));
                        lines.extend(
                            fields(&variant.fields, false).map(|field| format!("  {field}")),
                        );
                    }
                    self.add(&item.ident, lines);
                }
                Item::Trait(item) if is_public(&item.vis) => {
                    let bounds = text_of(&item.supertraits);
                    let mut lines = vec![format!("trait {}: {bounds}", item.ident)];
                    for item in &item.items {
                        if let TraitItem::Fn(method) = item {
                            lines.push(format!("  {}", text(&method.sig)));
                        }
                    }
                    self.add(&item.ident, lines);
                }
                Item::Fn(item) if is_public(&item.vis) => {
                    let line = format!("{}{}", attributes(&item.attrs), text(&item.sig));
                    self.add(&item.sig.ident, [line]);
                }
                Item::Impl(item) => self.read_impl(item),
                _ => {}
            }
        }
    }

    fn read_impl(&mut self, item: &syn::ItemImpl) {
        let Type::Path(of) = &*item.self_ty else {
            // Of a reference: it belongs to the type that is referred to.
            if let (Type::Reference(of), Some((_, name, _))) = (&*item.self_ty, &item.trait_) {
                if let Type::Path(of) = &*of.elem {
                    let line =
                        format!("  {}impl {} for &Self", attributes(&item.attrs), text(name));
                    self.add(&of.path.segments[0].ident, [line]);
                }
            }
            return;
        };
        let of = &of.path.segments[0].ident;
        if let Some((_, name, _)) = &item.trait_ {
            self.add(of, [format!("  {}impl {}", attributes(&item.attrs), text(name))]);
            return;
        }
        for item in &item.items {
            match item {
                ImplItem::Fn(method) if is_public(&method.vis) && !is_hidden(&method.attrs) => {
                    let line = format!("  {}pub {}", attributes(&method.attrs), text(&method.sig));
                    self.add(of, [line]);
                }
                ImplItem::Const(item) if is_public(&item.vis) => {
                    self.add(of, [format!("  pub const {}: {}", item.ident, text(&item.ty))]);
                }
                _ => {}
            }
        }
    }
}

fn text_of(item: &(impl Spanned + parts::Part)) -> String {
    if item.is_empty() { String::new() } else { text(item) }
}

/// Whether a part of an item is there at all: one that is not has no text.
mod parts {
    use syn::punctuated::Punctuated;

    pub(crate) trait Part {
        fn is_empty(&self) -> bool;
    }

    impl Part for syn::Generics {
        fn is_empty(&self) -> bool {
            self.params.is_empty()
        }
    }

    impl<T, P> Part for Punctuated<T, P> {
        fn is_empty(&self) -> bool {
            Punctuated::is_empty(self)
        }
    }
}

/// The fields of a struct that are public, or all of a variant.
fn fields(fields: &Fields, of_struct: bool) -> impl Iterator<Item = String> {
    let shown = fields.iter().filter(move |field| !of_struct || is_public(&field.vis));
    shown.map(|field| match &field.ident {
        Some(name) => format!("  {name}: {}", text(&field.ty)),
        None => format!("  ({})", text(&field.ty)),
    })
}

fn list() -> String {
    let mut definitions = Definitions::default();
    let mut files = Vec::new();
    for source in SOURCES {
        rust_files(&root().join(source), &mut files);
    }
    for file in &files {
        definitions.read(&parse(file).items);
    }
    let mut list = String::new();
    for (module, file) in EXPORTS {
        let mut exported = Vec::new();
        for item in &parse(&root().join(file)).items {
            match item {
                Item::Use(item) if is_public(&item.vis) && !is_hidden(&item.attrs) => {
                    names(&item.tree, &mut exported);
                }
                Item::Fn(item) if is_public(&item.vis) && !is_hidden(&item.attrs) => {
                    exported.push(item.sig.ident.to_string());
                }
                _ => {}
            }
        }
        exported.sort();
        for name in exported {
            let lines = definitions.items.get(&name).unwrap_or_else(|| panic!("no {name} found"));
            writeln!(list, "{module}::{name}").expect("a string");
            for line in lines {
                writeln!(list, "  {line}").expect("a string");
            }
            list.push('\n');
        }
    }
    list
}

#[test]
fn the_public_api_is_the_one_that_was_reviewed() {
    let (list, path) = (list(), root().join(LIST));
    if env::var_os("A_CHAT_RENEW").is_some() {
        fs::write(&path, &list).expect("a file that can be written");
    }
    let reviewed = fs::read_to_string(&path).unwrap_or_default();
    let (now, before): (Vec<_>, Vec<_>) = (list.lines().collect(), reviewed.lines().collect());
    let added: Vec<_> = now.iter().filter(|line| !before.contains(line)).collect();
    let removed: Vec<_> = before.iter().filter(|line| !now.contains(line)).collect();
    assert!(
        now == before,
        "the public API has changed: added {added:#?}, removed {removed:#?}\n\
         if that is meant: A_CHAT_RENEW=1 cargo test --test public_api"
    );
}
