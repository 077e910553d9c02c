//! Arrows between files: which file names an item of which other one, and that no arrows make a circle.
//!
//! A text scan of `use` trees and of paths in code, tests left out. An arrow from a file to one that it lies in (from
//! `a/b.rs` to `a.rs`) counts for nothing: a part may use what its whole is made of.

use std::collections::{BTreeMap, BTreeSet};

use super::sources;

/// Layers of the runtime on containerd, each with those that it may look down on.
const LAYERS: &[(&str, &[&str])] = &[
    ("rpc", &[]),
    ("shim", &["rpc"]),
    ("image", &["rpc"]),
    ("config", &["shim"]),
    ("instance", &["config", "image", "rpc", "shim"]),
];

/// Path of a module, its crate first, as in `["src", "network", "veth"]`.
type Module = Vec<String>;

/// Every module that is a file of its own, with its path and its code.
struct House(BTreeMap<Module, (String, String)>);

impl House {
    fn read() -> Self {
        let mut modules = BTreeMap::new();
        for root in ["src", "state/src"] {
            for (path, text) in sources(root) {
                let path = path.to_str().unwrap().to_owned();
                let inner = path.strip_prefix(root).unwrap().trim_matches('/');
                let inner = inner.trim_end_matches(".rs");
                let crate_name = root.split('/').next().unwrap();
                let module: Module = std::iter::once(crate_name)
                    .chain(inner.split('/').filter(|part| *part != "lib"))
                    .map(str::to_owned)
                    .collect();
                if !module.iter().any(|part| part == "tests" || part == "main") {
                    modules.insert(module, (path, code(&text)));
                }
            }
        }
        Self(modules)
    }

    fn child(&self, module: &[String], name: &str) -> Option<Module> {
        let child = [module, &[name.to_owned()]].concat();
        self.0.contains_key(&child).then_some(child)
    }

    /// File that a path in the code of `from` leads to; `None`: to none of the house.
    fn resolve(&self, from: &[String], path: &str) -> Option<Module> {
        let mut segments = path.split("::").map(str::trim).peekable();
        let mut at = from.to_vec();
        match *segments.peek()? {
            "crate" => at.truncate(1),
            "state" if from[0] == "src" => at = vec!["state".to_owned()],
            "self" | "super" => {
                while let Some(step) = segments.next_if(|step| matches!(*step, "self" | "super")) {
                    at.truncate(at.len() - usize::from(step == "super"));
                }
                return Some(self.descend(at, segments));
            }
            child => {
                self.child(from, child)?;
                return Some(self.descend(at, segments));
            }
        }
        segments.next();
        Some(self.descend(at, segments))
    }

    fn descend<'a>(&self, mut at: Module, segments: impl Iterator<Item = &'a str>) -> Module {
        for segment in segments {
            match self.child(&at, segment) {
                Some(child) => at = child,
                None => break,
            }
        }
        at
    }

    /// Files that a file names, among them those that it lies in.
    fn named(&self, module: &Module) -> BTreeSet<Module> {
        let code = &self.0[module].1;
        let paths = used(code).into_iter().chain(paths(code));
        paths
            .filter_map(|path| self.resolve(module, &path))
            .filter(|target| target != module)
            .collect()
    }

    /// Arrows between files, those to a file's own wholes left out.
    fn arrows(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let outwards = |module: &Module| {
            let mut named = self.named(module);
            named.retain(|target| !module.starts_with(target));
            named
        };
        self.0
            .keys()
            .map(|module| (module, outwards(module)))
            .collect()
    }

    fn file(&self, module: &Module) -> &str {
        self.0.get(module).map_or("?", |(path, _)| path)
    }
}

/// Text without comments and without the tests at its end.
fn code(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    code.split("mod tests {").next().unwrap().to_owned()
}

/// Paths that the `use` items of a file name, one for each leaf of their trees.
fn used(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let is_item = code[..at].is_empty() || code[..at].ends_with(['\n', ' ', ')']);
        if let Some((tree, _)) = code[at + 4..].split_once(';').filter(|_| is_item) {
            let tree: String = tree.split_whitespace().collect::<Vec<_>>().join(" ");
            expand("", &tree, &mut paths);
        }
    }
    paths
}

/// Adds the leaves of a `use` tree.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, body)) = tree.split_once('{') else {
        let leaf = tree.split(" as ").next().unwrap();
        return paths.push(format!("{prefix}{leaf}"));
    };
    let body = body.rsplit_once('}').map_or(body, |(body, _)| body);
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in body.char_indices().chain([(body.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let branch = &body[begin..at];
                begin = (at + 1).min(body.len());
                if !branch.trim().is_empty() {
                    expand(&format!("{prefix}{head}"), branch, paths);
                }
            }
            _ => {}
        }
    }
}

/// Paths in the code of a file, as in `super::names::get(`.
fn paths(code: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.split(|c: char| !is_path(c))
        .filter(|word| word.contains("::") && word.starts_with(|c: char| c.is_ascii_lowercase()))
        .map(str::to_owned)
        .collect()
}

/// Groups of modules in which each leads to each other.
fn circles(arrows: &BTreeMap<&Module, BTreeSet<Module>>) -> BTreeSet<BTreeSet<Module>> {
    let reached = |from: &Module| {
        let mut reached = BTreeSet::new();
        let mut left = vec![from.clone()];
        while let Some(module) = left.pop() {
            for next in arrows.get(&module).into_iter().flatten() {
                if reached.insert(next.clone()) {
                    left.push(next.clone());
                }
            }
        }
        reached
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> =
        arrows.keys().map(|from| (*from, reached(from))).collect();
    let circle_of = |from: &Module| -> BTreeSet<Module> {
        reached[from]
            .iter()
            .filter(|to| reached.get(to).is_some_and(|back| back.contains(from)))
            .cloned()
            .collect()
    };
    arrows
        .keys()
        .map(|from| circle_of(from))
        .filter(|circle| !circle.is_empty())
        .collect()
}

#[test]
fn no_files_know_each_other_in_a_circle() {
    let house = House::read();
    let found: BTreeSet<BTreeSet<&str>> = circles(&house.arrows())
        .iter()
        .map(|circle| circle.iter().map(|module| house.file(module)).collect())
        .collect();
    assert!(found.is_empty(), "files that know each other: {found:#?}");
}

#[test]
fn the_layers_on_containerd_look_only_down() {
    let house = House::read();
    let top = ["src", "runtime", "containerd"].map(str::to_owned);
    for (layer, below) in LAYERS {
        assert!(house.child(&top, layer).is_some(), "there is no {layer}");
        let is_below = |target: &Module| {
            let other = target.get(top.len());
            other.is_some_and(|other| other == layer || below.contains(&other.as_str()))
        };
        for module in house.0.keys().filter(|module| {
            module.starts_with(&top) && module.get(top.len()).is_some_and(|own| own == layer)
        }) {
            let named = house.named(module);
            let above = named
                .iter()
                .find(|target| target.starts_with(&top) && !is_below(target));
            assert_eq!(
                above.map(|target| house.file(target)),
                None,
                "named by {}, which lies below",
                house.file(module)
            );
        }
    }
}

#[test]
fn the_scan_sees_every_way_to_name_an_item() {
    let code =
        "pub use a::{self, b::{C, D as E}, f};\nfn x() { super::names::get(crate::oci::User) }";
    assert_eq!(used(code), ["a::self", "a::b::C", "a::b::D", "a::f"]);
    assert!(paths(code).contains(&"super::names::get".to_owned()));
    assert!(paths(code).contains(&"crate::oci::User".to_owned()));
}
