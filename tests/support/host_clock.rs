//! A host's clock that a test can set: libfaketime shifts it for one process, and leaves the
//! monotonic clocks alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The host's clock as a daemon sees it.
pub struct HostClock {
    /// Contains the offset in seconds, which libfaketime reads at every call.
    offset: PathBuf,
}

impl HostClock {
    pub fn new(dir: &Path) -> HostClock {
        let clock = HostClock { offset: dir.join("clock-offset") };
        clock.set(0);
        clock
    }

    /// Sets the clock to the host's plus `seconds`. Replaces the file, so that it is never read
    /// half-written.
    pub fn set(&self, seconds: i64) {
        let new = self.offset.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n")).expect("offset");
        fs::rename(new, &self.offset).expect("offset");
    }

    /// Returns a command for a program that has this clock. `wrapper` starts it, if not empty.
    pub fn command(&self, wrapper: &[&str], program: &str) -> Command {
        let mut words = wrapper.iter().copied().chain(["env"]);
        let mut command = Command::new(words.next().unwrap_or("env"));
        command.args(words).arg("LD_PRELOAD=/usr/$LIB/faketime/libfaketimeMT.so.1").arg(program);
        command.env("FAKETIME_TIMESTAMP_FILE", &self.offset);
        for name in ["FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "DONT_FAKE_MONOTONIC"] {
            command.env(name, "1");
        }
        command
    }
}
