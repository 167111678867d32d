//! Tests chat templates, rendered and tokenised exactly as by transformers.
//!
//! The record is our own (`models/export/templates.py` describes how it was made and what it
//! contains), so it is always read from `tests/golden`, whichever set the other suites read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lookout::config::Wording;
use lookout::language::template::{ChatTemplate, Turn, strftime};
use lookout::language::tokenizer::Tokenizer;
use lookout::model::{Family, TextKind};
use serde::Deserialize;
use serde_json::{Value, json};

use super::equal;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    #[serde(rename = "versions")]
    _versions: Value,
    instruction: String,
    tokenizers: BTreeMap<String, Recipe>,
    strftime: Strftime,
    cases: Vec<Case>,
}

/// A tokenizer of the golden set, with added tokens and replaced settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    base: String,
    add: Vec<String>,
    set: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Strftime {
    now: String,
    formats: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    tokenizer: String,
    /// Files of the package: text or JSON.
    files: BTreeMap<String, Value>,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    past: Vec<Past>,
    question: String,
    instructed: bool,
    text: String,
    ids: Vec<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Past {
    question: String,
    answer: String,
}

pub fn check() {
    let (golden, record) = read();
    let mut failed = Vec::new();
    for case in &record.cases {
        let folder = tempfile::tempdir().expect("a folder");
        let package = package(&golden, &record, case, folder.path());
        for (at, prompt) in case.prompts.iter().enumerate() {
            if let Err(why) = check_prompt(&record, case, package, prompt) {
                failed.push(format!("{}, prompt {at}: {why}", case.id));
            }
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
    let prompts: usize = record.cases.iter().map(|case| case.prompts.len()).sum();
    assert!(prompts > 80, "only {prompts} prompts");
    println!("templates: {} cases, {prompts} prompts", record.cases.len());
}

pub fn check_strftime() {
    let (_, record) = read();
    let now = record.now();
    for (format, wanted) in &record.strftime.formats {
        assert_eq!(strftime(format, &now).as_ref(), Ok(wanted), "{format}");
    }
}

fn read() -> (PathBuf, Record) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let text = fs::read_to_string(golden.join("templates.json")).expect("templates.json");
    let record = serde_json::from_str(&text).expect("templates.json");
    (golden, record)
}

impl Record {
    fn now(&self) -> jiff::Zoned {
        let now: jiff::civil::DateTime = self.strftime.now.parse().expect("a time");
        now.to_zoned(jiff::tz::TimeZone::UTC).expect("a time")
    }
}

fn check_prompt(
    record: &Record,
    case: &Case,
    package: &Path,
    prompt: &Prompt,
) -> Result<(), String> {
    let tokenizer = Tokenizer::load(package).map_err(|e| e.to_string())?;
    let mut wording = Wording::default();
    if prompt.instructed {
        wording.system_prompt = record.instruction.clone();
    }
    let (family, text) = kind(&case.files["config.json"])?;
    let template =
        ChatTemplate::of(package, family, text, &tokenizer, &wording).map_err(|e| e.to_string())?;
    let past: Vec<Turn> = prompt
        .past
        .iter()
        .map(|past| Turn { question: past.question.clone(), answer: past.answer.clone() })
        .collect();
    let text = template.render(&past, &prompt.question).map_err(|e| e.to_string())?;
    // The record's date differs from today's; the prompt is tokenised with the record's date.
    let day = |time| strftime("%d %b %Y", time).expect("a date");
    let text = text.replace(&day(&jiff::Zoned::now()), &day(&record.now()));
    equal("text", &text, &prompt.text)?;
    let prompt_ids = tokenizer.encode_around_image(&text).map_err(|e| e.to_string())?;
    equal("ids", &prompt_ids.with_markers(), &prompt.ids)
}

fn kind(config: &Value) -> Result<(Family, TextKind), String> {
    let families = [Family::Llava, Family::LlavaNext, Family::LlavaOnevision];
    let family = families.into_iter().find(|family| config["model_type"] == family.name());
    let text = match config["text_config"]["model_type"].as_str() {
        Some("llama") => Some(TextKind::Llama),
        Some("mistral") => Some(TextKind::Mistral),
        Some("qwen2") => Some(TextKind::Qwen2),
        _ => None,
    };
    family.zip(text).ok_or(format!("config.json: {config}"))
}

fn package<'a>(golden: &Path, record: &Record, case: &Case, folder: &'a Path) -> &'a Path {
    let recipe = &record.tokenizers[&case.tokenizer];
    let base: PathBuf = golden.join("tokenizers").join(&recipe.base).join("tokenizer.json");
    let text = fs::read_to_string(base).expect("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&text).expect("JSON");
    let vocabulary = tokenizer["model"]["vocab"].as_object().expect("vocab").len();
    let added = tokenizer["added_tokens"].as_array_mut().expect("added_tokens");
    let known = added.iter().filter_map(|token| token["id"].as_u64()).max().unwrap_or_default();
    let first = (vocabulary as u64).max(known + 1);
    for (id, content) in (first..).zip(&recipe.add) {
        added.push(json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        }));
    }
    for (part, value) in &recipe.set {
        tokenizer[part] = value.clone();
    }
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("write");
    write("tokenizer.json", &tokenizer.to_string());
    for (name, content) in &case.files {
        match content {
            Value::String(text) => write(name, text),
            json => write(name, &json.to_string()),
        }
    }
    folder
}
