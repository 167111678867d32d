//! Generates one text on the servers.
//!
//! Guarantees: no text is complete unless the server has read a prompt that is long enough for all
//! frames, as far as it reports the length. If a server fails in the middle, the next one starts
//! again, and must begin with the text that was passed on already; otherwise the text ends with an
//! error.

use std::time::Instant;

use hyper::body::Bytes;

use super::chat::{Chunk, Usage};
use super::client::{Client, Feature};
use crate::event::{self, FinishReason};
use crate::language::schema::Constraint;
use crate::language::servers::{Attempts, Events, Outputs, Problem, Server, Stop, parse};
use crate::language::{Failure, Limits, Reply};

/// Maximum number of bytes of a text, for each of its tokens. Longer ones do not exist in practice.
const TOKEN_BYTES: usize = 256;

/// A text to be generated.
pub struct TextJob {
    pub body: Bytes,
    /// Number of the prompt's frames.
    pub frames: usize,
    pub limits: Limits,
    /// The schema that the text must follow, byte by byte.
    pub constraint: Option<Constraint>,
    /// The time at which the request was made.
    pub started: Instant,
}

/// A text that is being generated.
struct Writing<'a> {
    client: &'a Client,
    job: TextJob,
    /// The text that was passed on, from all servers together.
    text: String,
    /// Number of pieces in which it was passed on.
    pieces: usize,
    first_piece: Option<Instant>,
    usage: Usage,
    outputs: &'a Outputs,
}

/// Generates a text, and sends it piece by piece.
pub async fn generate(
    client: &Client,
    key: u64,
    job: TextJob,
    outputs: &Outputs,
) -> Result<Reply, Failure> {
    let started = job.started;
    let mut writing = Writing {
        client,
        job,
        text: String::new(),
        pieces: 0,
        first_piece: None,
        usage: Usage::default(),
        outputs,
    };
    let timeout = client.settings.servers.timeout;
    let finish = client.servers.first_result(key, timeout, &mut writing).await?;
    let Writing { text, first_piece, usage, pieces, .. } = writing;
    let first_piece = first_piece.unwrap_or_else(Instant::now);
    let new_tokens = match usage.completion_tokens {
        0 => pieces as u32,
        tokens => tokens,
    };
    Ok(Reply {
        text: text.trim_end().into(),
        ids: Vec::new(),
        finish,
        usage: event::Usage { new_tokens, ..of_prompt(usage) },
        started,
        prefill: first_piece - started,
        decode: first_piece.elapsed(),
    })
}

/// Returns the usage of a prompt. Servers do not tell its frames from its text.
pub fn of_prompt(usage: Usage) -> event::Usage {
    event::Usage {
        video_tokens: usage.prompt_tokens,
        text_tokens: 0,
        new_tokens: 0,
        cached_tokens: usage.cached_tokens(),
    }
}

impl Attempts for Writing<'_> {
    type Result = FinishReason;

    fn suits(&self, server: &Server) -> bool {
        self.job.constraint.is_none() || self.client.has(&server.address, Feature::Schemas)
    }

    async fn attempt(&mut self, server: &Server) -> Result<FinishReason, Stop> {
        let Client { http, settings, .. } = self.client;
        let stall_timeout = settings.servers.stall_timeout;
        let url = self.client.url(&server.address);
        let body = http.begin(&url, self.job.body.clone(), stall_timeout).await?;
        let mut events = Events::new(body, stall_timeout);
        let (mut came, mut finish, mut usage) = (String::new(), None, None);
        let mut has_reasoned = false;
        while let Some(event) = events.next().await? {
            let chunk: Chunk = parse(&event)?;
            usage = chunk.usage.or(usage);
            for choice in chunk.choices {
                has_reasoned |= choice.delta.reasoning_content.is_some();
                let piece = choice.delta.content.unwrap_or_default();
                // Models begin with white space, which is not part of the answer.
                came += if came.is_empty() { piece.trim_start() } else { piece.as_str() };
                if let Some(end) = self.take(&came).await? {
                    // The server goes on although it has sent as much as was requested.
                    return Ok(end);
                }
                match choice.finish_reason.as_deref() {
                    None | Some("") => {}
                    Some("stop") => finish = Some(FinishReason::Stop),
                    Some("length") => finish = Some(FinishReason::Length),
                    Some(other) => {
                        let why = format!("it ended its answer for the reason {other:?}");
                        return Err(Problem::Request(why).into());
                    }
                }
            }
        }
        let unreachable = |why: &str| Stop::Server(Problem::Unreachable(why.into()));
        let finish = finish.ok_or_else(|| unreachable("its answer has no finish_reason"))?;
        if came.trim_end().is_empty() {
            return Err(match (finish, has_reasoned) {
                (FinishReason::Length, true) => Stop::Server(Problem::Request(
                    "the model reasoned until generate.max_new_tokens and gave no answer; switch \
                     reasoning off on the server, or raise generate.max_new_tokens"
                        .into(),
                )),
                _ => unreachable("its answer is empty"),
            });
        }
        if came.len() < self.text.len() {
            return Err(Stop::Job(disagreement()));
        }
        self.check_end(server, finish, usage)?;
        Ok(finish)
    }
}

impl Writing<'_> {
    /// Takes the text that came in an attempt so far, and passes on what is new. Returns the reason
    /// if the text must end with it.
    async fn take(&mut self, came: &str) -> Result<Option<FinishReason>, Stop> {
        if came.len() <= self.text.len() {
            let is_same = self.text.starts_with(came);
            return if is_same { Ok(None) } else { Err(Stop::Job(disagreement())) };
        }
        let Some(new) = came.strip_prefix(&*self.text) else {
            return Err(Stop::Job(disagreement()));
        };
        if let Some(constraint) = &mut self.job.constraint {
            constraint.push_text(new).map_err(|_| Stop::Job(not_by_schema()))?;
        }
        let most = self.job.limits.max_new_tokens;
        if self.pieces >= most || came.len() > most.saturating_mul(TOKEN_BYTES) {
            return Ok(Some(FinishReason::Length));
        }
        self.first_piece.get_or_insert_with(Instant::now);
        self.pieces += 1;
        self.text.push_str(new);
        self.outputs.text(new.into()).await;
        Ok(None)
    }

    /// Checks a text that the server has ended.
    fn check_end(
        &mut self,
        server: &Server,
        finish: FinishReason,
        usage: Option<Usage>,
    ) -> Result<(), Stop> {
        if let Some(constraint) = &mut self.job.constraint
            && finish == FinishReason::Stop
            && !constraint.can_end()
        {
            return Err(Stop::Job(not_by_schema()));
        }
        let Some(usage) = usage else { return Ok(()) };
        let abilities = self.client.abilities(&server.address);
        check_length(usage, self.job.frames, abilities.and_then(|known| known.least_tokens))?;
        self.usage = usage;
        Ok(())
    }
}

/// Checks that the server has read a prompt that is long enough for all frames. A frame has at least
/// `least_tokens`.
pub fn check_length(usage: Usage, frames: usize, least_tokens: Option<u32>) -> Result<(), Problem> {
    let Some(least_tokens) = least_tokens else { return Ok(()) };
    let (found, least) = (usage.prompt_tokens as usize, frames * least_tokens as usize);
    if found >= least {
        return Ok(());
    }
    Err(Problem::Unusable(format!(
        "it read a prompt of {found} tokens, but {frames} frames take at least {least}, so its \
         answer is not about all of them; raise the context of the server or lower \
         language.max_images"
    )))
}

fn disagreement() -> Failure {
    Failure::Server(
        "a language server failed in the middle of the answer, and the next one continued it \
         differently; ask again"
            .into(),
    )
}

fn not_by_schema() -> Failure {
    Failure::Server("the language server does not follow the schema of the answer".into())
}
