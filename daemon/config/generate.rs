//! The `[generate]` table: the texts that the model generates, and how many at a time.

use serde::Deserialize;

use super::rules::{in_range, invalid};
use super::{Bytes, ConfigError};

#[derive(Clone, Debug, PartialEq)]
pub struct Generate {
    pub max_new_tokens: usize,
    pub sampling: Sampling,
    pub summary: Summary,
    /// Maximum number of questions that wait for the model. Further ones are refused.
    pub max_waiting_questions: usize,
    /// Maximum size of a question's text, in bytes.
    pub question_bytes: usize,
    /// Maximum number of answers and captions that are generated together.
    pub max_concurrent_sequences: usize,
    /// Size of the cache for the common start of a window's prompts.
    pub prefix_cache_bytes: Bytes,
}

/// The way to combine the answers about the parts of a long range when no rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Summary {
    Model,
    /// The answers are listed one after the other.
    List,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    Greedy,
    /// Samples at a temperature > 0 from the smallest set of tokens whose probability reaches
    /// `top_p`.
    Nucleus {
        temperature: f32,
        top_p: f32,
        seed: u64,
    },
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateTable {
    max_new_tokens: usize,
    temperature: f32,
    top_p: f32,
    seed: u64,
    pub answer_prefix: String,
    summary: Summary,
    max_waiting_questions: usize,
    question_bytes: Bytes,
    max_concurrent_sequences: usize,
    prefix_cache_bytes: Bytes,
}

impl Default for GenerateTable {
    fn default() -> GenerateTable {
        GenerateTable {
            max_new_tokens: 128,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            answer_prefix: String::new(),
            summary: Summary::Model,
            max_waiting_questions: 16,
            question_bytes: Bytes::kib(8),
            max_concurrent_sequences: 4,
            prefix_cache_bytes: Bytes::gib(1),
        }
    }
}

impl GenerateTable {
    pub fn check(self) -> Result<Generate, ConfigError> {
        let temperature = in_range("generate.temperature", self.temperature, 0.0..=5.0)?;
        let top_p = in_range("generate.top_p", self.top_p, 0.01..=1.0)?;
        let sampling = if temperature == 0.0 {
            Sampling::Greedy
        } else {
            Sampling::Nucleus { temperature, top_p, seed: self.seed }
        };
        let bytes = self.question_bytes;
        if !(Bytes::b(1)..=Bytes::kib(64)).contains(&bytes) {
            let found = format!("\"{bytes}\"");
            return Err(invalid("generate.question_bytes", found, "\"1 B\" to \"64 KiB\""));
        }
        let number = |key: &str, value, most| in_range(key, value, 1..=most);
        Ok(Generate {
            max_new_tokens: number("generate.max_new_tokens", self.max_new_tokens, 4096)?,
            sampling,
            summary: self.summary,
            max_waiting_questions: number(
                "generate.max_waiting_questions",
                self.max_waiting_questions,
                1024,
            )?,
            question_bytes: bytes.as_u64() as usize,
            max_concurrent_sequences: number(
                "generate.max_concurrent_sequences",
                self.max_concurrent_sequences,
                64,
            )?,
            prefix_cache_bytes: self.prefix_cache_bytes,
        })
    }
}
