//! The database's file: whether it is still in its place and whole, and setting it aside.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::values::milliseconds;

/// Name of the file in the journal's folder.
pub const FILE: &str = "events.sqlite";

/// Names of SQLite's files next to it.
pub const WAL: &str = "events.sqlite-wal";
const SHARED_MEMORY: &str = "events.sqlite-shm";

/// The files of a database in use. SQLite does not notice if somebody removes or replaces them, and
/// goes on writing where nobody can read it.
pub struct OpenFile {
    folder: PathBuf,
    database: FileId,
    wal: FileId,
    /// Length of the database when it was looked at last.
    bytes: u64,
}

/// Device and inode of a file.
type FileId = (u64, u64);

/// A change of the files that SQLite did not make.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// The database is gone, or another file has its name.
    Removed,
    /// The write-ahead log is gone. The database is whole once it is closed.
    WalRemoved,
    /// The database is shorter than its header says.
    CutShort { bytes: u64, expected: u64 },
}

impl OpenFile {
    pub fn of(folder: &Path) -> io::Result<OpenFile> {
        let database = fs::metadata(folder.join(FILE))?;
        let wal = fs::metadata(folder.join(WAL))?;
        Ok(OpenFile {
            folder: folder.into(),
            database: file_id(&database),
            wal: file_id(&wal),
            bytes: database.len(),
        })
    }

    /// Returns what happened to the files since the last call. Must not be called during a
    /// checkpoint.
    pub fn change(&mut self) -> io::Result<Option<Change>> {
        let Some(mut file) = found(File::open(self.folder.join(FILE)))? else {
            return Ok(Some(Change::Removed));
        };
        let metadata = file.metadata()?;
        if file_id(&metadata) != self.database {
            return Ok(Some(Change::Removed));
        }
        let wal = found(fs::metadata(self.folder.join(WAL)))?;
        if wal.is_none_or(|wal| file_id(&wal) != self.wal) {
            return Ok(Some(Change::WalRemoved));
        }
        let bytes = metadata.len();
        let is_shorter = bytes < std::mem::replace(&mut self.bytes, bytes);
        let mut header = Vec::new();
        file.by_ref().take(HEADER).read_to_end(&mut header)?;
        let expected = length(&header);
        Ok((is_shorter && bytes < expected).then_some(Change::CutShort { bytes, expected }))
    }
}

impl OpenFile {
    /// Removes the log of a database that was removed, once it is closed. SQLite would apply it to
    /// the file that took its place.
    pub fn remove_log(self) -> io::Result<()> {
        let wal = self.folder.join(WAL);
        if found(fs::metadata(&wal))?.is_some_and(|file| file_id(&file) == self.wal) {
            found(fs::remove_file(wal))?;
            found(fs::remove_file(self.folder.join(SHARED_MEMORY)))?;
        }
        Ok(())
    }
}

/// Bytes of a database's header.
const HEADER: u64 = 100;

/// Returns the length of a database by its header: the size of a page at offset 16, and the number
/// of pages at offset 28.
fn length(header: &[u8]) -> u64 {
    let (Some(size), Some(pages)) = (header.get(16..18), header.get(28..32)) else {
        return HEADER;
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    // 1 stands for 65,536.
    let size = if number(size) == 1 { 65_536 } else { number(size) };
    number(pages) * size
}

fn file_id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// Returns `None` for a file that does not exist.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// The endings of the names of a database and of SQLite's files next to it.
const ENDINGS: [&str; 3] = ["", "-wal", "-shm"];

/// Returns a path with an ending.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// Renames a corrupt database, and SQLite's files next to it. Returns the new name of the database.
pub fn set_aside(folder: &Path, now: SystemTime) -> io::Result<PathBuf> {
    let aside = folder.join(format!("{FILE}.corrupt-{}", milliseconds(now)));
    // SQLite finds the log of a renamed database only by such a name.
    rename(&folder.join(FILE), &aside)?;
    Ok(aside)
}

/// Gives a database that was set aside its name again. The new one is removed.
pub fn put_back(folder: &Path, aside: &Path) -> io::Result<()> {
    let file = folder.join(FILE);
    for ending in ENDINGS {
        found(fs::remove_file(with_ending(&file, ending)))?;
    }
    rename(aside, &file)
}

/// Renames a database, and SQLite's files next to it, as far as there are such.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    for ending in ENDINGS {
        found(fs::rename(with_ending(from, ending), with_ending(to, ending)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_read_from_the_header() {
        let mut header = vec![0; 100];
        header[16..18].copy_from_slice(&4096_u16.to_be_bytes());
        header[28..32].copy_from_slice(&300_u32.to_be_bytes());
        assert_eq!(length(&header), 300 * 4096);
        header[16..18].copy_from_slice(&1_u16.to_be_bytes());
        assert_eq!(length(&header), 300 * 65_536);
        assert_eq!(length(&header[..20]), 100, "a cut header");
    }
}
