//! The cameras as the config file and its drop-ins have them, for people who change them.
//!
//! Guarantees: no user, password or token of a URL is in the values, and no user name.

use std::path::Path;

use toml::{Table, Value};

use super::drop_in::{self, DropIns};
use super::file::{cameras_as_written, drop_in_folder};
use super::{ConfigError, masked};

/// A camera as the config has it.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenCamera {
    pub name: String,
    /// The file and the line of a camera of the config file. `None` if the camera was added.
    pub config_place: Option<String>,
    /// The keys of its table, without its name and without credentials.
    pub keys: Table,
    /// True if there are credentials that `keys` do not show.
    pub hides_credentials: bool,
}

/// Reads the cameras of a config file and of its drop-ins.
pub fn cameras(file: &Path) -> Result<Vec<WrittenCamera>, ConfigError> {
    let unreadable =
        |e: std::io::Error| ConfigError(format!("{}: cannot be read: {e}", file.display()));
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    let folder = drop_in_folder(&text, file.parent().unwrap_or(Path::new(".")))?;
    let of_file = cameras_as_written(&text)?;
    let known = of_file.len();
    let merged = DropIns::read(&folder)?.merged(of_file);
    let written = merged.into_iter().enumerate().map(|(at, mut keys)| {
        let name = keys.remove("name");
        let name = name.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        let place = |line: Option<usize>| match line {
            Some(line) => format!("{}, line {line}", file.display()),
            None => file.display().to_string(),
        };
        let config_place = (at < known).then(|| place(drop_in::line_in(&text, &name)));
        let hides_credentials = hide(&mut keys);
        WrittenCamera { name, config_place, keys, hides_credentials }
    });
    Ok(written.collect())
}

/// Removes the credentials of a camera's keys. Returns true if there were some.
fn hide(keys: &mut Table) -> bool {
    let mut has_hidden = keys.remove("username").is_some();
    if let Some(Value::String(url)) = keys.get_mut("url") {
        let shown = masked(url);
        has_hidden |= shown != *url;
        *url = shown;
    }
    has_hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cameras_are_listed_with_their_place_and_without_credentials() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("lookout.toml");
        let text = "[model]\npackage = \"p\"\n[[camera]]\nname = \"gate\"\n\
                    url = \"rtsp://cam/x\"\nusername = \"bob\"\n";
        std::fs::write(&file, text).expect("config");
        let drop_ins = folder.path().join("lookout.d");
        let drop_in = |text: &str| drop_in::DropIn(text.parse().expect("TOML"));
        let hall = drop_in("name = \"hall\"\nurl = \"rtsp://me:secret@cam/y\"\nfps = 2");
        drop_in::store(&drop_ins, "hall", Some(&hall)).expect("stored");
        let paused = drop_in("name = \"gate\"\npaused = true");
        drop_in::store(&drop_ins, "gate", Some(&paused)).expect("stored");

        let [gate, hall] = &cameras(&file).expect("cameras")[..] else { panic!("two cameras") };
        let place = format!("{}, line 4", file.display());
        assert_eq!((&*gate.name, gate.config_place.as_ref()), ("gate", Some(&place)));
        assert_eq!(gate.keys.to_string(), "paused = true\nurl = \"rtsp://cam/x\"\n");
        assert!(gate.hides_credentials, "the user name is not shown");
        assert_eq!((&*hall.name, &hall.config_place), ("hall", &None));
        assert_eq!(hall.keys.to_string(), "fps = 2\nurl = \"rtsp://cam/y\"\n");
        assert!(hall.hides_credentials);
    }
}
