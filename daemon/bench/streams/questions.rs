//! Asks real questions over gRPC while the captions run.

use std::io;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::client::{self, ClientError, Output};
use crate::question::{Draft, Limits, Question, RawLength};

const QUESTIONS: [&str; 3] =
    ["Is there a person?", "What is happening?", "What colour is the car?"];

pub struct Asker {
    server: String,
    cameras: Vec<String>,
    /// Length of the time range that is asked about.
    last: Duration,
    /// Questions in progress, each with the seconds from the question to the end of its answer.
    asked: JoinSet<Result<f64, ClientError>>,
    turn: usize,
    pub answers: Vec<f64>,
    /// Number of questions refused because the queue was full.
    pub refused: usize,
    /// Number of questions without an answer for another reason.
    pub unanswered: usize,
    /// The first of these reasons.
    pub why: Option<String>,
}

impl Asker {
    pub fn new(server: &str, cameras: &[String], last: Duration) -> Asker {
        Asker {
            server: server.into(),
            cameras: cameras.into(),
            last,
            asked: JoinSet::new(),
            turn: 0,
            answers: Vec::new(),
            refused: 0,
            unanswered: 0,
            why: None,
        }
    }

    /// Asks about the next camera; works only within a `LocalSet`. Does not wait for the answer: if
    /// there are too many questions, the daemon refuses.
    pub fn ask(&mut self) {
        let round = self.turn / self.cameras.len();
        let draft = Draft {
            camera: self.cameras[self.turn % self.cameras.len()].clone(),
            text: QUESTIONS[round % QUESTIONS.len()].into(),
            last: Some(RawLength::Seconds(self.last.as_secs_f64())),
            ..Draft::default()
        };
        self.turn += 1;
        let question = match Question::new(draft, &Limits::unknown()) {
            Ok(question) => question,
            Err(why) => return self.without_answer(1, why.to_string()),
        };
        let server = self.server.clone();
        self.asked.spawn_local(async move {
            let begun = Instant::now();
            client::ask(&server, &[question], Output::Json, &mut io::sink()).await?;
            Ok(begun.elapsed().as_secs_f64())
        });
    }

    /// Waits for the next answer and counts it. Returns false if none is in progress.
    pub async fn next(&mut self) -> bool {
        let Some(answer) = self.asked.join_next().await else { return false };
        match answer {
            Ok(Ok(took)) => self.answers.push(took),
            Ok(Err(refused)) if refused.is_queue_full() => self.refused += 1,
            Ok(Err(why)) => self.without_answer(1, why.to_string()),
            Err(why) => self.without_answer(1, why.to_string()),
        }
        true
    }

    /// Waits for the questions in progress.
    pub async fn finish(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while timeout_at(deadline, self.next()).await == Ok(true) {}
        if !self.asked.is_empty() {
            self.without_answer(self.asked.len(), "too late after the end".into());
        }
    }

    fn without_answer(&mut self, questions: usize, why: String) {
        self.unanswered += questions;
        self.why.get_or_insert(why);
    }
}
