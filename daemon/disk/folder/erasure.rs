//! Overwrites frames in the segments of a folder, for privacy. The records stay, with a mark and
//! zeros in place of the JPEG, so that the addresses of other frames remain valid.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use super::{Folder, builder};
use crate::disk::index;
use crate::disk::record::{self, HEADER, Record};
use crate::disk::segment::{self, End, frames_file, index_file};
use crate::timeline::DiskAddress;

/// The frames of a segment that are being overwritten.
#[derive(Debug)]
pub struct ErasedSegment {
    number: u64,
    /// All frames of a segment that is complete, for its new index.
    records: Vec<(Record, DiskAddress)>,
    waiting: VecDeque<(Record, DiskAddress)>,
}

impl Folder {
    /// Returns the numbers of the segments that may have frames taken at `from` or later.
    pub fn segments_since(&self, from: SystemTime) -> VecDeque<u64> {
        let may_have = |times: Option<super::Times>| times.is_none_or(|times| times.newest >= from);
        let segments = self.segments.iter().filter(|segment| may_have(segment.times));
        segments.map(|segment| segment.number).collect()
    }

    /// Begins to erase the wanted frames of a segment. Returns `None` if it has none. From now on
    /// they are marked in the index; that of a complete segment is removed until all is done, so
    /// that the next start reads the segment if this is interrupted.
    pub fn begin_erasing(
        &mut self,
        number: u64,
        wanted: impl Fn(&Record) -> bool,
    ) -> io::Result<Option<ErasedSegment>> {
        let Some(at) = self.segments.iter().position(|segment| segment.number == number) else {
            return Ok(None);
        };
        let is_open = self.open.is_some() && at + 1 == self.segments.len();
        let records = match self.open.as_ref().filter(|_| is_open) {
            Some(open) => {
                let size = self.segments[at].bytes;
                index::decode(&open.index.encode(size), number, size, &mut self.names)
                    .ok_or_else(|| io::Error::other("the index of the newest segment is wrong"))?
            }
            None => {
                let found = segment::read(&self.path, number, &mut self.names);
                match found.end {
                    End::Failed(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                    End::Failed(error) => return Err(error),
                    End::Whole | End::Damaged(..) => found.records,
                }
            }
        };
        let waiting: VecDeque<_> = records
            .iter()
            .filter(|(record, _)| !record.deleted && wanted(record))
            .cloned()
            .collect();
        if waiting.is_empty() {
            return Ok(None);
        }
        let erased = waiting.len() as u64;
        match self.open.as_mut().filter(|_| is_open) {
            Some(open) => open.index.mark_deleted(&offsets(&waiting)),
            None => match fs::remove_file(index_file(&self.path, number)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
        let segment = &mut self.segments[at];
        let queryable = erased.min(segment.frames);
        segment.frames -= queryable;
        self.frames -= queryable;
        let marked = |(record, address): (Record, DiskAddress)| {
            let deleted = record.deleted || wanted(&record);
            (Record { deleted, ..record }, address)
        };
        let records = if is_open { Vec::new() } else { records.into_iter().map(marked).collect() };
        Ok(Some(ErasedSegment { number, records, waiting }))
    }

    /// Overwrites at most `most` frames. Returns their number; 0 means that the segment is done.
    pub fn erase(&mut self, segment: &mut ErasedSegment, most: usize) -> io::Result<u64> {
        let frames: Vec<_> = segment.waiting.drain(..most.min(segment.waiting.len())).collect();
        if frames.is_empty() {
            let at = self.segments.iter().position(|known| known.number == segment.number);
            if let Some(at) = at.filter(|_| !segment.records.is_empty()) {
                self.write_index(at, &builder(&segment.records));
            }
            return Ok(0);
        }
        let file = frames_file(&self.path, segment.number);
        let file = match OpenOptions::new().write(true).open(file) {
            // The segment was deleted in the meantime.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(frames.len() as u64),
            file => file?,
        };
        for (record, address) in &frames {
            let jpeg = (address.length as usize).saturating_sub(HEADER + record.camera.len());
            let record = Record { deleted: true, ..record.clone() };
            let bytes = record::encode(&record, &vec![0; jpeg])
                .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "a record has no header"))?;
            file.write_all_at(&bytes, address.offset)?;
        }
        file.sync_data()?;
        Ok(frames.len() as u64)
    }
}

fn offsets(frames: &VecDeque<(Record, DiskAddress)>) -> HashSet<u64> {
    frames.iter().map(|(_, address)| address.offset).collect()
}
