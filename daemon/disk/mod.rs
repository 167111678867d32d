//! The cool tier: frames as JPEGs on disk, which outlive the daemon.
//!
//! One thread owns the folder. What it cannot do harms nobody else: frames that cannot be written
//! are counted, it is said in the log, the metrics and `/readyz`, and tried again.

mod folder;
mod queue;
mod record;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, io};

pub use folder::{Bounds, Found};
pub use queue::{Jpegs, Queue, Read, Wanted, Write};
pub use record::Record;

use crate::frame::FrameId;
use crate::telemetry::{self, Unwritten};
use crate::timeline::{Entry, Held, Place, Stored};
use folder::Folder;
use queue::Job;

/// Frames that may wait to be written: some seconds of a slow disk.
pub const QUEUE_FRAMES: usize = 64;

/// Between two attempts of a disk that failed.
const RETRY: Duration = Duration::from_secs(5);

/// How often it is looked for what is too old.
const TICK: Duration = Duration::from_secs(1);

/// Who is told of what became of frames: the timeline, behind the engine.
pub trait Told {
    /// The disk's thread moves; heard for long of none, it hangs.
    fn moves(&self);
    fn stored(&self, camera: &str, id: FrameId, place: Option<Place>);
    /// This segment and those before it are gone.
    fn segment_gone(&self, segment: u64);
    fn restored(&self, camera: &str, entries: Vec<Entry>);
}

/// Why the disk keeps nothing at the moment; empty: it does.
#[derive(Default)]
pub struct Trouble(Mutex<String>);

impl Trouble {
    pub fn get(&self) -> Option<String> {
        let why = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!why.is_empty()).then(|| why.clone())
    }

    fn set(&self, why: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

pub struct Disk {
    path: PathBuf,
    bounds: Bounds,
    folder: Option<Folder>,
    /// What the start found, until it is told.
    found: Option<Found>,
    failed: Option<Instant>,
    trouble: Arc<Trouble>,
}

impl Disk {
    /// Reads what earlier runs left. A folder that cannot be used is tried again later.
    pub fn open(path: PathBuf, bounds: Bounds, trouble: Arc<Trouble>) -> Disk {
        let mut disk = Disk { path, bounds, folder: None, found: None, failed: None, trouble };
        disk.try_open();
        disk
    }

    /// The newest run of those on disk.
    pub fn newest_run(&self) -> Option<u64> {
        let records = &self.found.as_ref()?.records;
        records.iter().map(|(record, _)| record.id.run).max()
    }

    /// Works until the queue is closed, and ends what waits there.
    pub fn run(mut self, queue: &Queue, told: &impl Told) {
        let mut looked = None;
        while let Some(job) = queue.next(TICK) {
            told.moves();
            if self.folder.is_none() && self.failed.is_none_or(|at| at.elapsed() >= RETRY) {
                self.try_open();
            }
            self.restore(told);
            if looked.is_none_or(|at: Instant| at.elapsed() >= TICK) {
                looked = Some(Instant::now());
                self.expire(told);
            }
            match job {
                Job::Idle => {}
                Job::Read(Read { wanted, to }) => {
                    to(wanted.into_iter().map(|wanted| self.read(queue, wanted)).collect());
                }
                Job::Write(write) => self.write(queue, write, told),
            }
        }
    }

    /// Tells of the frames that were found.
    pub fn restore(&mut self, told: &impl Told) {
        if let Some(found) = self.found.take() {
            tell(found, told);
        }
    }

    fn try_open(&mut self) {
        match Folder::open(&self.path, self.bounds) {
            Ok((folder, found)) => {
                for (file, bytes, why) in &found.dropped {
                    let file = file.display();
                    tracing::warn!("{file}: its last {bytes} bytes are no whole frame: {why}");
                }
                let (frames, path) = (found.records.len(), self.path.display());
                tracing::info!("{path}: {frames} frames of earlier runs are still there");
                (self.folder, self.found) = (Some(folder), Some(found));
                self.recovered();
            }
            Err(error) => self.fails(&error),
        }
    }

    fn write(&mut self, queue: &Queue, Write { record, jpeg }: Write, told: &impl Told) {
        let waits = self.failed.is_some_and(|at| at.elapsed() < RETRY);
        let written = match &mut self.folder {
            Some(folder) if !waits => Some(folder.append(&record, &jpeg)),
            _ => None,
        };
        let place = match written {
            Some(Ok((place, gone))) => {
                self.recovered();
                if let Some(segment) = gone {
                    told.segment_gone(segment);
                }
                Some(place)
            }
            Some(Err(error)) => {
                self.fails(&error);
                None
            }
            None => None,
        };
        if place.is_none() {
            queue.missed(&record.camera);
            telemetry::unwritten(&record.camera, Unwritten::Disk);
        }
        told.stored(&record.camera, record.id, place);
        self.measure();
    }

    fn read(&self, queue: &Queue, wanted: Wanted) -> Option<Arc<[u8]>> {
        let Wanted { camera, id, place } = wanted;
        let Some(place) = place else { return queue.waiting(&camera, id) };
        match self.folder.as_ref()?.read(&camera, id, place) {
            Ok(jpeg) => Some(jpeg.into()),
            Err(error) => {
                // Dropped meanwhile, or damaged: the answer says that the frame is gone.
                tracing::warn!(camera = &*camera, "frame {}: {error}", id.number);
                None
            }
        }
    }

    fn expire(&mut self, told: &impl Told) {
        let Some(folder) = &mut self.folder else { return };
        match folder.expire(SystemTime::now()) {
            Ok(Some(segment)) => told.segment_gone(segment),
            Ok(None) => {}
            Err(error) => self.fails(&error),
        }
        self.measure();
    }

    fn measure(&self) {
        telemetry::disk(self.folder.as_ref().map_or(0, Folder::bytes), self.failed.is_some());
    }

    fn recovered(&mut self) {
        if self.failed.take().is_some() {
            tracing::info!("{}: frames are kept on disk again", self.path.display());
        }
        self.trouble.set(String::new());
    }

    fn fails(&mut self, error: &io::Error) {
        let why = format!("{}: {error}", self.path.display());
        if self.failed.is_none() {
            tracing::error!("no frame is kept on disk: {why}; tried again every {RETRY:?}");
        }
        self.failed = Some(Instant::now());
        if error.kind() == io::ErrorKind::NotFound {
            // Somebody took it away: made anew with the next attempt.
            self.folder = None;
        }
        self.trouble.set(format!("no frame is kept on disk: {why}"));
    }
}

/// What `lookout check` says of a folder; it is made if it is not there.
pub fn check(path: &Path, bounds: Bounds) -> io::Result<String> {
    let (folder, found) = Folder::open(path, bounds)?;
    let (frames, bytes) = (found.records.len(), bytesize::ByteSize(folder.bytes()));
    Ok(format!("{}: {frames} frames, {bytes}; at most {bounds}", path.display()))
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let retention = humantime::format_duration(self.retention);
        write!(f, "{retention} or {}", bytesize::ByteSize(self.bytes))
    }
}

/// Every camera's frames in their order.
fn tell(found: Found, told: &impl Told) {
    let mut cameras: std::collections::HashMap<Arc<str>, Vec<Entry>> = Default::default();
    for (record, place) in found.records {
        let entries = cameras.entry(record.camera).or_default();
        entries.push(Entry {
            id: record.id,
            monotonic: record.monotonic,
            captured_at: record.captured_at,
            clock: record.clock,
            held: Held::Cool,
            stored: Stored::At(place),
            evicted_before: record.missing_before || (entries.is_empty() && found.more_before),
        });
    }
    for (camera, entries) in cameras {
        told.restored(&camera, entries);
    }
}
