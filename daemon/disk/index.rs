//! The index of a complete segment: a small file next to it with the contents of its headers.
//!
//! ```text
//!   0  "LKI1"                       12  names, u16      of each frame, 47 bytes:
//!   4  bytes of the segment, u64    14  frames, u32       name u16, flags, run u64, number u64,
//!                                   18  names: length,    captured u64, monotonic u64, offset u64,
//!   the last 4: CRC-32 of all else      bytes             length u32
//! ```
//!
//! Numbers are little endian. An incomplete index, or one whose segment has a different size, is
//! ignored; the segment is read instead.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::record::{Names, Record, checksum};
use crate::frame::{Clock, FrameId};
use crate::timeline::DiskAddress;

const MAGIC: &[u8] = b"LKI1";
const HEADER: usize = 18;
pub const ROW: usize = 47;
/// Positions in a row.
const ROW_FLAGS: usize = 2;
const ROW_OFFSET: usize = 35;
/// The flag of a deleted frame.
const DELETED: u8 = 4;
const CHECKSUM: usize = 4;

/// Maximum number of frames in a segment; it keeps the index small.
pub const FRAMES_MOST: u32 = u16::MAX as u32;

/// The index of a growing segment.
#[derive(Debug, Default)]
pub struct Builder {
    names: Vec<Arc<str>>,
    rows: Vec<u8>,
}

impl Builder {
    pub fn push(&mut self, record: &Record, address: DiskAddress) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let captured = record.captured_at.duration_since(SystemTime::UNIX_EPOCH);
        let name = self.names.iter().position(|name| *name == record.camera);
        let name = name.unwrap_or_else(|| {
            self.names.push(record.camera.clone());
            self.names.len() - 1
        });
        // There are at most as many names as frames, and the number of frames fits a `u16`.
        self.rows.extend(u16::try_from(name).unwrap_or(u16::MAX).to_le_bytes());
        let camera = u8::from(record.clock == Clock::Camera);
        let deleted = if record.deleted { DELETED } else { 0 };
        self.rows.push(camera | u8::from(record.missing_before) << 1 | deleted);
        for number in [
            record.id.run,
            record.id.number,
            nanos(captured.unwrap_or_default()),
            nanos(record.monotonic),
            address.offset,
        ] {
            self.rows.extend(number.to_le_bytes());
        }
        self.rows.extend(address.length.to_le_bytes());
    }

    /// Marks the frames at these offsets of the segment as deleted.
    pub fn mark_deleted(&mut self, offsets: &HashSet<u64>) {
        for row in self.rows.chunks_exact_mut(ROW) {
            let (front, rest) = row.split_at_mut(ROW_OFFSET);
            let offset = rest.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            if offset.is_some_and(|offset| offsets.contains(&offset)) {
                front[ROW_FLAGS] |= DELETED;
            }
        }
    }

    pub fn frames(&self) -> u32 {
        (self.rows.len() / ROW) as u32
    }

    /// Returns the length of the index file in bytes.
    pub fn bytes(&self) -> u64 {
        let names: usize = self.names.iter().map(|name| 1 + name.len()).sum();
        (HEADER + names + self.rows.len() + CHECKSUM) as u64
    }

    /// Encodes the index file. `segment` is the size of its segment in bytes.
    pub fn encode(&self, segment: u64) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(segment.to_le_bytes());
        bytes.extend((self.names.len() as u16).to_le_bytes());
        bytes.extend(self.frames().to_le_bytes());
        for name in &self.names {
            // A camera's name has at most 64 bytes.
            bytes.push(name.len() as u8);
            bytes.extend(name.as_bytes());
        }
        bytes.extend(&self.rows);
        bytes.extend(checksum(&bytes).to_le_bytes());
        bytes
    }
}

/// Decodes the frames of segment `number`, which has `size` bytes. Returns `None` if the index is
/// incomplete or belongs to another segment.
pub fn decode(
    bytes: &[u8],
    number: u64,
    size: u64,
    names: &mut Names,
) -> Option<Vec<(Record, DiskAddress)>> {
    let (content, sum) = bytes.split_last_chunk::<CHECKSUM>()?;
    if checksum(content) != u32::from_le_bytes(*sum) {
        return None;
    }
    let mut reader = Reader(content);
    if reader.take(MAGIC.len())? != MAGIC || reader.u64()? != size {
        return None;
    }
    let (name_count, frames) = (reader.u16()?, reader.u32()?);
    let mut known = Vec::with_capacity(usize::from(name_count));
    for _ in 0..name_count {
        let length = usize::from(reader.take(1)?[0]);
        known.push(names.intern(std::str::from_utf8(reader.take(length)?).ok()?));
    }
    if reader.0.len() != frames as usize * ROW {
        return None;
    }
    let mut records = Vec::with_capacity(frames as usize);
    while !reader.0.is_empty() {
        let camera = known.get(usize::from(reader.u16()?))?.clone();
        let flags = reader.take(1)?[0];
        let record = Record {
            camera,
            id: FrameId { run: reader.u64()?, number: reader.u64()? },
            captured_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(reader.u64()?),
            monotonic: Duration::from_nanos(reader.u64()?),
            clock: if flags & 1 > 0 { Clock::Camera } else { Clock::Host },
            missing_before: flags & 2 > 0,
            deleted: flags & DELETED > 0,
        };
        let (offset, length) = (reader.u64()?, reader.u32()?);
        if offset.checked_add(u64::from(length)).is_none_or(|end| end > size) {
            return None;
        }
        records.push((record, DiskAddress { segment: number, offset, length }));
    }
    Some(records)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.chunk().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::tests::record;
    use super::*;

    fn built(frames: &[(String, u64)]) -> (Builder, Vec<(Record, DiskAddress)>) {
        let mut builder = Builder::default();
        let mut offset = 0;
        let mut wanted = Vec::new();
        for (camera, number) in frames {
            let (record, address) =
                (record(camera, *number), DiskAddress { segment: 9, offset, length: 100 });
            builder.push(&record, address);
            wanted.push((record, address));
            offset += 100;
        }
        (builder, wanted)
    }

    proptest! {
        #[test]
        fn written_data_is_read_back(
            frames in prop::collection::vec(("[a-c]{1,2}", 0u64..1 << 30), 0..40),
        ) {
            let (builder, wanted) = built(&frames);
            let size = 100 * frames.len() as u64;
            let bytes = builder.encode(size);
            prop_assert_eq!(bytes.len() as u64, builder.bytes());
            let mut names = Names::default();
            prop_assert_eq!(decode(&bytes, 9, size, &mut names), Some(wanted));
            prop_assert_eq!(decode(&bytes, 9, size + 1, &mut names), None);
        }

        #[test]
        fn a_flipped_bit_is_detected(at: prop::sample::Index, bit in 0u32..8) {
            let (builder, _) = built(&[("gate".into(), 1), ("yard".into(), 2)]);
            let mut bytes = builder.encode(200);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let mut names = Names::default();
            prop_assert_eq!(decode(&bytes, 9, 200, &mut names), None);
            prop_assert_eq!(decode(&bytes[..at], 9, 200, &mut names), None);
        }
    }
}
