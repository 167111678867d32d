//! Starts, watches and ends the demo's processes, and leaves none behind.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::client::{self, Output};
use anyhow::{Context, anyhow, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

pub struct Children {
    folder: PathBuf,
    running: Vec<(&'static str, Child)>,
}

impl Children {
    /// Creates an empty set of processes whose logs go into `folder`.
    pub fn new(folder: &Path) -> Children {
        Children { folder: folder.into(), running: Vec::new() }
    }

    /// Returns the file of a child's stderr.
    pub fn log(&self, name: &str) -> String {
        self.folder.join(format!("{name}.log")).display().to_string()
    }

    /// Starts the RTSP server; returns its port.
    pub async fn cameras(&mut self, clips: &Path, names: &[String]) -> anyhow::Result<u16> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["demo-cameras", "--listen", "127.0.0.1:0"]);
        for name in names {
            let file = clips.join(format!("{name}.mp4"));
            command.arg(format!("{name}={}", file.display()));
        }
        let mut lines = self.reader("cameras", command)?;
        let first = timeout(Duration::from_secs(30), lines.next_line()).await;
        let port = match &first {
            Ok(Ok(Some(line))) => line.strip_prefix("ready ").and_then(|port| port.parse().ok()),
            _ => None,
        };
        port.ok_or_else(|| self.failed("cameras"))
    }

    pub async fn broker(&mut self, port: u16) -> anyhow::Result<()> {
        let config = self.folder.join("mosquitto.conf");
        fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\n"))?;
        // Debian installs it where only root's PATH looks.
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap_or("mosquitto");
        let mut command = Command::new(program);
        command.arg("-c").arg(config).stdout(Stdio::null());
        self.start("mosquitto", command)
            .context("mosquitto cannot be started; `apt-get install mosquitto`, or `make setup`")?;
        self.until_it_listens("mosquitto", port).await
    }

    /// Starts the daemon; returns when it responds to a client.
    pub async fn daemon(
        &mut self,
        config: &Path,
        server: &str,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("run").arg("--config").arg(config);
        command.stdout(Stdio::null());
        self.start("run", command)?;
        let deadline = Instant::now() + patience;
        let mut sink = Vec::new();
        while client::cameras(server, Output::Json, &mut sink).await.is_err() {
            if self.gone().is_some() || Instant::now() > deadline {
                return Err(self.failed("run"));
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Returns the process ID of a running child.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.running.iter().find(|(other, _)| *other == name)?.1.id()
    }

    /// Starts a process whose output is read line by line.
    pub fn reader(
        &mut self,
        name: &'static str,
        mut command: Command,
    ) -> anyhow::Result<Lines<BufReader<ChildStdout>>> {
        command.stdout(Stdio::piped());
        let out = self.start(name, command)?.stdout.take();
        Ok(BufReader::new(out.ok_or_else(|| anyhow!("{name}: no output"))?).lines())
    }

    /// Waits until a child has ended, which is an error.
    pub async fn any_gone(&mut self) -> anyhow::Error {
        loop {
            if let Some(name) = self.gone() {
                return self.failed(name);
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Asks all children to end, the last started first, and waits for them.
    pub async fn stop(&mut self) {
        for (_, child) in self.running.iter_mut().rev() {
            if let Some(id) = child.id() {
                // SAFETY: the child is not waited for yet, so the ID is still its own.
                unsafe { libc::kill(id as i32, libc::SIGTERM) };
            }
            if timeout(Duration::from_secs(15), child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
        }
        self.running.clear();
    }

    fn start(&mut self, name: &'static str, mut command: Command) -> anyhow::Result<&mut Child> {
        let log = File::create(self.log(name))?;
        // The cameras play until this end of their standard input is closed.
        command.stdin(Stdio::piped());
        // A separate process group: Ctrl-C goes to the demo, which then ends its children in order.
        command.stderr(log).kill_on_drop(true).process_group(0);
        // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let child = command.spawn().with_context(|| name)?;
        self.running.push((name, child));
        self.running.last_mut().map(|(_, child)| child).ok_or_else(|| anyhow!("{name}"))
    }

    async fn until_it_listens(&mut self, name: &'static str, port: u16) -> anyhow::Result<()> {
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(());
            }
            if self.gone() == Some(name) {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("{}", self.failed(name))
    }

    fn gone(&mut self) -> Option<&'static str> {
        self.running
            .iter_mut()
            .find_map(|(name, child)| child.try_wait().ok().flatten().map(|_| *name))
    }

    /// Builds the error for a child that failed, with the end of its log.
    fn failed(&self, name: &str) -> anyhow::Error {
        let log = fs::read_to_string(self.log(name)).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(10).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        anyhow!("{name} did not start or has ended; the end of its log:\n{}", tail.join("\n"))
    }
}
