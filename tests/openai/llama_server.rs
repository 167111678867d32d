//! A real llama-server, and the small models that it serves in tests.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::support::{Process, folder, free_port, get, repository, wait_for};

/// Maximum time until a llama-server has loaded its model.
const START: Duration = Duration::from_secs(60);

/// The name by which it serves a model.
pub const SERVED: &str = "seer";

/// The question that the model answers until the maximum length (models/export/colours.py).
pub const WITHOUT_END: &str = "Say the colours again and again.";

/// The model that a server runs.
#[derive(Clone, Copy, Debug)]
pub enum Served {
    /// Names the colours of plain frames.
    Colours,
    /// The same without its vision encoder.
    WithoutVision,
    /// The same with a vision encoder that gives the same for every frame.
    Blind,
}

/// A llama-server, which ends with the value.
pub struct LlamaServer {
    command: Command,
    process: Process,
    port: u16,
    pub address: String,
    logs: TempDir,
}

/// Returns the program that `make test-openai` has built. Without that command it is `None`, and
/// the tests do nothing.
pub fn program() -> Option<PathBuf> {
    std::env::var_os("LOOKOUT_LLAMA_SERVER").map(PathBuf::from)
}

impl LlamaServer {
    /// Starts a server on any port, and waits until it is ready.
    pub fn start(model: Served, more: &[&str]) -> LlamaServer {
        let port = free_port();
        let file = |name: &str| repository().join("target/llama-cpp/colours").join(name);
        let mut command = Command::new(program().expect("LOOKOUT_LLAMA_SERVER"));
        command.arg("--model").arg(file("model.gguf"));
        match model {
            Served::Colours => command.arg("--mmproj").arg(file("mmproj.gguf")),
            Served::Blind => command.arg("--mmproj").arg(file("blind.gguf")),
            Served::WithoutVision => &mut command,
        };
        command
            .args(["--alias", SERVED, "--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--metrics", "--threads", "2"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let logs = folder();
        let process = Process::start("llama-server", &mut command, logs.path());
        let address = format!("http://127.0.0.1:{port}");
        let server = LlamaServer { command, process, port, address, logs };
        server.wait_until_ready();
        server
    }

    /// Kills the server with SIGKILL, unless it has ended.
    pub fn kill(&mut self) {
        if self.process.is_running() {
            self.process.child.kill().expect("killed");
            self.process.child.wait().expect("its end");
        }
    }

    /// Starts the server again on its port, and waits until it is ready.
    pub fn start_again(&mut self) {
        self.kill();
        self.process = Process::start("llama-server", &mut self.command, self.logs.path());
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        wait_for("llama-server", START, || {
            get(self.port, "/health").filter(|(status, _)| *status == 200)
        });
    }

    /// Returns a metric of the server.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, metrics) = get(self.port, "/metrics").expect("metrics");
        let start = format!("llamacpp:{name} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&start)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name}: {metrics}"))
    }

    /// Returns the time that the server has spent on prompts and answers so far.
    pub fn time_spent(&self) -> Duration {
        let names = ["prompt_seconds_total", "tokens_predicted_seconds_total"];
        Duration::from_secs_f64(names.into_iter().map(|name| self.metric(name)).sum())
    }

    /// Returns true while the server works on a request.
    pub fn is_busy(&self) -> bool {
        self.metric("requests_processing") > 0.0
    }
}
