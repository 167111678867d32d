//! Small values of a config: sizes, secrets, and the default client ID.

use std::fmt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A size in bytes, written `"256 MiB"`.
pub type Bytes = bytesize::ByteSize;

/// A password. It is never printed, and its file is read again for each use, so a change takes
/// effect.
#[derive(Clone, PartialEq)]
pub enum Secret {
    File(PathBuf),
    /// The secret is in the config file itself, for example in a URL.
    Inline(String),
}

impl Secret {
    /// Returns the secret, without the line end that editors add.
    pub fn read(&self) -> io::Result<String> {
        match self {
            Secret::File(path) => read_secret_file(path),
            Secret::Inline(secret) => Ok(secret.clone()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::File(path) => write!(f, "(in {})", path.display()),
            Secret::Inline(_) => f.write_str("(hidden)"),
        }
    }
}

/// Reads a password file, without the characters that editors add.
fn read_secret_file(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)
        .map_err(|e| io::Error::new(e.kind(), format!("password file {}: {e}", path.display())))?;
    // Some editors put a byte order mark before the text, and all of them a line end after it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(text.trim_end_matches(['\r', '\n']).to_string())
}

/// Returns `lookout-` and this machine's name, so two machines on one broker are two clients. MQTT,
/// Home Assistant and the config allow only letters, digits, `-` and `_`.
pub fn client_id() -> String {
    client_id_of(&fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default())
}

fn client_id_of(host: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    // The domain follows the first dot.
    let host = host.trim().split('.').next().unwrap_or_default();
    let host: String = host.chars().map(|c| if fits(c) { c } else { '-' }).take(48).collect();
    match host.as_str() {
        "" => "lookout".into(),
        host => format!("lookout-{host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_newline_is_not_part_of_a_password() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        for (written, read) in [
            ("sesame", "sesame"),
            ("sesame\n", "sesame"),
            ("sesame\r\n", "sesame"),
            ("\u{feff}sesame\r\n", "sesame"),
            ("a#wE$%^&!@\" \n", "a#wE$%^&!@\" "),
        ] {
            fs::write(&file, written).unwrap();
            assert_eq!(read_secret_file(&file).unwrap(), read);
        }
        fs::write(&file, b"\xff\xfes\0").unwrap();
        let error = read_secret_file(&file).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()), "{error}");
    }

    #[test]
    fn client_ids_differ_between_machines() {
        assert_eq!(client_id_of("attic\n"), "lookout-attic");
        assert_eq!(client_id_of("Büro 2.example.org"), "lookout-B-ro-2");
        assert_eq!(client_id_of("\n"), "lookout");
        assert_eq!(client_id_of(&"x".repeat(64)).len(), 56);
    }
}
