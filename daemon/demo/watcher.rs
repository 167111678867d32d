//! The demo's reader: takes captions from gRPC and MQTT, asks questions at intervals, and prints
//! the results.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::io::{BufReader, Lines};
use tokio::process::{ChildStdout, Command};
use tokio::time::{Instant, sleep_until};

use super::children::Children;
use super::score::Score;
use super::score::judge;

/// Longest delay between gRPC and MQTT before a caption is shown with only one of them.
const WIRES_APART: Duration = Duration::from_secs(3);
/// Time between two questions; each goes to the next camera.
const ASK_EVERY: Duration = Duration::from_secs(9);
/// Time between two questions to the same camera with `--score`.
const SCORE_EVERY: Duration = Duration::from_secs(2);
/// Questions asked without `--score`.
const QUESTIONS: [&str; 4] = [
    "Is there a person?",
    "What colour is the car?",
    "Which way does the car go?",
    "What is happening?",
];

/// Handling of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Print a line for people.
    Show,
    Json,
    /// Count the verdicts.
    Score,
}

pub struct Watcher {
    grpc: Lines<BufReader<ChildStdout>>,
    mqtt: Lines<BufReader<ChildStdout>>,
    server: String,
    cameras: Vec<String>,
    score: Score,
    questions: Vec<String>,
    /// Captions received from one of gRPC and MQTT, by sequence number.
    half: HashMap<u64, (Value, &'static str, Instant)>,
    manner: Manner,
    captions: u64,
    answers: u64,
}

impl Watcher {
    pub fn start(
        children: &mut Children,
        server: &str,
        broker: u16,
        cameras: Vec<String>,
        score: Score,
        manner: Manner,
    ) -> anyhow::Result<Watcher> {
        let mut grpc = Command::new(std::env::current_exe()?);
        grpc.args([
            "watch",
            "--json",
            "--from-sequence",
            "1",
            "--kind",
            "caption",
            "--server",
            server,
        ]);
        let mut mqtt = Command::new("mosquitto_sub");
        mqtt.args(["-p", &broker.to_string(), "-q", "1", "-t", "lookout/+/caption", "-F", "%p"]);
        Ok(Watcher {
            grpc: children.reader("watch", grpc)?,
            mqtt: children.reader("mosquitto_sub", mqtt).context(
                "mosquitto_sub cannot be started; `apt-get install mosquitto-clients`, or `make setup`",
            )?,
            server: server.into(),
            cameras,
            score,
            questions: match manner {
                Manner::Score => judge::mixed().into_iter().map(|asked| asked.text).collect(),
                _ => QUESTIONS.map(String::from).into(),
            },
            half: HashMap::new(),
            manner,
            captions: 0,
            answers: 0,
        })
    }

    /// Prints until the time is over or standard output is closed.
    pub async fn run(&mut self, limit: Option<Duration>, out: &mut dyn Write) -> io::Result<()> {
        let end = limit.map(|limit| Instant::now() + limit);
        let over = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        let ask_every = match self.manner {
            Manner::Score => SCORE_EVERY / self.cameras.len() as u32,
            _ => ASK_EVERY,
        };
        let mut ask = tokio::time::interval_at(Instant::now() + 2 * ASK_EVERY, ask_every);
        let mut late = tokio::time::interval(Duration::from_millis(500));
        let mut turn = 0;
        loop {
            let printed = tokio::select! {
                line = self.grpc.next_line() => self.came(line?, "gRPC", out),
                line = self.mqtt.next_line() => self.came(line?, "MQTT", out),
                _ = late.tick() => self.one_wire_only(out),
                _ = ask.tick() => {
                    let camera = self.cameras[turn % self.cameras.len()].clone();
                    let question = self.questions[turn % self.questions.len()].clone();
                    turn += 1;
                    self.ask(&camera, &question, out).await
                }
                () = &mut over => return Ok(()),
            };
            match printed {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                printed => printed?,
            }
        }
    }

    pub fn summary(&self) -> String {
        format!("{} captions, {} answers", self.captions, self.answers)
    }

    fn came(
        &mut self,
        line: Option<String>,
        wire: &'static str,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let ended = || io::Error::other(format!("the {wire} reader has ended"));
        let event: Value = serde_json::from_str(&line.ok_or_else(ended)?)?;
        let sequence = event["sequence"].as_u64().unwrap_or_default();
        match self.half.remove(&sequence) {
            // Both must deliver the same event; if they differ, both are shown.
            Some((other, _, _)) if other == event => self.print(event, &["gRPC", "MQTT"], out),
            Some((other, first, _)) => {
                self.print(other, &[first], out)?;
                self.print(event, &[wire], out)
            }
            None => {
                self.half.insert(sequence, (event, wire, Instant::now()));
                Ok(())
            }
        }
    }

    fn one_wire_only(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let late: Vec<u64> = self
            .half
            .iter()
            .filter(|(_, (_, _, came))| came.elapsed() > WIRES_APART)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in late {
            if let Some((event, wire, _)) = self.half.remove(&sequence) {
                self.print(event, &[wire], out)?;
            }
        }
        Ok(())
    }

    async fn ask(&mut self, camera: &str, question: &str, out: &mut dyn Write) -> io::Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["ask", camera, question, "--json", "--server", &self.server]);
        let asked = command.kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(&asked.stdout);
        match said.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok()) {
            Some(answer) => self.print(answer, &["gRPC"], out),
            None => {
                let why = String::from_utf8_lossy(&asked.stderr);
                writeln!(io::stderr(), "{camera}: {question} no answer: {}", why.trim())
            }
        }
    }

    fn print(&mut self, event: Value, wires: &[&str], out: &mut dyn Write) -> io::Result<()> {
        let question = event["kind"] == "answer";
        *(if question { &mut self.answers } else { &mut self.captions }) += 1;
        self.score.add(&event);
        match self.manner {
            Manner::Json => {
                writeln!(out, "{event}")?;
                return out.flush();
            }
            Manner::Score => return Ok(()),
            Manner::Show => {}
        }
        let camera = event["camera"].as_str().unwrap_or_default();
        let text = event["text"].as_str().unwrap_or_default();
        let to = event["window"]["to"].as_str().and_then(|t| humantime::parse_rfc3339(t).ok());
        let time = to.map(|to| humantime::format_rfc3339_seconds(to).to_string());
        let time = time.as_deref().and_then(|time| time.get(11..19)).unwrap_or_default();
        let words = match question {
            true => format!("{} → {text}", event["prompt"].as_str().unwrap_or_default()),
            false => text.to_string(),
        };
        let coverage = &event["coverage"];
        writeln!(
            out,
            "{time}  {camera:<6} {words}  [{}/{} frames, {:.2} s, {}]",
            coverage["frames_used"],
            coverage["frames_expected"],
            event["timing"]["total_seconds"].as_f64().unwrap_or_default(),
            wires.join(" + ")
        )?;
        if let Some(window) = self.score.window(&event) {
            writeln!(out, "                 what the camera showed: {window}")?;
        }
        out.flush()
    }

    /// Prints every mistake with its window, and the table of the results.
    pub fn report(&self, out: &mut dyn Write) -> io::Result<()> {
        for mistake in &self.score.mistakes {
            writeln!(out, "{mistake}")?;
        }
        writeln!(out, "{} windows, {} answers\n", self.score.windows, self.answers)?;
        write!(out, "{}", self.score)
    }
}
