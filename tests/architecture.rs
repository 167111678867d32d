//! Checks the project's rules by a simple text search in the sources. `imports` checks the graph of
//! modules, `writing` checks comments, messages and documents.

#[path = "architecture_rules/imports.rs"]
mod imports;
#[path = "architecture_rules/sources.rs"]
mod sources;
#[path = "architecture_rules/writing.rs"]
mod writing;

use std::fs;
use std::path::Path;

use sources::{foreign_crates, names, report, sources};

/// Each foreign crate and the only places in the repository that may name it. A place is a path
/// prefix: `daemon/client` covers `daemon/client.rs` and `daemon/client/`.
const HOMES: &[(&str, &[&str])] = &[
    ("gst", &["daemon/camera/", "daemon/demo/"]),
    ("gst_app", &["daemon/camera/", "daemon/demo/"]),
    ("gst_video", &["daemon/camera/", "daemon/demo/"]),
    ("gst_rtsp_server", &["daemon/camera/", "daemon/demo/"]),
    ("gio", &["daemon/camera/", "daemon/demo/"]),
    ("yuv", &["daemon/camera/colours"]),
    ("http_auth", &["daemon/camera/relay", "daemon/onvif/"]),
    ("quick_xml", &["daemon/onvif/"]),
    ("sha1", &["daemon/onvif/", "daemon/hub/"]),
    ("png", &["daemon/masks/image"]),
    ("if_addrs", &["daemon/onvif/"]),
    ("rpassword", &["daemon/cli/discover/"]),
    ("ort", &["daemon/model/", "daemon/vision/", "daemon/language/", "daemon/embedding/"]),
    ("libloading", &["daemon/model/"]),
    ("tokenizers", &["daemon/language/", "daemon/embedding/"]),
    ("minijinja", &["daemon/language/template/", "daemon/publish/delivery/template"]),
    ("minijinja_contrib", &["daemon/language/template/"]),
    ("jiff", &["daemon/language/template/", "daemon/question", "daemon/schedule"]),
    ("fast_image_resize", &["daemon/pixels/"]),
    ("lookout_pixels", &["daemon/vision/"]),
    ("turbojpeg", &["daemon/vision/"]),
    ("crc32fast", &["daemon/disk/record", "daemon/language/vllm/tensor_file"]),
    ("rusqlite", &["daemon/event_store/"]),
    ("uuid", &["daemon/event.rs", "daemon/rules/", "daemon/onvif/"]),
    (
        "sha2",
        &[
            "daemon/event_store/",
            "daemon/access/token",
            "daemon/embedding/folder",
            "daemon/client/export",
            "daemon/publish/delivery/webhook",
            "daemon/language/schema",
            "daemon/tls/server",
            "daemon/hub/",
        ],
    ),
    ("hmac", &["daemon/publish/delivery/webhook"]),
    (
        "base64",
        &[
            "daemon/access/token",
            "daemon/publish/delivery/",
            "daemon/publish/http/mcp/",
            "daemon/onvif/",
            "daemon/language/vllm/completions",
            "daemon/language/openai/chat",
        ],
    ),
    ("subtle", &["daemon/access/token"]),
    ("governor", &["daemon/access/known"]),
    ("cookie", &["daemon/publish/http/"]),
    ("rmcp", &["daemon/publish/http/mcp/"]),
    ("llguidance", &["daemon/language/schema"]),
    ("zip", &["daemon/client/export"]),
    ("lru", &["daemon/access/failures", "daemon/byte_lru"]),
    ("plotters", &["daemon/bench/streams/chart"]),
    ("tonic", &["daemon/publish/grpc", "daemon/publish/traces/", "daemon/client", "daemon/lib.rs"]),
    ("ratatui", &["daemon/client/top/"]),
    ("opentelemetry", &["daemon/publish/traces/"]),
    ("opentelemetry_sdk", &["daemon/publish/traces/"]),
    ("opentelemetry_otlp", &["daemon/publish/traces/"]),
    ("tonic_prost", &["daemon/publish/grpc", "daemon/client", "daemon/lib.rs"]),
    ("tonic_health", &["daemon/publish/grpc", "daemon/client"]),
    ("tonic_types", &["build.rs", "daemon/publish/grpc", "daemon/client"]),
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
    ("rlimit", &["daemon/file_limit", "daemon/core_dumps"]),
    ("sd_notify", &["daemon/systemd"]),
    (
        "hyper",
        &[
            "daemon/publish/http",
            "daemon/publish/delivery/",
            "daemon/mcp_stdio",
            "daemon/onvif/",
            "daemon/http_client",
            "daemon/hub/",
            "daemon/language/servers/",
            "daemon/language/vllm/",
            "daemon/language/openai/",
        ],
    ),
    ("hyper_util", &["daemon/publish/http", "daemon/http_client", "daemon/onvif/"]),
    ("hyper_rustls", &["daemon/http_client"]),
    (
        "rustls",
        &[
            "daemon/tls/",
            "daemon/publish/mqtt/",
            "daemon/publish/delivery/",
            "daemon/mcp_stdio",
            "daemon/http_client",
            "daemon/hub/",
            "daemon/language/servers/",
        ],
    ),
    ("rustls_native_certs", &["daemon/tls/files"]),
    ("tokio_rustls", &["daemon/tls/server", "daemon/publish/stream"]),
    ("x509_parser", &["daemon/tls/validity"]),
    (
        "http_body_util",
        &[
            "daemon/publish/delivery/http",
            "daemon/mcp_stdio",
            "daemon/onvif/",
            "daemon/http_client",
            "daemon/hub/",
            "daemon/language/servers/",
        ],
    ),
    ("httpdate", &["daemon/http_client", "daemon/publish/delivery/http"]),
    ("http_range_header", &["daemon/publish/http"]),
    ("serde_html_form", &["daemon/publish/http"]),
    ("rust_embed", &["daemon/publish/http/page/"]),
    ("http_body", &["daemon/publish/grpc"]),
    ("tower_layer", &["daemon/publish/grpc"]),
    ("metrics", &["daemon/metrics"]),
    ("metrics_exporter_prometheus", &["daemon/metrics"]),
    ("tracing_subscriber", &["daemon/logging"]),
    ("tracing_appender", &["daemon/logging"]),
    ("clap_mangen", &["daemon/cli/generate"]),
    ("clap_complete", &["daemon/cli/generate"]),
    // `Kind` of an event and a question's `Detail` are also values of flags.
    (
        "clap",
        &["daemon/cli/", "daemon/bench/", "daemon/demo/", "daemon/event.rs", "daemon/question"],
    ),
];

/// Modules of values and arithmetic: each place, and the only foreign names it may use outside its
/// tests. A name that ends in `::` is one module of a crate.
const PURE: &[(&str, &[&str])] = &[
    ("daemon/frame.rs", &["serde", "schemars", "humantime", "bytes"]),
    ("daemon/event.rs", &["serde", "serde_json", "schemars", "clap", "uuid"]),
    ("daemon/event/", &["serde", "schemars"]),
    ("daemon/schedule.rs", &["jiff"]),
    ("daemon/masks/mod", &[]),
    ("daemon/masks/polygon", &[]),
    ("daemon/rules/machine", &[]),
    ("daemon/rules/calibration", &[]),
    ("daemon/evaluation/mod", &["serde"]),
    ("daemon/evaluation/calibration", &["serde"]),
    ("daemon/evaluation/chart", &[]),
    ("daemon/rules/curve", &[]),
    ("daemon/rules/watcher", &[]),
    ("daemon/question", &["clap", "humantime", "jiff", "thiserror"]),
    ("daemon/byte_lru.rs", &["lru"]),
    ("daemon/heartbeat.rs", &[]),
    ("daemon/journal", &["bytes", "serde", "schemars", "thiserror", "tokio::sync::"]),
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
    ("daemon/disk/request", &[]),
    ("daemon/disk/record", &["crc32fast", "thiserror"]),
    ("daemon/language/sampler", &["rand"]),
];

/// The only places that may name `app`, the file that knows every module.
const KNOW_APP: &[&str] = &["daemon/main.rs", "daemon/cli", "daemon/app"];

const LINES_MAX: usize = 500;

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
fn every_rule_names_an_existing_place() {
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
fn nothing_is_left_over() {
    let found = sources().into_iter().flat_map(|source| {
        let banned = BANNED.iter().filter(|(words, _)| source.text.contains(words));
        banned.map(|(words, why)| format!("{}: {words}: {why}", source.path)).collect::<Vec<_>>()
    });
    report(found);
}

/// Checks that each file or folder of the daemon has a place in ARCHITECTURE.md, and that each Rust
/// file that the documents name exists.
#[test]
fn the_documents_name_the_places_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).expect(path);
    let architecture = read("ARCHITECTURE.md");
    let sources = sources();
    let places = sources.iter().filter_map(|source| {
        let place = source.path.strip_prefix("daemon/")?;
        Some(place.split_once('/').map_or(place.to_owned(), |(folder, _)| format!("{folder}/")))
    });
    let places: std::collections::BTreeSet<String> = places.collect();
    let is_named = |place: &String| {
        let folder_of_file = place.strip_suffix('/').map(|name| format!("`daemon/{name}.rs`"));
        architecture.contains(&format!("`daemon/{place}`"))
            || architecture.contains(&format!(", `{place}`"))
            || folder_of_file.is_some_and(|file| architecture.contains(&file))
    };
    let unnamed = places.iter().filter(|place| !is_named(place));
    let mut found: Vec<String> =
        unnamed.map(|place| format!("ARCHITECTURE.md does not name daemon/{place}")).collect();
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = read(document);
        let paths = text.split('`').skip(1).step_by(2).filter(|path| path.ends_with(".rs"));
        let exists = |path: &str| {
            let end = format!("/{path}");
            sources.iter().any(|source| source.path == path || source.path.ends_with(&end))
        };
        found.extend(
            paths.filter(|path| !exists(path)).map(|path| format!("{document}: no file {path}")),
        );
    }
    report(found);
}

#[test]
fn every_edge_names_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let table = text.split("| edge | size | when full | test |\n|---|---|---|---|\n").nth(1);
    let rows = table.expect("the table of edges").lines().take_while(|line| line.starts_with('|'));
    let sources = sources();
    let exists = |name: &str| {
        let definition = format!("fn {name}(");
        sources.iter().any(|source| source.text.contains(&definition))
    };
    let found: Vec<String> = rows
        .filter_map(|row| {
            let test = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
            let is_known = exists(test.trim_matches('`'));
            (!is_known).then(|| format!("ARCHITECTURE.md: no test {test}: {row}"))
        })
        .collect();
    report(found);
}
