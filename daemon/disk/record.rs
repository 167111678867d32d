//! Encodes and decodes a frame's record in a segment: a header, the camera's name, the JPEG.
//!
//! ```text
//!   0  "LKF2"        8  run     u64    24  captured   u64, ns since 1970   40  JPEG's bytes  u32
//!   4  name's bytes  16 number  u64    32  monotonic  u64, ns of the run   44  CRC-32 of the JPEG
//!   5  clock                                                               48  CRC-32 of 0..48 and
//!   6  frames before it are missing on disk        52  name, JPEG             of the name
//!   7  1: deleted, the JPEG is zeros
//! ```
//!
//! Numbers are little endian. An intact header gives the offset of the next one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::frame::{Clock, FrameId};

const MAGIC: [u8; 4] = *b"LKF2";
pub const HEADER: usize = 52;
/// Maximum length of a camera's name in bytes, as in the config.
const NAME_MAX: usize = 64;

/// A frame's record without the JPEG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub camera: Arc<str>,
    pub id: FrameId,
    /// Monotonic time of capture since the start of the daemon's run. It orders the frames of a
    /// run, even if the wall clock is set.
    pub monotonic: Duration,
    pub captured_at: SystemTime,
    pub clock: Clock,
    /// Set when frames between the camera's previous record and this one were not written.
    pub missing_before: bool,
    /// True if the frame was deleted: its JPEG was overwritten.
    pub deleted: bool,
}

/// The lengths that a header gives, before the name is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    pub name: usize,
    pub jpeg: usize,
}

impl Lengths {
    pub fn record(self) -> usize {
        HEADER + self.name + self.jpeg
    }
}

/// Interned names of cameras: each name is in memory once.
#[derive(Debug, Default)]
pub struct Names(HashSet<Arc<str>>);

impl Names {
    pub fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.0.insert(name.clone());
        name
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    #[error("no record at this offset")]
    NoHeader,
    #[error("header checksum mismatch")]
    Header,
    #[error("JPEG checksum mismatch")]
    Jpeg,
    #[error("incomplete record")]
    CutOff,
}

/// Encodes a record. Returns `None` if the name, the time or the JPEG does not fit the header's
/// fields.
pub fn encode(record: &Record, jpeg: &[u8]) -> Option<Vec<u8>> {
    let name = record.camera.as_bytes();
    let captured = record.captured_at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let mut bytes = Vec::with_capacity(HEADER + name.len() + jpeg.len());
    bytes.extend(MAGIC);
    let clock = match record.clock {
        Clock::Camera => 1,
        Clock::Host => 2,
    };
    let name_len = u8::try_from(name.len()).ok().filter(|n| usize::from(*n) <= NAME_MAX)?;
    bytes.extend([name_len, clock, u8::from(record.missing_before), u8::from(record.deleted)]);
    bytes.extend(record.id.run.to_le_bytes());
    bytes.extend(record.id.number.to_le_bytes());
    bytes.extend(u64::try_from(captured.as_nanos()).ok()?.to_le_bytes());
    bytes.extend(u64::try_from(record.monotonic.as_nanos()).ok()?.to_le_bytes());
    bytes.extend(u32::try_from(jpeg.len()).ok()?.to_le_bytes());
    bytes.extend(crc32fast::hash(jpeg).to_le_bytes());
    bytes.extend(header_checksum(&bytes, name).to_le_bytes());
    bytes.extend(name);
    bytes.extend(jpeg);
    Some(bytes)
}

/// Returns the lengths that a header gives. They are unreliable until [`read_header`] has verified
/// the checksum.
pub fn lengths(header: &[u8; HEADER]) -> Result<Lengths, Damaged> {
    let name = usize::from(header[4]);
    if header[..4] != MAGIC || name > NAME_MAX {
        return Err(Damaged::NoHeader);
    }
    Ok(Lengths { name, jpeg: u32_at(header, 40) as usize })
}

pub fn read_header(
    header: &[u8; HEADER],
    name: &[u8],
    names: &mut Names,
) -> Result<Record, Damaged> {
    if header_checksum(&header[..48], name) != u32_at(header, 48) {
        return Err(Damaged::Header);
    }
    let clock = match header[5] {
        1 => Clock::Camera,
        _ => Clock::Host,
    };
    Ok(Record {
        camera: names.intern(std::str::from_utf8(name).map_err(|_| Damaged::Header)?),
        id: FrameId { run: u64_at(header, 8), number: u64_at(header, 16) },
        captured_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(u64_at(header, 24)),
        monotonic: Duration::from_nanos(u64_at(header, 32)),
        clock,
        missing_before: header[6] != 0,
        deleted: header[7] != 0,
    })
}

/// Decodes a complete record as written by [`encode`].
pub fn decode(bytes: &[u8]) -> Result<(Record, &[u8]), Damaged> {
    let (header, rest) = bytes.split_first_chunk().ok_or(Damaged::CutOff)?;
    let lengths = lengths(header)?;
    let (name, rest) = rest.split_at_checked(lengths.name).ok_or(Damaged::CutOff)?;
    let jpeg = rest.get(..lengths.jpeg).ok_or(Damaged::CutOff)?;
    let record = read_header(header, name, &mut Names::default())?;
    check_jpeg(header, jpeg)?;
    Ok((record, jpeg))
}

pub fn check_jpeg(header: &[u8; HEADER], jpeg: &[u8]) -> Result<(), Damaged> {
    let whole = crc32fast::hash(jpeg) == u32_at(header, 44);
    if whole { Ok(()) } else { Err(Damaged::Jpeg) }
}

pub fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

fn header_checksum(header: &[u8], name: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(name);
    hasher.finalize()
}

fn u32_at(header: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| header[at + i]))
}

fn u64_at(header: &[u8; HEADER], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| header[at + i]))
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn record(camera: &str, number: u64) -> Record {
        Record {
            camera: camera.into(),
            id: FrameId { run: 1_700_000_000_000, number },
            monotonic: Duration::new(number, 7),
            captured_at: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000 + number, 7),
            clock: Clock::Camera,
            missing_before: number % 3 == 1,
            deleted: false,
        }
    }

    proptest! {
        #[test]
        fn written_data_is_read_back(
            name in "[a-z0-9_-]{1,64}",
            number: u64,
            jpeg in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let record = record(&name, number % (1 << 30));
            let bytes = encode(&record, &jpeg).expect("fits");
            prop_assert_eq!(decode(&bytes), Ok((record, &jpeg[..])));
        }

        #[test]
        fn a_flipped_bit_is_detected(at: prop::sample::Index, bit in 0u32..8) {
            let mut bytes = encode(&record("gate", 3), b"a JPEG").expect("fits");
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes).is_err());
            prop_assert!(decode(&bytes[..at]).is_err());
        }
    }
}

/// Corrects the checksum of the first header, for a fuzz target.
#[cfg(fuzzing)]
pub fn seal(bytes: &mut [u8]) {
    let Some(name) = bytes.get(4).map(|length| usize::from(*length)) else { return };
    let Some((header, rest)) = bytes.split_at_mut_checked(HEADER) else { return };
    let Some(name) = rest.get(..name) else { return };
    let sum = header_checksum(&header[..HEADER - 4], name).to_le_bytes();
    header[HEADER - 4..].copy_from_slice(&sum);
}
