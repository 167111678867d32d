//! Scores yes/no questions on the servers, by the log probabilities of the words at the end of each
//! prompt.
//!
//! The first question is sent alone, so that the others find its prefix in the server's cache. These
//! are sent together.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::client::{Attempts, Client, Stop};
use super::completions::Rows;
use crate::event;
use crate::language::servers::Server;
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
    let mut questions = prompts.into_iter().map(|prompt| Question {
        client: client.clone(),
        prompt,
        tokens: tokens.clone(),
        urgency,
    });
    let mut scores = Vec::new();
    if let Some(mut first) = questions.next() {
        let (logprobs, cached_tokens) = client.try_servers(key, &mut first).await?;
        usage.cached_tokens = cached_tokens;
        scores.push((0, words.score_by(|id| logprobs.get(&id).copied())));
    }
    let mut others = JoinSet::new();
    for (at, mut question) in questions.enumerate() {
        others.spawn(async move {
            let client = question.client.clone();
            (at + 1, client.try_servers(key, &mut question).await)
        });
    }
    while let Some(joined) = others.join_next().await {
        let (at, logprobs) = joined.map_err(|error| Failure::Run(error.to_string()))?;
        let (logprobs, _) = logprobs?;
        scores.push((at, words.score_by(|id| logprobs.get(&id).copied())));
    }
    scores.sort_by_key(|(at, _)| *at);
    let scores = scores.into_iter().map(|(_, score)| score).collect::<Option<Vec<f64>>>();
    let scores = scores.ok_or(Failure::NotFinite)?;
    Ok(Scored { scores, usage, started, prefill: started.elapsed() })
}

impl Attempts for Question {
    type Result = (std::collections::HashMap<u32, f64>, u32);

    async fn attempt(&mut self, server: &Server) -> Result<Self::Result, Stop> {
        let patience = self.client.settings.stall_timeout;
        let (prompt, tokens) = (&self.prompt, &self.tokens);
        let found =
            self.client.logprobs(&server.address, prompt, tokens, self.urgency, patience).await;
        Ok(found?)
    }
}
