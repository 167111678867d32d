//! Follows the links between the documents: each file and each heading exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::documents;
use super::support::repository;

/// Returns a document without its blocks.
fn without_blocks(text: &str) -> String {
    text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// Returns the anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let mut anchor = String::new();
    for letter in heading.trim_start_matches('#').trim().to_lowercase().chars() {
        match letter {
            ' ' => anchor.push('-'),
            '-' | '_' => anchor.push(letter),
            letter if letter.is_alphanumeric() => anchor.push(letter),
            _ => {}
        }
    }
    anchor
}

fn anchors(text: &str) -> BTreeSet<String> {
    without_blocks(text).lines().filter(|line| line.starts_with('#')).map(anchor).collect()
}

#[test]
fn anchors_are_those_of_github() {
    assert_eq!(anchor("## The API below /api/v1"), "the-api-below-apiv1");
    assert_eq!(anchor("## `[buffer.disk]`"), "bufferdisk");
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut files = documents();
    for more in ["ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"] {
        let text = fs::read_to_string(repository().join(more)).expect(more);
        files.push((more.to_owned(), text));
    }
    let mut checked = 0;
    for (file, text) in &files {
        for link in without_blocks(text).split("](").skip(1) {
            let link = link.split([')', ' ', '\n']).next().unwrap_or_default();
            if link.contains("://") {
                continue;
            }
            checked += 1;
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(file).parent().expect("a folder");
            let target = if path.is_empty() { file.into() } else { folder.join(path) };
            let target = repository().join(target);
            assert!(target.exists(), "{file}: {link}: no such file");
            if !heading.is_empty() && (path.is_empty() || path.ends_with(".md")) {
                let text = fs::read_to_string(&target).expect(link);
                assert!(anchors(&text).contains(heading), "{file}: {link}: no such heading");
            }
        }
    }
    assert!(checked >= 150, "only {checked} links found");
}
