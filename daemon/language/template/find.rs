//! Finds the chat template of a package and the special tokens that it uses.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::families::Known;
use crate::language::tokenizer::Tokenizer;
use crate::model::{Family, ModelError, TextKind};

/// Returns the template known for a family, for packages without one.
pub fn known(
    package: &Path,
    family: Family,
    text: TextKind,
    tokenizer: &Tokenizer,
) -> Result<Known, ModelError> {
    let knows = |token: &str| tokenizer.token_to_id(token).is_some();
    Known::of(family, text, knows).ok_or_else(|| {
        ModelError(format!(
            "model package {} carries no chat template, and none is known for a {} of {} with this \
             tokenizer: give model.template",
            package.display(),
            family.name(),
            text.name()
        ))
    })
}

/// Returns the chat template in a package, with the file that contains it.
pub fn carried(package: &Path) -> Result<Option<(PathBuf, String)>, ModelError> {
    let file = package.join("chat_template.jinja");
    if let Some(source) = read(&file)? {
        return Ok(Some((file, source)));
    }
    for name in ["chat_template.json", "processor_config.json", "tokenizer_config.json"] {
        let file = package.join(name);
        let Some(json) = read_json(&file)? else { continue };
        match &json["chat_template"] {
            Json::Null => {}
            Json::String(source) => return Ok(Some((file, source.clone()))),
            Json::Array(named) => {
                let default = named.iter().find(|named| named["name"] == "default");
                let source = default.and_then(|named| named["template"].as_str());
                let source = source.ok_or_else(|| {
                    wrong(&file, "no chat_template in the list is named \"default\"")
                })?;
                return Ok(Some((file, source.into())));
            }
            other => {
                let why = format!("chat_template = {other}: wanted a text or a list of them");
                return Err(wrong(&file, why));
            }
        }
    }
    Ok(None)
}

/// Returns the special tokens by the names that templates use: `bos_token`, `eos_token`, etc.
pub fn special_tokens(
    package: &Path,
    tokenizer: &Tokenizer,
) -> Result<BTreeMap<String, String>, ModelError> {
    let mut tokens = BTreeMap::new();
    // Some configs leave it out, because their tokenizer's class has a default.
    tokens.extend(tokenizer.bos_token().map(|bos| ("bos_token".to_string(), bos)));
    // The later file takes precedence.
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let Some(json) = read_json(&package.join(name))? else { continue };
        for (key, value) in json.as_object().into_iter().flatten() {
            let content = value.as_str().or_else(|| value["content"].as_str());
            if let (true, Some(content)) = (key.ends_with("_token"), content) {
                tokens.insert(key.clone(), content.into());
            }
        }
    }
    Ok(tokens)
}

fn read_json(file: &Path) -> Result<Option<Json>, ModelError> {
    let Some(text) = read(file)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| wrong(file, e))
}

/// Returns the text of a file, or `None` if the file does not exist.
fn read(file: &Path) -> Result<Option<String>, ModelError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(wrong(file, e)),
    }
}

pub fn wrong(file: &Path, why: impl fmt::Display) -> ModelError {
    ModelError(format!("model file {}: {why}", file.display()))
}
