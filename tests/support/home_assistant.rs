//! The real Home Assistant. `make test-ha` sets `LOOKOUT_HOME_ASSISTANT` to the Python interpreter
//! that has it; without it, a test that starts it does nothing.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// A running Home Assistant, stopped when dropped.
pub struct HomeAssistant {
    child: Child,
    log: PathBuf,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl HomeAssistant {
    /// Starts Home Assistant on a folder, in which it keeps its devices. Returns `None` if it is
    /// not installed for this test.
    pub fn start(broker: u16, folder: &Path) -> Option<HomeAssistant> {
        let Some(python) = std::env::var_os("LOOKOUT_HOME_ASSISTANT") else {
            eprintln!("not tested: LOOKOUT_HOME_ASSISTANT is not set; run make test-ha");
            return None;
        };
        std::fs::create_dir_all(folder).expect("a folder");
        let log = folder.join("home-assistant.log");
        let stderr = File::options().create(true).append(true).open(&log).expect("a log");
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/home_assistant/in_process.py"))
            .arg(broker.to_string())
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("LOOKOUT_HOME_ASSISTANT is a Python interpreter");
        let answers = BufReader::new(child.stdout.take().unwrap());
        let commands = child.stdin.take();
        let mut started = HomeAssistant { child, log, commands, answers };
        assert_eq!(started.answer(), "started");
        Some(started)
    }

    pub fn ask(&mut self, command: &str) -> Value {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            panic!("Home Assistant ended: {log}")
        })
    }

    /// Waits until an entity has this state.
    pub fn until(&mut self, entity: &str, state: &str) -> Value {
        let mut states = Value::Null;
        for _ in 0..600 {
            states = self.ask("states");
            if states[entity]["state"] == state {
                return states[entity]["attributes"].clone();
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("{entity} is not {state}: {states:#}");
    }

    pub fn stop(mut self) {
        self.commands = None;
        self.child.wait().unwrap();
    }
}

impl Drop for HomeAssistant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
