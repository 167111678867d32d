//! A server that speaks OpenAI's `/v1/chat/completions` and looks at the pictures that it gets: it
//! tells their colours, in order, with the times before them. It misbehaves on request, as real
//! servers were seen to do.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lookout::vision::jpeg::JpegCodec;
use serde_json::{Value, json};

use super::http_stub::{Incoming, listen};

/// Tokens of a picture, and those of a prompt's template.
pub const PICTURE_TOKENS: usize = 64;
const TEMPLATE_TOKENS: usize = 10;

/// A fault of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// Serves a model of this name.
    Model(&'static str),
    /// Accepts no request without another key.
    Unauthorized,
    /// Knows no chat: 404.
    NoChat,
    /// Accepts pictures and drops them.
    DropsPictures,
    /// Refuses pictures with this status: 400, or 500 as llama-server does.
    RefusesPictures(u16),
    /// Counts pictures and sees the same in each.
    Blind,
    /// Calls red green.
    NamesWrongly,
    /// Reports no usage.
    NoUsage,
    /// Accepts `logprobs` and ignores it.
    NoLogprobs,
    /// Refuses `logprobs`: 400.
    RefusesLogprobs,
    /// Accepts `response_format` and ignores it.
    NoSchemas,
    /// Writes much white space where a schema lets it, as small models do.
    Blanks,
    /// Follows the schema of the proof, and of no other request.
    OtherSchema,
    /// Refuses a prompt and an answer of more tokens: 400.
    Context(usize),
    /// Lists a context of this many tokens, and cuts answers at its end without an error, as
    /// llama-server does.
    CutsAnswers(usize),
    /// Leaves out the pictures after these, and says nothing.
    Truncates(usize),
    /// Answers by a word that is neither yes nor no.
    Evades,
    /// Reasons until the answer's length is used up.
    Reasons,
    /// Closes the connection after some words, and accepts none from then on.
    DiesAfter(usize),
    /// Sends nothing after some words.
    StallsAfter(usize),
    /// Continues with other words after some.
    Drifts(usize),
    /// Ignores `max_tokens`, and does not end.
    Endless,
    /// Answers with an empty text.
    Empty,
    /// Answers 500 once, and accepts no connection from then on.
    Fails,
    /// Refuses an answer for what it is about.
    Filters,
    /// Does not answer until the client has left.
    Hangs,
    /// Accepts no connection.
    Down,
}

/// A request for a text or a score, as the stub understood it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub system: Option<String>,
    /// The time before each picture, and its JPEG.
    pub pictures: Vec<(String, Vec<u8>)>,
    /// Earlier questions and answers.
    pub turns: Vec<(String, String)>,
    pub question: String,
    /// The other fields.
    pub fields: Value,
}

/// A stub on a port of its own.
pub struct Stub {
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    fault: Mutex<Fault>,
    /// True while the stub accepts no connection.
    is_down: AtomicBool,
    /// The requests for a text or a score, without those of proofs.
    seen: Mutex<Vec<Seen>>,
    /// Number of clients that left before their answer.
    left: AtomicUsize,
    codec: Mutex<JpegCodec>,
}

impl Stub {
    pub fn start(fault: Fault) -> Stub {
        let shared = Arc::new(Shared {
            fault: Mutex::new(fault),
            is_down: AtomicBool::new(fault == Fault::Down),
            seen: Mutex::default(),
            left: AtomicUsize::new(0),
            codec: Mutex::new(JpegCodec::new(64, 0, 80).expect("a codec")),
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

    /// Returns the requests so far, without those of proofs.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("the requests").clone()
    }

    pub fn requests(&self) -> usize {
        self.seen().len()
    }

    pub fn left(&self) -> usize {
        self.shared.left.load(Ordering::SeqCst)
    }
}

impl Seen {
    /// Reads a request, and checks its form.
    fn read(request: &Value) -> Seen {
        let mut fields = request.as_object().expect("an object").clone();
        let messages = fields.remove("messages").expect("messages");
        let mut seen = Seen {
            system: None,
            pictures: Vec::new(),
            turns: Vec::new(),
            question: String::new(),
            fields: fields.into(),
        };
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let mut asked = Vec::new();
        let mut answers = Vec::new();
        for message in messages.as_array().expect("a list") {
            match message["role"].as_str() {
                Some("system") => seen.system = Some(text(&message["content"])),
                Some("assistant") => answers.push(text(&message["content"])),
                Some("user") => {
                    let mut texts = Vec::new();
                    for part in message["content"].as_array().expect("parts") {
                        if part["type"] == "text" {
                            texts.push(text(&part["text"]));
                            continue;
                        }
                        assert_eq!(part["type"], "image_url", "{part}");
                        assert!(asked.is_empty(), "a picture after the first question");
                        let url = text(&part["image_url"]["url"]);
                        let base64 = url.strip_prefix("data:image/jpeg;base64,").expect("a JPEG");
                        let jpeg = BASE64_STANDARD.decode(base64).expect("base64");
                        // The pictures of a proof of sight have no time.
                        seen.pictures.push((texts.pop().unwrap_or_default(), jpeg));
                    }
                    assert_eq!(texts.len(), 1, "the question is the only other text");
                    asked.extend(texts);
                }
                other => panic!("the role {other:?}"),
            }
        }
        seen.question = asked.pop().expect("a question");
        assert_eq!(asked.len(), answers.len(), "each earlier question has an answer");
        seen.turns = asked.into_iter().zip(answers).collect();
        seen
    }

    fn is_proof(&self) -> bool {
        self.question.contains("this picture")
    }

    fn tokens(&self) -> usize {
        let texts = self.turns.iter().flat_map(|(question, answer)| [question, answer]);
        let texts = texts.chain([&self.question]).chain(self.system.iter());
        let words: usize = texts.map(|text| text.split(' ').count()).sum();
        TEMPLATE_TOKENS + words + PICTURE_TOKENS * self.pictures.len()
    }
}

impl Shared {
    /// Serves one request, and closes the connection.
    fn serve(&self, mut incoming: Incoming) -> Option<()> {
        let fault = *self.fault.lock().expect("the fault");
        if fault == Fault::Unauthorized && !incoming.head.contains("Bearer right") {
            return incoming.reply(401, &json!({ "error": "Unauthorized" }));
        }
        if incoming.head.starts_with("GET /v1/models ") {
            let id = if let Fault::Model(name) = fault { name } else { "seer" };
            let mut model = json!({ "id": id });
            if let Fault::CutsAnswers(context) = fault {
                model["meta"] = json!({ "n_ctx": context, "n_ctx_train": 4096 });
            }
            return incoming.reply(200, &json!({ "object": "list", "data": [model] }));
        }
        if fault == Fault::NoChat {
            return incoming.reply(404, &json!({ "error": { "message": "File Not Found" } }));
        }
        assert!(incoming.head.starts_with("POST /v1/chat/completions "), "{}", incoming.head);
        let request: Value = serde_json::from_slice(&incoming.body).expect("JSON");
        assert_eq!(request["model"], "seer");
        let mut seen = Seen::read(&request);
        let is_proof = seen.is_proof();
        if !is_proof {
            self.seen.lock().expect("the requests").push(seen.clone());
        }
        let refusal = match fault {
            Fault::RefusesPictures(_) if !seen.pictures.is_empty() => {
                Some("image input is not supported".to_owned())
            }
            Fault::RefusesLogprobs if request["logprobs"] == true => {
                Some("logprobs are not supported".into())
            }
            Fault::Context(most) => {
                let found =
                    seen.tokens() + request["max_tokens"].as_u64().expect("a number") as usize;
                (found > most).then(|| format!("maximum context length is {most} tokens"))
            }
            _ => None,
        };
        if let Some(message) = refusal {
            let status = if let Fault::RefusesPictures(status) = fault { status } else { 400 };
            return incoming
                .reply(status, &json!({ "error": { "message": message, "code": status } }));
        }
        match fault {
            Fault::DropsPictures => seen.pictures.clear(),
            Fault::Truncates(most) => seen.pictures.truncate(most),
            Fault::Fails if !is_proof => {
                self.is_down.store(true, Ordering::SeqCst);
                return incoming.reply(500, &json!({ "error": { "message": "out of memory" } }));
            }
            Fault::Hangs if !is_proof => {
                if incoming.wait_for_end() {
                    self.left.fetch_add(1, Ordering::SeqCst);
                }
                return None;
            }
            _ => {}
        }
        self.answer(incoming, &seen, fault, is_proof)
    }

    fn answer(
        &self,
        mut incoming: Incoming,
        seen: &Seen,
        fault: Fault,
        is_proof: bool,
    ) -> Option<()> {
        let yes = self.share_of_named_colour(seen, fault);
        let follows_schema = match fault {
            Fault::NoSchemas => false,
            Fault::OtherSchema => is_proof,
            _ => true,
        };
        let schema = &seen.fields["response_format"]["json_schema"]["schema"];
        let text = match schema {
            Value::Object(_) if follows_schema => self.by_schema(schema, seen, fault),
            _ if fault == Fault::Evades && !is_proof => "Perhaps.".into(),
            _ if seen.question.ends_with("Answer only yes or no.") => {
                if yes >= 0.5 { "Yes." } else { "No." }.into()
            }
            _ => self.description(seen, fault),
        };
        let prompt_tokens = seen.tokens();
        let words: Vec<&str> = text.split_inclusive(' ').collect();
        let mut most = seen.fields["max_tokens"].as_u64().expect("a number") as usize;
        if let Fault::CutsAnswers(context) = fault {
            most = most.min(context.saturating_sub(prompt_tokens));
        }
        let usage = |count: usize| match fault {
            Fault::NoUsage => Value::Null,
            _ => json!({
                "prompt_tokens": prompt_tokens,
                "completion_tokens": count,
                "prompt_tokens_details": { "cached_tokens": 5 },
            }),
        };
        if seen.fields["stream"] != true {
            let content = words[..words.len().min(most)].concat();
            let message = json!({ "role": "assistant", "content": content });
            let is_ignored = fault == Fault::NoLogprobs || seen.fields["logprobs"] != true;
            let logprobs = if is_ignored { Value::Null } else { logprobs(yes, fault, is_proof) };
            let choice = json!({
                "index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop",
            });
            return incoming.reply(200, &json!({ "choices": [choice], "usage": usage(1) }));
        }
        incoming.begin_events()?;
        let delta = |delta: Value, reason: Option<&str>| {
            let choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
            json!({ "choices": [choice] })
        };
        incoming.event(&delta(json!({ "role": "assistant", "content": null }), None))?;
        let mut count = 0;
        let mut reason = "stop";
        // A real server's first token begins with a space.
        incoming.event(&delta(json!({ "content": " " }), None))?;
        for word in words.iter().copied().chain(std::iter::repeat_n("more ", 1000)) {
            if count >= words.len() && fault != Fault::Endless {
                break;
            }
            match fault {
                Fault::DiesAfter(words) if count == words => {
                    self.is_down.store(true, Ordering::SeqCst);
                    return None;
                }
                Fault::StallsAfter(words) if count == words => {
                    thread::sleep(Duration::from_secs(60));
                    return None;
                }
                Fault::Empty => break,
                Fault::Reasons => {
                    incoming.event(&delta(json!({ "reasoning_content": "Hm, " }), None))?;
                    reason = "length";
                    count += 1;
                    if count == most {
                        break;
                    }
                    continue;
                }
                _ => {}
            }
            if count == most && fault != Fault::Endless {
                reason = "length";
                break;
            }
            let word = match fault {
                Fault::Drifts(words) if count >= words => "otherwise ",
                _ => word,
            };
            incoming.event(&delta(json!({ "content": word }), None))?;
            count += 1;
        }
        if fault == Fault::Filters {
            reason = "content_filter";
        }
        incoming.event(&delta(json!({}), Some(reason)))?;
        incoming.event(&json!({ "choices": [], "usage": usage(count) }))?;
        incoming.end_events()
    }

    fn colours(&self, seen: &Seen, fault: Fault) -> Vec<&'static str> {
        let colour = |(_, jpeg): &(String, Vec<u8>)| match self.colour(jpeg) {
            _ if fault == Fault::Blind => "grey",
            "red" if fault == Fault::NamesWrongly => "green",
            colour => colour,
        };
        seen.pictures.iter().map(colour).collect()
    }

    /// Returns the name of a picture's mean colour.
    fn colour(&self, jpeg: &[u8]) -> &'static str {
        let image = self.codec.lock().expect("the codec").decode(jpeg).expect("a JPEG");
        let pixels = image.bgrx.as_chunks::<4>().0;
        let mean = |channel: usize| {
            let sum: u64 = pixels.iter().map(|pixel| u64::from(pixel[channel])).sum();
            (sum / pixels.len() as u64) as i64
        };
        let [blue, green, red] = [mean(0), mean(1), mean(2)];
        let is_above = |one: i64, others: [i64; 2]| others.iter().all(|other| one > other + 60);
        match () {
            () if is_above(red, [green, blue]) => "red",
            () if is_above(green, [red, blue]) => "green",
            () if is_above(blue, [red, green]) => "blue",
            () if red + green + blue > 600 => "white",
            () if red + green + blue < 90 => "black",
            () => "grey",
        }
    }

    fn description(&self, seen: &Seen, fault: Fault) -> String {
        let colours = self.colours(seen, fault);
        if seen.is_proof() {
            return match &colours[..] {
                [colour] => format!("{}.", colour.to_uppercase()),
                _ => "None.".into(),
            };
        }
        let times = seen.pictures.iter().map(|(time, _)| time);
        let list: Vec<String> =
            colours.iter().zip(times).map(|(colour, time)| format!("{colour} at {time}")).collect();
        format!("After {} answers I see {}.", seen.turns.len(), list.join(", "))
    }

    /// Returns the share of the pictures that have the colour that the question names.
    fn share_of_named_colour(&self, seen: &Seen, fault: Fault) -> f64 {
        let is_named = |colour: &&&str| seen.question.contains(**colour);
        let colours = self.colours(seen, fault);
        let named = colours.iter().filter(is_named).count();
        named as f64 / colours.len().max(1) as f64
    }

    /// Answers by a schema whose properties are words or whole numbers.
    fn by_schema(&self, schema: &Value, seen: &Seen, fault: Fault) -> String {
        let properties = schema["properties"].as_object().expect("properties");
        let value = |property: &Value| match property["enum"].as_array() {
            Some(words) => words[0].clone(),
            None if property["type"] == "integer" => json!(seen.pictures.len()),
            None => json!(self.colours(seen, fault).join(" ")),
        };
        let answer: serde_json::Map<String, Value> =
            properties.iter().map(|(name, property)| (name.clone(), value(property))).collect();
        let text = serde_json::to_string_pretty(&answer).expect("JSON") + "\n";
        match fault {
            Fault::Blanks => text.replacen('{', &format!("{{{}", " ".repeat(40)), 1),
            _ => text,
        }
    }
}

/// Returns the log probabilities of an answer whose first word is yes with this probability.
fn logprobs(yes: f64, fault: Fault, is_proof: bool) -> Value {
    let yes = yes.clamp(0.01, 0.99);
    let top = |token: &str, p: f64| json!({ "token": token, "logprob": p.ln(), "bytes": [] });
    let tops = match fault {
        Fault::Evades if !is_proof => vec![top("Perhaps", 0.9), top("I", 0.1)],
        // Half of the probability of yes is in another spelling.
        _ => vec![
            top("Yes", yes * 0.4),
            top(" yes", yes * 0.4),
            top("No", (1.0 - yes) * 0.8),
            top("Nothing", 0.1),
        ],
    };
    json!({ "content": [{ "token": "Yes", "logprob": yes.ln(), "top_logprobs": tops }] })
}
