//! Drop-ins: files with one camera each, which `lookout camera` writes. They are read after the config
//! file. A drop-in of a camera that the config file has replaces the keys that it names.
//!
//! Guarantees: the config file is never written. A drop-in is written completely or not at all; what a
//! daemon left that was killed in the middle is ignored, and removed when the next one is written. The
//! file of a camera is `NAME.toml`, and a name has no separators, so that it is in the folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Table;

use super::camera::CameraTable;
use super::file::{cameras_as_written, line_of_camera, read};
use super::rules::{plain_name, toml_error};
use super::{Config, ConfigError};

const HEAD: &str =
    "# Written by lookout: `lookout camera` adds, changes, pauses and removes cameras.\n";

/// Start of the name of a drop-in that is being written.
const UNFINISHED: &str = ".new-";

/// The keys of a drop-in, as written.
#[derive(Clone, Debug, PartialEq)]
pub struct DropIn(pub Table);

/// The drop-ins of a folder, by the names of their cameras.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DropIns(BTreeMap<String, DropIn>);

/// A drop-in as a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    camera: Vec<CameraTable>,
}

impl DropIns {
    /// Reads the folder. One that does not exist has none.
    pub fn read(folder: &Path) -> Result<DropIns, ConfigError> {
        let of_folder = |e: io::Error| {
            ConfigError(format!("drop_in_folder {}: cannot be read: {e}", folder.display()))
        };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(DropIns::default()),
            Err(e) => return Err(of_folder(e)),
        };
        let mut drop_ins = DropIns::default();
        for entry in entries {
            let path = entry.map_err(of_folder)?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let of_file = |e: ConfigError| ConfigError(format!("{}: {}", path.display(), e.0));
                let text = fs::read_to_string(&path)
                    .map_err(|e| ConfigError(format!("{}: cannot be read: {e}", path.display())))?;
                let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let camera = parse(&text, &stem).map_err(of_file)?;
                drop_ins.0.insert(stem, camera);
            }
        }
        Ok(drop_ins)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&DropIn> {
        self.0.get(name)
    }

    pub fn set(&mut self, name: &str, drop_in: Option<DropIn>) {
        match drop_in {
            Some(drop_in) => drop(self.0.insert(name.to_owned(), drop_in)),
            None => drop(self.0.remove(name)),
        }
    }

    /// Returns cameras with the keys of their drop-ins, then the cameras of the other drop-ins.
    pub fn merged(&self, mut cameras: Vec<Table>) -> Vec<Table> {
        for (name, DropIn(keys)) in &self.0 {
            let is_named = |camera: &&mut Table| is_named(camera, name);
            match cameras.iter_mut().find(is_named) {
                Some(camera) => camera.extend(keys.clone()),
                None => cameras.push(keys.clone()),
            }
        }
        cameras
    }

    /// Adds the drop-in's file to an error about its camera.
    pub fn name_file(&self, error: ConfigError, folder: &Path) -> ConfigError {
        let is_about = |name: &&String| error.0.contains(&format!("camera {name:?}"));
        match self.0.keys().find(is_about) {
            Some(name) => {
                let file = file_of(folder, name);
                error.with_hint(&format!("the camera is also in {}", file.display()))
            }
            None => error,
        }
    }
}

/// Returns the line of a config file's text that names a camera.
pub fn line_in(text: &str, name: &str) -> Option<usize> {
    line_of_camera(text, name)
}

/// Returns the table of a camera in a config file's text.
pub fn camera_in(text: &str, name: &str) -> Result<Option<Table>, ConfigError> {
    Ok(cameras_as_written(text)?.into_iter().find(|camera| is_named(camera, name)))
}

/// Reads keys of a camera, as a client writes them. They do not contain its name.
pub fn settings(text: &str) -> Result<Table, ConfigError> {
    let keys: Table = read(text)?;
    if keys.contains_key("name") {
        return Err(ConfigError("the settings contain a name: wanted keys other than name".into()));
    }
    Ok(keys)
}

/// Returns an error unless a text is a key of a camera's table other than its name.
pub fn check_key(key: &str) -> Result<(), ConfigError> {
    let table = Table::from_iter([(key.to_owned(), toml::Value::Array(Vec::new()))]);
    match table.try_into::<CameraTable>() {
        Err(e) if e.message().starts_with("unknown field") => {
            Err(ConfigError(toml_error(e.message())))
        }
        _ if key == "name" => Err(ConfigError("name: a camera keeps its name".into())),
        _ => Ok(()),
    }
}

/// Checks a camera's name, which is also that of its file.
pub fn check_name(name: &str) -> Result<(), ConfigError> {
    plain_name("camera.name", name)
}

/// Writes the drop-in of a camera, or deletes it if `drop_in` is `None`. Nothing has changed if this
/// fails.
pub fn store(folder: &Path, name: &str, drop_in: Option<&DropIn>) -> io::Result<()> {
    let path = file_of(folder, name);
    let Some(DropIn(keys)) = drop_in else {
        return match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| sync(folder)),
        };
    };
    let mut file = Table::new();
    file.insert("camera".into(), toml::Value::Array(vec![toml::Value::Table(keys.clone())]));
    let text = toml::to_string(&file).map_err(io::Error::other)?;
    fs::create_dir_all(folder)?;
    remove_unfinished(folder)?;
    // Its permissions allow nobody else to read it, because a URL may contain a password.
    let mut written = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
    written.write_all(HEAD.as_bytes())?;
    written.write_all(text.as_bytes())?;
    written.as_file().sync_all()?;
    written.persist(&path).map_err(|e| e.error)?;
    sync(folder)
}

/// Removes what daemons left that were killed while they wrote a drop-in: it may contain passwords.
fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn file_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.toml"))
}

fn parse(text: &str, stem: &str) -> Result<DropIn, ConfigError> {
    let content: Content = read(text)?;
    let [camera] = <[Table; 1]>::try_from(cameras_as_written(text)?).map_err(|_| {
        let found = content.camera.len();
        ConfigError(format!("{found} [[camera]] tables: wanted one in each file"))
    })?;
    if !is_named(&camera, stem) {
        return Err(ConfigError(format!("camera.name: wanted {stem:?}, the name of the file")));
    }
    check_name(stem)?;
    Ok(DropIn(camera))
}

fn is_named(camera: &Table, name: &str) -> bool {
    camera.get("name").and_then(toml::Value::as_str) == Some(name)
}

impl Config {
    /// Returns the files of the drop-ins' folder that this config uses.
    pub fn drop_ins(&self) -> Result<DropIns, ConfigError> {
        DropIns::read(&self.drop_in_folder)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const CONFIG: &str = "[model]\npackage = \"p\"\n[[camera]]\nname = \"gate\"\nfps = 1\n\
                          url = \"rtsp://cam/x\"\n";

    fn keys(text: &str) -> DropIn {
        DropIn(text.parse().expect("TOML"))
    }

    #[test]
    fn a_drop_in_is_stored_replaces_keys_and_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let drop_ins = folder.path().join("lookout.d");
        let file = folder.path().join("lookout.toml");
        fs::write(&file, CONFIG).expect("config");
        let hall = keys("name = \"hall\"\nurl = \"rtsp://me:secret@cam/y\"\nmasks = []");
        store(&drop_ins, "hall", Some(&hall)).expect("stored");
        store(&drop_ins, "gate", Some(&keys("name = \"gate\"\npaused = true"))).expect("stored");
        let mode = fs::metadata(drop_ins.join("hall.toml")).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "a URL may contain a password");

        let config = Config::read(&file).expect("a config");
        let cameras: Vec<_> = config.cameras.iter().map(|c| (&*c.name, c.is_paused)).collect();
        assert_eq!(cameras, [("gate", true), ("hall", false)]);
        assert_eq!(config.drop_ins().expect("drop-ins").get("hall"), Some(&hall));
        for _ in 0..2 {
            store(&drop_ins, "hall", None).expect("removed");
        }
        assert_eq!(Config::read(&file).expect("a config").cameras.len(), 1);
        assert_eq!(fs::read_to_string(&file).expect("config"), CONFIG);
    }

    #[test]
    fn an_error_in_a_drop_in_names_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("lookout.toml");
        fs::write(&file, CONFIG).expect("config");
        let drop_in = folder.path().join("lookout.d/hall.toml");
        fs::create_dir(folder.path().join("lookout.d")).expect("a folder");
        for (text, why) in [
            ("[[camera]]\nname = \"hall\"\nfsp = 1", "line 3, [[camera]] fsp: unknown key `fsp`"),
            ("[model]\npackage = \"q\"", "unknown key `model`"),
            ("[[camera]]\nname = \"yard\"", "wanted \"hall\", the name of the file"),
            ("", "camera"),
            ("[[camera]]\nname = \"hall\"\n[[camera]]\nname = \"b\"", "2 [[camera]] tables"),
            ("[[camera]]\nname = \"hall\"\nurl = \"rtsp://c/x\"\nfps = 0", "fps"),
        ] {
            fs::write(&drop_in, text).expect("a drop-in");
            let error = Config::read(&file).expect_err(text).to_string();
            assert!(error.contains("hall.toml") && error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_key_of_a_camera_is_known() {
        for key in ["url", "fps", "masks", "paused", "window"] {
            check_key(key).expect(key);
        }
        for key in ["name", "fsp", "", "url.x"] {
            check_key(key).expect_err(key);
        }
    }

    #[test]
    fn an_error_about_a_value_names_its_camera_and_its_key() {
        let mut drop_ins = DropIns::default();
        for (key, value) in [("window", "\"soon\""), ("fps", "\"two\""), ("fps", "99")] {
            let hall = format!("name = \"hall\"\nurl = \"rtsp://cam/y\"\n{key} = {value}");
            drop_ins.set("hall", Some(keys(&hall)));
            let error = Config::parse_with(CONFIG, Path::new(""), &drop_ins).expect_err(value);
            assert!(error.0.starts_with(&format!("camera \"hall\": {key}")), "{error}");
            assert_eq!(error.camera_key(), Some(key), "{error}");
        }
        drop_ins.set("hall", Some(keys("name = \"hall\"")));
        let error = Config::parse_with(CONFIG, Path::new(""), &drop_ins).expect_err("no URL");
        assert_eq!(error.camera_key(), Some("url"), "{error}");
        assert_eq!(check_name("a b").expect_err("a space").camera_key(), Some("name"));
    }

    #[test]
    fn an_unfinished_drop_in_is_ignored_and_removed_by_the_next_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("lookout.toml");
        let drop_ins = folder.path().join("lookout.d");
        fs::write(&file, CONFIG).expect("config");
        fs::create_dir(&drop_ins).expect("a folder");
        fs::write(drop_ins.join(".new-x1Y2z3"), "[[camera]]\nname = \"ha").expect("a file");
        assert_eq!(Config::read(&file).expect("a config").cameras.len(), 1);
        let hall = keys("name = \"hall\"\nurl = \"rtsp://cam/y\"");
        store(&drop_ins, "hall", Some(&hall)).expect("stored");
        let names = fs::read_dir(&drop_ins).expect("the folder");
        let names: Vec<_> = names.map(|entry| entry.expect("an entry").file_name()).collect();
        assert_eq!(names, ["hall.toml"]);
    }

    #[test]
    fn the_line_of_a_camera_is_found() {
        assert_eq!(line_in(CONFIG, "gate"), Some(4));
        assert_eq!(line_in(CONFIG, "yard"), None);
    }
}
