//! The folder of a package while it is downloaded: `FOLDER.partial`, which becomes `FOLDER` when it
//! is complete.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::listing::ListedFile;
use crate::config::Bytes;

pub struct Partial {
    folder: PathBuf,
    path: PathBuf,
    /// The open folder, whose lock ends with it.
    lock: Option<File>,
}

impl Partial {
    /// Returns the partial folder of a package's folder, which must not exist or must be empty.
    pub fn of(folder: &Path) -> Result<Partial, String> {
        let at = folder.display();
        match fs::read_dir(folder) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(format!("{at} is not empty: name another folder, or remove it"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{at}: wanted a new folder: {error}")),
        }
        let Some(name) = folder.file_name() else {
            return Err(format!("{at}: wanted a folder with a name"));
        };
        let name: OsString = [name, ".partial".as_ref()].into_iter().collect();
        Ok(Partial { folder: folder.into(), path: folder.with_file_name(name), lock: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of bytes that earlier runs have received.
    pub fn present(&self, files: &[ListedFile]) -> u64 {
        let length = |path: PathBuf| fs::metadata(path).map_or(0, |found| found.len());
        let present = files.iter().map(|file| {
            let whole = self.path.join(&file.name);
            length(part_of(&whole)).max(length(whole)).min(file.size)
        });
        present.sum()
    }

    /// Makes the folder and locks it. Fails if the disk has no room for `missing` bytes.
    pub fn make(&mut self, missing: u64) -> Result<(), String> {
        let at = self.path.display();
        fs::create_dir_all(self.path.join("onnx")).map_err(|error| format!("{at}: {error}"))?;
        let lock = File::open(&self.path).map_err(|error| format!("{at}: {error}"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => format!("{at}: another `lookout fetch` writes to it"),
            TryLockError::Error(error) => format!("{at}: {error}"),
        })?;
        self.lock = Some(lock);
        has_room(&self.path, missing, free(&self.path))
    }

    /// Gives the folder its name. Files of another choice or another commit are removed.
    pub fn finish(self, files: &[ListedFile]) -> Result<(), String> {
        let failed = |error: io::Error| format!("{}: {error}", self.path.display());
        for part in ["", "onnx"] {
            for entry in fs::read_dir(self.path.join(part)).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                let is_chosen = files.iter().any(|file| self.path.join(&file.name) == path);
                if path.is_file() && !is_chosen {
                    fs::remove_file(&path).map_err(failed)?;
                }
            }
        }
        fs::rename(&self.path, &self.folder).map_err(|error| {
            format!("{} cannot become {}: {error}", self.path.display(), self.folder.display())
        })
    }
}

/// Returns the name of a file while it is downloaded.
pub fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn has_room(folder: &Path, missing: u64, free: Option<u64>) -> Result<(), String> {
    match free {
        Some(free) if free < missing => Err(format!(
            "{}: {} are needed, {} are free",
            folder.display(),
            Bytes::b(missing),
            Bytes::b(free)
        )),
        _ => Ok(()),
    }
}

/// Returns the free bytes of a folder's file system, or `None` if they are unknown.
fn free(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero, and `found` has room for the result.
    let status = unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) };
    if status != 0 {
        return None;
    }
    // SAFETY: statvfs has succeeded, so that it has filled `found`.
    let found = unsafe { found.assume_init() };
    Some(found.f_bavail * found.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, size: u64) -> ListedFile {
        ListedFile { name: name.into(), size, hash: None }
    }

    #[test]
    fn a_folder_gets_its_name_when_it_is_complete() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("llava");
        let files = [listed("config.json", 4), listed("onnx/a.onnx", 10)];
        let mut partial = Partial::of(&folder).unwrap();
        partial.make(1).unwrap();
        let second = Partial::of(&folder).unwrap().make(1).expect_err("locked");
        assert!(second.contains("another `lookout fetch`"), "{second}");

        fs::write(partial.path().join("config.json"), "text").unwrap();
        fs::write(partial.path().join("onnx/a.onnx.part"), "123").unwrap();
        fs::write(partial.path().join("onnx/b.onnx"), "of another choice").unwrap();
        assert_eq!(partial.present(&files), 7);
        fs::rename(partial.path().join("onnx/a.onnx.part"), partial.path().join("onnx/a.onnx"))
            .unwrap();
        partial.finish(&files).unwrap();
        assert!(folder.join("onnx/a.onnx").exists() && !folder.join("onnx/b.onnx").exists());
        assert!(!parent.path().join("llava.partial").exists());

        let error = Partial::of(&folder).map(|_| ()).expect_err("there");
        assert!(error.contains("is not empty"), "{error}");
        let error = Partial::of(&folder.join("config.json")).map(|_| ()).expect_err("a file");
        assert!(error.contains("wanted a new folder"), "{error}");
    }

    #[test]
    fn a_full_disk_is_reported_with_sizes() {
        let error = has_room(Path::new("p"), 5 << 30, Some(1 << 30)).expect_err("full");
        assert_eq!(error, "p: 5.0 GiB are needed, 1.0 GiB are free");
        assert_eq!(has_room(Path::new("p"), 5, Some(5)), Ok(()));
        assert_eq!(has_room(Path::new("p"), 5, None), Ok(()));
        assert!(free(Path::new("/")).is_some());
    }
}
