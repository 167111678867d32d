//! Plays a clip as a camera over RTSP on loopback. A separate process plays it, so that its CPU
//! time is not counted.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{fs, thread};

use anyhow::{Context, bail};

/// A child process that is killed when this is dropped.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A clip that plays until this is dropped.
pub struct Served {
    pub url: String,
    _process: Killed,
}

impl Served {
    pub fn clip(clip: &Path) -> anyhow::Result<Served> {
        fs::metadata(clip).with_context(|| format!("cannot play {}", clip.display()))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["demo-cameras", "--listen", "127.0.0.1:0"]);
        command.arg(format!("clip={}", clip.display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Killed(command.spawn().context("demo-cameras")?);
        let out = process.0.stdout.take().map(BufReader::new);
        let ready = out.and_then(|out| out.lines().next()).transpose()?.unwrap_or_default();
        let mut log = process.0.stderr.take().context("stderr")?;
        let Some(port) = ready.strip_prefix("ready ") else {
            let why = io::read_to_string(log)?;
            bail!("cannot play {}: {}", clip.display(), why.trim().trim_start_matches("lookout: "));
        };
        let url = format!("rtsp://127.0.0.1:{port}/clip");
        thread::spawn(move || io::copy(&mut log, &mut io::stderr()));
        Ok(Served { url, _process: process })
    }
}
