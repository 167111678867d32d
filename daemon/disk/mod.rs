//! The disk tier: stores frames as JPEGs on disk, where they outlive the daemon.
//!
//! One thread owns the folder. Frames of earlier runs are read while it works, the newest first.
//!
//! Guarantees: a failing disk affects no other part of the daemon. Frames that cannot be written
//! are counted, the failure is reported in the log, the metrics and `/readyz`, and writing is
//! retried.

mod age;
mod folder;
mod index;
mod inspection;
mod lock;
mod queue;
mod record;
mod request;
mod segment;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, io};

pub use folder::Bounds;
pub use queue::Queue;
pub use record::Record;
pub use request::{
    Erasure, FrameToRead, JpegReceiver, Jpegs, ReadRefused, ReadRequest, WriteRequest,
};
#[cfg(fuzzing)]
pub use segment::fuzz_segment;

use crate::event::GapCause;
use crate::frame::FrameId;
use crate::metrics::{self, NotWritten};
use crate::run_clock::boot_time;
use crate::sync::lock;
use crate::timeline::{DiskAddress, DiskState, Entry, Residency};
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

/// Number of frames that are overwritten before other jobs have their turn.
const ERASED_AT_ONCE: usize = 32;

/// Maximum number of file names in a message.
const NAMED_MOST: usize = 3;

/// Receives notifications about stored, deleted and restored frames. The engine implements it and
/// passes them to the timeline.
pub trait DiskEvents {
    /// Reports that the disk thread is making progress. If this is not called for a long time, the
    /// thread counts as hung.
    fn progressed(&self);
    /// Reports where a frame was stored, or `None` if it was not.
    fn stored(&self, camera: &str, id: FrameId, address: Option<DiskAddress>);
    /// Reports that the frames of this segment can no longer be read.
    fn segment_gone(&self, segment: u64);
    /// Passes frames of earlier runs, in order. They precede all frames known so far.
    fn restored(&self, camera: &str, entries: Vec<Entry>);
    /// Reports whether frames of earlier runs are still to come.
    fn restoring(&self, more: bool);
}

/// Description of what does not work; empty if everything works.
#[derive(Debug, Default)]
pub struct DiskProblem(Mutex<String>);

impl DiskProblem {
    pub fn get(&self) -> Option<String> {
        let why = lock(&self.0);
        (!why.is_empty()).then(|| why.clone())
    }

    fn set(&self, why: String) {
        *lock(&self.0) = why;
    }
}

pub struct Disk {
    path: PathBuf,
    bounds: Bounds,
    folder: Option<Folder>,
    /// Lowest number that the next segment may have.
    next: u64,
    /// Frames that were read when the disk was opened.
    found: Vec<(Record, DiskAddress)>,
    /// Oldest frames read so far of each camera. They are passed on once it is known what precedes
    /// them.
    held_back: EntriesByCamera,
    restoring: bool,
    newest_run: Option<u64>,
    /// Approximate start of the run, in the host's boot time, so that frames also age while the
    /// host is suspended.
    started: Duration,
    failed: Option<Instant>,
    /// The reason why no frame can be stored.
    why: String,
    problem: Arc<DiskProblem>,
}

impl Disk {
    /// Lists what earlier runs left and reads the newest frames. A folder that cannot be used is
    /// tried again later.
    pub fn open(path: PathBuf, bounds: Bounds, problem: Arc<DiskProblem>) -> Disk {
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
            problem,
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
    pub fn run(mut self, queue: &Queue, events: &impl DiskEvents) {
        let mut looked = None;
        while let Some(job) = queue.next(if self.restoring { Duration::ZERO } else { TICK }) {
            events.progressed();
            if self.folder.is_none() && self.failed.is_none_or(|at| at.elapsed() >= RETRY) {
                self.try_open();
                events.restoring(self.restoring);
            }
            self.restore_some(events);
            if looked.is_none_or(|at: Instant| at.elapsed() >= TICK) {
                looked = Some(Instant::now());
                self.run_checks(events);
            }
            match job {
                Job::Idle => {}
                Job::Read(read) => {
                    if let Some(more) = read.step(|wanted| self.read(queue, wanted, events)) {
                        queue.resume(more);
                    }
                }
                Job::Write(write) => self.write(queue, write, events),
                Job::Erase(erasure) => {
                    if let Some(more) = self.erase(erasure) {
                        queue.resume_erasure(more);
                    }
                }
            }
        }
        if let Some(folder) = &mut self.folder {
            folder.close();
        }
    }

    /// Passes on frames of earlier runs for at most `patience`. [`Disk::run`] continues with the
    /// rest.
    pub fn restore(&mut self, events: &impl DiskEvents, patience: Duration) {
        let begun = Instant::now();
        events.restoring(self.restoring);
        while self.restoring && begun.elapsed() < patience {
            events.progressed();
            self.restore_some(events);
        }
        self.measure();
    }

    fn restore_some(&mut self, events: &impl DiskEvents) {
        let Some(folder) = self.folder.as_mut().filter(|_| self.restoring) else { return };
        let records = match std::mem::take(&mut self.found) {
            found if found.is_empty() => folder.restore(),
            found => Some(found),
        };
        if let Some(records) = records {
            let (cameras, deleted_at_end) = entries(records);
            for camera in deleted_at_end {
                let newer = self.held_back.get_mut(&camera).and_then(|newer| newer.first_mut());
                if let Some(newer) = newer {
                    newer.left_before = Some(GapCause::Deleted);
                }
            }
            for (camera, entries) in cameras {
                if let Some(newer) = self.held_back.insert(camera.clone(), entries) {
                    events.restored(&camera, newer);
                }
            }
        } else {
            let more_before = folder.more_before();
            for (camera, mut entries) in self.held_back.drain() {
                if let Some(oldest) = entries.first_mut() {
                    let evicted = more_before.then_some(GapCause::Evicted);
                    oldest.left_before = oldest.left_before.or(evicted);
                }
                events.restored(&camera, entries);
            }
            self.restoring = false;
            events.restoring(false);
        }
        self.report_gone_segments(events);
    }

    fn try_open(&mut self) {
        match Folder::open(&self.path, self.bounds, self.next, self.uptime()) {
            Ok(folder) => {
                let ((segments, _), path) = (folder.unread(), self.path.display());
                let bytes = bytesize::ByteSize(folder.bytes());
                tracing::info!("{path}: {segments} segments of earlier runs, {bytes}");
                self.folder = Some(folder);
                self.restoring = true;
                self.record_recovery();
            }
            Err(error) => self.record_failure(&error),
        }
    }

    fn write(
        &mut self,
        queue: &Queue,
        WriteRequest { record, jpeg }: WriteRequest,
        events: &impl DiskEvents,
    ) {
        let waits = self.failed.is_some_and(|at| at.elapsed() < RETRY);
        let uptime = self.uptime();
        let written = match &mut self.folder {
            Some(folder) if !waits => Some(folder.append(&record, &jpeg, uptime)),
            _ => None,
        };
        self.report_gone_segments(events);
        let address = match written {
            Some(Ok(address)) => {
                self.record_recovery();
                Some(address)
            }
            // The frame is invalid; the disk works.
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                let camera = &*record.camera;
                tracing::warn!(camera, "frame {} is not kept: {error}", record.id.number);
                None
            }
            Some(Err(error)) => {
                self.record_failure(&error);
                self.reopen_if_removed(events);
                None
            }
            None => None,
        };
        if address.is_none() {
            queue.missed(&record.camera);
            metrics::frame_not_written(&record.camera, NotWritten::Disk);
        }
        events.stored(&record.camera, record.id, address);
        self.measure();
    }

    fn read(
        &mut self,
        queue: &Queue,
        wanted: FrameToRead,
        events: &impl DiskEvents,
    ) -> Option<Arc<[u8]>> {
        let FrameToRead { camera, id, address } = wanted;
        let Some(address) = address else { return queue.waiting(&camera, id) };
        let folder = self.folder.as_mut()?;
        match folder.read(&camera, id, address) {
            Ok(jpeg) => Some(jpeg.into()),
            Err(error) => {
                // The record was deleted in the meantime or is damaged: the answer reports the
                // frame as gone.
                tracing::warn!(camera = &*camera, "frame {}: {error}", id.number);
                if error.kind() == io::ErrorKind::NotFound {
                    folder.lost(address.segment);
                    self.report_gone_segments(events);
                }
                None
            }
        }
    }

    /// Makes a step of an erasure. Returns it if more steps follow.
    fn erase(&mut self, mut erasure: Erasure) -> Option<Erasure> {
        let Some(folder) = &mut self.folder else {
            let why = format!("{}; frames on disk are not deleted", self.why);
            erasure.finish(Some(why));
            return None;
        };
        if erasure.segments.is_none() {
            erasure.segments = Some(folder.segments_since(erasure.span.from));
            // These were read, and have not been passed on.
            self.found.retain(|(record, _)| !erasure.wants(&record.camera, record.captured_at));
            for (camera, entries) in &mut self.held_back {
                entries.retain(|entry| !erasure.wants(camera, entry.captured_at));
            }
        }
        let mut step = || -> io::Result<bool> {
            if let Some(segment) = &mut erasure.current {
                let erased = folder.erase(segment, ERASED_AT_ONCE)?;
                erasure.erased += erased;
                if erased == 0 {
                    erasure.current = None;
                }
                return Ok(true);
            }
            let Some(number) = erasure.segments.as_mut().and_then(VecDeque::pop_front) else {
                return Ok(false);
            };
            let wanted = |record: &Record| erasure.wants(&record.camera, record.captured_at);
            erasure.current = folder.begin_erasing(number, wanted)?;
            Ok(true)
        };
        match step() {
            Ok(true) => return Some(erasure),
            Ok(false) => erasure.finish(None),
            Err(error) => {
                let why =
                    format!("{}: frames on disk are not deleted: {error}", self.path.display());
                tracing::error!("{why}");
                erasure.finish(Some(why));
            }
        }
        None
    }

    /// Runs the checks that are due every second.
    fn run_checks(&mut self, events: &impl DiskEvents) {
        self.reopen_if_removed(events);
        let now = Now { uptime: self.uptime(), wall: SystemTime::now() };
        if let Some(folder) = &mut self.folder {
            if folder.notice_deleted() {
                let path = self.path.display();
                tracing::warn!("{path}: somebody deleted the newest segment; another is begun");
            }
            folder.expire(now);
        }
        self.report_gone_segments(events);
        self.measure();
    }

    /// Checks that the folder is still there. If it was removed, its frames are forgotten and the
    /// folder is created again.
    fn reopen_if_removed(&mut self, events: &impl DiskEvents) {
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
            events.segment_gone(segment);
        }
        drop(folder);
        self.restoring = false;
        self.failed = None;
        self.try_open();
        events.restoring(self.restoring);
    }

    fn report_gone_segments(&mut self, events: &impl DiskEvents) {
        let Some(folder) = &mut self.folder else { return };
        for segment in folder.take_gone() {
            let kept = |entry: &Entry| !matches!(entry.disk_state, DiskState::At(at) if at.segment == segment);
            self.held_back.values_mut().for_each(|entries| entries.retain(kept));
            self.found.retain(|(_, address)| address.segment != segment);
            events.segment_gone(segment);
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
        let mut problems: Vec<String> = Vec::new();
        if self.failed.is_some() {
            problems.push(format!("no frame is kept on disk: {}", self.why));
        }
        problems.extend(aside_messages(&aside));
        if let Some((unread, all)) = folder.filter(|_| self.restoring).map(Folder::unread) {
            problems.push(format!(
                "frames of earlier runs are still being read from disk: {unread} of {all} segments \
                 are to come"
            ));
        }
        self.problem.set(problems.join("; "));
    }

    fn record_recovery(&mut self) {
        if self.failed.take().is_some() {
            tracing::info!("{}: frames are kept on disk again", self.path.display());
        }
    }

    fn record_failure(&mut self, error: &io::Error) {
        self.why = format!("{}: {error}", self.path.display());
        if self.failed.is_none() {
            tracing::error!("no frame is kept on disk: {}; tried again every {RETRY:?}", self.why);
        }
        self.failed = Some(Instant::now());
        self.measure();
    }
}

fn aside_messages(Aside { unreadable, undeletable }: &Aside) -> Vec<String> {
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
    let inspection::Contents { frames, bytes, in_use, unreadable } = inspection::inspect(path)?;
    let (bytes, path) = (bytesize::ByteSize(bytes), path.display());
    let mut line = format!("{path}: {frames} frames, {bytes}; at most {bounds}");
    if in_use {
        line += "; a daemon keeps its frames there now";
    }
    let aside = Aside { unreadable, ..Aside::default() };
    aside_messages(&aside).into_iter().for_each(|sentence| line = format!("{line}; {sentence}"));
    Ok(line)
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let retention = humantime::format_duration(self.retention);
        write!(f, "{retention} or {}", bytesize::ByteSize(self.bytes))
    }
}

/// Frames on disk by camera, in order.
type EntriesByCamera = HashMap<Arc<str>, Vec<Entry>>;

/// Groups the records by camera, in their order. Also returns the cameras whose last records are of
/// deleted frames.
fn entries(records: Vec<(Record, DiskAddress)>) -> (EntriesByCamera, HashSet<Arc<str>>) {
    let mut cameras = EntriesByCamera::new();
    let mut deleted = HashSet::new();
    for (record, address) in records {
        if record.deleted {
            deleted.insert(record.camera);
            continue;
        }
        let was_deleted = deleted.remove(&record.camera).then_some(GapCause::Deleted);
        let evicted = record.missing_before.then_some(GapCause::Evicted);
        cameras.entry(record.camera).or_default().push(Entry {
            id: record.id,
            monotonic: record.monotonic,
            captured_at: record.captured_at,
            clock: record.clock,
            residency: Residency::Disk,
            disk_state: DiskState::At(address),
            left_before: was_deleted.or(evicted),
        });
    }
    (cameras, deleted)
}

#[cfg(test)]
mod tests;
