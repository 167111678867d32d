//! The graph of the daemon's modules has no cycle.
//!
//! An import is a `use` of, or a path to, something of another module of this crate, outside tests.
//! A re-export counts as an import of the module that defines the item. In every folder, the nodes
//! are its files and folders; a folder stands for all files below it. An import between a module
//! and a module that contains it does not count: the parent is the frame in which its parts stand.

use std::collections::{BTreeMap, BTreeSet};

use super::sources::{Source, report, sources};

type Module = Vec<String>;

/// The imports of one file.
#[derive(Default)]
struct Imports {
    /// Absolute paths without `crate`.
    paths: BTreeSet<Module>,
    /// Name and absolute path of each `pub use`.
    reexports: BTreeMap<String, Module>,
}

#[test]
fn modules_have_no_cycle() {
    let files: Vec<_> =
        sources().into_iter().filter(|source| source.path.starts_with("daemon/")).collect();
    let edges = edges(&files);
    assert!(edges.len() > 300, "only {} imports found", edges.len());
    let found = cycles(&edges).into_iter();
    report(found.map(|(folder, cycle)| format!("in daemon::{folder}: {cycle}")));
}

#[test]
fn a_cycle_is_found() {
    let file = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let found = |files: &[Source]| {
        cycles(&edges(files)).into_iter().map(|(_, cycle)| cycle).collect::<Vec<_>>()
    };
    let lib = || file("daemon/lib.rs", "mod a;\nmod b;\nmod c;\n");
    let leaf = || file("daemon/c.rs", "pub struct C;\n");
    let b = || file("daemon/b.rs", "use crate::{a::inner::{A, other}, c::C as D};\n");
    let a = |text| [file("daemon/a/mod.rs", text), file("daemon/a/inner.rs", "use super::Up;\n")];

    let [parent, inner] = a("mod inner;\nfn f() -> inner::A { crate::b::f() }\n");
    assert_eq!(found(&[lib(), parent, inner, b(), leaf()]), ["a -> b -> a"]);
    let [parent, inner] = a("pub use inner::A; // crate::b\n#[cfg(test)]\nuse crate::b;\n");
    assert!(found(&[lib(), parent, inner, b(), leaf()]).is_empty());
    let [parent, inner] = a("pub use crate::b::B;\n");
    let c = file("daemon/c.rs", "use crate::a::B;\n");
    assert_eq!(found(&[lib(), parent, inner, b(), c]), ["b -> c -> b"]);
}

/// Returns every import between two modules, neither of which contains the other.
fn edges(files: &[Source]) -> BTreeSet<(Module, Module)> {
    let files: BTreeMap<Module, &Source> = files
        .iter()
        .filter(|file| !file.path.ends_with("tests.rs") && file.path != "daemon/main.rs")
        .map(|file| (module_of(&file.path), file))
        .collect();
    let imports: BTreeMap<&Module, Imports> =
        files.iter().map(|(module, file)| (module, read(module, &file.text, &files))).collect();
    let mut edges = BTreeSet::new();
    for (module, found) in &imports {
        for path in &found.paths {
            let target = resolve(path, &imports);
            if !target.starts_with(module) && !module.starts_with(&target) {
                edges.insert(((*module).clone(), target));
            }
        }
    }
    edges
}

/// Returns each folder that has a cycle, with one of its cycles as `a -> b -> a`.
fn cycles(edges: &BTreeSet<(Module, Module)>) -> Vec<(String, String)> {
    let mut folders: BTreeMap<&[String], BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for (from, to) in edges {
        let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
        let nodes = folders.entry(&from[..common]).or_default();
        nodes.entry(&from[common]).or_default().insert(&to[common]);
    }
    let found = folders.iter().filter_map(|(folder, nodes)| {
        let cycle = nodes.keys().find_map(|start| path_back(start, nodes))?;
        Some((folder.join("::"), cycle.join(" -> ")))
    });
    found.collect()
}

/// Returns a shortest path from a node back to itself, if there is one.
fn path_back<'a>(
    start: &'a str,
    nodes: &BTreeMap<&'a str, BTreeSet<&'a str>>,
) -> Option<Vec<&'a str>> {
    let mut paths = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while !paths.is_empty() {
        let mut longer = Vec::new();
        for path in paths {
            let last = path.last().copied().unwrap_or(start);
            for next in nodes.get(last).into_iter().flatten() {
                let extended = [path.as_slice(), &[*next]].concat();
                if *next == start {
                    return Some(extended);
                }
                if seen.insert(*next) {
                    longer.push(extended);
                }
            }
        }
        paths = longer;
    }
    None
}

fn module_of(path: &str) -> Module {
    let path = path.strip_prefix("daemon/").unwrap_or(path);
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Module::new() } else { path.split('/').map(str::to_owned).collect() }
}

fn read(module: &Module, text: &str, files: &BTreeMap<Module, &Source>) -> Imports {
    let text = code_of(text);
    let is_child = |name: &str| files.contains_key(&[module, &[name.to_owned()][..]].concat());
    let absolute = |path: &[String]| -> Option<Module> {
        let ups = path.iter().take_while(|part| *part == "super").count();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([module, &path[1..]].concat()),
            "super" => Some([&module[..module.len().checked_sub(ups)?], &path[ups..]].concat()),
            name if is_child(name) => Some([module, path].concat()),
            _ => None,
        }
    };
    let mut imports = Imports::default();
    let mut rest = String::new();
    for statement in text.split_inclusive(';') {
        let Some((before, tree)) = split_use(statement) else {
            rest.push_str(statement);
            continue;
        };
        rest.push_str(before);
        for (path, name) in expand(&[], tree.trim_end_matches(';')) {
            let Some(path) = absolute(&path) else { continue };
            if before.trim_end().ends_with("pub") || before.trim_end().ends_with(')') {
                imports.reexports.insert(name, path);
            } else {
                imports.paths.insert(path);
            }
        }
    }
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let paths = rest.split(|c| !word(c)).filter(|path| path.contains("::"));
    let paths = paths.map(|path| path.split("::").map(str::to_owned).collect::<Module>());
    imports.paths.extend(paths.filter_map(|path| absolute(&path)));
    imports
}

/// Returns the text without comments, strings, tests, and imports for tests.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut only_for_tests = false;
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default();
        let trimmed = line.trim();
        if trimmed == "#[cfg(test)]" {
            only_for_tests = true;
            continue;
        }
        if only_for_tests && trimmed.starts_with("mod ") && trimmed.ends_with('{') {
            break;
        }
        if !only_for_tests {
            // A path in a string is text.
            code.extend(line.split('"').step_by(2));
            code.push('\n');
        }
        only_for_tests &= trimmed.starts_with("#[");
    }
    code
}

/// Returns the text before a `use` at the end of this statement, and its tree.
fn split_use(statement: &str) -> Option<(&str, &str)> {
    let at = statement.rfind("use ")?;
    let before = &statement[..at];
    let begins = before.is_empty() || before.ends_with(char::is_whitespace);
    begins.then(|| (before, &statement[at + "use ".len()..]))
}

/// Returns every path of a tree such as `a::{b, c::D as E}`, with the name that it gets.
fn expand(prefix: &[String], tree: &str) -> Vec<(Module, String)> {
    let mut found = Vec::new();
    for branch in branches(tree) {
        let (head, inner) = match branch.split_once('{') {
            Some((head, inner)) => (head, inner.trim_end().strip_suffix('}')),
            None => (branch, None),
        };
        let (head, alias) = head.split_once(" as ").unwrap_or((head, ""));
        let parts = head.split("::").map(str::trim).filter(|part| !part.is_empty());
        let mut path = prefix.to_vec();
        path.extend(parts.map(str::to_owned));
        if let Some(inner) = inner {
            found.extend(expand(&path, inner));
            continue;
        }
        if path.len() > 1 && path.last().is_some_and(|part| part == "self") {
            path.pop();
        }
        let name = if alias.is_empty() { path.last().cloned() } else { Some(alias.trim().into()) };
        found.push((path, name.unwrap_or_default()));
    }
    found
}

/// Splits at the commas that are not in braces.
fn branches(tree: &str) -> Vec<&str> {
    let mut depth = 0;
    let parts = tree.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// Returns the module that defines what a path names. It follows re-exports.
fn resolve(path: &[String], imports: &BTreeMap<&Module, Imports>) -> Module {
    let mut path = path.to_vec();
    // A chain of re-exports is shorter than this.
    for _ in 0..8 {
        let known = |depth: &usize| imports.contains_key(&path[..*depth].to_vec());
        let depth = (0..=path.len()).rev().find(known).unwrap_or(0);
        let module = path[..depth].to_vec();
        let reexport = path
            .get(depth)
            .and_then(|name| imports.get(&module).and_then(|found| found.reexports.get(name)));
        let Some(reexport) = reexport else { return module };
        path = [reexport.as_slice(), &path[depth + 1..]].concat();
    }
    path
}
