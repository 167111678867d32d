//! Asks the model to describe an alert that begins: a question about its window, whose answer goes
//! into the alert and not to a client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::pass::{PendingQuestion, Receiver};
use crate::config::Rule;
use crate::engine::Engine;
use crate::frame::Span;
use crate::language::{Schema, SchemaError};
use crate::timeline::Clip;

impl Engine {
    /// Queues the question, if the rule has one. If it cannot be queued, the alert stays without a
    /// description.
    pub(in crate::engine) fn describe(
        &self,
        (camera, alert_id): (&Arc<str>, Arc<str>),
        rule: &Rule,
        window: Span,
        clip: &Clip,
    ) {
        let Some(prompt) = &rule.describe else { return };
        let id = alert_id.clone();
        let failed = |why: &str| {
            tracing::warn!(camera = &**camera, id = &*id, "no description of the alert: {why}");
        };
        let schema = match self.description_schema(rule).transpose() {
            Ok(schema) => schema,
            Err(error) => return failed(&error.to_string()),
        };
        // The question counts as wanted while its listener exists.
        let (to, listener) = mpsc::channel(1);
        let question = PendingQuestion {
            camera: camera.clone(),
            id: String::new(),
            text: prompt.to_string(),
            prompt: prompt.to_string(),
            turns: Arc::default(),
            conversation: String::new(),
            max_new_tokens: self.max_new_tokens,
            is_scored: false,
            schema,
            trace_parent: None,
            window,
            clip: clip.clone(),
            plan: self.plan,
            encode: Duration::ZERO,
            asked_at: Instant::now(),
            to,
            receiver: Receiver::Alert { alert_id, _listener: listener },
        };
        let mut jobs = self.jobs();
        if jobs.stopping {
            return;
        }
        let asked = jobs.ask(question);
        drop(jobs);
        if asked.is_err() {
            failed("too many questions are waiting");
        }
    }

    /// Compiles the schema of a rule's description, which takes milliseconds.
    fn description_schema(&self, rule: &Rule) -> Option<Result<Arc<Schema>, SchemaError>> {
        let compiler = self.schemas.get()?;
        let schema = rule.describe_schema.as_deref()?;
        Some(compiler.compile(schema).map(Arc::new))
    }
}
