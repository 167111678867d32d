//! Constrains an answer to a JSON Schema: compiles the schema to a grammar, and determines which
//! tokens may come next.
//!
//! Guarantees:
//! - The tokens of a text that is complete form JSON that validates against the schema. Objects have
//!   their properties in the order of the schema, and the text has spaces only after `,` and `:`,
//!   unless the compiler was made for any white space.
//! - Compiling a schema and finding the next tokens are limited in time and memory. A schema that
//!   exceeds a limit, or has a keyword that is not enforced, is an error.
//!
//! The grammar and its parser are those of the crate `llguidance`.

mod numbers;

use std::sync::{Arc, Mutex, OnceLock};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory, TokenParser};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::tokenizer::Tokenizer;
use crate::sync;

/// Maximum number of characters of an error's reason.
const REASON_MOST: usize = 300;

/// The key under which a schema may contain settings of `llguidance`.
const SETTINGS: &str = "x-guidance";

/// Compiles schemas for the vocabulary of one model, or for bytes.
pub struct SchemaCompiler {
    vocabulary: Vocabulary,
    /// True if white space may stand wherever JSON allows it.
    any_whitespace: bool,
    /// The prepared vocabulary, from the first schema on.
    factory: OnceLock<Result<ParserFactory, SchemaError>>,
}

/// The tokens of the texts.
enum Vocabulary {
    Model {
        tokenizer: Arc<Tokenizer>,
        end_tokens: Vec<u32>,
        /// Number of logits.
        size: usize,
    },
    /// The 256 bytes, for texts that come without their tokens.
    Bytes,
}

/// A compiled schema.
pub struct Schema {
    /// A parser that has read nothing.
    parser: Mutex<TokenParser>,
    text: Arc<str>,
    sha256: String,
}

/// The schema of one text, with the position up to which the text has been generated.
pub struct Constraint {
    matcher: Matcher,
    allowed: Vec<u32>,
}

/// The reason why a schema cannot be used, or why a text cannot be continued by it. The client must
/// fix the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SchemaError(pub String);

impl SchemaCompiler {
    /// Creates a compiler for a model with this number of logits.
    pub fn new(tokenizer: Arc<Tokenizer>, end_tokens: &[u32], vocabulary: usize) -> SchemaCompiler {
        let end_tokens = end_tokens.to_vec();
        let vocabulary = Vocabulary::Model { tokenizer, end_tokens, size: vocabulary };
        SchemaCompiler { vocabulary, any_whitespace: false, factory: OnceLock::new() }
    }

    /// Creates a compiler for texts that another engine writes, whose tokens are not known.
    pub fn of_bytes() -> SchemaCompiler {
        let vocabulary = Vocabulary::Bytes;
        SchemaCompiler { vocabulary, any_whitespace: true, factory: OnceLock::new() }
    }

    /// Allows white space wherever JSON does, for texts that another engine writes.
    pub fn with_any_whitespace(self) -> SchemaCompiler {
        SchemaCompiler { any_whitespace: true, ..self }
    }

    /// Prepares the vocabulary, if that has not been done. The time and the memory grow with its
    /// size, so a daemon does it only when a schema comes.
    pub fn prepare(&self) -> Result<(), SchemaError> {
        self.factory().map(drop)
    }

    fn factory(&self) -> Result<&ParserFactory, SchemaError> {
        self.factory.get_or_init(|| self.prepared()).as_ref().map_err(SchemaError::clone)
    }

    fn prepared(&self) -> Result<ParserFactory, SchemaError> {
        let unusable = |why: &dyn std::fmt::Display| {
            SchemaError(format!("this model cannot answer by a schema: {why}"))
        };
        let tokens = match &self.vocabulary {
            Vocabulary::Bytes => ApproximateTokEnv::single_byte_env(),
            Vocabulary::Model { tokenizer, end_tokens, size } => {
                let mut bytes = tokenizer.token_bytes().map_err(|why| unusable(&why))?;
                bytes.resize(*size, Vec::new());
                let end = end_tokens.first().copied().unwrap_or(INVALID_TOKEN);
                let mut trie = TokTrie::from(&TokRxInfo::new(*size as u32, end), &bytes);
                if !end_tokens.is_empty() {
                    trie = trie.with_eos_tokens(end_tokens);
                }
                // Tokens are never forced, so nothing is tokenized: the model picks among all
                // tokens that spell what the grammar wants.
                Arc::new(ApproximateTokEnv::new(trie)) as _
            }
        };
        let slices = SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&tokens, Default::default(), &slices)
            .map_err(|error| unusable(&error))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(factory)
    }

    /// Compiles a schema. Takes milliseconds, up to a fraction of a second for a large one, and
    /// longer for the first one.
    pub fn compile(&self, text: &str) -> Result<Schema, SchemaError> {
        let refused = |why: String| SchemaError(format!("schema {}", first_line(&why)));
        let mut schema: Value =
            serde_json::from_str(text).map_err(|error| refused(format!("is not JSON: {error}")))?;
        let Some(keywords) = schema.as_object_mut() else {
            return Err(refused("is not a JSON object".into()));
        };
        if keywords.contains_key(SETTINGS) {
            return Err(refused(format!("has the unknown keyword {SETTINGS:?}")));
        }
        numbers::check(&schema).map_err(refused)?;
        let layout = if self.any_whitespace {
            JsonCompileOptions::default()
        } else {
            JsonCompileOptions {
                item_separator: ", ".into(),
                key_separator: ": ".into(),
                whitespace_flexible: false,
                ..JsonCompileOptions::default()
            }
        };
        layout.apply_to(&mut schema);
        let grammar = TopLevelGrammar::from_json_schema(schema);
        let parser = self
            .factory()?
            .create_parser(grammar)
            .map_err(|error| refused(format!("cannot be used: {error}")))?;
        let sha256 = format!("{:x}", Sha256::digest(text));
        Ok(Schema { parser: Mutex::new(parser), text: text.into(), sha256 })
    }
}

impl Schema {
    /// Returns the schema's text, as the client wrote it.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Returns the SHA-256 of the schema's text, in hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Begins a text.
    pub fn constraint(&self) -> Constraint {
        let parser = sync::lock(&self.parser).deep_clone();
        Constraint { matcher: Matcher::new(Ok(parser)), allowed: Vec::new() }
    }
}

impl Constraint {
    /// Returns the set of tokens that may come next: bit `id % 32` of word `id / 32`. It contains
    /// the end tokens if the text may end here.
    pub fn allowed(&mut self) -> Result<&[u32], SchemaError> {
        let allowed = self.matcher.compute_mask().map_err(|error| self.failed(&error))?;
        self.allowed.clear();
        self.allowed.extend_from_slice(allowed.as_slice());
        Ok(&self.allowed)
    }

    /// Appends a token to the text.
    pub fn push(&mut self, id: u32) -> Result<(), SchemaError> {
        self.matcher.consume_token(id).map_err(|error| self.failed(&error))
    }

    /// Appends a text whose tokens are bytes. White space may follow a text that is complete.
    pub fn push_text(&mut self, text: &str) -> Result<(), SchemaError> {
        for byte in text.bytes() {
            if self.is_complete() && byte.is_ascii_whitespace() {
                continue;
            }
            self.push(byte.into())?;
        }
        Ok(())
    }

    /// Returns true if the text may end here.
    pub fn can_end(&mut self) -> bool {
        self.is_complete() || self.matcher.is_accepting().unwrap_or(false)
    }

    /// Returns true if nothing can follow the text.
    pub fn is_complete(&self) -> bool {
        self.matcher.stop_reason().is_ok() && self.matcher.is_stopped()
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> SchemaError {
        SchemaError(format!(
            "schema is too costly, or needs characters that the model has no tokens for: {}",
            first_line(&error.to_string())
        ))
    }
}

/// Returns the limits of the parser. A step is one token.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 500,
        step_lexer_fuel: 50_000,
        step_max_items: 20_000,
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// Returns the first line of an error, and not more than [`REASON_MOST`] characters of it.
fn first_line(why: &str) -> String {
    why.lines().next().unwrap_or_default().chars().take(REASON_MOST).collect()
}

#[cfg(test)]
mod tests;
