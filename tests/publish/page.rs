//! Tests the files of the page in the browser: how they are served, and rules of their sources.
//! `tests/page.rs` opens the page in a real browser.

use std::fs;
use std::path::{Path, PathBuf};

use super::api::Server;
use super::*;

const ASSETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/daemon/publish/http/page/assets");

#[tokio::test]
async fn the_page_is_served_with_a_strict_policy() {
    let daemon = Daemon::start(10).await;
    let server = Server::start(&daemon).await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/app.js", "text/javascript; charset=utf-8"),
        ("/page/views/live.js", "text/javascript; charset=utf-8"),
        ("/page/style/base.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ] {
        let file = server.send(&format!("GET {path}"), "", "").await;
        assert_eq!(file.status, 200, "{path}");
        for header in [
            &format!("content-type: {kind}"),
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-cache",
        ] {
            assert!(file.head.contains(header), "{path} has no {header}: {}", file.head);
        }
        let tag = file.head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag");
        let headers = format!("If-None-Match: \"other\", {tag}\r\n");
        let again = server.send(&format!("GET {path}"), &headers, "").await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
    }
    server.stopped().await;
}

#[tokio::test]
async fn only_files_of_the_page_are_served() {
    let daemon = Daemon::start(10).await;
    let server = Server::start(&daemon).await;
    for path in [
        "/page/",
        "/page/none.js",
        "/page/../mod.rs",
        "/page/..%2Fmod.rs",
        "/page/%2e%2e/mod.rs",
        "/page/%2Fetc%2Fpasswd",
        "/page/views",
    ] {
        assert_eq!(server.send(&format!("GET {path}"), "", "").await.status, 404, "{path}");
    }
    assert_eq!(server.send("POST /", "", "").await.status, 405);
    server.stopped().await;
}

#[test]
fn the_page_never_makes_markup_of_a_text() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        for banned in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "DOMParser",
            "createContextualFragment",
            "eval(",
            "Function(",
            "javascript:",
            "setAttribute('style'",
        ] {
            if text.contains(banned) {
                found.push(format!("{path} uses {banned}"));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_page_names_no_other_host() {
    for (path, text) in sources() {
        // The namespace of SVG is a name and no address. No browser opens the URL of a camera.
        let text = text.replace("http://www.w3.org/2000/svg", "").replace("'rtsp://", "");
        assert!(!text.contains("://"), "{path} has an absolute URL");
        let absolute = text.lines().find(|line| {
            ["src=\"/", "href=\"/", "fetch('/", "url(/"].iter().any(|start| line.contains(start))
        });
        assert_eq!(absolute, None, "{path} has a URL that ignores the path of a proxy");
    }
}

#[test]
fn files_of_the_page_have_one_subject() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= 300, "{path} has {lines} lines; at most 300");
        let opens = ["// ", "/* ", "<!doctype html>", "<svg "];
        assert!(
            opens.iter().any(|start| text.starts_with(start)),
            "{path} does not say its subject"
        );
    }
}

/// Returns the path and the text of every file of the page.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(ASSETS)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(Path::new(ASSETS)).expect("below the folder");
            let text = fs::read_to_string(&path).expect("UTF-8");
            found.push((name.display().to_string(), text));
        }
    }
    assert!(found.len() > 10, "the files are not where they were");
    found
}
