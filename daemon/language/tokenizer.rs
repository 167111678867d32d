//! Converts text to token ids and back, with the package's `tokenizer.json`.
//!
//! Guarantees: prompts are split at the image token, where the video's rows go. Answers are decoded
//! id by id, and only whole characters are returned.

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use serde::Deserialize;

use super::token_bytes::token_bytes;

/// The image token: it marks the video's place in a prompt, unless the package has another token.
pub const IMAGE: &str = "<image>";

pub struct Tokenizer {
    vocabulary: tokenizers::Tokenizer,
    /// The token that `tokenizer.json` puts before every text, or `None` if it adds none.
    bos: Option<Token>,
    image: Image,
}

#[derive(Clone, Debug)]
struct Token {
    id: u32,
    text: String,
}

/// The mark of the video's place in a prompt.
#[derive(Clone, Debug)]
enum Image {
    /// A token that `tokenizer.json` defines.
    Token(Token),
    /// The text `<image>`, because `tokenizer.json` defines no such token.
    Unknown,
}

/// Token ids around the places of the video: one piece more than there are places. The first
/// piece begins with BOS if the tokenizer adds one or the text has one; no other piece does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub pieces: Vec<Vec<u32>>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TokenizerError(String);

impl Tokenizer {
    /// Reads `tokenizer.json` of a model package, and the image token from `config.json` if that
    /// file exists.
    pub fn load(package: &Path) -> Result<Tokenizer, TokenizerError> {
        let path = package.join("tokenizer.json");
        let failed = |why: String| TokenizerError(format!("{}: {why}", path.display()));
        let mut vocabulary =
            tokenizers::Tokenizer::from_file(&path).map_err(|e| failed(e.to_string()))?;
        // Some files were saved with the settings of a training run.
        vocabulary.with_truncation(None).map_err(|e| failed(e.to_string()))?;
        vocabulary.with_padding(None);
        let empty = vocabulary.encode("", true).map_err(|e| failed(e.to_string()))?;
        let added: Vec<u32> = std::iter::zip(empty.get_ids(), empty.get_special_tokens_mask())
            .filter_map(|(id, special)| (*special == 1).then_some(*id))
            .collect();
        let bos = match added[..] {
            [] => None,
            [id] => {
                let text = vocabulary.id_to_token(id).unwrap_or_default();
                Some(Token { id, text })
            }
            _ => {
                return Err(failed(format!(
                    "adds the tokens {added:?} to every text; only one, at the front, is supported"
                )));
            }
        };
        let tokenizer = Tokenizer { vocabulary, bos, image: Image::Unknown };
        let usual = tokenizer.token_to_id(IMAGE);
        Ok(tokenizer.with_image_token(usual).with_image_token(configured(package)?))
    }

    /// Uses the token with this id as the image token, if `tokenizer.json` adds it.
    fn with_image_token(mut self, id: Option<u32>) -> Tokenizer {
        let mut added = self.vocabulary.get_added_tokens_decoder();
        if let Some((id, token)) = id.and_then(|id| Some((id, added.remove(&id)?))) {
            self.image = Image::Token(Token { id, text: token.content });
        }
        self
    }

    /// Returns the text of the image token.
    pub fn image_token(&self) -> &str {
        match &self.image {
            Image::Token(token) => &token.text,
            Image::Unknown => IMAGE,
        }
    }

    /// The token that `tokenizer.json` puts before every text, or `None` if it adds none.
    pub fn bos_token(&self) -> Option<String> {
        self.bos.as_ref().map(|bos| bos.text.clone())
    }

    /// Tokenizes a text around the image tokens. A text that begins with BOS gets no second one, as
    /// in a processor of transformers.
    pub fn encode_around_image(&self, text: &str) -> Result<Prompt, TokenizerError> {
        let encode = |text: &str| {
            let wrong = |why: &dyn std::fmt::Display| {
                TokenizerError(format!("prompt cannot be tokenised: {why}"))
            };
            // A regular expression search panics when it gives up on a text.
            let encoding = std::panic::catch_unwind(AssertUnwindSafe(|| {
                self.vocabulary.encode_fast(text, false)
            }));
            let encoding = encoding.map_err(|_| wrong(&"its tokenizer gave it up"))?;
            Ok(encoding.map_err(|e| wrong(&e))?.get_ids().to_vec())
        };
        let mut pieces: Vec<Vec<u32>> = match &self.image {
            // The text is not encoded piece by piece, because some tokenizers treat the beginning
            // of a text differently from text after a token.
            Image::Token(image) => {
                encode(text)?.split(|id| *id == image.id).map(<[u32]>::to_vec).collect()
            }
            Image::Unknown => text.split(IMAGE).map(encode).collect::<Result<_, _>>()?,
        };
        if let Some(bos) = self.bos.as_ref().filter(|bos| !text.starts_with(&bos.text)) {
            pieces[0].insert(0, bos.id);
        }
        Ok(Prompt { pieces })
    }

    /// Returns the first special token or image token in a text. A client's text must not contain
    /// any, or it could end its own turn and continue in another role.
    pub fn special_token_in(&self, text: &str) -> Option<String> {
        let special = self.vocabulary.get_added_tokens_decoder().into_values();
        let special = special.filter(|token| token.special).map(|token| token.content);
        let images = [IMAGE.to_string(), self.image_token().to_string()];
        let found = special.chain(images).filter_map(|token| Some((text.find(&token)?, token)));
        found.min().map(|(_, token)| token)
    }

    /// Decodes all ids at once and leaves out special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.vocabulary
            .decode(ids, true)
            .map_err(|e| TokenizerError(format!("answer cannot be decoded: {e}")))
    }

    /// Returns the size of the vocabulary, including the added tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.get_vocab_size(true)
    }

    /// Returns the tokens that consist of this word alone, in any case, with or without a space
    /// before it.
    pub fn spellings(&self, word: &str) -> Vec<u32> {
        // Vocabularies write the space as itself, as Ġ (byte-level) or as ▁ (SentencePiece).
        let text =
            |token: &str| token.trim_start_matches([' ', 'Ġ', '▁']).eq_ignore_ascii_case(word);
        let vocabulary = self.vocabulary.get_vocab(false);
        vocabulary.into_iter().filter_map(|(token, id)| text(&token).then_some(id)).collect()
    }

    /// Returns the bytes of every token by its id. An empty one must not be part of a text.
    pub fn token_bytes(&self) -> Result<Vec<Vec<u8>>, String> {
        token_bytes(&self.vocabulary)
    }

    /// Returns the first token of a text, or `None` if it has none.
    pub fn first_token(&self, text: &str) -> Option<u32> {
        self.vocabulary.encode_fast(text, false).ok()?.get_ids().first().copied()
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocabulary.token_to_id(token)
    }
}

/// Returns the id of the image token, according to config.json.
fn configured(package: &Path) -> Result<Option<u32>, TokenizerError> {
    #[derive(Deserialize)]
    struct Config {
        image_token_id: Option<u32>,
        /// The older name of the same key.
        image_token_index: Option<u32>,
    }
    let path = package.join("config.json");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
    let config: Config = serde_json::from_str(&text)
        .map_err(|e| TokenizerError(format!("model file {}: {e}", path.display())))?;
    Ok(config.image_token_id.or(config.image_token_index))
}

impl Prompt {
    /// Returns the number of text tokens, without the video's rows.
    pub fn text_tokens(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }

    /// Returns the number of tokens with a video of `video_tokens` tokens in its place.
    pub fn tokens(&self, video_tokens: usize) -> usize {
        self.text_tokens() + self.pieces.len().saturating_sub(1) * video_tokens
    }

    /// Returns all ids in one list, with -200 in the video's place, as in the reference.
    pub fn with_markers(&self) -> Vec<i64> {
        let pieces: Vec<Vec<i64>> = self
            .pieces
            .iter()
            .map(|piece| piece.iter().map(|id| i64::from(*id)).collect())
            .collect();
        pieces.join(&-200)
    }
}

/// Decodes an answer while it is being written.
///
/// The texts that [`push`](Self::push) and [`finish`](Self::finish) return add up to
/// [`Tokenizer::decode`] of all ids, if the ids form whole characters.
#[derive(Default)]
pub struct TokenStream {
    /// The ids of the last returned text, which determine if a space follows, then the ids whose
    /// text is not returned yet.
    ids: Vec<u32>,
    /// Number of `ids` whose text was returned.
    told: usize,
}

impl TokenStream {
    /// Returns the text that `id` completes. Empty while a character is incomplete.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let fresh = self.fresh(tokenizer)?;
        // An incomplete character decodes as U+FFFD at the end; its other bytes may still follow.
        if fresh.is_empty() || fresh.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.ids.drain(..self.told);
        self.told = self.ids.len();
        Ok(fresh)
    }

    /// Returns the remaining text. A character that was never completed becomes U+FFFD.
    pub fn finish(self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        self.fresh(tokenizer)
    }

    fn fresh(&self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        let told = tokenizer.decode(&self.ids[..self.told])?;
        let all = tokenizer.decode(&self.ids)?;
        match all.strip_prefix(&told) {
            Some(fresh) => Ok(fresh.into()),
            // In some decoders, bytes of an invalid character also change the valid text before
            // them, which was returned already.
            None => tokenizer.decode(&self.ids[self.told..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    static LLAMA: LazyLock<Tokenizer> = LazyLock::new(|| load("llama_bos"));
    static CHATML: LazyLock<Tokenizer> = LazyLock::new(|| load("chatml_nobos_legacy"));

    fn load(name: &str) -> Tokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers");
        Tokenizer::load(&folder.join(name)).expect("a tokenizer of the golden set")
    }

    fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut stream = TokenStream::default();
        let mut texts: Vec<String> =
            ids.iter().map(|id| stream.push(tokenizer, *id).expect("decodes")).collect();
        texts.push(stream.finish(tokenizer).expect("decodes"));
        texts
    }

    #[test]
    fn bos_comes_once_at_the_front() {
        let prompt = LLAMA.encode_around_image("vi<image>deo<image>").expect("text");
        assert_eq!(prompt.pieces, [vec![1, 299, 719], vec![303, 298], vec![]]);
        assert_eq!(prompt.with_markers(), [1, 299, 719, -200, 303, 298, -200]);
        assert_eq!(prompt.text_tokens(), 5);
        let prompt = CHATML.encode_around_image("<image>").expect("text");
        assert_eq!(prompt.pieces, [Vec::<u32>::new(), Vec::new()]);
        assert_eq!(CHATML.token_to_id("<|im_end|>"), Some(769));
        assert_eq!(CHATML.vocab_size(), 770);
    }

    #[test]
    fn a_text_with_bos_gets_no_second_one() {
        let prompt = LLAMA.encode_around_image("<s>vi<image>").expect("text");
        assert_eq!(prompt.pieces[0], LLAMA.encode_around_image("vi").expect("text").pieces[0]);
        assert_eq!(prompt.pieces[0].iter().filter(|id| **id == 1).count(), 1);
    }

    #[test]
    fn a_package_may_have_another_image_token() {
        let tokenizer = load("chatml_nobos_legacy").with_image_token(Some(769));
        assert_eq!(tokenizer.image_token(), "<|im_end|>");
        let prompt = tokenizer.encode_around_image("a<|im_end|>b").expect("text");
        assert_eq!(prompt.pieces, CHATML.encode_around_image("a<image>b").expect("text").pieces);
        assert_eq!(tokenizer.special_token_in("<image>").as_deref(), Some("<image>"));
        // A token that is not in tokenizer.json is ignored.
        let tokenizer = load("chatml_nobos_legacy").with_image_token(Some(5000));
        assert_eq!(tokenizer.image_token(), IMAGE);
    }

    #[test]
    fn a_text_that_the_tokenizer_rejects_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let nested = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "post_processor": null, "decoder": null,
            "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "(a+a+)+[^a]" },
                "behavior": "Isolated", "invert": false },
            "model": { "type": "WordLevel", "vocab": { "a": 0, "?": 1 }, "unk_token": "?" },
        });
        fs::write(folder.path().join("tokenizer.json"), nested.to_string()).expect("written");
        let tokenizer = Tokenizer::load(folder.path()).expect("a tokenizer");
        assert!(tokenizer.encode_around_image("aab").is_ok());
        let refused = tokenizer.encode_around_image(&"a".repeat(60)).expect_err("given up");
        assert_eq!(refused.to_string(), "prompt cannot be tokenised: its tokenizer gave it up");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Tokenizer::load(Path::new("/nowhere")).err().expect("no such folder");
        assert!(error.to_string().starts_with("/nowhere/tokenizer.json: "), "{error}");
    }

    #[test]
    fn an_incomplete_character_at_the_end_is_not_lost() {
        let mut ids = LLAMA.encode_around_image("ok 🐱").expect("text").pieces.remove(0);
        ids.pop();
        assert_eq!(streamed(&LLAMA, &ids).concat(), LLAMA.decode(&ids).expect("decodes"));
    }

    proptest! {
        #[test]
        fn streamed_text_is_the_decoded_text(text in "([ a-zé猫🐱\n]|</s>|\\PC){0,24}") {
            for tokenizer in [&*LLAMA, &*CHATML] {
                let ids = tokenizer.encode_around_image(&text).expect("text").pieces.concat();
                let texts = streamed(tokenizer, &ids);
                let whole = tokenizer.decode(&ids).expect("decodes");
                prop_assert_eq!(texts.concat(), whole.as_str());
                if !whole.contains(char::REPLACEMENT_CHARACTER) {
                    let broken = |text: &String| text.contains(char::REPLACEMENT_CHARACTER);
                    prop_assert!(!texts.iter().any(broken));
                }
            }
        }

        /// Tests arbitrary ids, like those of an untrained model.
        #[test]
        fn streamed_pieces_are_whole_characters(ids in prop::collection::vec(0u32..800, 0..40)) {
            for tokenizer in [&*LLAMA, &*CHATML] {
                let texts = streamed(tokenizer, &ids);
                let whole = tokenizer.decode(&ids).expect("decodes");
                if !whole.contains(char::REPLACEMENT_CHARACTER) {
                    prop_assert_eq!(texts.concat(), whole);
                }
            }
        }
    }
}
