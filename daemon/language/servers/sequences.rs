//! The sequences of a back end on servers: a task for each, and the outputs that the worker polls.
//!
//! ```text
//! worker ─ start ─► task ─► a server
//!        ◄─ poll ── outputs ◄─┘ text, scores
//! ```

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Problem, Proof, Servers};
use crate::language::slots::Room;
use crate::language::{
    Failure, LanguageError, OnOutput, Output, Reply, Scored, SequenceId, Urgency,
};
use crate::model::ModelError;

/// Maximum number of outputs that wait for a poll. Further ones wait in the tasks.
const OUTPUTS: usize = 64;

/// Time for which a poll waits for an output.
const POLL: Duration = Duration::from_millis(20);

/// The sequences that are in progress, each with its requests.
pub struct Sequences {
    /// The threads of the requests. `None` only while it is dropped.
    threads: Option<tokio::runtime::Runtime>,
    slots: usize,
    running: HashMap<SequenceId, Running>,
    started: u64,
    outputs: (mpsc::Sender<Message>, mpsc::Receiver<Message>),
}

struct Running {
    task: JoinHandle<()>,
    urgency: Urgency,
}

type Message = (SequenceId, Event);

/// The task of a sequence.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Sends the outputs of one sequence.
pub struct Outputs {
    id: SequenceId,
    to: mpsc::Sender<Message>,
}

/// An output of a task.
enum Event {
    Text(String),
    Finished(Result<Reply, Failure>),
    Scored(Result<Scored, Failure>),
}

impl Sequences {
    /// Starts the threads of at most `slots` sequences at a time.
    pub fn new(slots: usize) -> Result<Sequences, ModelError> {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("language-server")
            .enable_all()
            .build()
            .map_err(|error| ModelError(format!("threads of language servers: {error}")))?;
        Ok(Sequences {
            threads: Some(threads),
            slots,
            running: HashMap::new(),
            started: 0,
            outputs: mpsc::channel(OUTPUTS),
        })
    }

    /// Proves the servers, and watches them from then on. Fails if none is ready and one of them
    /// cannot be used as it is.
    pub fn prove(&self, servers: &Servers, proof: &Arc<impl Proof>) -> Result<(), ModelError> {
        let Some(threads) = &self.threads else { return Ok(()) };
        threads.block_on(servers.prove(proof));
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
        let _guard = threads.enter();
        servers.watch(proof);
        Ok(())
    }

    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Returns which sequences can be started now.
    pub fn room(&self) -> Room {
        let is_waited_for = |sequence: &&Running| sequence.urgency != Urgency::Background;
        let busy = self.running.values().filter(is_waited_for).count();
        match self.slots - busy.min(self.slots) {
            0 => Room::Nothing,
            1 if busy > 0 => Room::Question,
            _ => Room::Any,
        }
    }

    /// Returns the key that chooses a server. Requests about the same frames have the same one.
    pub fn key(&self, frames: Option<impl Hash>) -> u64 {
        let mut hasher = DefaultHasher::new();
        match frames {
            Some(frames) => frames.hash(&mut hasher),
            None => self.started.hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Starts a task of a sequence.
    pub fn start(
        &mut self,
        urgency: Urgency,
        task: impl FnOnce(Outputs) -> Task,
    ) -> Result<SequenceId, LanguageError> {
        let Some(threads) = &self.threads else {
            return Err(LanguageError::Broken("the requests' threads have ended".into()));
        };
        self.started += 1;
        let id = SequenceId(self.started);
        let task = threads.spawn(task(Outputs { id, to: self.outputs.0.clone() }));
        self.running.insert(id, Running { task, urgency });
        Ok(id)
    }

    /// Delivers new outputs. Waits briefly if there are none.
    pub fn poll(&mut self, on_output: &mut OnOutput<'_>) {
        let Some(threads) = &self.threads else { return };
        let outputs = &mut self.outputs.1;
        let first = async { tokio::time::timeout(POLL, outputs.recv()).await };
        let mut next = threads.block_on(first).ok().flatten();
        while let Some((id, event)) = next {
            // A cancelled sequence may have sent something.
            if self.running.contains_key(&id) {
                let output = match &event {
                    Event::Text(text) => Output::Text(text),
                    Event::Finished(Ok(reply)) => Output::Finished(reply.clone()),
                    Event::Scored(Ok(scored)) => Output::Scored(scored.clone()),
                    Event::Finished(Err(failure)) | Event::Scored(Err(failure)) => {
                        Output::Failed(failure.clone())
                    }
                };
                if !matches!(output, Output::Text(_)) {
                    self.running.remove(&id);
                }
                on_output(id, output);
            }
            next = outputs.try_recv().ok();
        }
    }

    /// Ends a sequence, which closes its connections. Does nothing if it has ended.
    pub fn cancel(&mut self, id: SequenceId) {
        if let Some(sequence) = self.running.remove(&id) {
            sequence.task.abort();
        }
    }
}

impl Drop for Sequences {
    fn drop(&mut self) {
        // Waiting for the threads is not allowed in async code.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

impl Outputs {
    /// Sends a piece of the text.
    pub async fn text(&self, text: String) {
        self.send(Event::Text(text)).await;
    }

    /// Sends the end of a text.
    pub async fn finished(&self, reply: Result<Reply, Failure>) {
        self.send(Event::Finished(reply)).await;
    }

    /// Sends the scores of questions.
    pub async fn scored(&self, scored: Result<Scored, Failure>) {
        self.send(Event::Scored(scored)).await;
    }

    async fn send(&self, event: Event) {
        // Nobody receives it while the back end is dropped.
        let _ = self.to.send((self.id, event)).await;
    }
}
