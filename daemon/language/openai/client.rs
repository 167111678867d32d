//! Holds what is known of the servers: their settings, and what their proofs found.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use super::chat::{Completion, Conversation, body};
use super::samples::Samples;
use crate::config;
use crate::language::servers::{Http, Problem, Servers};
use crate::language::{Failure, LanguageError};
use crate::sync::lock;

/// The servers of a model, and all that is needed to ask them.
pub struct Client {
    pub http: Http,
    pub servers: Servers,
    pub settings: config::OpenAi,
    /// The system message, which may be empty.
    pub instruction: String,
    /// The pictures of the proofs.
    pub samples: Samples,
    /// Maximum number of tokens of an answer.
    pub max_new_tokens: usize,
    /// The findings of each server's last proof.
    abilities: Mutex<HashMap<String, Abilities>>,
}

/// The features of a server, as its proof found them.
#[derive(Clone, Debug, PartialEq)]
pub struct Abilities {
    /// Number of tokens of a small picture. A frame has at least as many. `None` if the server does
    /// not report the length of prompts.
    pub least_tokens: Option<u32>,
    /// Number of tokens of a whole window's frames.
    pub window_tokens: Option<u32>,
    /// Success if it sends log probabilities, or if they are not needed. Otherwise the reason.
    pub logprobs: Result<(), String>,
    /// Success if it follows JSON Schemas. Otherwise the reason.
    pub schemas: Result<(), String>,
}

/// A feature that not every server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// The scores of questions.
    Scores,
    /// Answers by a JSON Schema.
    Schemas,
}

impl Client {
    pub fn new(
        settings: &config::OpenAi,
        instruction: &str,
        samples: Samples,
        max_new_tokens: usize,
    ) -> Result<Client, String> {
        Ok(Client {
            http: Http::new(&settings.servers)?,
            servers: Servers::new(&settings.servers.endpoints),
            settings: settings.clone(),
            instruction: instruction.into(),
            samples,
            max_new_tokens,
            abilities: Mutex::default(),
        })
    }

    pub fn url(&self, server: &str) -> String {
        format!("{server}/v1/chat/completions")
    }

    /// Asks a question, and waits for the whole response.
    pub async fn complete(
        &self,
        server: &str,
        conversation: &Conversation<'_>,
        fields: serde_json::Value,
        patience: Duration,
    ) -> Result<Completion, Problem> {
        let body = body(&self.settings.servers.model, conversation, fields);
        let body = body.map_err(|failure| Problem::Request(failure.to_string()))?;
        self.http.post(&self.url(server), body, patience).await
    }

    /// Records what the proof of a server found.
    pub fn learn(&self, server: &str, abilities: Abilities) {
        lock(&self.abilities).insert(server.into(), abilities);
    }

    /// Returns what the last proof of a server found.
    pub fn abilities(&self, server: &str) -> Option<Abilities> {
        lock(&self.abilities).get(server).cloned()
    }

    /// Returns true if a server has the feature, as far as is known.
    pub fn has(&self, server: &str, feature: Feature) -> bool {
        self.abilities(server).is_none_or(|abilities| abilities.feature(feature).is_ok())
    }

    /// Checks that a server is ready.
    pub fn check_ready(&self) -> Result<(), Failure> {
        if self.servers.ready(0).is_empty() { Err(self.servers.none_ready()) } else { Ok(()) }
    }

    /// Checks that one of the servers that are ready has the feature. Success if none is ready.
    pub fn check_feature(&self, feature: Feature) -> Result<(), LanguageError> {
        let mut reasons = Vec::new();
        for server in self.servers.ready(0) {
            let abilities = self.abilities(&server.address);
            match abilities.map(|abilities| abilities.feature(feature).clone()) {
                Some(Err(why)) => reasons.push(format!("{}: {why}", server.address)),
                Some(Ok(())) | None => return Ok(()),
            }
        }
        if reasons.is_empty() {
            return Ok(());
        }
        let reasons = reasons.join("; ");
        Err(LanguageError::BadPrompt(match feature {
            Feature::Scores => format!(
                "no language server sends log probabilities, from which scores are computed \
                 ({reasons}); set language.scores = \"text\", or use a server that sends them"
            ),
            Feature::Schemas => format!(
                "no language server follows JSON Schemas ({reasons}); leave the schema out, or use \
                 a server that follows response_format"
            ),
        }))
    }
}

impl Abilities {
    fn feature(&self, feature: Feature) -> &Result<(), String> {
        match feature {
            Feature::Scores => &self.logprobs,
            Feature::Schemas => &self.schemas,
        }
    }
}

/// Continues the sentence “the server …”.
impl fmt::Display for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tells a red from a blue picture")?;
        match self.window_tokens {
            Some(tokens) => write!(f, "; the frames of a window take {tokens} tokens")?,
            None => f.write_str("; it does not report the length of prompts")?,
        }
        for (what, found) in
            [("log probabilities", &self.logprobs), ("JSON Schemas", &self.schemas)]
        {
            match found {
                Ok(()) => write!(f, "; {what}: yes")?,
                Err(why) => write!(f, "; {what}: no ({why})")?,
            }
        }
        Ok(())
    }
}
