//! A server that speaks vLLM's `/v1/completions`, runs the demo's decoder on the rows that it gets,
//! and misbehaves on request.

use std::io::{Cursor, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use half::f16;
use lookout::language::{Decoder, Embedder};
use lookout::model::{Package, Runtime};
use serde_json::{Value, json};

use super::CAPACITY;
use super::http_stub::{Incoming, listen};

/// A fault of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// Serves a model of this name.
    Model(&'static str),
    /// Accepts only so many tokens.
    Context(usize),
    /// Has another table of words.
    Table,
    /// Accepts no request without another key.
    Unauthorized,
    /// Closes the connection after some tokens, and accepts none from then on.
    DiesAfter(usize),
    /// Sends nothing after some tokens.
    StallsAfter(usize),
    /// Sends log probabilities that are not numbers after some tokens.
    NotFiniteAfter(usize),
    /// Reports a prompt of another length.
    PromptTokens,
    /// Answers 500 once, and accepts no connection from then on.
    Fails,
    /// Refuses each prompt as too long.
    TooLong,
    /// Accepts unknown fields, but does not do what they say.
    Ignores,
    /// Continues an answer with another token from this one on.
    Drifts(usize),
    /// Does not answer until the client has left.
    Hangs,
    /// Gives an answer to another client at the same time as each of its answers.
    Shared,
    /// Accepts no connection.
    Down,
}

/// The model that the stubs run.
pub struct Engine {
    decoder: Decoder,
    embedder: Embedder,
    width: usize,
    end_tokens: Vec<u32>,
}

impl Engine {
    pub fn load(runtime: &Runtime, package: &Package) -> Arc<Mutex<Engine>> {
        Arc::new(Mutex::new(Engine {
            decoder: Decoder::load(runtime, package, 1, CAPACITY).expect("the decoder"),
            embedder: Embedder::load(runtime, package, 1).expect("the table"),
            width: package.text.hidden_size,
            end_tokens: package.end_tokens.clone(),
        }))
    }

    /// Generates greedily from a prompt's rows. Returns the log probabilities at each token, whose
    /// largest is the token's.
    fn generate(&mut self, rows: &[f32], most: usize) -> Vec<Vec<f64>> {
        let mut cache = self.decoder.cache(1).expect("a cache");
        let mut logits = self.decoder.read(&mut cache, 0, rows).expect("read");
        let mut steps = Vec::new();
        loop {
            steps.push(log_softmax(&logits));
            let id = largest(&steps[steps.len() - 1]);
            if steps.len() == most || self.end_tokens.contains(&id) {
                return steps;
            }
            let row = self.embedder.embed(&[id]).expect("a row");
            logits = self.decoder.step(&mut cache, 1, &row).expect("a step");
        }
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    logits.iter().map(|logit| f64::from(logit - largest) - sum.ln()).collect()
}

fn largest(values: &[f64]) -> u32 {
    let best = (0..values.len()).reduce(|a, b| if values[b] > values[a] { b } else { a });
    best.expect("values") as u32
}

/// A stub on a port of its own.
pub struct Stub {
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<Mutex<Engine>>,
    fault: Mutex<Fault>,
    /// True while the stub accepts no connection.
    is_down: AtomicBool,
    /// Number of requests for a text or a score, without those of proofs.
    requests: AtomicUsize,
    /// Number of clients that left before their answer.
    left: AtomicUsize,
    /// The `priority` of each request.
    priorities: Mutex<Vec<i64>>,
    /// The time that each answer to a request took, in seconds.
    answers: Mutex<Vec<f64>>,
}

impl Stub {
    pub fn start(engine: &Arc<Mutex<Engine>>, fault: Fault) -> Stub {
        let shared = Arc::new(Shared {
            engine: engine.clone(),
            fault: Mutex::new(fault),
            is_down: AtomicBool::new(fault == Fault::Down),
            requests: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            priorities: Mutex::default(),
            answers: Mutex::default(),
        });
        let served = shared.clone();
        let address = listen(move |stream| {
            // A connection that is closed without an answer is like one that is refused.
            if !served.is_down.load(Ordering::SeqCst) {
                Incoming::read(stream).and_then(|incoming| served.serve(incoming));
            }
        });
        Stub { address, shared }
    }

    pub fn set(&self, fault: Fault) {
        *self.shared.fault.lock().expect("the fault") = fault;
        self.shared.is_down.store(fault == Fault::Down, Ordering::SeqCst);
    }

    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    pub fn left(&self) -> usize {
        self.shared.left.load(Ordering::SeqCst)
    }

    pub fn priorities(&self) -> Vec<i64> {
        self.shared.priorities.lock().expect("the priorities").clone()
    }

    /// Returns the time that each answer to a request took, in seconds.
    pub fn answers(&self) -> Vec<f64> {
        self.shared.answers.lock().expect("the answers").clone()
    }
}

impl Shared {
    /// Serves one request, and closes the connection.
    fn serve(&self, mut incoming: Incoming) -> Option<()> {
        let (head, body) = (incoming.head.clone(), std::mem::take(&mut incoming.body));
        let fault = *self.fault.lock().expect("the fault");
        if fault == Fault::Unauthorized && !head.contains("Bearer right") {
            return incoming.reply(401, &json!({ "error": "Unauthorized" }));
        }
        if head.starts_with("GET /v1/models ") {
            let id = if let Fault::Model(name) = fault { name } else { "yard" };
            let most = if let Fault::Context(most) = fault { most } else { CAPACITY };
            let model = json!({ "id": id, "owned_by": "vllm", "max_model_len": most });
            return incoming.reply(200, &json!({ "object": "list", "data": [model] }));
        }
        if head.starts_with("GET /metrics ") {
            let (answers, name) =
                (self.answers.lock().expect("the answers"), "vllm:e2e_request_latency_seconds");
            let sum: f64 = answers.iter().sum();
            return incoming.reply_text(&format!(
                "{name}_count{{engine=\"0\"}} {}.0\n{name}_sum{{engine=\"0\"}} {sum}\n",
                answers.len()
            ));
        }
        let request: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(request["model"], "yard");
        let is_proof = request["logprobs"] == 5 || request["priority"] == 2;
        if is_proof {
            let rows = self.rows(&request, fault);
            return self.respond(incoming, &request, &rows, fault);
        }
        self.requests.fetch_add(1, Ordering::SeqCst);
        let priority = request["priority"].as_i64().expect("a priority");
        self.priorities.lock().expect("the priorities").push(priority);
        match fault {
            Fault::Fails => {
                self.is_down.store(true, Ordering::SeqCst);
                let error = json!({ "error": { "message": "EngineCore died", "code": 500 } });
                incoming.reply(500, &error)
            }
            Fault::TooLong => {
                let message = "maximum context length is 1024 tokens";
                incoming.reply(400, &json!({ "error": { "message": message, "code": 400 } }))
            }
            Fault::Hangs => {
                if incoming.wait_for_end() {
                    self.left.fetch_add(1, Ordering::SeqCst);
                }
                None
            }
            _ => {
                let begun = Instant::now();
                let rows = self.rows(&request, Fault::None);
                let responded = self.respond(incoming, &request, &rows, fault);
                let took = begun.elapsed().as_secs_f64();
                let count = if fault == Fault::Shared { 2 } else { 1 };
                self.answers.lock().expect("the answers").extend(vec![took; count]);
                responded
            }
        }
    }

    /// Returns the rows of a prompt.
    fn rows(&self, request: &Value, fault: Fault) -> Vec<f32> {
        if let Some(ids) = request["prompt"].as_array() {
            // Another model has other rows for its ids.
            let shift = if fault == Fault::Table { 7 } else { 0 };
            let id = |id: &Value| (id.as_u64().expect("an id") as u32 + shift) % 400;
            let ids: Vec<u32> = ids.iter().map(id).collect();
            return self.engine.lock().expect("the engine").embedder.embed(&ids).expect("rows");
        }
        let base64 = request["prompt_embeds"].as_str().expect("rows");
        let file = BASE64_STANDARD.decode(base64).expect("base64");
        let mut archive = zip::ZipArchive::new(Cursor::new(file)).expect("a zip archive");
        let mut values = Vec::new();
        // This checks the CRC too.
        archive.by_name("a/data/0").expect("values").read_to_end(&mut values).expect("values");
        let halves = values.chunks(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]));
        halves.map(f16::to_f32).collect()
    }

    fn respond(
        &self,
        mut incoming: Incoming,
        request: &Value,
        rows: &[f32],
        fault: Fault,
    ) -> Option<()> {
        let is_stream = request["stream"] == true;
        if is_stream {
            incoming.begin_events()?;
        }
        let most = request["max_tokens"].as_u64().expect("a number") as usize;
        let (steps, width, end_tokens) = {
            let mut engine = self.engine.lock().expect("the engine");
            (engine.generate(rows, most), engine.width, engine.end_tokens.clone())
        };
        let prompt_tokens = match fault {
            Fault::PromptTokens => 11,
            _ => rows.len() / width,
        };
        let usage = json!({
            "prompt_tokens": prompt_tokens,
            "prompt_tokens_details": { "cached_tokens": 128 },
        });
        if !is_stream && fault == Fault::NotFiniteAfter(0) {
            // The answer of vLLM 0.32.
            let message = "Out of range float values are not JSON compliant: nan";
            return incoming.reply(400, &json!({ "error": { "message": message, "code": 400 } }));
        }
        if !is_stream {
            let choice = self.choice(&steps[0], request, fault, 0, Some("length"));
            return incoming.reply(200, &json!({ "choices": [choice], "usage": usage }));
        }
        for (at, step) in steps.iter().enumerate() {
            match fault {
                Fault::DiesAfter(tokens) if at == tokens => {
                    self.is_down.store(true, Ordering::SeqCst);
                    return None;
                }
                Fault::StallsAfter(tokens) if at == tokens => {
                    thread::sleep(Duration::from_secs(60));
                    return None;
                }
                _ => {}
            }
            let reason = if at + 1 < steps.len() {
                None
            } else if end_tokens.contains(&largest(step)) {
                Some("stop")
            } else {
                Some("length")
            };
            let choice = self.choice(step, request, fault, at, reason);
            incoming.event(&json!({ "choices": [choice], "usage": usage }))?;
        }
        incoming.event(&json!({ "choices": [], "usage": usage }))?;
        incoming.end_events()
    }

    fn choice(
        &self,
        step: &[f64],
        request: &Value,
        fault: Fault,
        at: usize,
        finish_reason: Option<&str>,
    ) -> Value {
        let id = match fault {
            Fault::Drifts(from) if at >= from => largest(step) + 1,
            _ => largest(step),
        };
        let mut named: Vec<usize> = (0..step.len()).collect();
        named.sort_by(|a, b| step[*b].total_cmp(&step[*a]));
        let count = request["logprobs"].as_u64().unwrap_or(0) as usize;
        named.truncate(count.max(1));
        if let (Some(tokens), true) =
            (request["logprob_token_ids"].as_array(), fault != Fault::Ignores)
        {
            named.extend(tokens.iter().map(|token| token.as_u64().expect("an id") as usize));
        }
        let is_nan = matches!(fault, Fault::NotFiniteAfter(tokens) if at >= tokens);
        let value = |id: usize| if is_nan { Value::Null } else { json!(step[id]) };
        let top: serde_json::Map<String, Value> =
            named.into_iter().map(|id| (format!("token_id:{id}"), value(id))).collect();
        json!({
            "index": 0,
            "text": "?",
            "token_ids": [id],
            "logprobs": { "token_logprobs": [value(largest(step) as usize)], "top_logprobs": [top] },
            "finish_reason": finish_reason,
        })
    }
}
