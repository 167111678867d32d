//! Runs the commands of the documents against a real daemon with the demo's model, and compares what
//! they print with what the documents show.
//!
//! Every `lookout`, `curl`, `mosquitto_pub` and `grpcurl` command of a block is either run or listed
//! in `NOT_RUN` with the test that runs it. Numbers, times and texts of the model differ, so that an
//! output is compared by its shape.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::support::*;
use super::{Block, blocks, words};

/// Commands that are not run here, by how they begin, and why.
const NOT_RUN: [(&str, &str); 11] = [
    ("lookout bench", "tests/bench.rs measures"),
    ("lookout demo", "tests/daemon/demo.rs runs it"),
    ("lookout discover", "tests/discover.rs has ONVIF devices"),
    ("lookout run", "it is the daemon of this test"),
    ("lookout mcp", "tests/publish/mcp.rs talks to it"),
    ("lookout cameras --server https", "tests/publish/tls.rs has certificates"),
    ("lookout generate", "tests/install.rs runs it"),
    ("lookout test-alert", "tests/publish/delivery.rs has targets"),
    ("lookout inspect", "tests/packages.rs has packages"),
    ("lookout fetch", "tests/packages/fetch.rs has a hub"),
    ("grpcurl", "only the method's name is checked"),
];

const CAMERAS: [&str; 3] = ["gate", "yard", "drive"];
const PATIENCE: Duration = Duration::from_secs(60);

/// A command of a document, and what the document shows as its output.
struct Shown {
    place: String,
    line: String,
    output: Vec<String>,
}

/// A daemon with the cameras and rules that the documents name.
struct Site {
    folder: tempfile::TempDir,
    cameras: Cameras,
    broker: Broker,
    daemon: Daemon,
    config: String,
}

/// The most recent caption of the camera `gate`.
struct Caption {
    run: String,
    sequence: String,
    /// A word of its text.
    word: String,
    window: (SystemTime, SystemTime),
}

impl Shown {
    /// Returns the commands of shell blocks. In a block with prompts, what follows a command up to
    /// the next prompt is its output.
    fn all() -> Vec<Shown> {
        let is_shell = |block: &Block| ["", "sh"].contains(&block.language.as_str());
        blocks().iter().filter(|block| is_shell(block)).flat_map(Shown::of).collect()
    }

    fn of(block: &Block) -> Vec<Shown> {
        let text = block.text.replace("\\\n", " ");
        let has_prompts = text.lines().any(|line| line.starts_with("$ "));
        let mut shown: Vec<Shown> = Vec::new();
        for line in text.lines() {
            let command = if has_prompts { line.strip_prefix("$ ") } else { Some(line) };
            match (command, shown.last_mut()) {
                (Some(line), _) => {
                    let (place, line) = (block.place.clone(), line.to_owned());
                    shown.push(Shown { place, line, output: Vec::new() });
                }
                (None, Some(last)) => last.output.push(line.to_owned()),
                (None, None) => {}
            }
        }
        shown
    }

    fn program(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    fn is(&self, start: &str) -> bool {
        self.line.starts_with(start)
    }
}

impl Site {
    fn start() -> Site {
        let folder = folder();
        let clips = CAMERAS.map(clip);
        let streams: Vec<(&str, &Path)> =
            CAMERAS.iter().zip(&clips).map(|(name, clip)| (*name, clip.as_path())).collect();
        let cameras = Cameras::start(folder.path(), 0, &streams, &[]);
        let broker = Broker::start(folder.path(), free_port());
        let (grpc, http) = (free_port(), free_port());
        let state = folder.path().join("state");
        let tables = CAMERAS.map(|name| camera(name, &cameras.url(name), ""));
        let config = head(grpc, http, Some(broker.port))
            + &format!(
                "[journal]\nfolder = {:?}\n[access]\nfolder = {:?}\n",
                state.join("journal"),
                state.join("access")
            )
            + &tables.concat()
            + "[[rule]]\nname = \"person\"\nquestion = \"Is there a person?\"\n";
        // The folder of drop-ins must be known before the first table.
        let config = format!("drop_in_folder = {:?}\n{config}", state.join("cameras"));
        let daemon = Daemon::with_config(folder.path(), &config, grpc, http);
        Site { folder, cameras, broker, daemon, config }
    }

    fn lookout(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(LOOKOUT);
        command.args(arguments).current_dir(self.folder.path());
        command.env("LOOKOUT_SERVER", &self.daemon.server);
        let output = command.output().map_err(|e| e.to_string())?;
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        if output.status.success() {
            Ok(out)
        } else {
            Err(format!("{}\n{out}{err}", output.status))
        }
    }

    /// Waits for a caption of every camera, and returns the newest one of `gate`.
    fn caption(&self) -> Caption {
        let newest = |camera: &str| {
            let arguments = ["events", "--kind", "caption", "--camera", camera, "--json"];
            let events = self.lookout(&arguments).ok()?;
            serde_json::from_str::<Value>(events.lines().last()?).ok()
        };
        for camera in CAMERAS {
            wait_for("a caption of every camera", PATIENCE, || newest(camera));
        }
        let event = newest("gate").expect("a caption");
        let time = |end: &str| {
            let seconds = Duration::from_secs_f64(seconds(&event["window"][end]));
            SystemTime::UNIX_EPOCH + seconds
        };
        Caption {
            run: event["run"].to_string(),
            sequence: event["sequence"].to_string(),
            word: longest_word(&event["text"]),
            window: (time("from"), time("to")),
        }
    }

    /// Replaces names, times and files of the documents by those of this test.
    fn adapted(&self, words: Vec<String>, caption: &Caption) -> Vec<String> {
        let rfc3339 = |time| humantime::format_rfc3339_millis(time).to_string();
        let mut times = 0;
        let replaced = words.into_iter().map(|word| {
            if humantime::parse_rfc3339(&utc(&word)).is_ok() {
                times += 1;
                return rfc3339(if times == 1 { caption.window.0 } else { caption.window.1 });
            }
            match word.as_str() {
                "812" | "1234" | "SEQUENCE" => caption.sequence.clone(),
                "1772…" => caption.run.clone(),
                "north:50051,south:50051" => format!("{0},{0}", self.daemon.server),
                word if word.starts_with("rtsp://") => self.cameras.url("gate"),
                word => word.to_owned(),
            }
        });
        let mut words: Vec<String> = replaced.collect();
        let command = words.get(1).cloned().unwrap_or_default();
        if ["check", "token"].contains(&command.as_str()) {
            words.retain(|word| !["--config", "lookout.toml"].contains(&word.as_str()));
            let config = if command == "check" { "check.toml" } else { "access.toml" };
            words.extend(["--config".into(), config.into()]);
        }
        if command == "search" {
            words[2] = caption.word.clone();
        }
        words.extend((command == "delete").then(|| "--yes".into()));
        words
    }

    /// Runs a command of lookout, and returns its output.
    fn run(&self, shown: &Shown, caption: &Caption) -> String {
        let all = self.adapted(words(&shown.line), caption);
        let arguments: Vec<&str> = all[1..].iter().map(String::as_str).collect();
        if arguments.first() == Some(&"watch") {
            let mut command = Command::new(LOOKOUT);
            command.args(&arguments).env("LOOKOUT_SERVER", &self.daemon.server);
            let line = Lines::of("watch", &mut command, self.folder.path()).next(PATIENCE);
            return line.unwrap_or_else(|| panic!("{}: {}: no event", shown.place, shown.line));
        }
        // A camera of a busy machine may pause, so that the most recent window has no frame.
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.prepare(&arguments);
            match self.lookout(&arguments) {
                Ok(printed) => return printed,
                Err(why) if Instant::now() > deadline => {
                    panic!("{}: {}\n{arguments:?}: {why}", shown.place, shown.line)
                }
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Brings the camera `hall` and the token `anna` into the state that a command expects.
    fn prepare(&self, arguments: &[&str]) {
        let url = self.cameras.url("gate");
        // What is there already, or is not there, may fail.
        let _ = match arguments {
            ["camera", "add", name, ..] => self.lookout(&["camera", "remove", name]),
            ["camera", _, name, ..] => {
                self.lookout(&["camera", "add", name, "--url", &url, "--set", "window=\"20s\""])
            }
            ["token", "add", name, ..] => {
                self.lookout(&["token", "revoke", name, "--config", "access.toml"])
            }
            ["token", "revoke", name, ..] => {
                self.lookout(&["token", "add", name, "--role", "view", "--config", "access.toml"])
            }
            _ => Ok(String::new()),
        };
    }

    /// Runs the reload of docs/reload.md, with the changes that it shows.
    fn reload_with_changes(&self) -> String {
        // An earlier command may have added it.
        let _ = self.lookout(&["camera", "remove", "hall"]);
        let changed = self
            .config
            .replacen("name = \"yard\"", "name = \"yard\"\ncaption_prompt = \"Who is there?\"", 1)
            .replacen("Is there a person?", "Is anybody there?", 1)
            .replacen("models/demo/package\"", "models/demo/package-fp16\"", 1)
            + &camera("hall", &self.cameras.url("gate"), "");
        let file = self.folder.path().join("lookout.toml");
        fs::write(&file, changed).expect("the config");
        let printed = self.lookout(&["reload"]).expect("a reload");
        fs::write(&file, &self.config).expect("the config");
        self.lookout(&["reload"]).expect("the old config");
        printed
    }

    /// Sends a `curl` command's request; returns the status, and the first bytes of the body.
    fn curl(&self, words: &[String]) -> (u16, String) {
        let after = |flag: &str| -> Vec<&String> {
            let pairs = words.iter().zip(&words[1..]);
            pairs.filter(|(word, _)| *word == flag).map(|(_, word)| word).collect()
        };
        let url = words.iter().find(|word| word.contains(":9090")).expect("an address");
        let path = url.split(":9090").nth(1).unwrap_or_default();
        let body = after("-d").first().map_or("", |body| body.as_str());
        let method = if body.is_empty() { "GET" } else { "POST" };
        let headers: String = after("-H").iter().map(|header| format!("{header}\r\n")).collect();
        let mut stream = TcpStream::connect(("127.0.0.1", self.daemon.http)).expect("HTTP");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("a request");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("a reply");
        let status = reply.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), reply)
    }

    /// Publishes a question as `mosquitto_pub` does, and waits for its answer.
    fn publish(&self, words: &[String], place: &str) {
        let mut published = Command::new("mosquitto_pub");
        published.args(&words[1..]).args(["-p", &self.broker.port.to_string()]);
        assert!(published.status().expect("mosquitto_pub").success(), "{place}");
        let question = words.last().expect("a question");
        let question: Value = serde_json::from_str(question).expect("a question in JSON");
        let wanted = question["question"].as_str().expect("a question").to_owned();
        wait_for("an answer to the question by MQTT", PATIENCE, || {
            let answers = self.lookout(&["events", "--kind", "answer", "--json"]).ok()?;
            answers.contains(&wanted).then_some(())
        });
    }
}

/// Returns the longest word of a text, which a search of the journal finds.
fn longest_word(text: &Value) -> String {
    let text = text.as_str().expect("a text");
    let words = text.split(|letter: char| !letter.is_ascii_alphabetic());
    words.max_by_key(|word| word.len()).expect("a word").to_owned()
}

/// Converts a time with an offset of whole hours to one in UTC, which is all that the test needs to
/// recognise it.
fn utc(word: &str) -> String {
    match word.split_once('+') {
        Some((time, offset)) if offset.len() == 5 => format!("{time}Z"),
        _ => word.to_owned(),
    }
}

/// Returns the shape of a printed line: numbers are `#`, units of size `B`, sentences `TEXT`.
fn shape(line: &str) -> Vec<String> {
    let cells = line.trim().split("  ").map(str::trim).filter(|cell| !cell.is_empty());
    cells
        .map(|cell| {
            if cell.ends_with('.') {
                return "TEXT".into();
            }
            let mut words: Vec<String> = Vec::new();
            for word in cell.split(' ') {
                let end = if word.ends_with(',') { "," } else { "" };
                let word = match word.trim_end_matches(',') {
                    "KiB" | "MiB" | "GiB" => "B".into(),
                    word if word.contains(|letter: char| letter.is_ascii_digit()) => {
                        format!("#{end}")
                    }
                    word => format!("{word}{end}"),
                };
                let repeats = word == "#" && words.last().is_some_and(|last| last == "#");
                words.extend((!repeats).then_some(word));
            }
            words.join(" ")
        })
        .collect()
}

#[test]
fn shapes_leave_out_numbers_and_texts() {
    let row = "gate    live   1m 11s  0s ago   333.9 KiB  rtsp://127.0.0.1:1/gate";
    assert_eq!(shape(row), ["gate", "live", "#", "# ago", "# B", "#"]);
    assert_eq!(shape("[16/16 frames, 0.01 s, cpu]"), ["# frames, # s, cpu]"]);
    assert_eq!(shape("A car drives.   [event 8]"), ["TEXT", "[event #"]);
}

/// Returns true if each line of the document has a printed line of the same shape.
fn has_shape(shown: &Shown, printed: &str) -> bool {
    let printed_shapes: BTreeSet<Vec<String>> = printed.lines().map(shape).collect();
    let missing = shown.output.iter().find(|line| !printed_shapes.contains(&shape(line)));
    if let Some(line) = missing {
        let (place, command) = (&shown.place, &shown.line);
        println!("{place}: {command}\nthe document shows {line:?}\nprinted was\n{printed}");
    }
    missing.is_none()
}

#[test]
fn commands_do_what_the_documents_show() {
    let site = Site::start();
    let path = |name: &str| site.folder.path().join(name);
    let schema = r#"{"type": "object", "properties": {"coat": {"type": "string"}}}"#;
    fs::write(path("who.json"), schema).expect("a schema");
    let of_labels = |block: &&Block| block.text.contains("least_seconds");
    let labels = blocks().iter().find(of_labels).expect("labels").text.clone();
    fs::write(path("labels.json"), labels).expect("labels");
    fs::write(path("hall.pw"), "secret\n").expect("a password");
    // Tokens need access control, which this daemon does not use.
    let with_access = site.config.replace("[access]", "[access]\nenabled = true");
    fs::write(path("access.toml"), with_access).expect("a config");
    // `lookout check` needs free addresses and folders of its own.
    let ports = [free_port(), free_port()];
    let check = head(ports[0], ports[1], Some(site.broker.port))
        + &camera("gate", &site.cameras.url("gate"), "");
    fs::write(path("check.toml"), check).expect("a config");

    let caption = site.caption();
    let proto = fs::read_to_string(repository().join("proto/lookout/v1/lookout.proto"));
    let proto = proto.expect("the schema");
    let mut commands = Shown::all();
    // What is deleted cannot be shown afterwards.
    commands.sort_by_key(|shown| shown.is("lookout delete"));
    let begun = Instant::now();
    let (mut run, mut compared) = (0, 0);
    for shown in &commands {
        if NOT_RUN.iter().any(|(start, _)| shown.is(start)) {
            if shown.program() == "grpcurl" {
                let method = words(&shown.line).into_iter().find(|word| word.contains('/'));
                let method = method.and_then(|word| word.rsplit('/').next().map(String::from));
                let rpc = format!("rpc {}(", method.expect("a method"));
                assert!(proto.contains(&rpc), "{}: {}: no {rpc}", shown.place, shown.line);
            }
            continue;
        }
        match shown.program() {
            "lookout"
                if shown.place.starts_with("docs/reload.md") && shown.is("lookout reload") =>
            {
                let printed = site.reload_with_changes();
                assert_eq!(printed.lines().collect::<Vec<_>>(), shown.output, "{}", shown.place);
                compared += 1;
            }
            "lookout" => {
                // On a busy machine a frame may be missing, which the output then says.
                wait_for("an output of the shape that is shown", PATIENCE, || {
                    let printed = site.run(shown, &caption);
                    has_shape(shown, &printed).then_some(())
                });
                compared += usize::from(!shown.output.is_empty());
            }
            "curl" => {
                let (status, reply) = site.curl(&words(&shown.line));
                assert_eq!(status, 200, "{}: {}\n{reply}", shown.place, shown.line);
            }
            "mosquitto_pub" => site.publish(&words(&shown.line), &shown.place),
            _ => continue,
        }
        run += 1;
    }
    println!("{run} commands in {:.1} s, {compared} outputs", begun.elapsed().as_secs_f64());
    assert!(run >= 30, "only {run} commands were run");
    assert!(compared >= 4, "only {compared} outputs were compared");
}
