//! The tokens on disk: `tokens.json` in the folder of `[access]`, with the hash of each token.
//!
//! Guarantees: the file is replaced as a whole, so that a reader never sees a part of it. Two commands
//! that change it at the same time wait for each other. Only its owner can read it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Role;
use super::token::{self, TokenHash};
use crate::frame::rfc3339;
use crate::question::parse_time;

const FILE: &str = "tokens.json";
const LOCK: &str = "tokens.lock";

/// Maximum number of bytes of a token's name.
const NAME_BYTES: usize = 64;

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredToken {
    pub name: String,
    #[serde(rename = "sha256", serialize_with = "write_hash", deserialize_with = "read_hash")]
    pub(super) hash: TokenHash,
    pub role: Role,
    /// Names of the cameras that are visible, or `None` for all.
    pub cameras: Option<BTreeSet<String>>,
    #[serde(serialize_with = "rfc3339::serialize", deserialize_with = "read_time")]
    pub created_at: SystemTime,
    #[serde(
        default,
        serialize_with = "rfc3339::option::serialize",
        deserialize_with = "read_optional_time"
    )]
    pub expires_at: Option<SystemTime>,
}

impl StoredToken {
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

fn write_hash<S: Serializer>(hash: &TokenHash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hash.hex())
}

fn read_hash<'de, D: Deserializer<'de>>(from: D) -> Result<TokenHash, D::Error> {
    let text = String::deserialize(from)?;
    TokenHash::from_hex(&text)
        .ok_or_else(|| D::Error::custom("sha256 is not 64 hexadecimal digits"))
}

fn read_time<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(from)?;
    parse_time(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not a time")))
}

fn read_optional_time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SystemTime>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    let parse = |text: String| {
        parse_time(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not a time")))
    };
    text.map(parse).transpose()
}

/// The settings of a token to make.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub name: String,
    pub role: Role,
    pub cameras: Option<BTreeSet<String>>,
    pub expires_at: Option<SystemTime>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: {why}", path = .0.display(), why = .1)]
    Io(PathBuf, std::io::Error),
    #[error("{path}: not a list of tokens: {why}; restore it, or remove it and make the tokens again",
        path = .0.display(), why = .1)]
    Damaged(PathBuf, serde_json::Error),
    #[error("a token is named {0:?} already; revoke it first, or choose another name")]
    Exists(String),
    #[error("no token is named {0:?}; `lookout token list` lists them")]
    NotFound(String),
    #[error("{0:?} is not a name: wanted 1 to {NAME_BYTES} bytes without control characters")]
    Name(String),
}

/// Inode, time and length of the file, or `None` if there is no file.
pub(super) type Version = Option<(u64, i64, i64, u64)>;

/// The folder with the tokens.
#[derive(Clone, Debug)]
pub struct TokenStore {
    folder: PathBuf,
}

impl TokenStore {
    pub fn new(folder: impl Into<PathBuf>) -> TokenStore {
        TokenStore { folder: folder.into() }
    }

    fn file(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Returns the tokens, in the order of their creation. None if there is no file.
    pub fn list(&self) -> Result<Vec<StoredToken>, StoreError> {
        let path = self.file();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|why| StoreError::Damaged(path, why)),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(why) => Err(StoreError::Io(path, why)),
        }
    }

    /// Makes a token and returns its text, which is stored nowhere.
    pub fn add(&self, new: NewToken) -> Result<String, StoreError> {
        let is_name = |name: &str| {
            (1..=NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
        };
        if !is_name(&new.name) {
            return Err(StoreError::Name(new.name));
        }
        let text = token::random();
        self.change(|tokens| {
            if tokens.iter().any(|token| token.name == new.name) {
                return Err(StoreError::Exists(new.name));
            }
            let NewToken { name, role, cameras, expires_at } = new;
            let hash = TokenHash::of(&text);
            let created_at = SystemTime::now();
            tokens.push(StoredToken { name, hash, role, cameras, created_at, expires_at });
            Ok(())
        })?;
        Ok(text)
    }

    /// Removes a token.
    pub fn revoke(&self, name: &str) -> Result<(), StoreError> {
        self.change(|tokens| {
            let before = tokens.len();
            tokens.retain(|token| token.name != name);
            if tokens.len() == before {
                return Err(StoreError::NotFound(name.into()));
            }
            Ok(())
        })
    }

    /// Changes the list while no other process does.
    fn change(
        &self,
        change: impl FnOnce(&mut Vec<StoredToken>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |why| StoreError::Io(path, why)
        };
        fs::create_dir_all(&self.folder).map_err(failed(&self.folder))?;
        let lock_path = self.folder.join(LOCK);
        let lock = File::create(&lock_path).map_err(failed(&lock_path))?;
        lock.lock().map_err(failed(&lock_path))?;
        let mut tokens = self.list()?;
        change(&mut tokens)?;
        let path = self.file();
        self.replace(&tokens).map_err(failed(&path))
    }

    fn replace(&self, tokens: &[StoredToken]) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        serde_json::to_writer_pretty(&mut file, tokens)?;
        file.write_all(b"\n")?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
        // A command that root runs must leave a file that the daemon's user can read.
        let folder = fs::metadata(&self.folder)?;
        if folder.uid() != file.as_file().metadata()?.uid() {
            std::os::unix::fs::fchown(file.as_file(), Some(folder.uid()), Some(folder.gid()))?;
        }
        file.as_file().sync_all()?;
        file.persist(self.file()).map_err(|failed| failed.error)?;
        File::open(&self.folder)?.sync_all()
    }

    /// Returns a value that differs after each change of the file.
    pub(super) fn version(&self) -> Version {
        let found = fs::metadata(self.file()).ok()?;
        Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str) -> NewToken {
        NewToken { name: name.into(), role: Role::Ask, cameras: None, expires_at: None }
    }

    #[test]
    fn a_token_is_stored_without_its_text() {
        let folder = tempfile::tempdir().unwrap();
        let store = TokenStore::new(folder.path().join("access"));
        assert_eq!(store.list().unwrap(), []);
        let text = store.add(new("phone")).unwrap();
        let on_disk = fs::read_to_string(store.file()).unwrap();
        assert!(!on_disk.contains(&text) && !on_disk.contains(&text["lookout_".len()..]));
        let mode = fs::metadata(store.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let [token] = &store.list().unwrap()[..] else { panic!("one token") };
        assert!(token.hash.matches(&TokenHash::of(&text)));
        assert!(matches!(store.add(new("phone")), Err(StoreError::Exists(_))));
        let before = store.version();
        store.revoke("phone").unwrap();
        assert_ne!(store.version(), before);
        assert_eq!(store.list().unwrap(), []);
        assert!(matches!(store.revoke("phone"), Err(StoreError::NotFound(_))));
    }

    #[test]
    fn commands_at_the_same_time_lose_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let store = TokenStore::new(folder.path());
        let add = |number: usize| {
            let store = store.clone();
            std::thread::spawn(move || store.add(new(&format!("token {number}"))).unwrap())
        };
        let threads: Vec<_> = (0..16).map(add).collect();
        threads.into_iter().for_each(|thread| drop(thread.join().unwrap()));
        assert_eq!(store.list().unwrap().len(), 16);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = TokenStore::new(folder.path());
        for text in ["", "{", "[{}]", r#"[{"name": "x", "sha256": "12", "role": "ask"}]"#] {
            fs::write(store.file(), text).unwrap();
            assert!(matches!(store.add(new("phone")), Err(StoreError::Damaged(..))), "{text}");
            assert_eq!(fs::read_to_string(store.file()).unwrap(), text);
        }
    }

    #[test]
    fn a_name_is_printable() {
        let folder = tempfile::tempdir().unwrap();
        let store = TokenStore::new(folder.path());
        for name in ["", "a\nb", &"x".repeat(65)] {
            assert!(matches!(store.add(new(name)), Err(StoreError::Name(_))), "{name:?}");
        }
        store.add(new("Anna's phone")).unwrap();
    }
}
