//! Rules for comments, messages and documents: `CONTRIBUTING.md`, section Writing.

use std::fs;
use std::path::Path;

use super::sources::{Source, report, sources};

/// First words of an item doc that begin a clause instead of saying what the item is or does.
const FRAGMENTS: &[&str] = &[
    "What", "Whether", "Of", "How", "Where", "Who", "Whom", "Whose", "When", "So", "With",
    "Without", "By", "As", "For", "From", "In", "If", "On", "At", "More", "Between", "Behind",
    "Before", "After", "Beyond", "Beside", "Not", "That", "Which", "While", "Until", "Since",
    "Only", "Also", "Than", "To", "`None`:",
];

#[test]
fn docs_begin_with_what_the_item_is_or_does() {
    let sources = sources();
    let docs: Vec<_> = sources.iter().flat_map(first_lines).collect();
    let begins = |doc: &str| doc.split(' ').next().unwrap_or_default().to_owned();
    let fragments: Vec<_> =
        docs.iter().filter(|(_, doc)| FRAGMENTS.contains(&begins(doc).as_str())).collect();
    println!("{} docs of items and files, {} begin with a fragment", docs.len(), fragments.len());
    report(fragments.into_iter().map(|(place, doc)| format!("{place}: {doc}")));
}

/// Returns the place and the first line of every doc comment of a file.
fn first_lines(source: &Source) -> Vec<(String, String)> {
    let lines: Vec<&str> = source.text.lines().map(str::trim_start).collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        for marker in ["///", "//!"] {
            let begins = at == 0 || !lines[at - 1].starts_with(marker);
            if let Some(doc) = line.strip_prefix(marker).filter(|_| begins) {
                found.push((format!("{}:{}", source.path, at + 1), doc.trim().to_owned()));
            }
        }
    }
    found
}

/// Phrases that a reader has to decode, with the plain ones.
const OBSCURE: &[(&str, &str)] = &[
    ("so many", "at most `n`"),
    ("so often", "at this interval"),
    ("mend", "fix"),
    ("anew", "again"),
    ("to be had", "available"),
    ("cannot be had", "is not available"),
    ("by itself the", "the … itself"),
    ("whoever", "any caller"),
    ("sought", "looked up"),
    ("all the same", "anyway"),
    ("for ever", "indefinitely"),
    ("hardly", "barely"),
    ("meanwhile", "in the meantime"),
    ("beside", "next to, or compared with"),
    ("is told", "receives"),
    ("are told", "receive"),
    ("hears", "receives"),
    ("is no", "is not a"),
    ("are no", "are not"),
];

/// Wordings with `is no` that are plain.
const PLAIN: &[&str] = &["there is no", "there are no", "is no longer", "are no longer"];

/// Checks what a user reads: configs, schema, messages, help texts, comments and documents.
#[test]
fn texts_are_plain() {
    let mut found = Vec::new();
    for (path, text) in documents() {
        for (at, line) in text.lines().enumerate() {
            found.extend(obscure(line).map(|why| format!("{path}:{}: {why}", at + 1)));
        }
    }
    for source in sources().iter().filter(|source| source.path.starts_with("daemon/")) {
        for (at, line) in texts_of(source) {
            found.extend(obscure(&line).map(|why| format!("{}:{at}: {why}", source.path)));
        }
    }
    report(found);
}

#[test]
fn obscure_phrases_are_found() {
    for line in ["It is no config.", "the MEND: run", "at most so many", "# anew"] {
        assert!(obscure(line).next().is_some(), "{line}");
    }
    for line in ["There is no config.", "It is no longer kept.", "for every amendment"] {
        assert!(obscure(line).next().is_none(), "{line}");
    }
    let source = Source {
        path: String::new(),
        text: "/// Doc.\nlet anew = \"one\"; // two\n#[cfg(test)]\nmod tests { \"three\" }\n"
            .into(),
    };
    let texts: Vec<_> = texts_of(&source).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, [" Doc.", " two", "one"]);
}

#[test]
fn documents_are_at_most_100_columns_wide() {
    let mut found = Vec::new();
    for (path, text) in documents().into_iter().filter(|(path, _)| path.ends_with(".md")) {
        let mut is_code = false;
        for (at, line) in text.lines().enumerate() {
            is_code ^= line.trim_start().starts_with("```");
            let breakable = !is_code && !line.starts_with('|') && !line.contains("](");
            if breakable && line.chars().count() > 100 {
                found.push(format!("{path}:{}: {} columns", at + 1, line.chars().count()));
            }
        }
    }
    report(found);
}

/// Returns the path and the text of every document, config and schema. `CONTRIBUTING.md` quotes the
/// obscure phrases.
fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["", "docs", "configs", "models", "models/demo", "proto/lookout/v1"] {
        for entry in fs::read_dir(root.join(folder)).expect(folder) {
            let path = entry.expect(folder).path();
            let name = path.strip_prefix(root).expect("below the root").display().to_string();
            let is_text = [".md", ".toml", ".proto"].iter().any(|end| name.ends_with(end));
            if is_text && name != "CONTRIBUTING.md" {
                found.push((name, fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    assert!(found.len() > 10, "the documents are not where they were");
    found
}

/// Returns the comments and string literals before a file's tests, with their lines.
fn texts_of(source: &Source) -> Vec<(usize, String)> {
    let lines = source.text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    let mut texts = Vec::new();
    let mut literals = String::new();
    let mut code = String::new();
    let mut first = 1;
    for (at, line) in lines.enumerate() {
        let (before, comment) = match line.find("//").filter(|_| !line.contains("://")) {
            Some(comment) => (&line[..comment], line[comment..].trim_start_matches(['/', '!'])),
            None => (line, ""),
        };
        if !comment.is_empty() {
            texts.push((at + 1, comment.to_owned()));
        }
        if code.is_empty() {
            first = at + 1;
        }
        code.push_str(before.trim_start().trim_end_matches('\\'));
        // A string may go on in the next line.
        if code.replace("\\\"", "").replace("'\"'", "").matches('"').count().is_multiple_of(2) {
            literals.extend(code.replace("\\\"", "").split('"').skip(1).step_by(2));
            if !literals.is_empty() {
                texts.push((first, std::mem::take(&mut literals)));
            }
            code.clear();
        }
    }
    texts
}

/// Returns every obscure phrase of a line, with the plain one.
fn obscure(line: &str) -> impl Iterator<Item = String> {
    let mut words: String = line
        .to_lowercase()
        .chars()
        .map(|c| if c.is_alphanumeric() || "'_{}".contains(c) { c } else { ' ' })
        .collect();
    words = format!(" {} ", words.split_whitespace().collect::<Vec<_>>().join(" "));
    for plain in PLAIN {
        words = words.replace(&format!(" {plain} "), " ");
    }
    OBSCURE
        .iter()
        .filter(move |(phrase, _)| words.contains(&format!(" {phrase} ")))
        .map(|(phrase, plain)| format!("\"{phrase}\": say {plain}"))
}
