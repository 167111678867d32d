//! The requests and responses of vLLM's `POST /v1/completions`.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::tensor_file::tensor_file;
use crate::config::Sampling;
use crate::language::servers::Problem;
use crate::language::{Failure, Limits, Urgency};

/// The rows of a prompt, as a request contains them.
pub struct Rows {
    base64: String,
    /// Number of rows.
    pub count: usize,
}

impl Rows {
    /// Encodes rows of `width` numbers. Refuses numbers that are not finite, to which vLLM would
    /// answer with an empty text.
    pub fn encode(rows: &[f32], width: usize) -> Result<Rows, Failure> {
        let file = tensor_file(rows, width).ok_or_else(|| {
            Failure::Run("the prompt's embeddings are not finite in 16 bits: not sent".into())
        })?;
        Ok(Rows { base64: BASE64_STANDARD.encode(file), count: rows.len() / width })
    }
}

/// The prompt of a request.
pub enum Prompt<'a> {
    Ids(&'a [u32]),
    Rows(&'a Rows),
}

/// Returns the body of a request for a prompt, with further fields.
pub fn body(model: &str, prompt: Prompt<'_>, fields: Value) -> Bytes {
    let mut whole = json!({ "model": model });
    if let (Value::Object(whole), Value::Object(fields)) = (&mut whole, fields) {
        whole.extend(fields);
        if let Prompt::Ids(ids) = prompt {
            whole.insert("prompt".into(), json!(ids));
        }
    }
    let mut text = whole.to_string();
    if let Prompt::Rows(rows) = prompt {
        // Base64 needs no escapes, and may be long: it is copied as it is.
        text.pop();
        text.push_str(",\"prompt_embeds\":\"");
        text.push_str(&rows.base64);
        text.push_str("\"}");
    }
    text.into()
}

/// Returns the fields of a request for a text.
pub fn text_fields(
    limits: Limits,
    end_tokens: &[u32],
    schema: Option<&str>,
    urgency: Urgency,
) -> Value {
    let mut fields = json!({
        "max_tokens": limits.max_new_tokens,
        "stop_token_ids": end_tokens,
        "stream": true,
        // Usage in each event, so that no text is passed on before the prompt's length is known.
        "stream_options": { "include_usage": true, "continuous_usage_stats": true },
        "return_token_ids": true,
        // The log probability of each token shows whether the model's results are finite.
        "logprobs": 0,
        "priority": priority(urgency),
    });
    let (temperature, top_p, seed) = match limits.sampling {
        Sampling::Greedy => (0.0, 1.0, 0),
        Sampling::Nucleus { temperature, top_p, seed } => (temperature, top_p, seed as i64),
    };
    fields["temperature"] = json!(temperature);
    fields["top_p"] = json!(top_p);
    fields["seed"] = json!(seed);
    if let Some(schema) = schema.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        fields["structured_outputs"] = json!({ "json": schema });
    }
    fields
}

/// Returns the fields of a request for the log probabilities of some tokens at the prompt's end.
pub fn score_fields(tokens: &[u32], urgency: Urgency) -> Value {
    json!({
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 0,
        "logprob_token_ids": tokens,
        "return_tokens_as_token_ids": true,
        "priority": priority(urgency),
    })
}

/// Returns vLLM's priority: a request with a lower one comes first.
fn priority(urgency: Urgency) -> u8 {
    match urgency {
        Urgency::Now => 0,
        Urgency::Later => 1,
        Urgency::Background => 2,
    }
}

/// A response, or an event of a stream.
#[derive(Debug, Deserialize)]
pub struct Completion {
    #[serde(default)]
    pub choices: Vec<Choice>,
    pub usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
pub struct Choice {
    pub token_ids: Option<Vec<u32>>,
    pub logprobs: Option<Logprobs>,
    pub finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Logprobs {
    /// The log probability of each new token, or null if it is not a number.
    pub token_logprobs: Vec<Option<f64>>,
    #[serde(default)]
    pub top_logprobs: Vec<Option<HashMap<String, Option<f64>>>>,
}

#[derive(Debug, Deserialize)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Deserialize)]
pub struct PromptDetails {
    pub cached_tokens: Option<u32>,
}

impl Usage {
    /// Returns the number of the prompt's tokens that were in the server's cache, or 0 if the server
    /// does not tell.
    pub fn cached_tokens(&self) -> u32 {
        self.prompt_tokens_details.as_ref().and_then(|details| details.cached_tokens).unwrap_or(0)
    }

    /// Checks that the server has read all rows and nothing else.
    pub fn check(&self, sent: usize) -> Result<(), Problem> {
        if self.prompt_tokens == sent {
            return Ok(());
        }
        let found = self.prompt_tokens;
        Err(Problem::Unusable(format!(
            "it read a prompt of {found} tokens, but {sent} rows were sent, so its answer is about \
             something else; start vLLM with --enable-prompt-embeds"
        )))
    }
}

impl Choice {
    /// Returns the new tokens. Refuses results that are not finite.
    pub fn tokens(&self) -> Result<&[u32], Problem> {
        let Some(ids) = &self.token_ids else {
            let why = "it sends no token ids: vLLM 0.21 or newer is needed";
            return Err(Problem::Unusable(why.into()));
        };
        let logprobs = self.logprobs.as_ref().map_or(&[][..], |found| &found.token_logprobs);
        if logprobs.len() < ids.len() {
            let why = "it sends no log probabilities, by which its results are checked";
            return Err(Problem::Unusable(why.into()));
        }
        if logprobs.iter().any(|value| !value.is_some_and(f64::is_finite)) {
            return Err(not_finite());
        }
        Ok(ids)
    }

    /// Returns the log probabilities at the end of the prompt, by token.
    pub fn first_logprobs(&self) -> Result<HashMap<u32, f64>, Problem> {
        let first = self.logprobs.as_ref().and_then(|found| found.top_logprobs.first());
        let Some(Some(first)) = first else {
            return Err(Problem::Unusable("it sends no log probabilities".into()));
        };
        let pair = |(name, value): (&String, &Option<f64>)| {
            let id = name.strip_prefix("token_id:").and_then(|id| id.parse().ok());
            let id = id.ok_or_else(|| {
                Problem::Unusable(format!("it names a token {name:?} in place of its id"))
            })?;
            Ok((id, value.filter(|value| value.is_finite()).ok_or_else(not_finite)?))
        };
        first.iter().map(pair).collect()
    }
}

impl Completion {
    /// Returns the only choice of a whole response, whose prompt had `sent` tokens.
    pub fn only_choice(&self, sent: usize) -> Result<(&Choice, &Usage), Problem> {
        let (Some(usage), [choice]) = (&self.usage, &self.choices[..]) else {
            return Err(Problem::Unusable("its response has no usage, or not one choice".into()));
        };
        usage.check(sent)?;
        Ok((choice, usage))
    }
}

fn not_finite() -> Problem {
    Problem::Unreachable("its results are not finite (NaN)".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_with_one_kind_of_prompt() {
        let rows = Rows::encode(&[1.0, 2.0, 3.0, 4.0], 2).expect("finite");
        let of = |prompt| -> Value {
            serde_json::from_slice(&body("m", prompt, json!({ "max_tokens": 1 }))).expect("JSON")
        };
        let with_rows = of(Prompt::Rows(&rows));
        assert_eq!(with_rows["prompt_embeds"], rows.base64);
        assert_eq!((with_rows.get("prompt"), &with_rows["max_tokens"]), (None, &json!(1)));
        let with_ids = of(Prompt::Ids(&[7, 8]));
        assert_eq!(with_ids["prompt"], json!([7, 8]));
        assert_eq!(with_ids.get("prompt_embeds"), None);
    }

    #[test]
    fn rows_that_are_not_finite_are_not_sent() {
        let error = Rows::encode(&[1.0, f32::NAN], 2).err().expect("an error");
        assert!(error.to_string().contains("not finite"), "{error}");
    }

    #[test]
    fn tokens_need_a_finite_probability() {
        let choice = |text: &str| serde_json::from_str::<Choice>(text).expect("a choice");
        let good = choice(r#"{"token_ids":[3],"logprobs":{"token_logprobs":[-0.5]}}"#);
        assert_eq!(good.tokens(), Ok(&[3][..]));
        for (text, wanted) in [
            (r#"{"token_ids":[3],"logprobs":{"token_logprobs":[null]}}"#, "not finite"),
            (r#"{"token_ids":[3],"logprobs":null}"#, "no log probabilities"),
            (r#"{"logprobs":{"token_logprobs":[-0.5]}}"#, "no token ids"),
        ] {
            let error = choice(text).tokens().expect_err(wanted).to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn a_wrong_number_of_prompt_tokens_is_refused() {
        let usage = |text| serde_json::from_str::<Usage>(text).expect("usage");
        let whole = usage(r#"{"prompt_tokens":203,"prompt_tokens_details":{"cached_tokens":128}}"#);
        assert_eq!((whole.check(203), whole.cached_tokens()), (Ok(()), 128));
        let other = usage(r#"{"prompt_tokens":11,"prompt_tokens_details":null}"#);
        let error = other.check(203).expect_err("another length").to_string();
        assert!(error.contains("11 tokens") && error.contains("203 rows"), "{error}");
    }
}
