//! Runs the language model on servers of vLLM.
//!
//! The package's tokenizer, template and table of words make the prompt's rows here, with the
//! video's rows between them. A server gets the rows and sends tokens.
//!
//! ```text
//! worker ─ submit ─► rows ─► task ─► client ─► a server
//!        ◄─ poll ── outputs ◄─┘ text, scores
//! ```
//!
//! Guarantees:
//! - No text and no score is passed on unless the server has read exactly the rows that were sent,
//!   and its results are finite.
//! - A sequence that is cancelled closes its connection, so that the server ends its work.
//! - No failure of a server ends the daemon. A sequence fails if no server answers it in time.

mod client;
mod completions;
mod scores;
mod tensor_file;
mod text;

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::capacity::capacity;
use super::servers::{Http, Problem, Servers};
use super::slots::Room;
use super::tokenizer::Prompt;
use super::{
    Budget, Embedder, Failure, LanguageBackend, LanguageError, OnOutput, Output, PrefixFrames,
    Prompts, Reply, Request, SchemaCompiler, Scored, SequenceId, Submitted, Task, Urgency,
};
use crate::config::{self, Wording};
use crate::event;
use crate::model::{ModelError, Package, Runtime};
use crate::slowfast::VideoTokens;
use client::{Client, Sample};
use completions::{Rows, body, text_fields};
use scores::{ScoreJob, score};
use text::{TextJob, generate};

/// Maximum number of outputs that wait for a poll. Further ones wait in the tasks.
const OUTPUTS: usize = 64;

/// Time for which a poll waits for an output.
const POLL: Duration = Duration::from_millis(20);

/// The text of the proof's sample, with the template around it.
const SAMPLE: &str = "What is happening? Is there a person?";

/// The language model of a package, run by servers of vLLM.
pub struct VllmModel {
    prompts: Arc<Prompts>,
    schemas: Arc<SchemaCompiler>,
    embedder: Embedder,
    client: Arc<Client>,
    /// The threads of the requests. `None` only while it is dropped.
    requests: Option<tokio::runtime::Runtime>,
    slots: usize,
    sequences: HashMap<SequenceId, Sequence>,
    submitted: u64,
    outputs: (mpsc::Sender<Message>, mpsc::Receiver<Message>),
}

struct Sequence {
    task: JoinHandle<()>,
    urgency: Urgency,
}

type Message = (SequenceId, Event);

/// Sends the outputs of one sequence.
struct Outputs {
    id: SequenceId,
    to: mpsc::Sender<Message>,
}

/// An output of a task.
enum Event {
    Text(String),
    Ended(Result<Ended, Failure>),
}

enum Ended {
    Text(Reply),
    Scores(Scored),
}

impl VllmModel {
    /// Loads the table of words, and proves every server. Servers that cannot be reached are tried
    /// again while the daemon runs. Fails if none is ready and one of them cannot be used as it is.
    pub fn load(
        runtime: &Runtime,
        package: &Package,
        model: &config::Model,
        wording: &Wording,
        budget: Budget,
        settings: &config::Servers,
    ) -> Result<VllmModel, ModelError> {
        let (plan, text) = (&model.plan, &package.text);
        let video = plan
            .video_tokens(plan.frames, package.vision.grid_tokens)
            .map_err(|e| ModelError(format!("model.plan {plan}: {e}")))?;
        let capacity =
            capacity(plan, video, budget.max_new_tokens, text.context).map_err(ModelError)?;
        let prompts = Arc::new(Prompts::load(package, wording, capacity)?);
        let tokenizer = prompts.tokenizer().clone();
        let mut embedder = Embedder::load(runtime, package, model.language_threads)?;
        let sample = sample(&prompts, &mut embedder, text.hidden_size)?;
        let schemas = SchemaCompiler::new(tokenizer.clone(), &package.end_tokens, text.vocab_size)
            .with_any_whitespace();
        let client = Arc::new(Client {
            http: Http::new(settings).map_err(ModelError)?,
            servers: Servers::new(&settings.endpoints),
            settings: settings.clone(),
            tokenizer,
            end_tokens: package.end_tokens.clone(),
            sample,
            capacity,
        });
        let requests = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("language-server")
            .enable_all()
            .build()
            .map_err(|error| ModelError(format!("threads of language servers: {error}")))?;
        let loaded = VllmModel {
            prompts,
            schemas: Arc::new(schemas),
            embedder,
            client,
            requests: Some(requests),
            slots: budget.slots,
            sequences: HashMap::new(),
            submitted: 0,
            outputs: mpsc::channel(OUTPUTS),
        };
        loaded.prove()?;
        Ok(loaded)
    }

    /// Proves the servers, and watches them from then on.
    fn prove(&self) -> Result<(), ModelError> {
        let Some(requests) = &self.requests else { return Ok(()) };
        let servers = &self.client.servers;
        requests.block_on(servers.prove(&self.client));
        let problems = servers.problems();
        let is_unusable = |(_, problem): &(String, Problem)| {
            matches!(problem, Problem::Unusable(_) | Problem::Request(_))
        };
        if problems.len() == servers.count() {
            if problems.iter().any(is_unusable) {
                return Err(ModelError(format!("language server {}", servers.described())));
            }
            tracing::warn!(
                "no language server is ready; captions are skipped until one is: {}",
                servers.described()
            );
        }
        let _guard = requests.enter();
        servers.watch(&self.client);
        Ok(())
    }

    pub fn prompts(&self) -> Arc<Prompts> {
        self.prompts.clone()
    }

    pub fn schemas(&self) -> Arc<SchemaCompiler> {
        self.schemas.clone()
    }

    /// Returns the watch over the servers' states.
    pub fn health(&self) -> ServerHealth {
        ServerHealth(self.client.clone())
    }

    /// Encodes a prompt with the video's rows in their place.
    fn rows(&mut self, prompt: &Prompt, video: &VideoTokens) -> Result<Rows, Failure> {
        let rows = self.embedder.prompt(prompt, video).map_err(Failure::from)?;
        Rows::encode(&rows, video.dim)
    }

    /// Starts a task of a sequence.
    fn start(
        &mut self,
        urgency: Urgency,
        task: impl FnOnce(Outputs) -> TaskFuture,
    ) -> Result<SequenceId, LanguageError> {
        let Some(requests) = &self.requests else {
            return Err(LanguageError::Broken("the requests' threads have ended".into()));
        };
        self.submitted += 1;
        let id = SequenceId(self.submitted);
        let task = requests.spawn(task(Outputs { id, to: self.outputs.0.clone() }));
        self.sequences.insert(id, Sequence { task, urgency });
        Ok(id)
    }
}

type TaskFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl LanguageBackend for VllmModel {
    fn slots(&self) -> usize {
        self.slots
    }

    fn room(&self) -> Room {
        let is_waited_for = |sequence: &&Sequence| sequence.urgency != Urgency::Background;
        let busy = self.sequences.values().filter(is_waited_for).count();
        match self.slots - busy.min(self.slots) {
            0 => Room::Nothing,
            1 if busy > 0 => Room::Question,
            _ => Room::Any,
        }
    }

    fn submit(&mut self, request: Request<'_>) -> Result<Submitted, LanguageError> {
        let Request { video, prefix_frames, task, urgency } = request;
        let started = Instant::now();
        let key = self.key(prefix_frames.as_ref());
        if self.client.servers.ready(key).is_empty() {
            return Err(self.client.none_ready().into());
        }
        let (client, video_tokens) = (self.client.clone(), video.len() as u32);
        let usage = |text_tokens: usize| event::Usage {
            video_tokens,
            text_tokens: text_tokens as u32,
            new_tokens: 0,
            cached_tokens: 0,
        };
        match task {
            Task::Text { turns, prompt, limits, schema } => {
                let (prompt, turns) = self.prompts.fitting_prompt(
                    turns,
                    prompt,
                    video.len(),
                    limits,
                    schema.is_some(),
                )?;
                let rows = self.rows(&prompt, video)?;
                let fields = text_fields(
                    limits,
                    &client.end_tokens,
                    schema.map(|schema| &**schema.text()),
                    urgency,
                );
                let job = TextJob {
                    body: body(&client.settings.model, completions::Prompt::Rows(&rows), fields),
                    rows: rows.count,
                    limits,
                    constraint: schema.map(|schema| schema.constraint()),
                    usage: usage(prompt.text_tokens()),
                    started,
                };
                let id = self.start(urgency, |outputs| {
                    Box::pin(async move {
                        let reply = generate(&client, key, job, &outputs).await;
                        outputs.send(Event::Ended(reply.map(Ended::Text))).await;
                    })
                })?;
                Ok(Submitted { id, turns })
            }
            Task::Scores { questions } => {
                let words = self.prompts.words()?;
                if questions.is_empty() {
                    return Err(LanguageError::BadPrompt("there is no question to score".into()));
                }
                let (mut prompts, mut text_tokens) = (Vec::new(), 0);
                for question in questions {
                    let prompt = self.prompts.prompt(&[], question)?;
                    self.prompts.check_length(prompt.tokens(video.len()), 0)?;
                    text_tokens += prompt.text_tokens();
                    prompts.push(self.rows(&prompt, video)?);
                }
                let usage = usage(text_tokens);
                let job = ScoreJob { prompts, words, urgency, usage, started };
                let id = self.start(urgency, |outputs| {
                    Box::pin(async move {
                        let scored = score(&client, key, job).await;
                        outputs.send(Event::Ended(scored.map(Ended::Scores))).await;
                    })
                })?;
                Ok(Submitted { id, turns: 0 })
            }
        }
    }

    fn poll(&mut self, on_output: &mut OnOutput<'_>) -> Result<(), LanguageError> {
        let Some(requests) = &self.requests else { return Ok(()) };
        let outputs = &mut self.outputs.1;
        let first = async { tokio::time::timeout(POLL, outputs.recv()).await };
        let mut next = requests.block_on(first).ok().flatten();
        while let Some((id, event)) = next {
            // A cancelled sequence may have sent something.
            if self.sequences.contains_key(&id) {
                match event {
                    Event::Text(text) => on_output(id, Output::Text(&text)),
                    Event::Ended(ended) => {
                        self.sequences.remove(&id);
                        on_output(
                            id,
                            match ended {
                                Ok(Ended::Text(reply)) => Output::Finished(reply),
                                Ok(Ended::Scores(scored)) => Output::Scored(scored),
                                Err(failure) => Output::Failed(failure),
                            },
                        );
                    }
                }
            }
            next = outputs.try_recv().ok();
        }
        Ok(())
    }

    fn cancel(&mut self, id: SequenceId) -> Result<(), LanguageError> {
        if let Some(sequence) = self.sequences.remove(&id) {
            sequence.task.abort();
        }
        Ok(())
    }
}

impl VllmModel {
    /// Returns the key that chooses a server. Requests about the same frames have the same one.
    fn key(&self, frames: Option<&PrefixFrames>) -> u64 {
        let mut hasher = DefaultHasher::new();
        match frames {
            Some(frames) => frames.hash(&mut hasher),
            None => self.submitted.hash(&mut hasher),
        }
        hasher.finish()
    }
}

impl Drop for VllmModel {
    fn drop(&mut self) {
        // Waiting for the threads is not allowed in async code.
        if let Some(requests) = self.requests.take() {
            requests.shutdown_background();
        }
    }
}

impl Outputs {
    /// Sends a piece of the text.
    async fn text(&self, text: String) {
        self.send(Event::Text(text)).await;
    }

    async fn send(&self, event: Event) {
        // Nobody receives it while the back end is dropped.
        let _ = self.to.send((self.id, event)).await;
    }
}

/// The states of the servers, for those who report them.
#[derive(Clone)]
pub struct ServerHealth(Arc<Client>);

impl ServerHealth {
    /// Returns a sentence for each server that is not ready.
    pub fn troubles(&self) -> Vec<String> {
        let sentence = |(address, problem)| format!("language server {address}: {problem}");
        self.0.servers.problems().into_iter().map(sentence).collect()
    }

    /// Returns the address of each server, with the problem for which it is not ready.
    pub fn states(&self) -> Vec<(String, Option<String>)> {
        let problems = self.0.servers.problems();
        let state = |address: &String| {
            let problem = problems.iter().find(|(other, _)| other == address);
            (address.clone(), problem.map(|(_, problem)| problem.to_string()))
        };
        self.0.settings.endpoints.iter().map(state).collect()
    }
}

/// Makes the sample of the proofs.
fn sample(prompts: &Prompts, embedder: &mut Embedder, width: usize) -> Result<Sample, ModelError> {
    let prompt = prompts.prompt(&[], SAMPLE).map_err(|error| ModelError(error.to_string()))?;
    let ids: Vec<u32> = prompt.pieces.concat();
    let rows = embedder.embed(&ids).map_err(|error| ModelError(error.to_string()))?;
    let rows = Rows::encode(&rows, width).map_err(|error| ModelError(error.to_string()))?;
    Ok(Sample { ids, rows, words: prompts.words().ok() })
}
