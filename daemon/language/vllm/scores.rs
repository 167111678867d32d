//! Scores yes/no questions on the servers, by the log probabilities of the words at the end of each
//! prompt.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::client::Client;
use super::completions::Rows;
use crate::event;
use crate::language::servers::{Attempts, Server, Stop};
use crate::language::yes_no::YesNo;
use crate::language::{Failure, Scored, Urgency};

/// Questions to be scored.
pub struct ScoreJob {
    /// The prompt of each question, at least one.
    pub prompts: Vec<Rows>,
    pub words: Arc<YesNo>,
    pub urgency: Urgency,
    pub usage: event::Usage,
    /// The time at which the request was made.
    pub started: Instant,
}

/// The log probabilities at the end of a prompt, by token, and the number of its cached tokens.
type Logprobs = (HashMap<u32, f64>, u32);

/// A question that is being scored.
struct Question {
    client: Arc<Client>,
    prompt: Rows,
    tokens: Arc<[u32]>,
    urgency: Urgency,
}

/// Scores questions, all of them on the same server while it works.
pub async fn score(client: &Arc<Client>, key: u64, job: ScoreJob) -> Result<Scored, Failure> {
    let ScoreJob { prompts, words, urgency, mut usage, started } = job;
    let tokens: Arc<[u32]> = words.tokens().collect();
    let questions = prompts.into_iter().map(|prompt| Question {
        client: client.clone(),
        prompt,
        tokens: tokens.clone(),
        urgency,
    });
    let found = client.servers.all_results(key, client.settings.timeout, questions).await?;
    usage.cached_tokens = found.first().map_or(0, |(_, cached_tokens)| *cached_tokens);
    let score = |(logprobs, _): &Logprobs| words.score_by(|id| logprobs.get(&id).copied());
    let scores = found.iter().map(score).collect::<Option<Vec<f64>>>();
    let scores = scores.ok_or(Failure::NotFinite)?;
    Ok(Scored { scores, usage, started, prefill: started.elapsed() })
}

impl Attempts for Question {
    type Result = Logprobs;

    async fn attempt(&mut self, server: &Server) -> Result<Self::Result, Stop> {
        let patience = self.client.settings.stall_timeout;
        let (prompt, tokens) = (&self.prompt, &self.tokens);
        let found =
            self.client.logprobs(&server.address, prompt, tokens, self.urgency, patience).await;
        Ok(found?)
    }
}
