//! Tests prompts to token ids, with -200 in place of the video: exact.

use lookout::language::tokenizer::Tokenizer;
use serde::Deserialize;
use serde_json::Value;

use super::{Golden, equal, parse};

const MARKER: i64 = -200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// A folder of `tokenizers/`.
    tokenizer: String,
    text: String,
    ids: Vec<i64>,
    image_positions: Vec<usize>,
    tokenizer_json_gives_same: bool,
    /// Expected ids if `tokenizer.json` gives other ids than the reference's sentencepiece.
    tokenizer_json_ids: Option<Vec<i64>>,
}

pub fn check(golden: &Golden, kind: &str, json: Value) -> Result<(), String> {
    equal("kind", &kind, &"cases")?;
    let case: Case = parse(json)?;
    let folder = golden.folder.join("tokenizers").join(&case.tokenizer);
    let tokenizer = Tokenizer::load(&folder).map_err(|e| e.to_string())?;
    let prompt = tokenizer.encode_around_image(&case.text).map_err(|e| e.to_string())?;
    let positions: Vec<usize> =
        case.ids.iter().enumerate().filter(|(_, id)| **id == MARKER).map(|(i, _)| i).collect();
    equal("image_positions", &positions, &case.image_positions)?;
    let wanted = match (case.tokenizer_json_gives_same, case.tokenizer_json_ids) {
        (true, None) => case.ids,
        (false, Some(ids)) => ids,
        _ => return Err("tokenizer_json_ids and tokenizer_json_gives_same disagree".into()),
    };
    equal("ids", &prompt.with_markers(), &wanted)
}
