//! Proves that a server runs the right model, and asks it for log probabilities.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::completions::{Completion, Prompt, Rows, body, score_fields};
use crate::config;
use crate::language::servers::{Attempts, Http, Problem, Proof, Servers, served_model};
use crate::language::tokenizer::Tokenizer;
use crate::language::yes_no::YesNo;
use crate::language::{Failure, Urgency};

/// Maximum time for a request of a proof. The first request of a vLLM that has just started takes
/// many seconds.
const PROOF_PATIENCE: Duration = Duration::from_secs(60);

const CHECK_PATIENCE: Duration = Duration::from_secs(10);

/// Number of likely tokens that are compared, and how many of them must be the same ones.
const COMPARED: usize = 5;
const LEAST_COMMON: usize = 3;

/// Maximum difference of a log probability between a prompt of token ids and one of our rows. It
/// allows for tables in 8 bits. Rows of another table differ by more at once.
const TOLERANCE: f64 = 0.5;

/// The servers of a model, and all that is needed to ask them.
pub struct Client {
    pub http: Http,
    pub servers: Servers,
    pub settings: config::Servers,
    pub tokenizer: Arc<Tokenizer>,
    pub end_tokens: Vec<u32>,
    pub sample: Sample,
    /// Maximum number of tokens of a sequence, which the servers must accept.
    pub capacity: usize,
}

/// A prompt of words only, as token ids and as rows of the package's table.
pub struct Sample {
    pub ids: Vec<u32>,
    pub rows: Rows,
    /// The tokens of yes and no, if the model can score questions.
    pub words: Option<Arc<YesNo>>,
}

impl Client {
    pub fn url(&self, server: &str) -> String {
        format!("{server}/v1/completions")
    }

    /// Makes attempts on the servers that are ready, one after the other, within `language.timeout`.
    pub async fn first_result<A: Attempts>(
        &self,
        key: u64,
        work: &mut A,
    ) -> Result<A::Result, Failure> {
        self.servers.first_result(key, self.settings.timeout, work).await
    }

    /// Asks for the log probabilities of tokens at the end of a prompt.
    pub async fn logprobs(
        &self,
        server: &str,
        rows: &Rows,
        tokens: &[u32],
        urgency: Urgency,
        patience: Duration,
    ) -> Result<(HashMap<u32, f64>, u32), Problem> {
        let fields = score_fields(tokens, urgency);
        let body = body(&self.settings.model, Prompt::Rows(rows), fields);
        let reply: Completion = self.http.post(&self.url(server), body, patience).await?;
        let (choice, usage) = reply.only_choice(rows.count)?;
        let found = choice.first_logprobs()?;
        match tokens.iter().find(|token| !found.contains_key(token)) {
            Some(token) => Err(Problem::Unusable(format!(
                "it does not send the log probability of token {token}: it does not know \
                 logprob_token_ids, or --max-logprobs is below {}",
                tokens.len()
            ))),
            None => Ok((found, usage.cached_tokens())),
        }
    }

    /// Checks that the server serves the model, with a context that suffices.
    async fn check_models(&self, server: &str, patience: Duration) -> Result<(), Problem> {
        let model = served_model(&self.http, server, &self.settings.model, patience).await?;
        match model.context() {
            Some(most) if most < self.capacity => Err(Problem::Unusable(format!(
                "it accepts {most} tokens, but a window with question and answer takes up to {}; \
                 start vLLM with --max-model-len {} or choose a smaller model.plan",
                self.capacity, self.capacity
            ))),
            _ => Ok(()),
        }
    }

    async fn prove_all(&self, server: &str) -> Result<(), Problem> {
        self.check_models(server, CHECK_PATIENCE).await?;
        self.check_table(server).await?;
        let Sample { rows, words: Some(words), .. } = &self.sample else { return Ok(()) };
        let tokens: Vec<u32> = words.tokens().collect();
        // With the lowest priority, because a server may not accept priorities.
        self.logprobs(server, rows, &tokens, Urgency::Background, PROOF_PATIENCE).await.map(drop)
    }

    /// Returns the likely tokens after the sample, with their log probabilities.
    async fn likely(&self, server: &str, prompt: Prompt<'_>) -> Result<HashMap<u32, f64>, Problem> {
        let fields = json!({
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": COMPARED,
            "return_tokens_as_token_ids": true,
        });
        let body = body(&self.settings.model, prompt, fields);
        let reply: Completion = self.http.post(&self.url(server), body, PROOF_PATIENCE).await?;
        let (choice, _) = reply.only_choice(self.sample.ids.len())?;
        choice.first_logprobs()
    }

    /// Checks that the server's table of words is that of the package: a prompt of token ids and the
    /// same prompt as our rows must lead to the same tokens.
    async fn check_table(&self, server: &str) -> Result<(), Problem> {
        let Sample { ids, rows, .. } = &self.sample;
        let by_ids = self.likely(server, Prompt::Ids(ids)).await?;
        let by_rows = match self.likely(server, Prompt::Rows(rows)).await {
            Err(Problem::Request(why)) => {
                let fix = "start vLLM with --enable-prompt-embeds and the model of the package";
                return Err(Problem::Unusable(format!("{why}; {fix}")));
            }
            likely => likely?,
        };
        match different(&by_ids, &by_rows) {
            None => Ok(()),
            Some(why) => Err(Problem::Unusable(format!(
                "it runs another model than the package: the same words as token ids and as the \
                 package's embeddings lead to different tokens ({why})"
            ))),
        }
    }
}

impl Proof for Client {
    async fn prove(&self, address: &str) -> Result<String, Problem> {
        self.prove_all(address).await.map_err(|problem| match problem {
            // A sample that is refused means that every request would be.
            Problem::Request(why) => Problem::Unusable(why),
            other => other,
        })?;
        Ok("runs the package's model".into())
    }

    async fn check(&self, address: &str) -> Result<(), Problem> {
        self.check_models(address, CHECK_PATIENCE).await
    }
}

/// Returns how two lists of likely tokens differ, or `None` if they are the same but for rounding.
fn different(by_ids: &HashMap<u32, f64>, by_rows: &HashMap<u32, f64>) -> Option<String> {
    let likeliest = by_ids.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(token, _)| token)?;
    let Some(found) = by_rows.get(likeliest) else {
        return Some(format!("token {likeliest} is the likeliest one, or not among {COMPARED}"));
    };
    let difference = (by_ids[likeliest] - found).abs();
    if difference > TOLERANCE {
        return Some(format!(
            "the log probability of token {likeliest} differs by {difference:.2}"
        ));
    }
    let common = by_ids.keys().filter(|token| by_rows.contains_key(token)).count();
    let least = LEAST_COMMON.min(by_ids.len());
    (common < least).then(|| format!("{common} of {} likely tokens are the same", by_ids.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_table_leads_to_other_tokens() {
        let list = |pairs: &[(u32, f64)]| pairs.iter().copied().collect::<HashMap<_, _>>();
        let own = list(&[(1, -0.1), (2, -3.0), (3, -4.0), (4, -5.0), (5, -6.0)]);
        let rounded = list(&[(1, -0.12), (2, -2.9), (3, -4.2), (4, -5.1), (6, -6.0)]);
        assert_eq!(different(&own, &own), None);
        assert_eq!(different(&own, &rounded), None);
        for (other, wanted) in [
            (list(&[(7, -0.1), (2, -3.0), (3, -4.0), (4, -5.0), (5, -6.0)]), "token 1 is"),
            (list(&[(1, -1.1), (2, -3.0), (3, -4.0), (4, -5.0), (5, -6.0)]), "differs by 1.00"),
            (list(&[(1, -0.1), (2, -3.0), (8, -4.0), (9, -5.0), (7, -6.0)]), "2 of 5 likely"),
        ] {
            let why = different(&own, &other).expect(wanted);
            assert!(why.contains(wanted), "{why}");
        }
    }
}
