//! The audit log: who asked what, changed what and saw which frames, as JSON lines.
//!
//! `audit.jsonl` in the folder of `[access]`. At [`FILE_BYTES`] it is renamed to `audit.1.jsonl`, an
//! older one to `audit.2.jsonl`, and so on; the oldest of [`FILES`] is removed.
//!
//! Guarantees: a request never waits for the disk. Entries that are lost are counted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use super::Access;
use crate::frame::rfc3339;
use crate::interface::Interface;
use crate::metrics;

/// Number of bytes after which a new file begins.
const FILE_BYTES: u64 = 10 << 20;

/// Number of files.
const FILES: u32 = 10;

/// Number of entries that wait for the disk.
const QUEUE: usize = 4096;

#[derive(Serialize)]
struct Entry {
    #[serde(with = "rfc3339")]
    at: SystemTime,
    token: Arc<str>,
    interface: &'static str,
    action: &'static str,
    #[serde(skip_serializing_if = "Value::is_null")]
    detail: Value,
}

/// The audit log of the daemon.
#[derive(Clone)]
pub struct Audit {
    to: SyncSender<Entry>,
}

/// The audit log for one caller.
#[derive(Clone)]
pub struct CallerAudit {
    audit: Audit,
    access: Arc<Access>,
    interface: Interface,
}

impl Audit {
    /// Opens the log and starts its thread, which ends with the last clone of the returned value.
    pub fn open(folder: &Path) -> io::Result<Audit> {
        let path = folder.join("audit.jsonl");
        let file = AuditFile::open(&path, FILE_BYTES)?;
        let (to, from) = sync_channel(QUEUE);
        std::thread::Builder::new().name("audit".into()).spawn(move || write(file, &from))?;
        Ok(Audit { to })
    }

    pub fn of(&self, access: Arc<Access>, interface: Interface) -> CallerAudit {
        CallerAudit { audit: self.clone(), access, interface }
    }
}

impl CallerAudit {
    /// Records an action of the caller.
    pub fn record(&self, action: &'static str, detail: Value) {
        let entry = Entry {
            at: SystemTime::now(),
            token: self.access.name.clone(),
            interface: self.interface.name(),
            action,
            detail,
        };
        if self.audit.to.try_send(entry).is_err() {
            metrics::audit_lost(1);
        }
    }
}

fn write(mut file: AuditFile, from: &Receiver<Entry>) {
    let mut is_failing = false;
    for entry in from {
        let written = serde_json::to_vec(&entry).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            file.write(&line)
        });
        if let Err(why) = &written {
            metrics::audit_lost(1);
            if !is_failing {
                tracing::error!("audit log: {}: {why}; entries are lost", file.path.display());
            }
        }
        is_failing = written.is_err();
    }
}

/// A file that is renamed when it is full.
struct AuditFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    most: u64,
}

impl AuditFile {
    fn open(path: &Path, most: u64) -> io::Result<AuditFile> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(AuditFile { path: path.to_owned(), file, bytes, most })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.most {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| self.path.with_extension(format!("{number}.jsonl"));
        for number in (1..FILES - 1).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(1))?;
        *self = AuditFile::open(&self.path, self.most)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut file = AuditFile::open(&path, 100).unwrap();
        for number in 0..100 {
            file.write(format!("{{\"number\": {number:>30}}}\n").as_bytes()).unwrap();
        }
        let mut files: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!(files.len(), FILES as usize);
        files.retain(|file| file.metadata().unwrap().len() > 100);
        assert!(files.is_empty(), "{files:?}");
        let newest = fs::read_to_string(&path).unwrap();
        assert!(newest.ends_with("99}\n"), "{newest}");
    }
}
