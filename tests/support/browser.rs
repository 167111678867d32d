//! A script that drives a real browser: Chromium by playwright, in `tests/page/`.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Runs a script, and fails with its failed checks. When the script prints `act NAME`, `act` does
/// what it names, and the script goes on.
pub fn run(script: &str, arguments: &[&str], mut act: impl FnMut(&str)) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let packages = root.join("target/npm/node_modules");
    assert!(packages.is_dir(), "{} is missing; run .ci/setup test", packages.display());
    let mut command = Command::new("node");
    command.arg(root.join("tests/page").join(script)).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut node = command.spawn().expect("node; run .ci/setup test");
    let mut to = node.stdin.take().expect("stdin");
    let from = BufReader::new(node.stdout.take().expect("stdout"));
    let mut failed = Vec::new();
    for line in from.lines() {
        let line = line.expect("UTF-8");
        println!("{line}");
        if let Some(name) = line.strip_prefix("act ") {
            act(name);
            writeln!(to, "done").expect("the script listens");
        } else if line.starts_with("failed ") {
            failed.push(line);
        }
    }
    let status = node.wait().expect("node ends");
    assert!(
        failed.is_empty() && status.success(),
        "{script} ended with {status}:\n{}",
        failed.join("\n")
    );
}
