//! Asks the model to describe an alert that begins: a question about its window, whose answer goes
//! into the alert and not to a client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::pass::{PendingQuestion, Receiver};
use crate::engine::Engine;
use crate::frame::Span;
use crate::timeline::Clip;

impl Engine {
    /// Queues the question. If the queue is full, the alert stays without a description.
    pub(in crate::engine) fn describe(
        &self,
        (camera, alert_id): (&Arc<str>, Arc<str>),
        prompt: &str,
        window: Span,
        clip: Clip,
    ) {
        // The question counts as wanted while its listener exists.
        let (to, listener) = mpsc::channel(1);
        let id = alert_id.clone();
        let question = PendingQuestion {
            camera: camera.clone(),
            id: String::new(),
            text: prompt.into(),
            prompt: prompt.into(),
            turns: Arc::default(),
            conversation: String::new(),
            max_new_tokens: self.max_new_tokens,
            is_scored: false,
            window,
            clip,
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
            tracing::warn!(
                camera = &**camera,
                id = &*id,
                "no description of the alert: too many questions are waiting"
            );
        }
    }
}
