//! The text that a sequence generates after its prompt.

use super::schema::{Constraint, Schema};
use super::tokenizer::{TokenStream, Tokenizer, TokenizerError};
use super::{Failure, Limits, Sampler};

pub struct Generation {
    limits: Limits,
    sampler: Sampler,
    /// The schema that the text must follow.
    constraint: Option<Constraint>,
    written: GrowingText,
}

/// A text that grows by tokens.
#[derive(Default)]
pub struct GrowingText {
    stream: TokenStream,
    text: String,
    ids: Vec<u32>,
}

/// A generated token.
pub enum Token {
    /// The text that it adds, which may be empty.
    Text(String),
    End,
}

/// A text that is complete.
pub struct Generated {
    pub text: String,
    /// The end of the text, which was not returned yet.
    pub rest: String,
    pub ids: Vec<u32>,
}

impl Generation {
    pub fn new(limits: Limits, schema: Option<&Schema>) -> Generation {
        Generation {
            limits,
            sampler: Sampler::new(limits.sampling),
            constraint: schema.map(Schema::constraint),
            written: GrowingText::default(),
        }
    }

    pub fn last_id(&self) -> Option<u32> {
        self.written.ids().last().copied()
    }

    /// Samples the next token.
    pub fn push(
        &mut self,
        logits: &[f32],
        tokenizer: &Tokenizer,
        end_tokens: &[u32],
    ) -> Result<Token, Failure> {
        let id = match &mut self.constraint {
            Some(constraint) => self.sampler.next_allowed(logits, constraint.allowed()?),
            None => self.sampler.next(logits),
        };
        let id = id.ok_or(Failure::NotFinite)?;
        if end_tokens.contains(&id) {
            return Ok(Token::End);
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.push(id)?;
        }
        Ok(Token::Text(self.written.push(id, tokenizer)?))
    }

    pub fn max_new_tokens(&self) -> usize {
        self.limits.max_new_tokens
    }

    /// Returns true if nothing can follow by the schema.
    pub fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(Constraint::is_complete)
    }

    /// Returns true if no more tokens are allowed.
    pub fn is_full(&self) -> bool {
        self.written.ids().len() >= self.limits.max_new_tokens
    }

    /// Ends the text.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<Generated, Failure> {
        Ok(std::mem::take(&mut self.written).finish(tokenizer)?)
    }
}

impl GrowingText {
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Appends a token. Returns the text that it completes, which may be empty.
    pub fn push(&mut self, id: u32, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let mut text = self.stream.push(tokenizer, id)?;
        if self.text.is_empty() {
            // Tokenizers put a space before the first word, which is not part of the answer.
            text = text.trim_start().to_string();
        }
        self.text.push_str(&text);
        Ok(text)
    }

    /// Ends the text.
    pub fn finish(self, tokenizer: &Tokenizer) -> Result<Generated, TokenizerError> {
        let rest = self.stream.finish(tokenizer)?;
        let text = (self.text + &rest).trim_end().to_string();
        Ok(Generated { text, rest, ids: self.ids })
    }
}
