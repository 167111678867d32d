//! The sources of the project, as the rules read them.

use std::fs;
use std::path::Path;

pub struct Source {
    /// Path from the repository's root, with `/`.
    pub path: String,
    pub text: String,
}

impl Source {
    pub fn code(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter(|line| !line.trim_start().starts_with("//"))
    }

    /// Returns the lines before the tests, which are last in a file. A file `tests.rs` has none.
    pub fn before_tests(&self) -> impl Iterator<Item = &str> {
        let is_test = self.path.ends_with("/tests.rs");
        self.code().take_while(move |line| !is_test && line.trim() != "#[cfg(test)]")
    }

    /// Returns true if the file uses a foreign crate. In a file that imports a module of ours with
    /// the same name, `name::` is that module and `::name::` the crate.
    pub fn names(&self, name: &str) -> bool {
        let ours = format!("crate::{name}");
        if self.code().any(|line| line.contains(&ours)) {
            let foreign = format!(" ::{name}::");
            return self.code().any(|line| line.contains(&foreign));
        }
        self.code().any(|line| names(line, name))
    }
}

/// Returns true if the line contains `name::` or `use name`, where `name` is a crate and not a
/// module of ours.
pub fn names(line: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let in_path = line.match_indices(&path).any(|(at, _)| {
        let before = &line[..at];
        // `::gst::` is the crate, `crate::gst::` is not.
        let before = before.strip_suffix("::").unwrap_or(before);
        let before_is_path = before.len() < at;
        let word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '>');
        !word && (before_is_path || !before.ends_with(':'))
    });
    let used = line.trim_start().strip_prefix("use ").and_then(|rest| rest.strip_prefix(name));
    in_path || used.is_some_and(|rest| rest.starts_with(';') || rest.starts_with(" as "))
}

/// Returns the Rust sources of the daemon, its tests and its build script.
pub fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for folder in ["daemon", "tests"] {
        collect(root, &root.join(folder), &mut sources);
    }
    let build = fs::read_to_string(root.join("build.rs")).expect("build.rs");
    sources.push(Source { path: "build.rs".into(), text: build });
    assert!(sources.len() > 10, "the sources are not where they were");
    sources
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("readable").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            let path = path.strip_prefix(root).expect("below the root");
            sources.push(Source { path: path.to_string_lossy().replace('\\', "/"), text });
        }
    }
}

/// Returns the names of all dependencies, as spelt in Rust.
pub fn foreign_crates() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| manifest.get(*section)?.as_table())
        .flat_map(|table| table.keys().map(|name| name.replace('-', "_")))
        .collect()
}

pub fn report(found: impl IntoIterator<Item = String>) {
    let found: Vec<String> = found.into_iter().collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_search_distinguishes_crates_from_modules() {
    for line in ["use gst::prelude::*;", "use gst;", "let x = ::gst::init();", "#[gst::test]"] {
        assert!(names(line, "gst"), "{line}");
    }
    for line in
        ["use crate::gst::x;", "use gst_app::x;", "let gst = 3;", "lagst::x", "use gstreamer;"]
    {
        assert!(!names(line, "gst"), "{line}");
    }
}
