//! Manages the segments of a folder: numbered files that only grow; the oldest is deleted first.
//! Frames that are deleted on request are overwritten in their place.
//!
//! Records of all cameras are stored in the order of their arrival, so every camera reaches back
//! equally far. Each run of the daemon starts its own segment and so never writes behind a
//! truncated record. A complete segment has an index next to it, so a start reads no JPEGs. A
//! segment without an index is read completely, once. No frame is kept for longer than `retention`:
//! a segment is deleted when its oldest frame exceeds that age by the rules of `age`. A power cut
//! can lose what the system has not yet written.
//!
//! A segment that cannot be read or deleted is set aside: it is reported by name, and the other
//! segments remain in use.

mod deletion;
mod erasure;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::age::{Times, WallClock};
use super::index::{self, Builder};
use super::lock::lock;
use super::record::{self, Names, Record};
use super::segment::{self, End, Found, frames_file, index_file};
use crate::frame::FrameId;
use crate::timeline::DiskAddress;

pub use erasure::ErasedSegment;

/// Divisor of the folder's limits: a segment holds at most a sixteenth of them, so at most a
/// sixteenth is deleted at a time.
const SHARE: u32 = 16;
const SEGMENT_MOST: u64 = 64 << 20;

/// Maximum number of frames of all cameras that can be queried. Each takes 120 bytes of memory.
const FRAMES_MOST: u64 = 10_000_000;

/// Upper limit in bytes of the index of a segment with one frame.
const INDEX_MOST: u64 = index::ROW as u64 + 100;

/// Limits of a folder: the maximum age of a frame, and the maximum size in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub retention: Duration,
    pub bytes: u64,
}

#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    bounds: Bounds,
    segments: VecDeque<Segment>,
    /// Number of segments, the oldest ones, that are still to be read.
    unread: usize,
    /// The newest segment, if this run wrote it and it still grows.
    open: Option<Open>,
    /// Size in bytes of all segments and their indexes.
    bytes: u64,
    /// Number of frames that can be queried, and its maximum.
    frames: u64,
    frames_most: u64,
    /// True if the disk has older frames that cannot be queried.
    left_out: bool,
    /// The number of the next segment. It keeps rising even after all segments were deleted, so
    /// that a address never refers to another segment's record.
    next: u64,
    /// Segments whose frames can no longer be queried and which have not been reported yet.
    gone: Vec<u64>,
    names: Names,
    wall: WallClock,
    ages: Ages,
    /// Time of opening: since the run's start, and in UTC as the newest frames report it.
    opened: Duration,
    opened_at: Option<SystemTime>,
    /// Device and inode of the folder, because another folder may replace it at its path.
    identity: (u64, u64),
    /// Lock on the folder, held for the lifetime of this value. Two daemons in one folder would
    /// delete each other's segments.
    _lock: File,
}

/// The source of the ages of earlier runs' segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ages {
    Unknown,
    /// Ages follow from what was recorded since.
    Recorded,
    /// Ages also follow from the wall clock.
    Settled,
}

#[derive(Debug)]
struct Open {
    file: File,
    index: Builder,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: u64,
    index: u64,
    times: Option<Times>,
    /// Number of its frames that can be queried.
    frames: u64,
    written: Written,
    /// Time of the last failed deletion.
    stuck: Option<Duration>,
    unreadable: bool,
}

#[derive(Clone, Copy, Debug)]
enum Written {
    /// Written before the folder was opened: the age of its oldest frame at that time.
    Before(Duration),
    /// Written by this run: the time of its first frame.
    At(Duration),
}

/// Names of the files of segments that are set aside.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Aside {
    pub unreadable: Vec<String>,
    pub undeletable: Vec<String>,
}

impl Folder {
    /// Opens a folder and lists its segments; creates the folder if it does not exist. The frames
    /// follow from [`Folder::restore`]. `least` is the lowest number that a new segment may have.
    pub fn open(path: &Path, bounds: Bounds, least: u64, uptime: Duration) -> io::Result<Folder> {
        fs::create_dir_all(path)?;
        let lock = lock(path)?;
        let metadata = fs::metadata(path)?;
        let (numbers, indexes) = segment::numbers(path)?;
        for index in indexes.iter().filter(|index| numbers.binary_search(index).is_err()) {
            let _ = fs::remove_file(index_file(path, *index));
        }
        let size = |file: PathBuf| fs::metadata(file).map_or(0, |metadata| metadata.len());
        let found = |number: &u64| Segment {
            number: *number,
            bytes: size(frames_file(path, *number)),
            index: size(index_file(path, *number)),
            times: None,
            frames: 0,
            written: Written::Before(Duration::ZERO),
            stuck: None,
            unreadable: false,
        };
        let segments: VecDeque<Segment> = numbers.iter().map(found).collect();
        Ok(Folder {
            path: path.to_owned(),
            bounds,
            unread: segments.len(),
            bytes: segments.iter().map(|segment| segment.bytes + segment.index).sum(),
            segments,
            open: None,
            frames: 0,
            frames_most: FRAMES_MOST,
            left_out: false,
            next: numbers.last().map_or(1, |newest| newest.saturating_add(1)).max(least),
            gone: Vec::new(),
            names: Names::default(),
            wall: WallClock::default(),
            ages: Ages::Unknown,
            opened: uptime,
            opened_at: None,
            identity: (metadata.dev(), metadata.ino()),
            _lock: lock,
        })
    }

    /// Reads the newest unread segment. Returns `None` if all segments have been read.
    pub fn restore(&mut self) -> Option<Vec<(Record, DiskAddress)>> {
        let at = self.unread.checked_sub(1)?;
        self.unread = at;
        let number = self.segments[at].number;
        let file = frames_file(&self.path, number);
        let Found { records, size, from_index, end } =
            segment::read(&self.path, number, &mut self.names);
        let name = file.display();
        match &end {
            End::Whole => {}
            End::Failed(error) if error.kind() == ErrorKind::NotFound => {
                self.forget(at);
                return Some(Vec::new());
            }
            End::Damaged(bytes, why) => {
                tracing::warn!("{name}: {bytes} bytes are skipped: {why}");
            }
            End::Failed(error) => {
                tracing::warn!("{name} is set aside, since it cannot be read: {error}");
            }
        }
        if size == 0 && matches!(end, End::Whole) && fs::remove_file(&file).is_ok() {
            self.forget(at);
            return Some(Vec::new());
        }
        let segment = &mut self.segments[at];
        self.bytes = self.bytes + size - segment.bytes;
        segment.bytes = size;
        segment.unreadable =
            matches!(end, End::Failed(_)) || (records.is_empty() && !from_index && size > 0);
        segment.times =
            records.iter().fold(None, |times, (record, _)| Some(Times::with(times, record)));
        if !from_index && !segment.unreadable {
            self.write_index(at, &builder(&records));
        }
        let frames = records.iter().filter(|(record, _)| !record.deleted).count() as u64;
        if self.left_out || self.frames + frames > self.frames_most {
            if !self.left_out {
                self.leave_out(number);
            }
            return Some(Vec::new());
        }
        self.segments[at].frames = frames;
        self.frames += frames;
        Some(records)
    }

    /// Returns the number of unread segments and the number of all segments.
    pub fn unread(&self) -> (usize, usize) {
        (self.unread, self.segments.len())
    }

    /// Returns true if frames existed before the oldest one that can be queried.
    pub fn more_before(&self) -> bool {
        self.left_out || self.segments.front().is_some_and(|segment| segment.number > 1)
    }

    /// Returns the number of the next segment.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Returns segments whose frames can no longer be queried. Each is returned once.
    pub fn take_gone(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.gone)
    }

    /// Appends a record, deletes what its space requires, and returns the record's address.
    ///
    /// On failure nothing of the record remains, or the segment is closed so that nothing is
    /// written behind the partial record. The error `InvalidInput` means that no folder could store
    /// the record.
    pub fn append(
        &mut self,
        record: &Record,
        jpeg: &[u8],
        uptime: Duration,
    ) -> io::Result<DiskAddress> {
        let bytes = record::encode(record, jpeg)
            .filter(|bytes| bytes.len() as u64 + INDEX_MOST <= self.bounds.bytes)
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "too large for a record"))?;
        let length = bytes.len() as u64;
        self.make_room(length + INDEX_MOST, uptime)?;
        let full = |segment: &Segment| {
            let most = (self.bounds.bytes / u64::from(SHARE)).min(SEGMENT_MOST);
            let old = match segment.written {
                Written::At(first) => uptime.saturating_sub(first) > self.bounds.retention / SHARE,
                Written::Before(_) => true,
            };
            let frames = self.open.as_ref().map_or(0, |open| open.index.frames());
            old || (segment.bytes > 0 && segment.bytes + length > most)
                || frames >= index::FRAMES_MOST
        };
        if self.open.is_none() || self.segments.back().is_none_or(full) {
            self.begin_segment(uptime)?;
        }
        let (Some(open), Some(segment)) = (&mut self.open, self.segments.back_mut()) else {
            return Err(io::Error::other("no segment is open"));
        };
        if let Err(error) = open.file.write_all(&bytes) {
            if open.file.set_len(segment.bytes).is_err() {
                // The partial record remains, and nothing is written behind it.
                let written = open.file.metadata().map_or(segment.bytes, |data| data.len());
                self.bytes += written.saturating_sub(segment.bytes);
                segment.bytes = written.max(segment.bytes);
                self.open = None;
            }
            return Err(error);
        }
        let address =
            DiskAddress { segment: segment.number, offset: segment.bytes, length: length as u32 };
        if segment.bytes == 0 {
            segment.written = Written::At(uptime);
        }
        open.index.push(record, address);
        self.bytes += length + open.index.bytes() - segment.index;
        segment.bytes += length;
        segment.index = open.index.bytes();
        segment.times = Some(Times::with(segment.times, record));
        segment.frames += 1;
        self.frames += 1;
        let passed = uptime.saturating_sub(self.opened);
        self.opened_at = self.opened_at.max(record.captured_at.checked_sub(passed));
        Ok(address)
    }

    /// Reads a frame's JPEG. The record must be intact and belong to that frame.
    pub fn read(&self, camera: &str, id: FrameId, address: DiskAddress) -> io::Result<Vec<u8>> {
        let path = frames_file(&self.path, address.segment);
        let file = File::open(&path)?;
        let mut bytes = vec![0; address.length as usize];
        file.read_exact_at(&mut bytes, address.offset)?;
        let bad = |why: &dyn std::fmt::Display| {
            let at = format!("{} at {}: {why}", path.display(), address.offset);
            io::Error::new(ErrorKind::InvalidData, at)
        };
        let (record, jpeg) = record::decode(&bytes).map_err(|e| bad(&e))?;
        if *record.camera != *camera || record.id != id {
            return Err(bad(&"the record is of another frame"));
        }
        if record.deleted {
            return Err(bad(&"the frame was deleted"));
        }
        Ok(jpeg.to_vec())
    }

    /// Returns false if the folder was removed or another one has replaced it.
    pub fn is_there(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(found) => (found.dev(), found.ino()) == self.identity,
            // Other errors may be temporary.
            Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }

    /// Forgets the growing segment if its file was deleted. Returns true if it was.
    pub fn notice_deleted(&mut self) -> bool {
        let deleted = |open: &Open| open.file.metadata().is_ok_and(|data| data.nlink() == 0);
        if !self.open.as_ref().is_some_and(deleted) {
            return false;
        }
        self.forget(self.segments.len() - 1);
        true
    }

    /// Forgets a segment whose file no longer exists.
    pub fn lost(&mut self, number: u64) {
        let at = self.segments.iter().position(|segment| segment.number == number);
        if let Some(at) = at.filter(|_| !frames_file(&self.path, number).exists()) {
            self.forget(at);
        }
    }

    /// Forgets all segments, because their files are out of reach.
    pub fn forget_all(&mut self) {
        self.open = None;
        self.unread = 0;
        self.gone.extend(self.segments.drain(..).map(|segment| segment.number));
    }

    /// Closes the growing segment and writes its index.
    pub fn close(&mut self) {
        if let Some(open) = self.open.take() {
            let last = self.segments.len() - 1;
            self.write_index(last, &open.index);
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn aside(&self) -> Aside {
        let name = |segment: &Segment| {
            let file = frames_file(&self.path, segment.number);
            file.file_name().unwrap_or_default().to_string_lossy().into_owned()
        };
        let names = |wanted: fn(&Segment) -> bool| {
            self.segments.iter().filter(|segment| wanted(segment)).map(name).collect()
        };
        Aside {
            unreadable: names(|segment| segment.unreadable),
            undeletable: names(|segment| segment.stuck.is_some()),
        }
    }

    fn begin_segment(&mut self, uptime: Duration) -> io::Result<()> {
        self.close();
        let number = self.next;
        // The number is used up even on failure, so that an unusable number does not block the next
        // ones.
        self.next += 1;
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).open(frames_file(&self.path, number))?;
        self.open = Some(Open { file, index: Builder::default() });
        self.segments.push_back(Segment {
            number,
            bytes: 0,
            index: 0,
            times: None,
            frames: 0,
            written: Written::At(uptime),
            stuck: None,
            unreadable: false,
        });
        let mut at = 0;
        while self.frames > self.frames_most && at < self.segments.len() {
            if self.segments[at].frames > 0 && !self.left_out {
                self.leave_out(self.segments[at].number);
            }
            self.withdraw(at);
            at += 1;
        }
        Ok(())
    }

    fn write_index(&mut self, at: usize, index: &Builder) {
        let segment = &mut self.segments[at];
        let written = match segment::write_index(&self.path, segment.number, segment.bytes, index) {
            Ok(bytes) => bytes,
            Err(error) => {
                // The next start reads the segment instead.
                tracing::debug!("the index of segment {}: {error}", segment.number);
                0
            }
        };
        self.bytes = self.bytes + written - segment.index;
        segment.index = written;
    }

    fn leave_out(&mut self, number: u64) {
        self.left_out = true;
        let path = self.path.display();
        tracing::warn!(
            "{path}: more than {} frames: those of segment {number} and before stay on disk, but \
             cannot be asked about",
            self.frames_most
        );
    }
}

fn builder(records: &[(Record, DiskAddress)]) -> Builder {
    let mut builder = Builder::default();
    records.iter().for_each(|(record, address)| builder.push(record, *address));
    builder
}

#[cfg(test)]
mod tests;
