//! Reads a segment's frames from its index or, without one, from the segment itself.

use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::index::{self, Builder};
use super::record::{self, Damaged, HEADER, Names, Record};
use crate::timeline::DiskAddress;

const FRAMES: &str = ".frames";
const INDEX: &str = ".index";

/// Upper limit for reading an index in bytes, larger than any index.
const INDEX_MOST: u64 = 16 << 20;

/// Size of the read buffer in bytes. Disks read large sequential blocks faster than small scattered
/// ones.
const PIECE: usize = 1 << 20;

pub fn frames_file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:012}{FRAMES}"))
}

pub fn index_file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:012}{INDEX}"))
}

/// Returns the numbers of all segments in a folder, in order, and the numbers of all indexes.
pub fn numbers(folder: &Path) -> io::Result<(Vec<u64>, Vec<u64>)> {
    let (mut segments, mut indexes) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let number = |suffix| name.strip_suffix(suffix)?.parse::<u64>().ok();
        segments.extend(number(FRAMES));
        indexes.extend(number(INDEX));
    }
    segments.sort_unstable();
    Ok((segments, indexes))
}

/// The result of reading a segment.
#[derive(Debug)]
pub struct Found {
    /// The frames in the order in which they were written.
    pub records: Vec<(Record, DiskAddress)>,
    pub size: u64,
    pub from_index: bool,
    pub end: End,
}

/// The outcome of reading a segment.
#[derive(Debug)]
pub enum End {
    Whole,
    /// Number of bytes that are not part of an intact frame, and the first error.
    Damaged(u64, Damaged),
    /// The system reported a read error.
    Failed(io::Error),
}

/// Reads the frames of a segment. A record with a damaged JPEG is left out. Reading stops at a
/// damaged header or a read error, and the frames before it are kept.
pub fn read(folder: &Path, number: u64, names: &mut Names) -> Found {
    let mut found = Found { records: Vec::new(), size: 0, from_index: false, end: End::Whole };
    let opened = File::open(frames_file(folder, number))
        .and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let (file, metadata) = match opened {
        Ok((_, metadata)) if !metadata.is_file() => {
            found.end = End::Failed(io::Error::other("it is not a regular file"));
            return found;
        }
        Ok(opened) => opened,
        Err(error) => {
            found.end = End::Failed(error);
            return found;
        }
    };
    found.size = metadata.len();
    let mut bytes = Vec::new();
    let index = File::open(index_file(folder, number))
        .and_then(|file| file.take(INDEX_MOST).read_to_end(&mut bytes));
    let indexed = index.ok().and_then(|_| index::decode(&bytes, number, found.size, names));
    match indexed {
        Some(records) => (found.records, found.from_index) = (records, true),
        None => scan(file, number, names, &mut found),
    }
    found
}

/// Reads the whole segment including the JPEGs, because a power cut may have left only the headers
/// intact.
fn scan(file: File, number: u64, names: &mut Names, found: &mut Found) {
    let mut reader = BufReader::with_capacity(PIECE, file);
    let (mut offset, mut bad) = (0, None::<(u64, Damaged)>);
    while offset < found.size {
        match next_record(&mut reader, found.size - offset, names) {
            Ok((record, length, whole)) => {
                match whole {
                    Ok(()) => found
                        .records
                        .push((record, DiskAddress { segment: number, offset, length })),
                    Err(why) => {
                        let (bytes, first) = bad.unwrap_or((0, why));
                        bad = Some((bytes + u64::from(length), first));
                    }
                }
                offset += u64::from(length);
            }
            Err(Unread::Damaged(why)) => {
                let (bytes, first) = bad.unwrap_or((0, why));
                bad = Some((bytes + found.size - offset, first));
                break;
            }
            Err(Unread::Io(error)) => {
                found.end = End::Failed(error);
                return;
            }
        }
    }
    if let Some((bytes, why)) = bad {
        found.end = End::Damaged(bytes, why);
    }
}

enum Unread {
    Damaged(Damaged),
    Io(io::Error),
}

/// Reads past the next record, of which at most `left` bytes exist, and verifies its JPEG.
fn next_record(
    reader: &mut BufReader<File>,
    left: u64,
    names: &mut Names,
) -> Result<(Record, u32, Result<(), Damaged>), Unread> {
    let io = |error: io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => Unread::Damaged(Damaged::CutOff),
        _ => Unread::Io(error),
    };
    let mut header = [0; HEADER];
    reader.read_exact(&mut header).map_err(io)?;
    let lengths = record::lengths(&header).map_err(Unread::Damaged)?;
    let mut name = vec![0; lengths.name];
    reader.read_exact(&mut name).map_err(io)?;
    let record = record::read_header(&header, &name, names).map_err(Unread::Damaged)?;
    let length = match u32::try_from(lengths.record()) {
        Ok(length) if u64::from(length) <= left => length,
        _ => return Err(Unread::Damaged(Damaged::CutOff)),
    };
    let mut jpeg = vec![0; lengths.jpeg];
    reader.read_exact(&mut jpeg).map_err(io)?;
    Ok((record, length, record::check_jpeg(&header, &jpeg)))
}

/// Writes the index of a segment of `size` bytes and returns the index's length in bytes. The write
/// is atomic: the complete index exists afterwards, or none.
pub fn write_index(folder: &Path, number: u64, size: u64, index: &Builder) -> io::Result<u64> {
    let file = index_file(folder, number);
    let half = file.with_extension("index-new");
    let written = fs::write(&half, index.encode(size)).and_then(|()| fs::rename(&half, &file));
    if written.is_err() {
        let _ = fs::remove_file(&half);
    }
    written.map(|()| index.bytes())
}

/// Reads arbitrary bytes as a segment and as an index. This is the entry point of the fuzz target
/// `segment`.
///
/// The checksums of the first header and of the index are corrected, so that the code behind them
/// is reached too.
#[cfg(fuzzing)]
pub fn fuzz_segment(data: &[u8]) {
    let mut bytes = data.to_vec();
    record::seal(&mut bytes);
    let _ = record::decode(&bytes);
    let Ok(mut file) = tempfile::tempfile() else { return };
    if io::Write::write_all(&mut file, &bytes).is_ok() && io::Seek::rewind(&mut file).is_ok() {
        let size = bytes.len() as u64;
        let mut found = Found { records: Vec::new(), size, from_index: false, end: End::Whole };
        scan(file, 1, &mut Names::default(), &mut found);
    }
    let mut index = data.to_vec();
    index.extend(record::checksum(data).to_le_bytes());
    let size = data.first_chunk().map_or(0, |size| u64::from_le_bytes(*size));
    let _ = index::decode(&index, 1, size, &mut Names::default());
}
