//! Measures the cost of a JSON Schema: preparing a vocabulary, compiling, finding the allowed tokens,
//! and the whole cost per generated token compared with an answer without a schema.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::bail;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::{Bench, median};
use crate::bench::window;
use crate::config::Sampling;
use crate::inspection::resident_bytes;
use crate::language::tokenizer::Tokenizer;
use crate::language::{Sampler, SchemaCompiler};

/// A text by this schema never ends within the tokens of an answer.
const SCHEMA: &str = r#"{
    "type": "array", "minItems": 1000, "items": {
        "type": "object", "additionalProperties": false,
        "required": ["colour", "count", "direction", "moves"],
        "properties": {
            "colour": { "enum": ["red", "blue", "green", "yellow", "white"] },
            "count": { "type": "integer", "minimum": 0, "maximum": 20 },
            "direction": { "type": "string", "maxLength": 12 },
            "moves": { "type": "boolean" }
        }
    }
}"#;

/// Number of tokens in each text of random allowed tokens.
const STEPS: usize = 200;

#[derive(Serialize)]
pub struct Costs {
    /// Number of tokens of the vocabulary.
    pub vocabulary: usize,
    pub prepare_seconds: f64,
    /// Resident memory that the prepared vocabulary adds.
    pub prepared_bytes: u64,
    pub compile_seconds: f64,
    /// Time of finding the allowed tokens once: the median and the longest.
    pub allowed_seconds: f64,
    pub longest_allowed_seconds: f64,
    /// CPU time per token of answers with and without the schema, if a model was run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
}

#[derive(Serialize)]
pub struct Answers {
    pub plain_seconds_per_token: f64,
    pub schema_seconds_per_token: f64,
    /// Ratio of both in neighbouring answers.
    pub ratio: f64,
}

/// Measures a vocabulary without a model, and its compiler with it.
pub fn vocabulary(folder: &Path, rounds: usize) -> anyhow::Result<Costs> {
    let tokenizer = Arc::new(Tokenizer::load(folder)?);
    let vocabulary = tokenizer.vocab_size();
    let memory = || resident_bytes().unwrap_or(0);
    let (memory_before, begun) = (memory(), Instant::now());
    let compiler = SchemaCompiler::new(tokenizer, &[], vocabulary);
    compiler.prepare()?;
    let prepare_seconds = begun.elapsed().as_secs_f64();
    let prepared_bytes = memory().saturating_sub(memory_before);
    let mut random = StdRng::seed_from_u64(1);
    let (mut compile, mut allowed_seconds) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begun = Instant::now();
        let schema = compiler.compile(SCHEMA)?;
        compile.push(begun.elapsed().as_secs_f64());
        let mut constraint = schema.constraint();
        let mut sampler = Sampler::new(Sampling::Greedy);
        for _ in 0..STEPS {
            let begun = Instant::now();
            let allowed = constraint.allowed()?;
            allowed_seconds.push(begun.elapsed().as_secs_f64());
            let logits: Vec<f32> = (0..vocabulary).map(|_| random.random()).collect();
            let Some(id) = sampler.next_allowed(&logits, allowed) else {
                bail!("{}: no token is allowed", folder.display());
            };
            constraint.push(id)?;
        }
    }
    Ok(Costs {
        vocabulary,
        prepare_seconds,
        prepared_bytes,
        compile_seconds: median(compile),
        longest_allowed_seconds: allowed_seconds.iter().copied().fold(0.0, f64::max),
        allowed_seconds: median(allowed_seconds),
        answers: None,
    })
}

impl Bench {
    /// Measures the vocabulary of the package, then answers with and without the schema in turn.
    pub(super) fn schema(&mut self, rounds: usize) -> anyhow::Result<Costs> {
        let clock = self.clock;
        let mut costs = vocabulary(&self.package.folder, rounds)?;
        let schema = self.language.schemas().compile(SCHEMA)?;
        let window = self.window();
        let (mut plain, mut by_schema, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=rounds {
            let mut seconds_per_token = |schema| {
                let request = window.request_by(0, self.tokens, schema);
                let answered = window::ask(&mut self.language, request, |_| clock())?;
                anyhow::Ok(answered.written.as_secs_f64() / answered.reply.ids.len() as f64)
            };
            let (without, with) = (seconds_per_token(None)?, seconds_per_token(Some(&schema))?);
            // The first round fills the prefix cache and the parser's own.
            if round > 0 {
                plain.push(without);
                by_schema.push(with);
                ratios.push(with / without);
            }
        }
        costs.answers = Some(Answers {
            plain_seconds_per_token: median(plain),
            schema_seconds_per_token: median(by_schema),
            ratio: median(ratios),
        });
        Ok(costs)
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "schema    vocabulary of {} tokens prepared in {:.3} s, {}; a schema compiled in {:.2} ms; \
             allowed tokens found in {:.1} µs, at most {:.1}",
            self.vocabulary,
            self.prepare_seconds,
            bytesize::ByteSize(self.prepared_bytes),
            self.compile_seconds * 1e3,
            self.allowed_seconds * 1e6,
            self.longest_allowed_seconds * 1e6
        )?;
        let Some(answers) = &self.answers else { return Ok(()) };
        writeln!(
            f,
            "          a token without a schema {:.3} ms, with it {:.3} ms: {:.3} times",
            answers.plain_seconds_per_token * 1e3,
            answers.schema_seconds_per_token * 1e3,
            answers.ratio
        )
    }
}
