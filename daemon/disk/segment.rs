//! One segment as it lies on disk: its frames read back, from its index or from itself.

use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::index::{self, Builder};
use super::record::{self, Damaged, HEADER, Names, Record};
use crate::timeline::Place;

const FRAMES: &str = ".frames";
const INDEX: &str = ".index";

/// Larger than an index can be.
const INDEX_MOST: u64 = 16 << 20;

/// A disk reads large pieces in order sooner than small ones apart.
const PIECE: usize = 1 << 20;

pub fn frames_file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:012}{FRAMES}"))
}

pub fn index_file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:012}{INDEX}"))
}

/// The numbers of all segments in a folder, in order; and of all indexes.
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

/// What was found of a segment.
#[derive(Debug)]
pub struct Found {
    /// In the order written.
    pub records: Vec<(Record, Place)>,
    pub size: u64,
    pub from_index: bool,
    pub end: End,
}

/// How reading a segment ended.
#[derive(Debug)]
pub enum End {
    Whole,
    /// So many bytes are no whole frame, and why the first of them are not.
    Damaged(u64, Damaged),
    /// The system cannot read on.
    Failed(io::Error),
}

/// The frames of a segment. What cannot be read ends it, and costs nothing that was read before.
pub fn read(folder: &Path, number: u64, names: &mut Names) -> Found {
    let mut found = Found { records: Vec::new(), size: 0, from_index: false, end: End::Whole };
    let opened = File::open(frames_file(folder, number))
        .and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let (file, metadata) = match opened {
        Ok((_, metadata)) if !metadata.is_file() => {
            found.end = End::Failed(io::Error::other("it is no file"));
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

/// Reads all of a segment, pictures too: a power cut may have left only their headers.
fn scan(file: File, number: u64, names: &mut Names, found: &mut Found) {
    let mut reader = BufReader::with_capacity(PIECE, file);
    let (mut offset, mut bad) = (0, None::<(u64, Damaged)>);
    while offset < found.size {
        match next_record(&mut reader, found.size - offset, names) {
            Ok((record, length, whole)) => {
                match whole {
                    Ok(()) => {
                        found.records.push((record, Place { segment: number, offset, length }))
                    }
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

/// Reads over the next record, of which at most `left` bytes are there, and checks its picture.
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
    Ok((record, length, record::picture_is_whole(&header, &jpeg)))
}

/// Writes the index of a segment of `size` bytes; it is there as a whole or not at all. Returns its
/// bytes.
pub fn write_index(folder: &Path, number: u64, size: u64, index: &Builder) -> io::Result<u64> {
    let file = index_file(folder, number);
    let half = file.with_extension("index-new");
    let written = fs::write(&half, index.encode(size)).and_then(|()| fs::rename(&half, &file));
    if written.is_err() {
        let _ = fs::remove_file(&half);
    }
    written.map(|()| index.bytes())
}
