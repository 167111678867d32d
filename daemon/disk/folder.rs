//! The segments of a folder: files that only grow, numbered, the oldest dropped first.
//!
//! Records of all cameras follow each other in the order they come, so that every camera reaches
//! back equally far. A run of the daemon begins a segment of its own, and so never writes behind a
//! record that was cut off. No frame is kept for longer than `retention`: a segment leaves when its
//! oldest frame is so old. What a power cut may cost is what the system has not written yet.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::record::{self, Damaged, HEADER, Record};
use crate::frame::FrameId;
use crate::timeline::Place;

/// A sixteenth of what may be kept leaves at once.
const SHARE: u32 = 16;
const SEGMENT_MOST: u64 = 64 << 20;
const SUFFIX: &str = ".frames";

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
    /// The newest segment, if this run has begun one.
    open: Option<File>,
    bytes: u64,
    /// The number of the next segment: it goes on even when all have left, so that a place never
    /// means another segment's record.
    next: u64,
    /// Held as long as this lives: two daemons in one folder would drop each other's segments.
    _lock: File,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: u64,
    /// The times of its oldest and newest frames; `None`: it has none yet.
    times: Option<(SystemTime, SystemTime)>,
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order written.
    pub records: Vec<(Record, Place)>,
    /// Bytes that are no whole record, by file, and why.
    pub dropped: Vec<(PathBuf, u64, Damaged)>,
    /// Segments were dropped in an earlier run: there was more.
    pub more_before: bool,
}

impl Folder {
    /// Makes the folder if it is not there, and reads the index of what is.
    pub fn open(path: &Path, bounds: Bounds) -> io::Result<(Folder, Found)> {
        fs::create_dir_all(path)?;
        let lock = OpenOptions::new().create(true).append(true).open(path.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(
                ErrorKind::ResourceBusy,
                "another daemon keeps its frames in this folder",
            ),
            TryLockError::Error(error) => error,
        })?;
        let mut numbers: Vec<u64> = fs::read_dir(path)?
            .filter_map(|entry| number_of(entry.ok()?.file_name().to_str()?))
            .collect();
        numbers.sort_unstable();
        let (path, open, segments) = (path.to_owned(), None, VecDeque::new());
        let next = numbers.last().map_or(1, |newest| newest + 1);
        let mut folder = Folder { path, bounds, segments, open, bytes: 0, next, _lock: lock };
        let mut found =
            Found { more_before: numbers.first().is_some_and(|n| *n > 1), ..Found::default() };
        for number in &numbers {
            // Only the end of the newest can have been written half; elsewhere a picture's
            // checksum is looked at when it is read.
            let pictures = Some(number) == numbers.last();
            folder.index(*number, pictures, &mut found)?;
        }
        Ok((folder, found))
    }

    fn index(&mut self, number: u64, pictures: bool, found: &mut Found) -> io::Result<()> {
        let path = self.file(number);
        let file = File::open(&path)?;
        let size = file.metadata()?.len();
        let mut reader = BufReader::new(file);
        let mut segment = Segment { number, bytes: size, times: None };
        let mut offset = 0;
        while offset < size {
            let next = next_record(&mut reader, size - offset, pictures);
            match next {
                Ok((record, length)) => {
                    segment.saw(record.captured_at);
                    found.records.push((record, Place { segment: number, offset, length }));
                    offset += u64::from(length);
                }
                Err(Unread::Damaged(why)) => {
                    found.dropped.push((path, size - offset, why));
                    break;
                }
                Err(Unread::Io(error)) => return Err(error),
            }
        }
        self.bytes += size;
        self.segments.push_back(segment);
        Ok(())
    }

    /// Writes a record behind the others. Returns its place, and the newest of the segments that
    /// had to leave for it.
    ///
    /// When it fails, nothing of the record is left behind.
    pub fn append(&mut self, record: &Record, jpeg: &[u8]) -> io::Result<(Place, Option<u64>)> {
        let bytes = record::encode(record, jpeg)
            .filter(|bytes| bytes.len() as u64 <= self.bounds.bytes)
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "too large for a record"))?;
        let length = bytes.len() as u64;
        let mut gone = None;
        while self.bytes + length > self.bounds.bytes && !self.segments.is_empty() {
            gone = self.drop_oldest()?.or(gone);
        }
        let full = |segment: &Segment| {
            let most = (self.bounds.bytes / u64::from(SHARE)).min(SEGMENT_MOST);
            let old = segment.times.is_some_and(|(oldest, _)| {
                let age = record.captured_at.duration_since(oldest).unwrap_or_default();
                age > self.bounds.retention / SHARE
            });
            old || (segment.bytes > 0 && segment.bytes + length > most)
        };
        if self.open.is_none() || self.segments.back().is_none_or(full) {
            self.begin_segment()?;
        }
        let (Some(file), Some(segment)) = (&mut self.open, self.segments.back_mut()) else {
            return Err(io::Error::other("no segment is open"));
        };
        if let Err(error) = file.write_all(&bytes) {
            if file.set_len(segment.bytes).is_err() {
                // The record stays cut off, and nothing is written behind it.
                let written = file.metadata().map_or(segment.bytes, |data| data.len());
                self.bytes += written - segment.bytes;
                segment.bytes = written;
                self.open = None;
            }
            return Err(error);
        }
        let place = Place { segment: segment.number, offset: segment.bytes, length: length as u32 };
        segment.bytes += length;
        segment.saw(record.captured_at);
        self.bytes += length;
        Ok((place, gone))
    }

    /// The picture of a frame; its record must be that frame's, and whole.
    pub fn read(&self, camera: &str, id: FrameId, place: Place) -> io::Result<Vec<u8>> {
        let file = File::open(self.file(place.segment))?;
        let mut bytes = vec![0; place.length as usize];
        file.read_exact_at(&mut bytes, place.offset)?;
        let bad = |why: &dyn std::fmt::Display| {
            let path = self.file(place.segment);
            let at = format!("{} at {}: {why}", path.display(), place.offset);
            io::Error::new(ErrorKind::InvalidData, at)
        };
        let (record, jpeg) = record::decode(&bytes).map_err(|e| bad(&e))?;
        if *record.camera != *camera || record.id != id {
            return Err(bad(&"another frame stands there"));
        }
        Ok(jpeg.to_vec())
    }

    /// Drops what is older than may be kept. Returns the newest segment that left.
    pub fn expire(&mut self, now: SystemTime) -> io::Result<Option<u64>> {
        let kept = now.checked_sub(self.bounds.retention);
        let mut gone = None;
        while let Some(segment) = self.segments.front() {
            // One without frames is another run's, and empty; this run's is about to be written.
            let old = match segment.times {
                Some((oldest, _)) => kept.is_some_and(|kept| oldest < kept),
                None => self.segments.len() > 1,
            };
            if !old {
                break;
            }
            gone = self.drop_oldest()?.or(gone);
        }
        Ok(gone)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        self.open = None;
        let number = self.next;
        let file = OpenOptions::new().append(true).create_new(true).open(self.file(number))?;
        self.open = Some(file);
        self.next += 1;
        self.segments.push_back(Segment { number, bytes: 0, times: None });
        Ok(())
    }

    fn drop_oldest(&mut self) -> io::Result<Option<u64>> {
        let Some(oldest) = self.segments.front() else { return Ok(None) };
        let number = oldest.number;
        match fs::remove_file(self.file(number)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.bytes -= oldest.bytes;
        self.segments.pop_front();
        if self.segments.is_empty() {
            self.open = None;
        }
        Ok(Some(number))
    }

    fn file(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:012}{SUFFIX}"))
    }
}

impl Segment {
    fn saw(&mut self, time: SystemTime) {
        let (oldest, newest) = self.times.unwrap_or((time, time));
        self.times = Some((oldest.min(time), newest.max(time)));
    }
}

enum Unread {
    Damaged(Damaged),
    Io(io::Error),
}

/// Reads over the next record, of which at most `left` bytes are there.
fn next_record(
    reader: &mut BufReader<File>,
    left: u64,
    pictures: bool,
) -> Result<(Record, u32), Unread> {
    let io = |error: io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => Unread::Damaged(Damaged::CutOff),
        _ => Unread::Io(error),
    };
    let mut header = [0; HEADER];
    reader.read_exact(&mut header).map_err(io)?;
    let lengths = record::lengths(&header).map_err(Unread::Damaged)?;
    let mut name = vec![0; lengths.name];
    reader.read_exact(&mut name).map_err(io)?;
    let record = record::read_header(&header, &name).map_err(Unread::Damaged)?;
    if lengths.record() as u64 > left {
        return Err(Unread::Damaged(Damaged::CutOff));
    }
    if pictures {
        let mut jpeg = vec![0; lengths.jpeg];
        reader.read_exact(&mut jpeg).map_err(io)?;
        record::picture_is_whole(&header, &jpeg).map_err(Unread::Damaged)?;
    } else {
        reader.seek_relative(lengths.jpeg as i64).map_err(io)?;
    }
    Ok((record, lengths.record() as u32))
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::tests::record;
    use super::*;

    const BOUNDS: Bounds = Bounds { retention: Duration::from_secs(3600), bytes: 1 << 20 };

    fn temporary() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn open(path: &Path, bounds: Bounds) -> (Folder, Found) {
        Folder::open(path, bounds).expect("opens")
    }

    fn picture(number: u64) -> Vec<u8> {
        vec![number as u8; 1000 + number as usize % 7]
    }

    fn write(folder: &mut Folder, numbers: std::ops::Range<u64>) -> Vec<(u64, Place)> {
        let mut write =
            |number| folder.append(&record("gate", number), &picture(number)).expect("written").0;
        numbers.map(|number| (number, write(number))).collect()
    }

    fn sizes(path: &Path) -> u64 {
        let files = fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry"));
        files.map(|file| file.metadata().expect("metadata").len()).sum()
    }

    #[test]
    fn what_is_written_is_found_at_the_next_start() {
        let dir = temporary();
        let (mut folder, found) = open(dir.path(), BOUNDS);
        assert!(found.records.is_empty() && !found.more_before);
        let first = write(&mut folder, 0..100);
        assert!(Folder::open(dir.path(), BOUNDS).is_err(), "two daemons in one folder");
        drop(folder);
        let (mut folder, found) = open(dir.path(), BOUNDS);
        let second = write(&mut folder, 100..120);
        assert_ne!(first[99].1.segment, second[0].1.segment);
        for (number, place) in first.iter().chain(&second) {
            let read = folder.read("gate", record("gate", *number).id, *place);
            assert_eq!(read.expect("whole"), picture(*number));
        }
        let records: Vec<_> = (0..100).map(|number| record("gate", number)).collect();
        assert_eq!(found.records.iter().map(|(r, _)| r.clone()).collect::<Vec<_>>(), records);
        assert_eq!(found.records.iter().map(|(_, p)| *p).collect::<Vec<_>>(), {
            first.iter().map(|(_, place)| *place).collect::<Vec<_>>()
        });
        assert!(found.dropped.is_empty());
        let wrong = folder.read("yard", record("gate", 5).id, first[5].1);
        assert!(wrong.is_err_and(|error| error.to_string().contains("another frame")));
    }

    #[test]
    fn the_oldest_leave_for_room_and_for_age() {
        let dir = temporary();
        let (mut folder, _) = open(dir.path(), Bounds { bytes: 64 << 10, ..BOUNDS });
        let mut gone = None;
        for number in 0..300 {
            let record = record("gate", number);
            let (place, left) = folder.append(&record, &picture(number)).expect("written");
            gone = left.or(gone);
            assert!(folder.bytes() <= 64 << 10, "{} bytes", folder.bytes());
            assert_eq!(folder.bytes(), sizes(dir.path()));
            assert!(gone.is_none_or(|gone| gone < place.segment));
        }
        // Not emptier than a segment's worth.
        assert!(folder.bytes() > (64 << 10) * 7 / 8, "{} bytes", folder.bytes());
        drop(folder);
        let (folder, found) = open(dir.path(), Bounds { bytes: 64 << 10, ..BOUNDS });
        assert!(found.more_before);
        assert_eq!(found.records.first().map(|(_, place)| place.segment), gone.map(|n| n + 1));
        assert_eq!(found.records.last().map(|(record, _)| record.id.number), Some(299));
        drop(folder);

        let short = Bounds { retention: Duration::from_secs(50), ..BOUNDS };
        let (mut folder, _) = open(dir.path(), short);
        let newest = record("gate", 299).captured_at;
        let gone = folder.expire(newest).expect("dropped");
        assert!(gone.is_some());
        drop(folder);
        let (mut folder, found) = open(dir.path(), short);
        let oldest = found.records.first().map(|(record, _)| record.captured_at);
        assert!(oldest.is_some_and(|oldest| oldest >= newest - short.retention));
        // All of it, and the numbers go on.
        let gone = folder.expire(newest + Duration::from_secs(1000)).expect("dropped");
        let next = write(&mut folder, 300..301)[0].1.segment;
        assert!(gone.is_some_and(|gone| gone < next), "{gone:?} and then {next}");
    }

    #[test]
    fn damage_costs_no_more_than_it_must() {
        let dir = temporary();
        let (mut folder, _) = open(dir.path(), BOUNDS);
        let places = write(&mut folder, 0..30);
        let file = folder.file(places[10].1.segment);
        drop(folder);
        let mut bytes = fs::read(&file).expect("the segment");
        let at = places[10].1.offset as usize;
        bytes[at + 20] ^= 1;
        fs::write(&file, &bytes).expect("damaged");
        let (folder, found) = open(dir.path(), BOUNDS);
        assert_eq!(found.records.len(), 10);
        let [(path, dropped, why)] = &found.dropped[..] else { panic!("{found:?}") };
        assert_eq!((path, *dropped), (&file, (bytes.len() - at) as u64));
        assert_eq!(*why, Damaged::Header);
        let read = folder.read("gate", record("gate", 10).id, places[10].1);
        assert!(read.is_err_and(|error| error.kind() == ErrorKind::InvalidData));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_write_cut_off_anywhere_costs_only_itself(whole in 1u64..12, cut in 0usize..2200) {
            let dir = temporary();
            let (mut folder, _) = open(dir.path(), BOUNDS);
            let places = write(&mut folder, 0..whole);
            let file = folder.file(1);
            drop(folder);
            let bytes = fs::read(&file).expect("the segment");
            let kept = bytes.len().saturating_sub(cut);
            fs::write(&file, &bytes[..kept]).expect("cut off");
            let (mut folder, found) = open(dir.path(), BOUNDS);
            let complete = |place: &Place| place.offset as usize + place.length as usize <= kept;
            let wanted = places.iter().filter(|(_, place)| complete(place)).count();
            prop_assert_eq!(found.records.len(), wanted);
            let end = wanted.checked_sub(1).map_or(0, |last| {
                places[last].1.offset as usize + places[last].1.length as usize
            });
            let dropped: u64 = found.dropped.iter().map(|(_, bytes, _)| bytes).sum();
            prop_assert_eq!(dropped as usize, kept - end);
            // And the next run writes where nothing is broken.
            let next = write(&mut folder, 100..103);
            drop(folder);
            let (folder, found) = open(dir.path(), BOUNDS);
            prop_assert_eq!(found.records.len(), wanted + 3);
            let read = folder.read("gate", record("gate", 101).id, next[1].1);
            prop_assert_eq!(read.expect("whole"), picture(101));
        }
    }
}
