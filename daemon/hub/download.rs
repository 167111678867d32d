//! Downloads one file, or the rest of it, and checks its hash.
//!
//! Guarantees: a file has its name only if its content has the hash that the hub states. A
//! connection that breaks or stalls is tried again from the byte where it ended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::header::CONTENT_RANGE;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use url::Url;

use super::FetchError;
use super::client::{Failure, Hub, Pauses, temporary};
use super::folder::part_of;
use super::listing::{Hash, ListedFile};
use super::progress::Progress;
use super::repository::Repository;
use crate::http_client::explained;

/// Maximum time without a byte, after which the connection is given up.
const STALLED: Duration = Duration::from_secs(60);

/// Number of attempts without a new byte, after which the download ends.
const ATTEMPTS: usize = 8;

/// The download of one file.
pub struct Download<'a> {
    pub hub: &'a Hub,
    pub repository: &'a Repository,
    pub url: Url,
    pub file: &'a ListedFile,
    /// The folder of the package.
    pub folder: &'a Path,
}

/// The reason why an attempt ended early.
enum Interruption {
    Hub(Failure),
    Disk(io::Error),
}

impl From<Failure> for Interruption {
    fn from(failure: Failure) -> Interruption {
        Interruption::Hub(failure)
    }
}

impl From<io::Error> for Interruption {
    fn from(error: io::Error) -> Interruption {
        Interruption::Disk(error)
    }
}

impl Download<'_> {
    /// Downloads the file, unless an earlier run has done it.
    pub async fn run(&self, progress: &mut Progress) -> Result<(), FetchError> {
        let whole = self.folder.join(&self.file.name);
        let part = part_of(&whole);
        if whole.exists() {
            // It may be the file of another commit.
            fs::rename(&whole, &part).map_err(|error| self.disk(error))?;
        }
        let mut continued = length(&part) > 0;
        loop {
            self.complete(&part, progress).await?;
            let (wanted, found) = self.hash(&part).await?;
            if wanted == found {
                break;
            }
            fs::remove_file(&part).map_err(|error| self.disk(error))?;
            progress.lost(self.file.size);
            if !continued {
                return Err(FetchError::Refused(format!(
                    "{}: {} is damaged: wanted {wanted}, found {found}; it is removed, run this \
                     again",
                    self.repository.name, self.file.name
                )));
            }
            // An earlier run has left the beginning of another version.
            continued = false;
        }
        let saved = File::open(&part).and_then(|file| file.sync_all());
        saved.and_then(|()| fs::rename(&part, &whole)).map_err(|error| self.disk(error))?;
        progress.complete(&self.file.name);
        Ok(())
    }

    /// Continues the file until it has its size.
    async fn complete(&self, part: &Path, progress: &mut Progress) -> Result<(), FetchError> {
        let mut pauses = Pauses::new(ATTEMPTS);
        progress.found(length(part).min(self.file.size));
        loop {
            let before = length(part);
            let failure = match self.receive(part, progress).await {
                Ok(()) => return Ok(()),
                Err(Interruption::Hub(failure)) => failure,
                Err(Interruption::Disk(error)) => return Err(self.disk(error)),
            };
            if length(part) > before {
                pauses.reset();
            }
            match pauses.next(failure) {
                Ok((why, pause)) => {
                    let name = &self.file.name;
                    let seconds = pause.as_secs_f64();
                    progress.note(&format!("{name}: {why}; trying again in {seconds:.1} s"));
                    sleep(pause).await;
                }
                Err(Failure::NoFile) => {
                    return Err(FetchError::Refused(format!(
                        "{}: the hub lists {} but does not have it; only the repository's owner \
                         can fix that",
                        self.repository.name, self.file.name
                    )));
                }
                Err(failure) => return Err(self.hub.explain(failure, self.repository)),
            }
        }
    }

    /// Makes one request for the rest of the file, and writes what arrives.
    async fn receive(&self, part: &Path, progress: &mut Progress) -> Result<(), Interruption> {
        let size = self.file.size;
        let mut to = OpenOptions::new().create(true).append(true).open(part)?;
        let mut present = to.seek(SeekFrom::End(0))?;
        if present > size {
            // Longer than the file: it is not the beginning of it.
            to.set_len(0)?;
            progress.lost(size);
            present = 0;
        }
        if present == size {
            return Ok(());
        }
        let response = match self.hub.get(&self.url, present).await {
            Err(Failure::NoRange) if present > 0 => {
                to.set_len(0)?;
                progress.lost(present);
                return Err(temporary("the hub does not continue the file").into());
            }
            response => response?,
        };
        let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let continues = response.status() == StatusCode::PARTIAL_CONTENT
            && range.is_some_and(|range| range.starts_with(&format!("bytes {present}-")));
        if present > 0 && !continues {
            to.set_len(0)?;
            progress.lost(present);
            present = 0;
            if response.status() == StatusCode::PARTIAL_CONTENT {
                return Err(temporary("the hub sent another range than the requested one").into());
            }
        }
        let mut body = response.into_body();
        while present < size {
            let frame = match timeout(STALLED, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(temporary(&explained(&error)).into()),
                Ok(None) => {
                    let why = format!("the connection ended after {present} of {size} bytes");
                    return Err(temporary(&why).into());
                }
                Err(_) => {
                    let seconds = STALLED.as_secs();
                    return Err(temporary(&format!("nothing arrived for {seconds} s")).into());
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            // A server may send more than it lists. The hash decides.
            let wanted = data.len().min(usize::try_from(size - present).unwrap_or(usize::MAX));
            to.write_all(&data[..wanted])?;
            present += wanted as u64;
            progress.received(wanted as u64);
        }
        Ok(())
    }

    /// Returns the hash that the hub states, and that of a file's content.
    async fn hash(&self, part: &Path) -> Result<(String, String), FetchError> {
        let Some(hash) = self.file.hash.clone() else {
            let (name, file) = (&self.repository.name, &self.file.name);
            return Err(FetchError::Refused(format!("{name}: the hub states no hash of {file}")));
        };
        let path: PathBuf = part.into();
        let found = spawn_blocking(move || match hash {
            Hash::Sha256(wanted) => Ok((
                format!("SHA-256 {wanted}"),
                format!("SHA-256 {}", hex(&digest(Sha256::new(), &path)?)),
            )),
            Hash::Git(wanted) => {
                let blob = Sha1::new_with_prefix(format!("blob {}\0", length(&path)));
                Ok((
                    format!("git SHA-1 {wanted}"),
                    format!("git SHA-1 {}", hex(&digest(blob, &path)?)),
                ))
            }
        });
        let found = found.await.map_err(|error| FetchError::Refused(error.to_string()))?;
        found.map_err(|error| self.disk(error))
    }

    fn disk(&self, error: io::Error) -> FetchError {
        let path = self.folder.join(&self.file.name);
        FetchError::Refused(format!("{}: {error}", path.display()))
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

/// Adds a file's content to a hash.
fn digest<D: Digest>(mut hash: D, path: &Path) -> io::Result<Vec<u8>> {
    let mut from = BufReader::new(File::open(path)?);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(hash.finalize().to_vec());
        }
        hash.update(&buffer[..read]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_of_sha256() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        fs::write(&file, "hello\n").unwrap();
        // By `git hash-object` and `sha256sum`.
        let git = digest(Sha1::new_with_prefix("blob 6\0"), &file).unwrap();
        assert_eq!(hex(&git), "ce013625030ba8dba906f756967f9e9ca394464a");
        let sha256 = digest(Sha256::new(), &file).unwrap();
        let wanted = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(hex(&sha256), wanted);
    }
}
