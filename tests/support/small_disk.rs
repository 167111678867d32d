//! A small file system, to test what happens when it is full. Mounting it needs root, or sudo
//! without a password.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    /// Mounts a file system of 8 MiB. Returns `None` with a line in the output if this user may not
    /// mount.
    pub fn mount(at: PathBuf) -> Option<SmallDisk> {
        fs::create_dir(&at).expect("a folder");
        let is_mounted = as_root("mount", &["-t", "tmpfs", "-o", "size=8M,mode=777", "none"], &at);
        if !is_mounted {
            println!("SKIPPED: mounting a file system needs root, or sudo without a password");
        }
        is_mounted.then_some(SmallDisk(at))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Fills the disk up to its last block.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("filler");
        let block = [0; 4096];
        let full = std::iter::repeat_with(|| file.write_all(&block)).find_map(Result::err);
        assert_eq!(full.map(|e| e.kind()), Some(ErrorKind::StorageFull));
    }

    pub fn empty(&self) {
        fs::remove_file(self.filler()).expect("filler");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        as_root("umount", &["--lazy"], &self.0);
    }
}

/// The start of a command that obeys the permissions of files even if the test runs as root.
pub const OBEYS_PERMISSIONS: [&str; 2] =
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];

pub fn is_root() -> bool {
    // SAFETY: geteuid only returns a number.
    unsafe { libc::geteuid() == 0 }
}

/// Runs a program as root. Returns true if it succeeded.
fn as_root(program: &str, arguments: &[&str], path: &Path) -> bool {
    let mut command = if is_root() { Command::new(program) } else { Command::new("sudo") };
    if !is_root() {
        command.args(["-n", program]);
    }
    let status = command.args(arguments).arg(path).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
