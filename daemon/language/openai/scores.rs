//! Scores yes/no questions on the servers: by the probabilities of the answer's first word, or by that
//! word alone.

use std::sync::Arc;
use std::time::Instant;

use hyper::body::Bytes;

use super::chat::{Completion, Top, Usage, logprob_fields, short_fields};
use super::client::{Client, Feature};
use super::text::{check_length, of_prompt};
use crate::config::Scores;
use crate::event;
use crate::language::servers::{Attempts, Problem, Server, Stop};
use crate::language::{Failure, Scored};

/// The text after a question, so that the answer begins with one of the two words.
pub const ONLY_YES_OR_NO: &str = "Answer only yes or no.";

/// Maximum number of tokens of an answer of which the first word counts.
const WORD_TOKENS: usize = 8;

/// Questions to be scored.
pub struct ScoreJob {
    /// The request for each question, at least one.
    pub bodies: Vec<Bytes>,
    /// Number of frames in each request.
    pub frames: usize,
    /// The time at which the request was made.
    pub started: Instant,
}

/// Returns the fields of a request for a score.
pub fn score_fields(scores: Scores) -> serde_json::Value {
    match scores {
        Scores::Logprobs => logprob_fields(),
        Scores::Text => short_fields(WORD_TOKENS),
    }
}

/// A question that is being scored.
struct Question {
    client: Arc<Client>,
    body: Bytes,
    frames: usize,
}

/// Scores questions, all of them on the same server while it works.
pub async fn score(client: &Arc<Client>, key: u64, job: ScoreJob) -> Result<Scored, Failure> {
    let ScoreJob { bodies, frames, started } = job;
    let questions =
        bodies.into_iter().map(|body| Question { client: client.clone(), body, frames });
    let timeout = client.settings.servers.timeout;
    let found = client.servers.all_results(key, timeout, questions).await?;
    let usage = found.iter().fold(event::Usage::default(), |sum, (_, usage)| {
        let usage = of_prompt(*usage);
        event::Usage {
            video_tokens: sum.video_tokens + usage.video_tokens,
            cached_tokens: sum.cached_tokens + usage.cached_tokens,
            ..sum
        }
    });
    let scores = found.into_iter().map(|(score, _)| score).collect();
    Ok(Scored { scores, usage, started, prefill: started.elapsed() })
}

impl Attempts for Question {
    type Result = (f64, Usage);

    fn suits(&self, server: &Server) -> bool {
        self.client.has(&server.address, Feature::Scores)
    }

    async fn attempt(&mut self, server: &Server) -> Result<(f64, Usage), Stop> {
        let (client, address) = (&self.client, &server.address);
        let patience = client.settings.servers.stall_timeout;
        let url = client.url(address);
        let found: Completion = client.http.post(&url, self.body.clone(), patience).await?;
        let usage = found.usage.unwrap_or_default();
        if found.usage.is_some() {
            let least = client.abilities(address).and_then(|known| known.least_tokens);
            check_length(usage, self.frames, least)?;
        }
        let score = match client.settings.scores {
            Scores::Logprobs => match found.first_tokens()? {
                [] => {
                    let why = "it sends no log probabilities any more";
                    return Err(Problem::Unusable(why.into()).into());
                }
                tokens => by_probability(tokens),
            },
            Scores::Text => by_word(found.text()?),
        };
        let score = score.map_err(|why| {
            Stop::Job(Failure::Server(format!("language server {address}: {why}")))
        })?;
        Ok((score, usage))
    }
}

/// Returns P(yes) / (P(yes) + P(no)) of the likeliest first tokens of an answer. A token counts for the
/// word that it begins.
fn by_probability(tokens: &[Top]) -> Result<f64, String> {
    // A tokenizer may split a word. The sum of nothing would be -0.
    let sum = |word: &str| -> f64 {
        let is_word = |top: &&Top| {
            let piece = top.token.trim().to_lowercase();
            !piece.is_empty() && word.starts_with(&piece)
        };
        0.0 + tokens.iter().filter(is_word).filter_map(|top| Some(top.logprob?.exp())).sum::<f64>()
    };
    let (yes, no) = (sum("yes"), sum("no"));
    let score = yes / (yes + no);
    if score.is_finite() {
        return Ok(score);
    }
    let found: Vec<String> = tokens.iter().take(3).map(|top| format!("{:?}", top.token)).collect();
    Err(format!(
        "its answer begins with neither yes nor no: the likeliest tokens are {}",
        found.join(", ")
    ))
}

/// Returns the score of an answer by its first word.
fn by_word(answer: &str) -> Result<f64, String> {
    let mut words = answer.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    match words.next().map(str::to_lowercase).as_deref() {
        Some("yes") => Ok(1.0),
        Some("no") => Ok(0.0),
        Some(other) => {
            Err(format!("its answer begins with {:?}, neither yes nor no", excerpt(other)))
        }
        None => Err("its answer has no word".into()),
    }
}

fn excerpt(word: &str) -> String {
    word.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(token: &str, probability: f64) -> Top {
        Top { token: token.into(), logprob: Some(probability.ln()) }
    }

    #[test]
    fn all_spellings_of_both_words_count() {
        let tokens = [top("Yes", 0.5), top(" yes", 0.1), top("NO", 0.2), top("Nothing", 0.1)];
        let score = by_probability(&tokens).expect("a score");
        assert!((score - 0.75).abs() < 1e-12, "{score}");
        assert_eq!(by_probability(&[top("Yes", 0.5)]), Ok(1.0));
        assert_eq!(by_probability(&[top("no", 0.5)]), Ok(0.0));
        assert!(by_probability(&[top("no", 0.5)]).is_ok_and(f64::is_sign_positive));
        let split = by_probability(&[top("Y", 0.75), top("", 0.1), top("No", 0.25)]);
        assert!((split.expect("a score") - 0.75).abs() < 1e-12);
        let neither = by_probability(&[top("There", 0.9), top("A", 0.1)]).expect_err("no score");
        assert!(neither.ends_with("the likeliest tokens are \"There\", \"A\""), "{neither}");
        let not_finite = Top { token: "yes".into(), logprob: Some(f64::NAN) };
        assert!(by_probability(&[not_finite]).is_err());
    }

    #[test]
    fn the_first_word_is_a_score() {
        for yes in ["Yes", "yes.", "**Yes**, a dog.", "\"YES\""] {
            assert_eq!(by_word(yes), Ok(1.0), "{yes}");
        }
        for no in ["No.", "no, nobody", "No"] {
            assert_eq!(by_word(no), Ok(0.0), "{no}");
        }
        for neither in ["Nobody.", "There is", "", "...", "Yesterday"] {
            assert!(by_word(neither).is_err(), "{neither}");
        }
    }
}
