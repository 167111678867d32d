//! The demo's reader: takes captions from both wires, asks now and then, and prints what came.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use anyhow::Context;
use serde_json::Value;
use tokio::io::{BufReader, Lines};
use tokio::process::{ChildStdout, Command};
use tokio::time::{Instant, sleep_until};

use super::children::Children;

/// How long one wire may be behind the other before a caption is shown with one alone.
const WIRES_APART: Duration = Duration::from_secs(3);
/// Between two questions, of which each goes to the next camera.
const ASK_EVERY: Duration = Duration::from_secs(9);
const QUESTIONS: [&str; 3] =
    ["Is there a person?", "What colour is the car?", "What is happening?"];

pub struct Watcher {
    grpc: Lines<BufReader<ChildStdout>>,
    mqtt: Lines<BufReader<ChildStdout>>,
    server: String,
    cameras: Vec<String>,
    truth: HashMap<String, Value>,
    /// Captions that have come by one wire, by sequence.
    half: HashMap<u64, (Value, &'static str, Instant)>,
    json: bool,
    captions: u64,
    answers: u64,
}

impl Watcher {
    pub fn start(
        children: &mut Children,
        server: &str,
        broker: u16,
        assets: &Path,
        cameras: &[&str],
        json: bool,
    ) -> anyhow::Result<Watcher> {
        let mut grpc = Command::new(std::env::current_exe()?);
        grpc.args(["watch", "--json", "--from", "1", "--kind", "caption", "--server", server]);
        let mut mqtt = Command::new("mosquitto_sub");
        mqtt.args(["-p", &broker.to_string(), "-q", "1", "-t", "lookout/+/caption", "-F", "%p"]);
        let truth = |name: &&str| {
            let file = assets.join("cameras").join(format!("{name}.json"));
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            anyhow::Ok((name.to_string(), serde_json::from_str(&text)?))
        };
        Ok(Watcher {
            grpc: children.reader("watch", grpc)?,
            mqtt: children.reader("mosquitto_sub", mqtt).context(
                "mosquitto_sub cannot be started; `apt-get install mosquitto-clients`, or `make setup`",
            )?,
            server: server.into(),
            cameras: cameras.iter().map(|name| name.to_string()).collect(),
            truth: cameras.iter().map(truth).collect::<anyhow::Result<_>>()?,
            half: HashMap::new(),
            json,
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
        let mut ask = tokio::time::interval_at(Instant::now() + 2 * ASK_EVERY, ASK_EVERY);
        let mut late = tokio::time::interval(Duration::from_millis(500));
        let mut turn = 0;
        loop {
            let printed = tokio::select! {
                line = self.grpc.next_line() => self.came(line?, "gRPC", out),
                line = self.mqtt.next_line() => self.came(line?, "MQTT", out),
                _ = late.tick() => self.one_wire_only(out),
                _ = ask.tick() => {
                    let camera = self.cameras[turn % self.cameras.len()].clone();
                    let question = QUESTIONS[turn % QUESTIONS.len()];
                    turn += 1;
                    self.ask(&camera, question, out).await
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
            // What the wires say must be the same; where not, both are shown.
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
        if self.json {
            writeln!(out, "{event}")?;
            return out.flush();
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
            coverage["frames_wanted"],
            event["timing"]["total_seconds"].as_f64().unwrap_or_default(),
            wires.join(" + ")
        )?;
        if let Some(truth) = to.and_then(|to| self.truth(camera, to, &event)) {
            writeln!(out, "                 what the camera showed: {truth}")?;
        }
        out.flush()
    }

    /// The scenes that the window lies in. A clip's position is the time since 1970, modulo its
    /// length.
    fn truth(&self, camera: &str, to: SystemTime, event: &Value) -> Option<String> {
        let sidecar = self.truth.get(camera)?;
        let from = humantime::parse_rfc3339(event["window"]["from"].as_str()?).ok()?;
        let period = sidecar["period_seconds"].as_f64()?;
        let position = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64() % period)
        };
        let scene_at = |time: SystemTime| {
            let at = position(time);
            sidecar["scenes"].as_array()?.iter().find(|scene| {
                scene["from"].as_f64().is_some_and(|from| from <= at)
                    && scene["to"].as_f64().is_some_and(|to| at < to)
            })
        };
        let (first, last) = (scene_at(from)?, scene_at(to)?);
        let caption = |scene: &Value| scene["caption"].as_str().map(str::to_string);
        if first == last {
            return caption(first);
        }
        Some(format!("{} ‖ cut ‖ {}", caption(first)?, caption(last)?))
    }
}
