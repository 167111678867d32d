//! Compares `docs/configuration.md` and the manual page `docs/lookout.toml.5` with the example config.
//! `UPDATE_DOCS=1` rewrites the files instead.

use std::fs;

use super::{example, key, parse, reload_column, repository};

const BEGIN: &str = "<!-- generated from configs/example.toml: -->\n";
const END: &str = "<!-- end of the generated text -->\n";

/// First words of the sentence that says when to change a key.
const CHANGES: [&str; 6] = ["Change", "Set", "Raise", "Lower", "Use", "Give"];

/// A line of the example with a key, and the comments before it.
struct Key {
    line: usize,
    name: String,
    value: String,
    commented_out: bool,
    comments: Vec<String>,
}

/// A table of the example. The first has no header: its keys are those of the whole file.
#[derive(Default)]
struct Table {
    header: String,
    comments: Vec<String>,
    keys: Vec<Key>,
}

#[test]
fn the_document_lists_the_keys() {
    let path = repository().join("docs/configuration.md");
    let document = fs::read_to_string(&path).expect("docs/configuration.md");
    let (before, rest) = document.split_once(BEGIN).expect("the first mark");
    let (_, after) = rest.split_once(END).expect("the second mark");
    compare("docs/configuration.md", &format!("{before}{BEGIN}\n{}{END}{after}", reference()));
}

#[test]
fn the_manual_page_lists_the_keys() {
    compare("docs/lookout.toml.5", &manual_page());
}

fn compare(file: &str, wanted: &str) {
    let path = repository().join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, wanted).expect("written");
    } else {
        assert!(
            fs::read_to_string(&path).expect(file) == wanted,
            "{file} differs from configs/example.toml; run UPDATE_DOCS=1 cargo test --test config"
        );
    }
}

#[test]
fn every_key_says_what_it_is_and_when_to_change_it() {
    for key in tables().iter().flat_map(|table| &table.keys) {
        let (meaning, change) = meaning(&key.comments);
        assert!(!meaning.is_empty(), "{} does not say what it is", key.name);
        assert!(!change.is_empty(), "{} does not say when to change it", key.name);
    }
}

fn reference() -> String {
    tables().iter().map(section).collect()
}

fn section(table: &Table) -> String {
    let title = if table.header.is_empty() {
        "Whole file".to_string()
    } else {
        format!("`{}`", table.header)
    };
    let mut text = format!("## {title}\n\n");
    if !table.comments.is_empty() {
        text += &format!("{}\n\n", table.comments.join("\n"));
    }
    text += "| key | default | meaning | when to change it | reload |\n|---|---|---|---|---|\n";
    for key in &table.keys {
        let (meaning, change) = meaning(&key.comments);
        let default = default_of(key).replace('|', "\\|");
        let reload = reload_column::of_line(key.line).word().to_owned();
        let name = format!("`{}`", key.name);
        let cells = [name, default, escaped(&meaning), escaped(&change), reload];
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text + "\n"
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace("<image>", "`<image>`").replace("{prompt}", "`{prompt}`")
}

/// Splits a key's comments into its meaning and when to change it.
fn meaning(comments: &[String]) -> (String, String) {
    let changes = |line: &String| CHANGES.contains(&line.split(' ').next().unwrap_or_default());
    let at = comments.iter().position(changes).unwrap_or(comments.len());
    (comments[..at].join(" "), comments[at..].join(" "))
}

/// Returns the default as the document shows it.
fn default_of(key: &Key) -> String {
    let value = &key.value;
    match shown(key) {
        Shown::Default => format!("`{value}`"),
        Shown::Unset => format!("unset, e.g. `{value}`"),
        Shown::Required => format!("required, e.g. `{value}`"),
        Shown::Example => format!("see meaning; e.g. `{value}`"),
    }
}

/// The relation of a value in the example to the key's default.
enum Shown {
    Default,
    Unset,
    Required,
    Example,
}

/// Finds out whether the example shows a key's default. A key is required if the config is refused
/// without it. If the config is another one without it, the example does not show its default.
fn shown(key: &Key) -> Shown {
    if key.commented_out {
        return Shown::Unset;
    }
    let text = example();
    let without: Vec<&str> =
        text.lines().enumerate().filter(|(at, _)| *at != key.line).map(|(_, line)| line).collect();
    let shown = format!("{:?}", parse(&text).expect("the example"));
    match parse(&without.join("\n")) {
        Err(_) => Shown::Required,
        Ok(config) if format!("{config:?}") == shown => Shown::Default,
        Ok(_) => Shown::Example,
    }
}

/// Renders the reference in the language of manual pages.
fn manual_page() -> String {
    let mut page = String::from(concat!(
        ".TH lookout.toml 5 \"\" lookout lookout\n",
        ".SH NAME\n",
        "lookout.toml \\- configuration of lookout\n",
        ".SH SYNOPSIS\n",
        "/etc/lookout/lookout.toml\n",
        ".SH DESCRIPTION\n",
        "The file that \\fBlookout run\\fP and \\fBlookout check\\fP read, in TOML.\n",
        "A duration is written \"10s\", \"2m 30s\" or \"24h\", a size \"256 MiB\".\n",
        "A relative path starts at the folder of the file.\n",
        "An unknown key is an error that names the nearest known key.\n",
    ));
    for table in tables() {
        let header = Some(&table.header).filter(|header| !header.is_empty());
        page += &format!(".SH {}\n", header.map_or("WHOLE FILE".into(), |h| roff(h)));
        for comment in &table.comments {
            page += &format!("{}\n", roff(comment));
        }
        for key in &table.keys {
            let (meaning, change) = meaning(&key.comments);
            let shown = match shown(key) {
                Shown::Default => "",
                Shown::Unset => " (an example; there is no default)",
                Shown::Required => " (an example; the key is required)",
                Shown::Example => " (an example)",
            };
            let (name, value) = (roff(&key.name), roff(&key.value));
            page += &format!(".TP\n\\fB{name}\\fP = {value}{shown}\n{}\n", roff(&meaning));
            let reload = reload_column::of_line(key.line).sentence();
            page += &format!("{}\n{}\n", roff(&change), roff(reload));
        }
    }
    page += ".SH SEE ALSO\n.BR lookout (1),\n.BR lookout\\-check (1),\n.BR lookout\\-run (1)\n";
    page
}

/// Escapes what troff would interpret.
fn roff(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '\\' => escaped += "\\e",
            '-' => escaped += "\\-",
            '\'' => escaped += "\\(aq",
            '`' => escaped += "\\(ga",
            '^' => escaped += "\\(ha",
            '~' => escaped += "\\(ti",
            _ => escaped.push(letter),
        }
    }
    if escaped.starts_with('.') { format!("\\&{escaped}") } else { escaped }
}

fn tables() -> Vec<Table> {
    let text = example();
    // The introduction ends at the first empty line.
    let introduction = text.lines().take_while(|line| !line.is_empty()).count();
    let mut tables = vec![Table::default()];
    let mut comments = Vec::new();
    for (at, line) in text.lines().enumerate().skip(introduction) {
        if let Some(name) = key(line) {
            let (_, value) = line.split_once(" = ").expect("a value");
            let key = Key {
                line: at,
                name: name.into(),
                value: value.into(),
                commented_out: line.starts_with('#'),
                comments: std::mem::take(&mut comments),
            };
            tables.last_mut().expect("a table").keys.push(key);
        } else if line.starts_with('[') {
            let comments = std::mem::take(&mut comments);
            tables.push(Table { header: line.into(), comments, keys: Vec::new() });
        } else if let Some(comment) = line.strip_prefix("# ") {
            comments.push(comment.to_string());
        }
    }
    tables
}
