//! Checks the project's rules by a simple text search in the sources.

use std::fs;
use std::path::Path;

/// Each foreign crate and the only places in the repository that may name it. A place is a path
/// prefix: `daemon/client` covers `daemon/client.rs` and `daemon/client/`.
const HOMES: &[(&str, &[&str])] = &[
    ("gst", &["daemon/camera/", "daemon/demo/"]),
    ("gst_app", &["daemon/camera/", "daemon/demo/"]),
    ("gst_video", &["daemon/camera/", "daemon/demo/"]),
    ("gst_rtsp_server", &["daemon/camera/", "daemon/demo/"]),
    ("gio", &["daemon/camera/", "daemon/demo/"]),
    ("yuv", &["daemon/camera/colours"]),
    ("http_auth", &["daemon/camera/relay"]),
    ("ort", &["daemon/model/", "daemon/vision/", "daemon/language/"]),
    ("libloading", &["daemon/model/"]),
    ("tokenizers", &["daemon/language/"]),
    ("minijinja", &["daemon/language/template/"]),
    ("minijinja_contrib", &["daemon/language/template/"]),
    ("jiff", &["daemon/language/template/", "daemon/question"]),
    ("fast_image_resize", &["daemon/vision/"]),
    ("turbojpeg", &["daemon/vision/"]),
    ("crc32fast", &["daemon/disk/record"]),
    ("lru", &["daemon/byte_lru"]),
    ("plotters", &["daemon/bench/streams/chart"]),
    ("tonic", &["daemon/publish/grpc", "daemon/client", "daemon/lib.rs"]),
    ("tonic_prost", &["daemon/publish/grpc", "daemon/client", "daemon/lib.rs"]),
    ("tonic_health", &["daemon/publish/grpc", "daemon/client"]),
    ("tonic_reflection", &["daemon/publish/grpc", "daemon/client"]),
    (
        "prost",
        &[
            "build.rs",
            "daemon/lib.rs",
            "daemon/publish/grpc",
            "daemon/client",
            "daemon/model",
            "daemon/wire/",
        ],
    ),
    (
        "prost_types",
        &["daemon/lib.rs", "daemon/publish/grpc", "daemon/client", "daemon/model", "daemon/wire/"],
    ),
    ("rumqttc", &["daemon/publish/mqtt"]),
    ("axum", &["daemon/publish/http"]),
    ("rlimit", &["daemon/file_limit"]),
    ("sd_notify", &["daemon/systemd"]),
    ("hyper", &["daemon/publish/http"]),
    ("hyper_util", &["daemon/publish/http"]),
    ("http_body", &["daemon/publish/grpc"]),
    ("tower_layer", &["daemon/publish/grpc"]),
    ("metrics", &["daemon/metrics"]),
    ("metrics_exporter_prometheus", &["daemon/metrics"]),
    ("tracing_subscriber", &["daemon/logging"]),
    // `Kind` of an event and a question's `Detail` are also values of flags.
    (
        "clap",
        &["daemon/cli/", "daemon/bench/", "daemon/demo/", "daemon/event.rs", "daemon/question"],
    ),
];

/// Modules of values and arithmetic: each place, and the only foreign names it may use outside its
/// tests. A name that ends in `::` is one module of a crate.
const PURE: &[(&str, &[&str])] = &[
    ("daemon/frame.rs", &["serde", "humantime", "bytes"]),
    ("daemon/event.rs", &["serde", "serde_json", "clap"]),
    ("daemon/question", &["clap", "humantime", "jiff", "thiserror"]),
    ("daemon/byte_lru.rs", &["lru"]),
    ("daemon/heartbeat.rs", &[]),
    ("daemon/journal", &["serde", "thiserror", "tokio::sync::"]),
    ("daemon/slowfast/", &["serde", "thiserror", "half"]),
    ("daemon/engine/inbox", &[]),
    ("daemon/engine/question/range", &[]),
    ("daemon/engine/question/parts", &[]),
    ("daemon/engine/question/conversations", &[]),
    ("daemon/engine/scheduler", &[]),
    ("daemon/engine/caption/", &["half"]),
    ("daemon/timeline/", &[]),
    ("daemon/disk/age", &[]),
    ("daemon/disk/index", &[]),
    ("daemon/disk/queue", &[]),
    ("daemon/disk/record", &["crc32fast", "thiserror"]),
    ("daemon/language/sampler", &["rand"]),
];

/// The only places that may name `app`, the file that knows every module.
const KNOW_APP: &[&str] = &["daemon/main.rs", "daemon/cli", "daemon/app"];

const LINES_MAX: usize = 700;

/// First words of an item doc that begin a clause instead of saying what the item is or does.
const FRAGMENTS: &[&str] = &[
    "What", "Whether", "Of", "How", "Where", "Who", "Whom", "Whose", "When", "So", "With",
    "Without", "By", "As", "For", "From", "In", "If", "On", "At", "More", "Between", "Behind",
    "Before", "After", "Beyond", "Beside", "Not", "That", "Which", "While", "Until", "Since",
    "Only", "Also", "Than", "To", "`None`:",
];

/// Text that must not remain in the sources. Written in pieces, so that this file passes its own
/// test.
const BANNED: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "do it, or write why not"),
    (concat!("todo", "!("), "do it, or write why not"),
    (concat!("dbg", "!("), "left over"),
    (concat!("/wo", "rk/"), "the project speaks of itself only"),
];

#[test]
fn foreign_crates_have_one_home() {
    // Tests see the daemon from outside and may use any crate.
    let inside = sources().into_iter().filter(|source| !source.path.starts_with("tests/"));
    let found = inside.flat_map(|source| {
        let strays = HOMES.iter().filter(|(name, homes)| {
            !homes.iter().any(|home| source.path.starts_with(home)) && source.names(name)
        });
        strays
            .map(|(name, homes)| format!("{} names {name}, whose home is {homes:?}", source.path))
            .collect::<Vec<_>>()
    });
    report(found);
}

/// Checks that every rule's place exists: a rule about a missing place guards nothing.
#[test]
fn every_rule_is_about_something() {
    let sources = sources();
    let places = HOMES.iter().flat_map(|(_, homes)| homes.iter().copied());
    let places = places.chain(PURE.iter().map(|(place, _)| *place));
    let gone = places.filter(|place| !sources.iter().any(|source| source.path.starts_with(place)));
    report(gone.map(|place| format!("no file is at {place}")));
}

#[test]
fn values_and_arithmetic_are_pure() {
    let foreign = foreign_crates();
    let mut found = Vec::new();
    for source in sources() {
        let pure = PURE.iter().find(|(place, _)| source.path.starts_with(place));
        let Some((_, allowed)) = pure else { continue };
        for name in foreign.iter().filter(|name| !allowed.contains(&name.as_str())) {
            let modules: Vec<_> =
                allowed.iter().filter(|path| path.starts_with(&format!("{name}::"))).collect();
            for line in source.before_tests().filter(|line| names(line, name)) {
                if !modules.iter().any(|path| line.contains(*path)) {
                    found.push(format!("{}: {}", source.path, line.trim()));
                }
            }
        }
    }
    report(found);
}

#[test]
fn nobody_knows_app_but_main_and_cli() {
    let found = sources().into_iter().filter(|source| {
        source.path.starts_with("daemon/")
            && !KNOW_APP.iter().any(|place| source.path.starts_with(place))
            && source.code().any(|line| line.contains("crate::app"))
    });
    report(found.map(|source| format!("{} imports crate::app", source.path)));
}

#[test]
fn files_stay_short() {
    let found = sources().into_iter().filter_map(|source| {
        let lines = source.text.lines().count();
        (source.path.starts_with("daemon/") && lines > LINES_MAX)
            .then(|| format!("{} has {lines} lines; has it found a second subject?", source.path))
    });
    report(found);
}

#[test]
fn files_open_by_saying_what_they_are_for() {
    let found = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    // `main.rs` may be a single line.
    let found = found.filter(|source| source.text.lines().count() > 1);
    report(found.map(|source| format!("{} does not open with //!", source.path)));
}

#[test]
fn item_docs_begin_with_what_the_item_is_or_does() {
    let found = sources().into_iter().flat_map(|source| {
        let doc =
            |line: &str| line.trim_start().strip_prefix("///").map(|doc| doc.trim().to_owned());
        let lines: Vec<_> = source.text.lines().map(doc).collect();
        let first = |at: usize| at == 0 || lines[at - 1].is_none();
        let firsts = lines.iter().enumerate().filter(|(at, _)| first(*at));
        let docs = firsts.filter_map(|(at, doc)| Some((at, doc.as_deref()?)));
        docs.filter(|(_, doc)| FRAGMENTS.contains(&doc.split(' ').next().unwrap_or_default()))
            .map(|(at, doc)| format!("{}:{}: {doc}", source.path, at + 1))
            .collect::<Vec<_>>()
    });
    report(found);
}

#[test]
fn nothing_is_left_over() {
    let found = sources().into_iter().flat_map(|source| {
        let banned = BANNED.iter().filter(|(words, _)| source.text.contains(words));
        banned.map(|(words, why)| format!("{}: {words}: {why}", source.path)).collect::<Vec<_>>()
    });
    report(found);
}

#[test]
fn the_search_finds_what_it_should() {
    for line in ["use gst::prelude::*;", "use gst;", "let x = ::gst::init();", "#[gst::test]"] {
        assert!(names(line, "gst"), "{line}");
    }
    for line in
        ["use crate::gst::x;", "use gst_app::x;", "let gst = 3;", "lagst::x", "use gstreamer;"]
    {
        assert!(!names(line, "gst"), "{line}");
    }
}

struct Source {
    /// Path from the repository's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn code(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter(|line| !line.trim_start().starts_with("//"))
    }

    /// Returns the lines before the tests, which are last in a file.
    fn before_tests(&self) -> impl Iterator<Item = &str> {
        self.code().take_while(|line| line.trim() != "#[cfg(test)]")
    }

    /// Returns true if the file uses a foreign crate. In a file that imports a module of ours with
    /// the same name, `name::` is that module and `::name::` the crate.
    fn names(&self, name: &str) -> bool {
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
fn names(line: &str, name: &str) -> bool {
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
fn sources() -> Vec<Source> {
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
fn foreign_crates() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| manifest.get(*section)?.as_table())
        .flat_map(|table| table.keys().map(|name| name.replace('-', "_")))
        .collect()
}

fn report(found: impl IntoIterator<Item = String>) {
    let found: Vec<String> = found.into_iter().collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
