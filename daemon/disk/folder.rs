//! The segments of a folder: files that only grow, numbered, the oldest dropped first.
//!
//! Records of all cameras follow each other in the order they come, so that every camera reaches
//! back equally far. A run of the daemon begins a segment of its own, and so never writes behind a
//! record that was cut off. A complete segment has an index beside it, so that a start reads no
//! pictures; one without is read whole, once. No frame is kept for longer than `retention`: a segment
//! leaves when its oldest frame is so old by the rules of `age`. What a power cut may
//! cost is what the system has not written yet.
//!
//! A segment that cannot be read or deleted is set aside: it is named, and the others go on.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::age::{self, Now, Times, WallClock};
use super::index::{self, Builder};
use super::record::{self, Names, Record};
use super::segment::{self, End, Found, frames_file, index_file};
use crate::frame::FrameId;
use crate::timeline::Place;

/// A sixteenth of what may be kept leaves at once.
const SHARE: u32 = 16;
const SEGMENT_MOST: u64 = 64 << 20;

/// Frames of all cameras that can be asked about. Each takes 120 bytes of memory.
const FRAMES_MOST: u64 = 10_000_000;

/// Between two attempts to delete a segment that could not be deleted.
const DELETE_AGAIN: Duration = Duration::from_secs(600);

/// Segments that are tried for one record's room.
const TRIED_MOST: usize = 8;

/// The index's share of a segment's first frame, at most.
const INDEX_MOST: u64 = index::ROW as u64 + 100;

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
    /// So many of them, the oldest, are still to be read.
    unread: usize,
    /// The newest segment, if it is this run's and still grows.
    open: Option<Open>,
    /// Of all segments and their indexes.
    bytes: u64,
    /// Frames that can be asked about, and how many may be.
    frames: u64,
    frames_most: u64,
    /// There are older frames on disk that cannot be asked about.
    left_out: bool,
    /// The number of the next segment: it goes on even when all have left, so that a place never
    /// means another segment's record.
    next: u64,
    /// Segments of which no frame can be asked about any more, until they are told.
    gone: Vec<u64>,
    names: Names,
    wall: WallClock,
    ages: Ages,
    /// When this was opened, since the run's start; and UTC, as the newest frames have it.
    opened: Duration,
    opened_at: Option<SystemTime>,
    /// Of the folder itself: another one may come to stand at its path.
    identity: (u64, u64),
    /// Held as long as this lives: two daemons in one folder would drop each other's segments.
    _lock: File,
}

/// How the ages of what earlier runs left are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ages {
    Unknown,
    /// By what was recorded since.
    Recorded,
    /// By the clock on the wall, too.
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
    /// Of its frames, those that can be asked about.
    frames: u64,
    written: Written,
    /// When it was last tried to delete it, without success.
    stuck: Option<Duration>,
    unreadable: bool,
}

#[derive(Clone, Copy, Debug)]
enum Written {
    /// Before the folder was opened; its oldest frame was so old then.
    Before(Duration),
    /// Its first frame at this time of the run.
    At(Duration),
}

/// Segments that are set aside: the names of their files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Aside {
    pub unreadable: Vec<String>,
    pub undeletable: Vec<String>,
}

impl Folder {
    /// Makes the folder if it is not there, and looks which segments are. Their frames come by
    /// [`Folder::restore`]. `least`: the least number that a new segment may have.
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

    /// Reads the newest segment that is still to be read; `None`: all are read.
    pub fn restore(&mut self) -> Option<Vec<(Record, Place)>> {
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
                tracing::warn!("{name}: {bytes} bytes are no whole frame: {why}");
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
        let frames = records.len() as u64;
        if self.left_out || self.frames + frames > self.frames_most {
            if !self.left_out {
                self.leaves_out(number);
            }
            return Some(Vec::new());
        }
        self.segments[at].frames = frames;
        self.frames += frames;
        Some(records)
    }

    /// Segments that are still to be read, and all.
    pub fn unread(&self) -> (usize, usize) {
        (self.unread, self.segments.len())
    }

    /// There was more before the oldest frame that can be asked about.
    pub fn more_before(&self) -> bool {
        self.left_out || self.segments.front().is_some_and(|segment| segment.number > 1)
    }

    /// The number that the next segment will have.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Segments of which no frame can be asked about any more; each is told once.
    pub fn take_gone(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.gone)
    }

    /// Writes a record behind the others, and drops for it what must leave. Returns its place.
    ///
    /// When it fails, nothing of the record is left behind. `InvalidInput`: no folder could keep it.
    pub fn append(&mut self, record: &Record, jpeg: &[u8], uptime: Duration) -> io::Result<Place> {
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
                // The record stays cut off, and nothing is written behind it.
                let written = open.file.metadata().map_or(segment.bytes, |data| data.len());
                self.bytes += written.saturating_sub(segment.bytes);
                segment.bytes = written.max(segment.bytes);
                self.open = None;
            }
            return Err(error);
        }
        let place = Place { segment: segment.number, offset: segment.bytes, length: length as u32 };
        if segment.bytes == 0 {
            segment.written = Written::At(uptime);
        }
        open.index.push(record, place);
        self.bytes += length + open.index.bytes() - segment.index;
        segment.bytes += length;
        segment.index = open.index.bytes();
        segment.times = Some(Times::with(segment.times, record));
        segment.frames += 1;
        self.frames += 1;
        let passed = uptime.saturating_sub(self.opened);
        self.opened_at = self.opened_at.max(record.captured_at.checked_sub(passed));
        Ok(place)
    }

    /// The picture of a frame; its record must be that frame's, and whole.
    pub fn read(&self, camera: &str, id: FrameId, place: Place) -> io::Result<Vec<u8>> {
        let path = frames_file(&self.path, place.segment);
        let file = File::open(&path)?;
        let mut bytes = vec![0; place.length as usize];
        file.read_exact_at(&mut bytes, place.offset)?;
        let bad = |why: &dyn std::fmt::Display| {
            let at = format!("{} at {}: {why}", path.display(), place.offset);
            io::Error::new(ErrorKind::InvalidData, at)
        };
        let (record, jpeg) = record::decode(&bytes).map_err(|e| bad(&e))?;
        if *record.camera != *camera || record.id != id {
            return Err(bad(&"another frame stands there"));
        }
        Ok(jpeg.to_vec())
    }

    /// Drops segments that are older than may be kept; of those that earlier runs left, one.
    pub fn expire(&mut self, now: Now) {
        if self.unread > 0 {
            return;
        }
        if self.ages == Ages::Unknown {
            self.settle(None);
            self.ages = Ages::Recorded;
        }
        if self.ages != Ages::Settled && self.wall.is_confirmed(now) {
            let passed = now.uptime.saturating_sub(self.opened);
            let opened_at = now.wall.checked_sub(passed);
            // The clocks of the cameras, if they are all behind.
            self.settle(opened_at.map(|at| self.opened_at.map_or(at, |theirs| theirs.min(at))));
            self.ages = Ages::Settled;
        }
        let mut at = 0;
        while let Some(segment) = self.segments.get(at) {
            let age = match segment.written {
                Written::Before(age) => age.saturating_add(now.uptime.saturating_sub(self.opened)),
                Written::At(first) => now.uptime.saturating_sub(first),
            };
            // One without a frame is about to be written.
            let earlier = matches!(segment.written, Written::Before(_));
            if (segment.bytes == 0 && !earlier) || age <= self.bounds.retention {
                break;
            }
            if segment.stuck.is_some_and(|since| now.uptime < since + DELETE_AGAIN) {
                at += 1;
                continue;
            }
            if let Err(error) = self.delete(at) {
                self.sets_aside(at, &error, now.uptime);
                // Its frames are still too old to be asked about.
                self.untell(at);
                at += 1;
            }
            // What the clock on the wall may have to do with goes slowly.
            if earlier {
                break;
            }
        }
    }

    /// Looks whether somebody took the folder, or another one stands in its place.
    pub fn is_there(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(found) => (found.dev(), found.ino()) == self.identity,
            // Anything else may pass.
            Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }

    /// Forgets the segment that grows if somebody deleted its file. Returns whether that was so.
    pub fn notice_deleted(&mut self) -> bool {
        let deleted = |open: &Open| open.file.metadata().is_ok_and(|data| data.nlink() == 0);
        if !self.open.as_ref().is_some_and(deleted) {
            return false;
        }
        self.forget(self.segments.len() - 1);
        true
    }

    /// Forgets a segment whose file is not there any more.
    pub fn lost(&mut self, number: u64) {
        let at = self.segments.iter().position(|segment| segment.number == number);
        if let Some(at) = at.filter(|_| !frames_file(&self.path, number).exists()) {
            self.forget(at);
        }
    }

    /// Forgets all segments: their files are out of reach.
    pub fn forget_all(&mut self) {
        self.open = None;
        self.unread = 0;
        self.gone.extend(self.segments.drain(..).map(|segment| segment.number));
    }

    /// Ends the segment that grows: nothing is written to it any more.
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

    /// Those that could not be deleted lately are tried again only where no other makes the room.
    fn make_room(&mut self, wanted: u64, uptime: Duration) -> io::Result<()> {
        let mut failed = None;
        for again in [false, true] {
            let (mut at, mut tried) = (0, 0);
            while self.bytes + wanted > self.bounds.bytes
                && at < self.segments.len()
                && tried < TRIED_MOST
            {
                let stuck = self.segments[at].stuck;
                if !again && stuck.is_some_and(|since| uptime < since + DELETE_AGAIN) {
                    at += 1;
                    continue;
                }
                if let Err(error) = self.delete(at) {
                    if error.kind() == ErrorKind::ReadOnlyFilesystem {
                        return Err(error);
                    }
                    self.sets_aside(at, &error, uptime);
                    failed = Some(error);
                    (at, tried) = (at + 1, tried + 1);
                }
            }
        }
        if self.bytes + wanted <= self.bounds.bytes {
            return Ok(());
        }
        let why = failed.map(|error| format!(": {error}")).unwrap_or_default();
        let why = format!("all bytes that may be kept are taken by what cannot be deleted{why}");
        Err(io::Error::new(ErrorKind::StorageFull, why))
    }

    fn begin_segment(&mut self, uptime: Duration) -> io::Result<()> {
        self.close();
        let number = self.next;
        // Whatever becomes of it: a number that cannot be had does not stop those behind it.
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
                self.leaves_out(self.segments[at].number);
            }
            self.untell(at);
            at += 1;
        }
        Ok(())
    }

    /// What earlier runs left is so old: by the clock on the wall if `opened_at` is known.
    fn settle(&mut self, opened_at: Option<SystemTime>) {
        let earlier = |segment: &&Segment| matches!(segment.written, Written::Before(_));
        let times: Vec<_> = self.segments.iter().filter(earlier).map(|s| s.times).collect();
        let ages = age::at_start(&times, opened_at);
        let earlier = self.segments.iter_mut().filter(|s| matches!(s.written, Written::Before(_)));
        for (segment, age) in earlier.zip(ages) {
            segment.written = Written::Before(age);
        }
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

    /// Deletes a segment's files.
    fn delete(&mut self, at: usize) -> io::Result<()> {
        let number = self.segments[at].number;
        match fs::remove_file(frames_file(&self.path, number)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let _ = fs::remove_file(index_file(&self.path, number));
        if self.segments[at].unreadable {
            tracing::info!(
                "segment {number}, which could not be read, is deleted for its age or for room"
            );
        }
        self.forget(at);
        Ok(())
    }

    fn forget(&mut self, at: usize) {
        if self.open.is_some() && at + 1 == self.segments.len() {
            self.open = None;
        }
        let Some(segment) = self.segments.remove(at) else { return };
        if at < self.unread {
            self.unread -= 1;
        }
        self.bytes -= segment.bytes + segment.index;
        self.frames -= segment.frames;
        self.gone.push(segment.number);
    }

    /// No frame of this segment can be asked about any more.
    fn untell(&mut self, at: usize) {
        let segment = &mut self.segments[at];
        if segment.frames > 0 {
            self.gone.push(segment.number);
            self.frames -= segment.frames;
            segment.frames = 0;
        }
    }

    fn sets_aside(&mut self, at: usize, error: &io::Error, uptime: Duration) {
        let segment = &mut self.segments[at];
        if segment.stuck.is_none() {
            let file = frames_file(&self.path, segment.number);
            tracing::warn!("{} is set aside, since it cannot be deleted: {error}", file.display());
        }
        segment.stuck = Some(uptime);
    }

    fn leaves_out(&mut self, number: u64) {
        self.left_out = true;
        let path = self.path.display();
        tracing::warn!(
            "{path}: more than {} frames: those of segment {number} and before stay on disk, but \
             cannot be asked about",
            self.frames_most
        );
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let lock = OpenOptions::new().create(true).append(true).open(path.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            ErrorKind::ResourceBusy,
            "another daemon keeps its frames in this folder",
        )),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn builder(records: &[(Record, Place)]) -> Builder {
    let mut builder = Builder::default();
    records.iter().for_each(|(record, place)| builder.push(record, *place));
    builder
}

/// What is in a folder, for somebody who only looks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub frames: u64,
    pub bytes: u64,
    /// A daemon keeps its frames there now.
    pub in_use: bool,
    /// Names of files that cannot be read.
    pub unreadable: Vec<String>,
}

/// Looks what is in a folder, and changes nothing but that it is made if it is not there.
pub fn look(path: &Path) -> io::Result<Contents> {
    fs::create_dir_all(path)?;
    let mut contents = Contents::default();
    match lock(path) {
        Ok(lock) => drop(lock),
        Err(error) if error.kind() == ErrorKind::ResourceBusy => contents.in_use = true,
        Err(error) => return Err(error),
    }
    let mut names = Names::default();
    for number in segment::numbers(path)?.0 {
        let Found { records, size, end, .. } = segment::read(path, number, &mut names);
        contents.frames += records.len() as u64;
        contents.bytes += size;
        if matches!(end, End::Failed(_)) || (records.is_empty() && size > 0) {
            contents.unreadable.push(format!("{number:012}.frames"));
        }
    }
    Ok(contents)
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
