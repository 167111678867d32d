//! Checks the commands and configs in the documents: each config block is read by the daemon's loader,
//! each `lookout` command by the program's own definition of its arguments, each `make` target and
//! each path of a `curl` exists. `live` runs the commands, `backup` those of a backup, `links`
//! follows the links, and `models` computes the tables of models.

#[path = "docs/backup.rs"]
mod backup;
#[path = "docs/links.rs"]
mod links;
#[path = "docs/live.rs"]
mod live;
#[path = "docs/models.rs"]
mod models;
mod support;

use std::fs;
use std::path::Path;

use lookout::config::Config;
use serde_json::Value;
use support::*;

/// A fenced block of a document.
struct Block {
    place: String,
    language: String,
    text: String,
}

fn documents() -> Vec<(String, String)> {
    let root = repository();
    let mut files = vec!["README.md".to_owned(), "models/README.md".to_owned()];
    for entry in fs::read_dir(root.join("docs")).expect("docs") {
        let name = entry.expect("entry").file_name().to_string_lossy().into_owned();
        files.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(root.join(&file)).expect("a document");
            (file, text)
        })
        .collect()
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for (file, text) in documents() {
        let mut open: Option<Block> = None;
        for (at, line) in text.lines().enumerate() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(language), None) => {
                    let place = format!("{file}:{}", at + 1);
                    open = Some(Block { place, language: language.into(), text: String::new() });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => block.text += &format!("{line}\n"),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{file}: a block does not end");
    }
    blocks
}

/// Returns the text in backticks outside the blocks, with its place.
fn inline_code() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (file, text) in documents() {
        let outside = text.split("```").step_by(2).collect::<Vec<_>>().join("");
        let code = outside.split('`').skip(1).step_by(2);
        found.extend(code.map(|code| (file.clone(), code.replace('\n', " "))));
    }
    found
}

/// Returns the commands of shell blocks: without the prompt, joined where a line continues.
fn shell_commands() -> Vec<(String, String)> {
    let mut commands = Vec::new();
    for block in blocks() {
        if !["", "sh"].contains(&block.language.as_str()) {
            continue;
        }
        let text = block.text.replace("\\\n", " ");
        let lines = text.lines().map(|line| line.strip_prefix("$ ").unwrap_or(line).to_owned());
        commands.extend(lines.map(|line| (block.place.clone(), line)));
    }
    commands
}

/// Splits a command into words as a shell does, up to a comment, a pipe or a redirection.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in command.chars() {
        match (letter, quote) {
            (_, Some(open)) if letter == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            ('#' | '|' | '>' | ';' | '&', None) if word.is_none() => break,
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    // `[--package DIR]`: a flag that may be left out.
    let unbracketed = |word: String| match word.strip_prefix("[--") {
        Some(flag) => format!("--{}", flag.trim_end_matches(']')),
        None if word.contains(['[', '{']) => word,
        None => word.trim_end_matches(']').to_owned(),
    };
    words.into_iter().map(unbracketed).collect()
}

#[test]
fn words_are_split_as_in_a_shell() {
    let split = words("lookout ask gate \"Who is #1?\" --schema '{\"a\": 1}'  # a comment");
    assert_eq!(split, ["lookout", "ask", "gate", "Who is #1?", "--schema", "{\"a\": 1}"]);
    assert_eq!(words("lookout watch --json | jq .text"), ["lookout", "watch", "--json"]);
}

#[test]
fn configs_are_read() {
    let blocks: Vec<Block> = blocks().into_iter().filter(|b| b.language == "toml").collect();
    assert!(blocks.len() >= 5, "only {} blocks", blocks.len());
    for Block { place, text, .. } in blocks {
        // A block shows what it is about; the rest of a config is added.
        let mut whole = text.clone();
        let more = [
            ("[model]", "[model]\npackage = \"package\"\n"),
            ("[[camera]]", "[[camera]]\nname = \"gate\"\nurl = \"rtsp://192.168.1.20/\"\n"),
            ("[journal]", "[journal]\nfolder = \"journal\"\n"),
            ("[[rule]]", "[[rule]]\nname = \"added\"\nquestion = \"Is it?\"\n"),
        ];
        for (table, more) in more {
            // Servers of a whole vision model need no package.
            if table == "[model]" && text.contains("backend = \"openai\"") {
                continue;
            }
            if !text.lines().any(|line| line.trim_start().starts_with(table)) {
                whole += &format!("\n{more}");
            }
        }
        if let Err(error) = Config::parse(&whole, Path::new("/etc/lookout")) {
            panic!("{place}: {error}\n{whole}");
        }
    }
}

#[test]
fn commands_of_blocks_are_understood() {
    let mut checked = 0;
    for (place, line) in shell_commands() {
        let words = words(&line);
        if words.first().is_none_or(|first| first != "lookout") {
            continue;
        }
        checked += 1;
        if let Err(error) = lookout::cli::command().try_get_matches_from(&words) {
            panic!("{place}: {line}\n{error}");
        }
    }
    assert!(checked >= 20, "only {checked} commands found");
}

/// Checks commands that sentences name, often with placeholders: the command and its flags exist.
#[test]
fn commands_of_sentences_exist() {
    let mut root = lookout::cli::command();
    root.build();
    let mut checked = 0;
    for (place, code) in inline_code() {
        let words = words(&code);
        if words.len() < 2 || words[0] != "lookout" {
            continue;
        }
        checked += 1;
        let mut command = &root;
        for word in &words[1..] {
            if let Some(flag) = word.strip_prefix("--") {
                let flag = flag.split('=').next().unwrap_or_default();
                let known = command.get_arguments().any(|arg| arg.get_long() == Some(flag));
                assert!(known, "{place}: `{code}`: {} has no --{flag}", command.get_name());
            } else if let Some(next) = command.find_subcommand(word) {
                command = next;
            } else {
                let expected =
                    command.get_positionals().next().is_some() || command.get_name() != "lookout";
                assert!(expected, "{place}: `{code}`: no command {word}");
            }
        }
    }
    assert!(checked >= 30, "only {checked} commands found");
}

#[test]
fn make_targets_exist() {
    let makefile = fs::read_to_string(repository().join("Makefile")).expect("Makefile");
    let exists =
        |target: &str| makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
    let commands = shell_commands().into_iter().chain(inline_code());
    let mut checked = 0;
    for (place, line) in commands {
        for command in line.split("&&") {
            let words = words(command.trim());
            let make = words.iter().skip_while(|word| *word == "sudo").collect::<Vec<_>>();
            if let [make, target, ..] = make.as_slice()
                && *make == "make"
                && !target.contains('=')
                && !target.starts_with('-')
            {
                checked += 1;
                assert!(exists(target), "{place}: {line}: no target {target}");
            }
        }
    }
    assert!(checked >= 10, "only {checked} commands found");
}

#[test]
fn paths_of_curl_exist() {
    let openapi = fs::read_to_string(repository().join("docs/openapi.json")).expect("openapi");
    let openapi: Value = serde_json::from_str(&openapi).expect("JSON");
    let paths = openapi["paths"].as_object().expect("paths");
    let base = openapi["servers"][0]["url"].as_str().expect("the address of the API");
    let mut checked = 0;
    for (place, line) in shell_commands().into_iter().chain(inline_code()) {
        let words = words(&line);
        if words.first().is_none_or(|first| first != "curl") {
            continue;
        }
        let ours =
            |word: &&String| word.contains("127.0.0.1:9090") || word.contains("localhost:9090");
        let Some(url) = words.iter().find(ours) else { continue };
        checked += 1;
        let path = url.split(":9090").nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let known = ["/healthz", "/readyz", "/metrics", "/mcp", "/"].contains(&path)
            || paths.keys().any(|pattern| matches(&format!("{base}{pattern}"), path));
        assert!(known, "{place}: {line}: no path {path}");
    }
    assert!(checked >= 3, "only {checked} commands found");
}

/// Returns true if a path fits a pattern such as `/api/v1/events/{sequence}`.
fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<_> = pattern.split('/').collect();
    let path: Vec<_> = path.split('/').collect();
    pattern.len() == path.len()
        && pattern.iter().zip(&path).all(|(part, given)| part.starts_with('{') || part == given)
}

#[test]
fn json_blocks_are_json() {
    let blocks = blocks();
    // An excerpt has a … where something is left out.
    let json = blocks.iter().filter(|block| block.language == "json" && !block.text.contains('…'));
    let mut checked = 0;
    for block in json {
        checked += 1;
        let parsed = serde_json::from_str::<Value>(&block.text);
        assert!(parsed.is_ok(), "{}: {:?}", block.place, parsed.err());
    }
    assert!(checked >= 3, "only {checked} blocks");
}
