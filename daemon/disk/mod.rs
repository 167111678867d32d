//! The cool tier: stores frames as JPEGs on disk, where they outlive the daemon.
//!
//! One thread owns the folder. Frames of earlier runs are read while it works, the newest first.
//!
//! Guarantees: a failing disk affects no other part of the daemon. Frames that cannot be written
//! are counted, the failure is reported in the log, the metrics and `/readyz`, and writing is
//! retried.

mod age;
mod folder;
mod index;
mod queue;
mod record;
mod segment;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, io};

pub use folder::Bounds;
pub use queue::{Jpegs, Queue, Read, Reader, Refused, Wanted, Write};
pub use record::Record;
#[cfg(fuzzing)]
pub use segment::fuzz_segment;

use crate::frame::FrameId;
use crate::metrics::{self, NotWritten};
use crate::run_clock::boot_time;
use crate::timeline::{Entry, Held, Place, Stored};
use age::Now;
use folder::{Aside, Folder};
use queue::Job;

/// Maximum number of frames that wait to be written: a few seconds of a slow disk.
pub const QUEUE_FRAMES: usize = 64;

/// Maximum number of single frames that wait to be read.
pub const LOOKUPS: usize = 32;

/// Pause before a failed disk is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Interval at which expired segments are deleted and the folder is checked for existence.
const TICK: Duration = Duration::from_secs(1);

/// Maximum number of file names in a message.
const NAMED_MOST: usize = 3;

/// Receives notifications about stored, deleted and restored frames. The engine implements it and
/// passes them to the timeline.
pub trait Told {
    /// Reports that the disk thread is making progress. If this is not called for a long time, the
    /// thread counts as hung.
    fn moves(&self);
    /// Reports where a frame was stored, or `None` if it was not.
    fn stored(&self, camera: &str, id: FrameId, place: Option<Place>);
    /// Reports that the frames of this segment can no longer be read.
    fn segment_gone(&self, segment: u64);
    /// Passes frames of earlier runs, in order. They precede all frames known so far.
    fn restored(&self, camera: &str, entries: Vec<Entry>);
    /// Reports whether frames of earlier runs are still to come.
    fn restoring(&self, more: bool);
}

/// Description of what does not work; empty if everything works.
#[derive(Debug, Default)]
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
    /// Lowest number that the next segment may have.
    next: u64,
    /// Frames that were read when the disk was opened.
    found: Vec<(Record, Place)>,
    /// Oldest frames read so far of each camera. They are passed on once it is known what precedes
    /// them.
    held_back: HashMap<Arc<str>, Vec<Entry>>,
    restoring: bool,
    newest_run: Option<u64>,
    /// Approximate start of the run, in the host's boot time, so that frames also age while the
    /// host is suspended.
    started: Duration,
    failed: Option<Instant>,
    /// The reason why no frame can be stored.
    why: String,
    trouble: Arc<Trouble>,
}

impl Disk {
    /// Lists what earlier runs left and reads the newest frames. A folder that cannot be used is
    /// tried again later.
    pub fn open(path: PathBuf, bounds: Bounds, trouble: Arc<Trouble>) -> Disk {
        let mut disk = Disk {
            path,
            bounds,
            folder: None,
            next: 1,
            found: Vec::new(),
            held_back: HashMap::new(),
            restoring: false,
            newest_run: None,
            started: boot_time(),
            failed: None,
            why: String::new(),
            trouble,
        };
        disk.try_open();
        if let Some(folder) = &mut disk.folder {
            while disk.found.is_empty() {
                let Some(records) = folder.restore() else { break };
                disk.found = records;
            }
        }
        disk.newest_run = disk.found.iter().map(|(record, _)| record.id.run).max();
        disk
    }

    /// Returns the newest run that has frames on disk.
    pub fn newest_run(&self) -> Option<u64> {
        self.newest_run
    }

    /// Runs until the queue is closed and its remaining jobs are done.
    pub fn run(mut self, queue: &Queue, told: &impl Told) {
        let mut looked = None;
        while let Some(job) = queue.next(if self.restoring { Duration::ZERO } else { TICK }) {
            told.moves();
            if self.folder.is_none() && self.failed.is_none_or(|at| at.elapsed() >= RETRY) {
                self.try_open();
                told.restoring(self.restoring);
            }
            self.restore_some(told);
            if looked.is_none_or(|at: Instant| at.elapsed() >= TICK) {
                looked = Some(Instant::now());
                self.look(told);
            }
            match job {
                Job::Idle => {}
                Job::Read(read) => {
                    if let Some(more) = read.step(|wanted| self.read(queue, wanted, told)) {
                        queue.resume(more);
                    }
                }
                Job::Write(write) => self.write(queue, write, told),
            }
        }
        if let Some(folder) = &mut self.folder {
            folder.close();
        }
    }

    /// Passes on frames of earlier runs for at most `patience`. [`Disk::run`] continues with the
    /// rest.
    pub fn restore(&mut self, told: &impl Told, patience: Duration) {
        let begun = Instant::now();
        told.restoring(self.restoring);
        while self.restoring && begun.elapsed() < patience {
            told.moves();
            self.restore_some(told);
        }
        self.measure();
    }

    fn restore_some(&mut self, told: &impl Told) {
        let Some(folder) = self.folder.as_mut().filter(|_| self.restoring) else { return };
        let records = match std::mem::take(&mut self.found) {
            found if found.is_empty() => folder.restore(),
            found => Some(found),
        };
        if let Some(records) = records {
            for (camera, entries) in entries(records) {
                if let Some(newer) = self.held_back.insert(camera.clone(), entries) {
                    told.restored(&camera, newer);
                }
            }
        } else {
            let more_before = folder.more_before();
            for (camera, mut entries) in self.held_back.drain() {
                if let Some(oldest) = entries.first_mut() {
                    oldest.evicted_before |= more_before;
                }
                told.restored(&camera, entries);
            }
            self.restoring = false;
            told.restoring(false);
        }
        self.tell_gone(told);
    }

    fn try_open(&mut self) {
        match Folder::open(&self.path, self.bounds, self.next, self.uptime()) {
            Ok(folder) => {
                let ((segments, _), path) = (folder.unread(), self.path.display());
                let bytes = bytesize::ByteSize(folder.bytes());
                tracing::info!("{path}: {segments} segments of earlier runs, {bytes}");
                self.folder = Some(folder);
                self.restoring = true;
                self.recovered();
            }
            Err(error) => self.fails(&error),
        }
    }

    fn write(&mut self, queue: &Queue, Write { record, jpeg }: Write, told: &impl Told) {
        let waits = self.failed.is_some_and(|at| at.elapsed() < RETRY);
        let uptime = self.uptime();
        let written = match &mut self.folder {
            Some(folder) if !waits => Some(folder.append(&record, &jpeg, uptime)),
            _ => None,
        };
        self.tell_gone(told);
        let place = match written {
            Some(Ok(place)) => {
                self.recovered();
                Some(place)
            }
            // The frame is invalid; the disk works.
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                let camera = &*record.camera;
                tracing::warn!(camera, "frame {} is not kept: {error}", record.id.number);
                None
            }
            Some(Err(error)) => {
                self.fails(&error);
                self.look_for_folder(told);
                None
            }
            None => None,
        };
        if place.is_none() {
            queue.missed(&record.camera);
            metrics::frame_not_written(&record.camera, NotWritten::Disk);
        }
        told.stored(&record.camera, record.id, place);
        self.measure();
    }

    fn read(&mut self, queue: &Queue, wanted: Wanted, told: &impl Told) -> Option<Arc<[u8]>> {
        let Wanted { camera, id, place } = wanted;
        let Some(place) = place else { return queue.waiting(&camera, id) };
        let folder = self.folder.as_mut()?;
        match folder.read(&camera, id, place) {
            Ok(jpeg) => Some(jpeg.into()),
            Err(error) => {
                // The record was deleted in the meantime or is damaged: the answer reports the
                // frame as gone.
                tracing::warn!(camera = &*camera, "frame {}: {error}", id.number);
                if error.kind() == io::ErrorKind::NotFound {
                    folder.lost(place.segment);
                    self.tell_gone(told);
                }
                None
            }
        }
    }

    /// Runs the checks that are due every second.
    fn look(&mut self, told: &impl Told) {
        self.look_for_folder(told);
        let now = Now { uptime: self.uptime(), wall: SystemTime::now() };
        if let Some(folder) = &mut self.folder {
            if folder.notice_deleted() {
                let path = self.path.display();
                tracing::warn!("{path}: somebody deleted the newest segment; another is begun");
            }
            folder.expire(now);
        }
        self.tell_gone(told);
        self.measure();
    }

    /// Checks that the folder is still there. If it was removed, its frames are forgotten and the
    /// folder is created again.
    fn look_for_folder(&mut self, told: &impl Told) {
        if self.folder.as_ref().is_none_or(Folder::is_there) {
            return;
        }
        let Some(mut folder) = self.folder.take() else { return };
        let path = self.path.display();
        let (_, segments) = folder.unread();
        tracing::warn!(
            "{path}: the folder was deleted, with {segments} segments; it is created again"
        );
        self.next = folder.next();
        folder.forget_all();
        self.found.clear();
        self.held_back.clear();
        for segment in folder.take_gone() {
            told.segment_gone(segment);
        }
        drop(folder);
        self.restoring = false;
        self.failed = None;
        self.try_open();
        told.restoring(self.restoring);
    }

    fn tell_gone(&mut self, told: &impl Told) {
        let Some(folder) = &mut self.folder else { return };
        for segment in folder.take_gone() {
            let kept =
                |entry: &Entry| !matches!(entry.stored, Stored::At(at) if at.segment == segment);
            self.held_back.values_mut().for_each(|entries| entries.retain(kept));
            self.found.retain(|(_, place)| place.segment != segment);
            told.segment_gone(segment);
        }
    }

    fn uptime(&self) -> Duration {
        boot_time().saturating_sub(self.started)
    }

    fn measure(&self) {
        let folder = self.folder.as_ref();
        let aside = folder.map(Folder::aside).unwrap_or_default();
        metrics::disk(folder.map_or(0, Folder::bytes), self.failed.is_some());
        metrics::disk_segments_set_aside(aside.unreadable.len(), aside.undeletable.len());
        let mut troubles: Vec<String> = Vec::new();
        if self.failed.is_some() {
            troubles.push(format!("no frame is kept on disk: {}", self.why));
        }
        troubles.extend(said_of(&aside));
        if let Some((unread, all)) = folder.filter(|_| self.restoring).map(Folder::unread) {
            troubles.push(format!(
                "frames of earlier runs are still being read from disk: {unread} of {all} segments \
                 are to come"
            ));
        }
        self.trouble.set(troubles.join("; "));
    }

    fn recovered(&mut self) {
        if self.failed.take().is_some() {
            tracing::info!("{}: frames are kept on disk again", self.path.display());
        }
    }

    fn fails(&mut self, error: &io::Error) {
        self.why = format!("{}: {error}", self.path.display());
        if self.failed.is_none() {
            tracing::error!("no frame is kept on disk: {}; tried again every {RETRY:?}", self.why);
        }
        self.failed = Some(Instant::now());
        self.measure();
    }
}

fn said_of(Aside { unreadable, undeletable }: &Aside) -> Vec<String> {
    let sentence = |what: &str, files: &[String]| {
        let more = if files.len() > NAMED_MOST { ", …" } else { "" };
        let named = files[..files.len().min(NAMED_MOST)].join(", ");
        (!files.is_empty()).then(|| {
            format!("segments on disk that cannot be {what}: {} ({named}{more})", files.len())
        })
    };
    [sentence("read", unreadable), sentence("deleted", undeletable)].into_iter().flatten().collect()
}

/// Describes a folder for `lookout check`. The folder is created if it does not exist.
pub fn check(path: &Path, bounds: Bounds) -> io::Result<String> {
    let folder::Contents { frames, bytes, in_use, unreadable } = folder::look(path)?;
    let bytes = bytesize::ByteSize(bytes);
    let mut said = format!("{}: {frames} frames, {bytes}; at most {bounds}", path.display());
    if in_use {
        said += "; a daemon keeps its frames there now";
    }
    let aside = Aside { unreadable, ..Aside::default() };
    said_of(&aside).into_iter().for_each(|sentence| said = format!("{said}; {sentence}"));
    Ok(said)
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let retention = humantime::format_duration(self.retention);
        write!(f, "{retention} or {}", bytesize::ByteSize(self.bytes))
    }
}

/// Groups the records by camera, in their order.
fn entries(records: Vec<(Record, Place)>) -> HashMap<Arc<str>, Vec<Entry>> {
    let mut cameras: HashMap<Arc<str>, Vec<Entry>> = HashMap::new();
    for (record, place) in records {
        cameras.entry(record.camera).or_default().push(Entry {
            id: record.id,
            monotonic: record.monotonic,
            captured_at: record.captured_at,
            clock: record.clock,
            held: Held::Cool,
            stored: Stored::At(place),
            evicted_before: record.missing_before,
        });
    }
    cameras
}

#[cfg(test)]
mod tests;
