//! Proves that a server runs the model, that it sees pictures, and that it accepts a whole window.
//!
//! Servers accept fields and pictures that they then ignore. So each feature is proved by its effect.

use std::time::Duration;

use serde_json::{Value, json};

use super::chat::{
    Completion, Conversation, Part, Top, logprob_fields, response_format, short_fields,
};
use super::client::{Abilities, Client};
use super::samples::Samples;
use crate::config::Scores;
use crate::language::servers::{Problem, Proof, ServedModel, served_model};

/// Maximum time for a request of a proof about one picture. The first request of a server that has
/// just started may load the model.
const PROOF_PATIENCE: Duration = Duration::from_secs(60);

const CHECK_PATIENCE: Duration = Duration::from_secs(10);

/// Maximum number of tokens of a proof's short answers.
const ANSWER_TOKENS: usize = 32;

/// The same of an answer by a schema. Small models put white space where the schema lets them, and
/// write byte by byte.
const SCHEMA_TOKENS: usize = 128;

const COLOUR: &str = "What colour is this picture? Answer with one word.";
const IS_RED: &str = "Is this picture red? Answer only yes or no.";

/// A word that no model uses for a colour.
const UNLIKELY: &str = "zanzibar";

/// Smallest share of the expected tokens of a whole window. With fewer, frames were left out.
const LEAST_SHARE: f64 = 0.8;

impl Proof for Client {
    async fn prove(&self, address: &str) -> Result<String, Problem> {
        let abilities = self.prove_all(address).await.map_err(|problem| match problem {
            // A sample that is refused means that every request would be.
            Problem::Request(why) => Problem::Unusable(why),
            other => other,
        })?;
        let found = abilities.to_string();
        self.learn(address, abilities);
        Ok(found)
    }

    async fn check(&self, address: &str) -> Result<(), Problem> {
        self.served(address).await.map(drop)
    }
}

impl Client {
    async fn prove_all(&self, server: &str) -> Result<Abilities, Problem> {
        let context = self.served(server).await?.context();
        let without = self.ask(server, &[], COLOUR, short_fields(ANSWER_TOKENS)).await?;
        let least_tokens = self.prove_sight(server, &without).await?;
        let window_tokens = self.prove_window(server, &without, context).await?;
        let logprobs = match self.settings.scores {
            Scores::Logprobs => self.prove_logprobs(server).await?,
            Scores::Text => Ok(()),
        };
        let schemas = self.prove_schemas(server).await?;
        Ok(Abilities { least_tokens, window_tokens, logprobs, schemas })
    }

    async fn served(&self, server: &str) -> Result<ServedModel, Problem> {
        served_model(&self.http, server, &self.settings.servers.model, CHECK_PATIENCE).await
    }

    async fn ask(
        &self,
        server: &str,
        frames: &[Part],
        question: &str,
        fields: Value,
    ) -> Result<Completion, Problem> {
        let conversation = Conversation { instruction: "", frames, turns: &[], question };
        self.complete(server, &conversation, fields, PROOF_PATIENCE).await
    }

    /// Proves that the model sees. Returns the number of tokens of a picture, if the server tells.
    async fn prove_sight(
        &self,
        server: &str,
        without: &Completion,
    ) -> Result<Option<u32>, Problem> {
        const FIX: &str = "use a model that accepts images (llama-server: with --mmproj)";
        let Samples { red, blue, .. } = &self.samples;
        let mut words = Vec::new();
        let mut tokens = None;
        for picture in [red, blue] {
            let frames = std::slice::from_ref(picture);
            let answer = self.ask(server, frames, COLOUR, short_fields(ANSWER_TOKENS)).await;
            let answer = answer.map_err(|problem| match problem {
                Problem::Request(why) => Problem::Unusable(format!("{why}; {FIX}")),
                // llama-server answers so with status 500.
                Problem::Unreachable(why) if why.contains("image input is not supported") => {
                    Problem::Unusable(format!("{why}; {FIX}"))
                }
                other => other,
            })?;
            let lengths = prompt_tokens(&answer).zip(prompt_tokens(without));
            if let Some((with, without)) = lengths {
                if with <= without {
                    return Err(Problem::Unusable(format!(
                        "it reads {with} tokens with a picture and {without} without it, so it \
                         drops pictures; {FIX}"
                    )));
                }
                tokens = Some(with - without);
            }
            let word = plain_word(answer.text()?);
            if word.is_empty() {
                return Err(Problem::Unusable(format!(
                    "it answered {COLOUR:?} with no text within {ANSWER_TOKENS} tokens; if the \
                     model reasons first, switch that off (llama-server: --reasoning-budget 0)"
                )));
            }
            words.push(word);
        }
        if words[0] == words[1] {
            return Err(Problem::Unusable(format!(
                "it gives a red and a blue picture the same colour, {:?}, so it does not see them; \
                 {FIX}",
                words[0]
            )));
        }
        for (word, colour) in words.iter().zip(["red", "blue"]) {
            if !word.contains(colour) {
                tracing::warn!("language server {server}: it names the colour {colour} {word:?}");
            }
        }
        Ok(tokens)
    }

    /// Proves that the server reads the frames of a whole window, and that its context suffices for
    /// the answer. Returns the number of the frames' tokens, if the server tells.
    async fn prove_window(
        &self,
        server: &str,
        without: &Completion,
        context: Option<usize>,
    ) -> Result<Option<u32>, Problem> {
        let Samples { window, size: (width, height), count, .. } = &self.samples;
        let fields = short_fields(self.max_new_tokens);
        let what = format!("{count} frames of {width}x{height}");
        let fix = "raise the context of the server (vLLM: --max-model-len, llama-server: -c, \
                   Ollama: num_ctx) or its number of images, or lower language.max_images or \
                   buffer.jpeg_width";
        let conversation =
            Conversation { instruction: "", frames: window, turns: &[], question: COLOUR };
        let patience = PROOF_PATIENCE.max(self.settings.servers.timeout);
        let whole = self.complete(server, &conversation, fields, patience).await;
        let whole = whole.map_err(|problem| match problem {
            Problem::Request(why) => Problem::Unusable(format!(
                "language.max_images = {count}: it refuses {what} with an answer of {} tokens \
                 (generate.max_new_tokens): {why}; {fix}",
                self.max_new_tokens
            )),
            other => other,
        })?;
        let (Some(whole), Some(without)) = (prompt_tokens(&whole), prompt_tokens(without)) else {
            return Ok(None);
        };
        // llama-server accepts such a request, and ends the answer where its context ends.
        let answer = self.max_new_tokens;
        if let Some(context) = context.filter(|context| whole as usize + answer > *context) {
            return Err(Problem::Unusable(format!(
                "language.max_images = {count}: {what} and a question take {whole} tokens, and an \
                 answer up to {answer} (generate.max_new_tokens), but its context has {context}, so \
                 it would cut answers; {fix}"
            )));
        }
        let one = self.samples.first_frame();
        let one = self.ask(server, one, COLOUR, short_fields(ANSWER_TOKENS)).await?;
        let one = prompt_tokens(&one).unwrap_or(0).saturating_sub(without);
        let found = whole.saturating_sub(without);
        if f64::from(found) < LEAST_SHARE * f64::from(one) * *count as f64 {
            return Err(Problem::Unusable(format!(
                "language.max_images = {count}: it reads {what} as {found} tokens, but one frame \
                 as {one}, so it leaves frames out; {fix}"
            )));
        }
        Ok(Some(found))
    }

    /// Finds out if log probabilities come. The inner error is the reason why not.
    async fn prove_logprobs(&self, server: &str) -> Result<Result<(), String>, Problem> {
        let frames = std::slice::from_ref(&self.samples.red);
        let answer = match self.ask(server, frames, IS_RED, logprob_fields()).await {
            Err(Problem::Request(why)) => return Ok(Err(why)),
            answer => answer?,
        };
        let is_number = |top: &Top| top.logprob.is_some_and(f64::is_finite);
        Ok(match answer.first_tokens()? {
            [] => Err("it accepts top_logprobs and sends none".into()),
            tokens if !tokens.iter().any(is_number) => Err("they are not numbers".into()),
            _ => Ok(()),
        })
    }

    /// Finds out if answers follow a schema. The inner error is the reason why not.
    async fn prove_schemas(&self, server: &str) -> Result<Result<(), String>, Problem> {
        let schema = json!({
            "type": "object",
            "properties": { "colour": { "type": "string", "enum": [UNLIKELY] } },
            "required": ["colour"],
            "additionalProperties": false,
        });
        let mut fields = short_fields(SCHEMA_TOKENS);
        fields["response_format"] = response_format(&schema);
        let frames = std::slice::from_ref(&self.samples.red);
        let answer = match self.ask(server, frames, COLOUR, fields).await {
            Err(Problem::Request(why)) => return Ok(Err(why)),
            answer => answer?,
        };
        let text = answer.text()?;
        if follows(text) {
            return Ok(Ok(()));
        }
        let excerpt: String = text.chars().take(40).collect();
        Ok(Err(format!("it accepts response_format and answers {excerpt:?}")))
    }
}

fn prompt_tokens(completion: &Completion) -> Option<u32> {
    completion.usage.map(|usage| usage.prompt_tokens).filter(|tokens| *tokens > 0)
}

/// Returns true if a text follows the proof's schema up to the word. A small model may write white
/// space after it until the end.
fn follows(text: &str) -> bool {
    let compact: String = text.split_whitespace().collect();
    compact.starts_with(&format!("{{\"colour\":\"{UNLIKELY}\""))
}

/// Returns an answer in lower case, without signs around it.
fn plain_word(answer: &str) -> String {
    answer.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_binds_if_its_word_comes() {
        for good in ["{\"colour\": \"zanzibar\"}", "{\n\n\"colour\"\n\n:\"zanzibar\"\n\r\n\n"] {
            assert!(follows(good), "{good}");
        }
        for bad in ["", "Red.", "{\"colour\": \"red\"}", "zanzibar", "{\n\n\n"] {
            assert!(!follows(bad), "{bad}");
        }
    }
}
