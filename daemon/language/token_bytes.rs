//! The bytes that each token adds to a text, read from the vocabulary and the decoder of
//! `tokenizer.json`.
//!
//! Two kinds of decoders are known: byte-level ones (GPT-2), whose vocabulary spells every byte as a
//! printable character, and those of SentencePiece, with ▁ for a space and `<0x41>` for a single
//! byte. Added tokens have no bytes here, because each is a mark and not text.

use std::sync::LazyLock;

use serde_json::Value;

/// The way in which a vocabulary spells bytes.
#[derive(Debug, PartialEq)]
enum Spelling {
    ByteLevel,
    SentencePiece {
        /// The character that stands for a space.
        space: Option<char>,
        /// True if `<0x41>` is the byte 0x41.
        has_byte_tokens: bool,
    },
}

/// Returns the bytes of every token by its id. An empty one must not be part of a text.
pub fn token_bytes(vocabulary: &tokenizers::Tokenizer) -> Result<Vec<Vec<u8>>, String> {
    let decoder = serde_json::to_value(vocabulary.get_decoder()).map_err(|e| e.to_string())?;
    let spelling = spelling(&decoder)?;
    let added = vocabulary.get_added_tokens_decoder();
    let mut all = vec![Vec::new(); vocabulary.get_vocab_size(true)];
    for (token, id) in vocabulary.get_vocab(false) {
        // Ids may have holes, so that the largest one is beyond the number of tokens.
        let at = id as usize;
        if at >= all.len() {
            all.resize(at + 1, Vec::new());
        }
        if !added.contains_key(&id) {
            all[at] = spelling.bytes(&token);
        }
    }
    Ok(all)
}

fn spelling(decoder: &Value) -> Result<Spelling, String> {
    let steps = match decoder["decoders"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(decoder),
    };
    if let [step] = steps
        && step["type"] == "ByteLevel"
    {
        return Ok(Spelling::ByteLevel);
    }
    let mut space = None;
    let mut has_byte_tokens = false;
    for step in steps {
        let replaced = match step["type"].as_str().unwrap_or("none") {
            "Replace" if step["content"] == " " => &step["pattern"]["String"],
            "Metaspace" => &step["replacement"],
            "ByteFallback" => {
                has_byte_tokens = true;
                continue;
            }
            // A text with a schema does not begin with a space, which is all that Strip removes.
            "Fuse" | "Strip" => continue,
            other => {
                return Err(format!(
                    "its tokenizer.json has the decoder {other:?}; wanted ByteLevel, or Replace, \
                     Metaspace, ByteFallback, Fuse and Strip"
                ));
            }
        };
        let mut characters = replaced.as_str().unwrap_or_default().chars();
        let (Some(character), None) = (characters.next(), characters.next()) else {
            return Err(format!(
                "its tokenizer.json replaces {replaced} by a space; wanted one character"
            ));
        };
        space = Some(character);
    }
    Ok(Spelling::SentencePiece { space, has_byte_tokens })
}

impl Spelling {
    fn bytes(&self, token: &str) -> Vec<u8> {
        match self {
            // Other characters do not belong to such a vocabulary.
            Spelling::ByteLevel => {
                token.chars().map(byte_of).collect::<Option<_>>().unwrap_or_default()
            }
            Spelling::SentencePiece { space, has_byte_tokens } => {
                if *has_byte_tokens && let Some(byte) = byte_token(token) {
                    return vec![byte];
                }
                match space {
                    Some(space) => token.replace(*space, " ").into_bytes(),
                    None => token.as_bytes().to_vec(),
                }
            }
        }
    }
}

/// Returns the byte of a token like `<0x41>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Returns the byte that a character of a byte-level vocabulary stands for.
fn byte_of(character: char) -> Option<u8> {
    BYTES.get(character as usize).copied().flatten()
}

/// The bytes of a byte-level vocabulary by the code points of their characters. Printable Latin-1
/// characters stand for themselves, and those from U+0100 on for the other bytes, in order.
static BYTES: LazyLock<Vec<Option<u8>>> = LazyLock::new(|| {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let themselves = (0..=0xFF).map(|byte| Some(byte).filter(is_printable));
    let others = (0..=0xFF).filter(|byte| !is_printable(byte)).map(Some);
    themselves.chain(others).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_characters_of_a_byte_level_vocabulary_stand_for_all_bytes() {
        let mut bytes: Vec<u8> =
            (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        bytes.sort();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn sentence_pieces_have_spaces_and_bytes() {
        let decoder = serde_json::json!({ "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] });
        let spelling = spelling(&decoder).expect("a known decoder");
        for (token, bytes) in
            [("▁is", " is".as_bytes()), ("<0xF0>", &[0xF0]), ("é", "é".as_bytes()), ("<0x", b"<0x")]
        {
            assert_eq!(spelling.bytes(token), bytes, "{token}");
        }
    }

    #[test]
    fn an_unknown_decoder_is_named() {
        let refused = spelling(&serde_json::json!({ "type": "WordPiece", "prefix": "##" }));
        assert!(refused.expect_err("refused").contains("WordPiece"));
        let refused = spelling(&Value::Null);
        assert!(refused.expect_err("refused").contains("decoder \"none\""));
    }
}
