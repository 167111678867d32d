//! Generates one text on the servers.
//!
//! Guarantees: no text is passed on before the server has reported a prompt of as many tokens as rows
//! were sent. If a server fails in the middle, the next one starts again, and must begin with the
//! tokens that were passed on already; otherwise the text ends with an error.

use std::time::Instant;

use hyper::body::Bytes;

use super::client::Client;
use super::completions::Completion;
use crate::event::{self, FinishReason};
use crate::language::generation::GrowingText;
use crate::language::schema::Constraint;
use crate::language::servers::{Attempts, Events, Outputs, Problem, Server, Stop, parse};
use crate::language::{Failure, Limits, Reply};

/// A text to be generated.
pub struct TextJob {
    pub body: Bytes,
    /// Number of the prompt's rows.
    pub rows: usize,
    pub limits: Limits,
    /// The schema that the text must follow.
    pub constraint: Option<Constraint>,
    pub usage: event::Usage,
    /// The time at which the request was made.
    pub started: Instant,
}

/// A text that is being generated.
struct Writing<'a> {
    client: &'a Client,
    job: TextJob,
    written: GrowingText,
    first_token: Option<Instant>,
    outputs: &'a Outputs,
}

/// One attempt on a server.
#[derive(Default)]
struct Attempt {
    /// Number of tokens that came so far.
    tokens: usize,
    /// The tokens that came before the prompt's length was known.
    held_back: Vec<u32>,
    is_checked: bool,
    /// The reason for the text's end, once its last token came.
    end: Option<FinishReason>,
}

/// Generates a text, and sends it piece by piece.
pub async fn generate(
    client: &Client,
    key: u64,
    job: TextJob,
    outputs: &Outputs,
) -> Result<Reply, Failure> {
    let mut writing =
        Writing { client, job, written: GrowingText::default(), first_token: None, outputs };
    let finish = client.first_result(key, &mut writing).await?;
    writing.finish(finish).await
}

impl Attempts for Writing<'_> {
    type Result = FinishReason;

    async fn attempt(&mut self, server: &Server) -> Result<FinishReason, Stop> {
        let Client { http, settings, .. } = self.client;
        let url = self.client.url(&server.address);
        let body = http.begin(&url, self.job.body.clone(), settings.stall_timeout).await?;
        let mut events = Events::new(body, settings.stall_timeout);
        let mut attempt = Attempt::default();
        let mut finish = None;
        while let Some(event) = events.next().await? {
            let event: Completion = parse(&event)?;
            if let Some(usage) = &event.usage {
                usage.check(self.job.rows)?;
                attempt.is_checked = true;
                // Only the last event tells it.
                self.job.usage.cached_tokens = usage.cached_tokens();
            }
            for choice in &event.choices {
                attempt.held_back.extend_from_slice(choice.tokens()?);
                match choice.finish_reason.as_deref() {
                    None => {}
                    Some("stop") => finish = Some(FinishReason::Stop),
                    Some("length") => finish = Some(FinishReason::Length),
                    Some(other) => {
                        let why = format!("it ended its answer for the reason {other:?}");
                        return Err(Problem::Unreachable(why).into());
                    }
                }
            }
            if attempt.is_checked && attempt.end.is_none() {
                attempt.end = self.take(&mut attempt).await?;
            }
            // A text that is complete by its schema ends before the server does.
            if attempt.end.is_some() && finish.is_none() {
                break;
            }
        }
        match attempt.end.or(finish) {
            Some(end) if attempt.is_checked && attempt.tokens >= self.written.ids().len() => {
                Ok(end)
            }
            Some(_) if attempt.is_checked => Err(Stop::Job(disagreement())),
            _ => Err(Problem::Unreachable("its answer has no end or no usage".into()).into()),
        }
    }
}

impl Writing<'_> {
    /// Takes the tokens that came. Returns the reason if the text ends with one of them.
    async fn take(&mut self, attempt: &mut Attempt) -> Result<Option<FinishReason>, Stop> {
        for id in std::mem::take(&mut attempt.held_back) {
            let is_end = self.client.end_tokens.contains(&id);
            if let Some(before) = self.written.ids().get(attempt.tokens) {
                if is_end || *before != id {
                    return Err(Stop::Job(disagreement()));
                }
                attempt.tokens += 1;
                continue;
            }
            attempt.tokens += 1;
            self.first_token.get_or_insert_with(Instant::now);
            if let Some(constraint) = &mut self.job.constraint {
                constraint.push(id).map_err(|_| {
                    Stop::Job(Failure::Server(
                        "the language server does not follow the schema of the answer".into(),
                    ))
                })?;
            }
            if is_end {
                return Ok(Some(FinishReason::Stop));
            }
            let text = self.written.push(id, &self.client.tokenizer);
            self.outputs.text(text.map_err(|error| Stop::Job(error.into()))?).await;
            if self.job.constraint.as_ref().is_some_and(Constraint::is_complete) {
                return Ok(Some(FinishReason::Stop));
            }
            if self.written.ids().len() >= self.job.limits.max_new_tokens {
                return Ok(Some(FinishReason::Length));
            }
        }
        Ok(None)
    }

    async fn finish(self, finish: FinishReason) -> Result<Reply, Failure> {
        let generated = self.written.finish(&self.client.tokenizer)?;
        self.outputs.text(generated.rest).await;
        let started = self.job.started;
        let first_token = self.first_token.unwrap_or_else(Instant::now);
        Ok(Reply {
            text: generated.text,
            finish,
            usage: event::Usage { new_tokens: generated.ids.len() as u32, ..self.job.usage },
            ids: generated.ids,
            started,
            prefill: first_token - started,
            decode: first_token.elapsed(),
        })
    }
}

fn disagreement() -> Failure {
    Failure::Server(
        "a language server failed in the middle of the answer, and the next one continued it \
         differently; ask again"
            .into(),
    )
}
