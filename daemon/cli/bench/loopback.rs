//! A clip as a camera: played over RTSP on loopback by a process of its own, so that its CPU is not
//! counted.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{fs, thread};

use anyhow::{Context, bail};

/// Ends with its owner.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Plays until it is dropped.
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
        let said = out.and_then(|out| out.lines().next()).transpose()?.unwrap_or_default();
        let mut log = process.0.stderr.take().context("stderr")?;
        let Some(port) = said.strip_prefix("ready ") else {
            let why = io::read_to_string(log)?;
            bail!("cannot play {}: {}", clip.display(), why.trim().trim_start_matches("lookout: "));
        };
        let url = format!("rtsp://127.0.0.1:{port}/clip");
        thread::spawn(move || io::copy(&mut log, &mut io::stderr()));
        Ok(Served { url, _process: process })
    }
}
