//! Makes prompts of questions, and checks that they fit. It needs the tokenizer and the template, not
//! the graphs, so that prompts can be checked on any thread while the model runs.

use std::sync::Arc;

use super::template::{ChatTemplate, Turn};
use super::tokenizer::{Prompt, Tokenizer};
use super::yes_no::YesNo;
use super::{CheckPrompts, LanguageError, Limits};
use crate::config::Wording;
use crate::model::{ModelError, Package};

pub struct Prompts {
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    /// The words of scored answers, or the reason why the model cannot score any.
    yes_no: Result<Arc<YesNo>, String>,
    /// Maximum number of tokens of a sequence: video, text and answer.
    capacity: usize,
}

impl Prompts {
    /// Loads the tokenizer and the template of a package, for sequences of at most `capacity`
    /// tokens.
    pub(super) fn load(
        package: &Package,
        wording: &Wording,
        capacity: usize,
    ) -> Result<Prompts, ModelError> {
        let tokenizer = Tokenizer::load(&package.folder).map_err(|e| ModelError(e.to_string()))?;
        if tokenizer.vocab_size() > package.text.vocab_size {
            return Err(ModelError(format!(
                "{}: {} tokens, but config.json's vocab_size is {}: of another model?",
                package.folder.join("tokenizer.json").display(),
                tokenizer.vocab_size(),
                package.text.vocab_size
            )));
        }
        let (family, text) = (package.family, package.text.kind);
        let template = ChatTemplate::of(&package.folder, family, text, &tokenizer, wording)?;
        let yes_no = YesNo::of(&tokenizer).map(Arc::new);
        Ok(Prompts { yes_no, tokenizer: Arc::new(tokenizer), template, capacity })
    }

    pub(super) fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    pub(super) fn words(&self) -> Result<Arc<YesNo>, LanguageError> {
        self.yes_no.clone().map_err(LanguageError::BadPrompt)
    }

    /// Builds the prompt of a question with as many of the latest earlier turns as fit. Returns the
    /// number of these turns as well.
    pub(super) fn fitting_prompt(
        &self,
        turns: &[Turn],
        question: &str,
        video_tokens: usize,
        limits: Limits,
        has_schema: bool,
    ) -> Result<(Prompt, usize), LanguageError> {
        let prompt = |turns: &[Turn]| {
            // A text by a schema cannot continue the answer prefix.
            let start = if has_schema { "" } else { self.template.answer_prefix() };
            let prompt = self.prompt_with_start(turns, question, start)?;
            self.check_length(prompt.text_tokens() + video_tokens, limits.max_new_tokens)?;
            Ok((prompt, turns.len()))
        };
        let mut latest = (0..turns.len()).map(|from| &turns[from..]);
        latest.find_map(|turns| prompt(turns).ok()).map_or_else(|| prompt(&[]), Ok)
    }

    /// Renders and tokenizes a question and the earlier turns with the template. Refuses text that
    /// contains a special token.
    pub fn prompt(&self, turns: &[Turn], question: &str) -> Result<Prompt, LanguageError> {
        self.prompt_with_start(turns, question, self.template.answer_prefix())
    }

    /// Does the same with `start` as the start of the answer.
    fn prompt_with_start(
        &self,
        turns: &[Turn],
        question: &str,
        start: &str,
    ) -> Result<Prompt, LanguageError> {
        let earlier = turns.iter().flat_map(|turn| {
            [("an earlier question", &*turn.question), ("an earlier answer", &*turn.answer)]
        });
        for (what, text) in earlier.chain([("a question", question)]) {
            if let Some(token) = self.tokenizer.special_token_in(text) {
                return Err(LanguageError::BadPrompt(format!(
                    "{what} must not contain the model's special token {token:?}"
                )));
            }
        }
        let text = self
            .template
            .render_with_start(turns, question, start)
            .map_err(|e| LanguageError::BadPrompt(e.to_string()))?;
        // The text comes from the asker, so any tokenizer error is an error of the prompt.
        self.tokenizer
            .encode_around_image(&text)
            .map_err(|e| LanguageError::BadPrompt(e.to_string()))
    }

    /// Checks that a prompt of `tokens` tokens and an answer of `new` tokens fit in a sequence.
    pub(super) fn check_length(&self, tokens: usize, new: usize) -> Result<(), LanguageError> {
        let capacity = self.capacity;
        if tokens + new <= capacity {
            return Ok(());
        }
        Err(LanguageError::BadPrompt(format!(
            "the prompt is too long: video and question take {tokens} tokens and the answer may \
             take {new}, but the model has room for {capacity}; ask a shorter question"
        )))
    }
}

impl CheckPrompts for Prompts {
    fn check(
        &self,
        prompt: &str,
        video_tokens: usize,
        limits: Limits,
    ) -> Result<(), LanguageError> {
        let prompt = self.prompt(&[], prompt)?;
        self.check_length(prompt.text_tokens() + video_tokens, limits.max_new_tokens)
    }

    fn check_scored(&self, question: &str, video_tokens: usize) -> Result<(), LanguageError> {
        self.words()?;
        let prompt = self.prompt(&[], question)?;
        self.check_length(prompt.text_tokens() + video_tokens, 0)
    }

    fn check_schemas(&self) -> Result<(), LanguageError> {
        // The tokenizer decides, which the compiler of schemas checks.
        Ok(())
    }
}
