//! Reads the TOML text into its tables. An error names the line, the table and the key.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::access::AccessTable;
use super::alert_rule::{self, RuleTable};
use super::buffer::BufferTable;
use super::camera::CameraTable;
use super::delivery::{self, NtfyTable, WebhookTable};
use super::generate::GenerateTable;
use super::journal::JournalTable;
use super::language::LanguageTable;
use super::listen::{Guards, ListenTable};
use super::model::ModelTable;
use super::mqtt::MqttTable;
use super::rules::{at_least, toml_error};
use super::search::SearchTable;
use super::tls::TlsTable;
use super::traces::TracesTable;
use super::{Camera, Config, ConfigError, Language, Wording};

/// The whole file, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    #[serde(with = "humantime_serde")]
    stop_timeout: Duration,
    #[serde(with = "humantime_serde")]
    hang_timeout: Duration,
    drop_in_folder: PathBuf,
    model: ModelTable,
    language: LanguageTable,
    generate: GenerateTable,
    buffer: BufferTable,
    journal: JournalTable,
    search: SearchTable,
    tls: TlsTable,
    grpc: ListenTable,
    http: ListenTable,
    access: AccessTable,
    mqtt: Option<MqttTable>,
    traces: TracesTable,
    camera: Vec<CameraTable>,
    rule: Vec<RuleTable>,
    webhook: Vec<WebhookTable>,
    ntfy: Vec<NtfyTable>,
}

impl Default for File {
    fn default() -> File {
        File {
            stop_timeout: Duration::from_secs(10),
            hang_timeout: Duration::from_secs(120),
            drop_in_folder: "lookout.d".into(),
            model: ModelTable::default(),
            language: LanguageTable::default(),
            generate: GenerateTable::default(),
            buffer: BufferTable::default(),
            journal: JournalTable::default(),
            search: SearchTable::default(),
            tls: TlsTable::default(),
            grpc: ListenTable::default(),
            http: ListenTable::default(),
            access: AccessTable::default(),
            mqtt: None,
            traces: TracesTable::default(),
            camera: Vec::new(),
            rule: Vec::new(),
            webhook: Vec::new(),
            ntfy: Vec::new(),
        }
    }
}

/// Parses and checks a config. Relative paths start at `folder`.
pub fn parse(text: &str, folder: &Path) -> Result<Config, ConfigError> {
    read::<File>(text)?.check(folder)
}

/// Does the same with these cameras in place of those of the text.
pub fn parse_with(
    text: &str,
    folder: &Path,
    cameras: Vec<toml::Table>,
) -> Result<Config, ConfigError> {
    // The errors of the text have their place in it.
    let mut file: File = read(text)?;
    file.camera = cameras.into_iter().map(camera_table).collect::<Result<_, _>>()?;
    file.check(folder)
}

/// Reads the keys of a camera. An error names the camera and the key.
fn camera_table(keys: toml::Table) -> Result<CameraTable, ConfigError> {
    keys.clone().try_into::<CameraTable>().map_err(|whole| {
        // Serde does not say which value has the wrong type.
        let alone = |key: &String, value: &toml::Value| {
            let table = toml::Table::from_iter([(key.clone(), value.clone())]);
            Some((key.clone(), table.try_into::<CameraTable>().err()?))
        };
        let wrong = keys.iter().find_map(|(key, value)| alone(key, value));
        let (key, error) = match &wrong {
            Some((key, error)) => (format!("{key}: "), error),
            None => (String::new(), &whole),
        };
        let name = keys.get("name").and_then(toml::Value::as_str).unwrap_or_default();
        ConfigError(format!("camera {name:?}: {key}{}", toml_error(error.message())))
    })
}

/// Returns the folder of the drop-ins.
pub fn drop_in_folder(text: &str, folder: &Path) -> Result<PathBuf, ConfigError> {
    let file: File = read(text)?;
    Ok(folder.join(file.drop_in_folder))
}

/// The cameras of a file, as written.
#[derive(Deserialize)]
struct CamerasAsWritten {
    #[serde(default)]
    camera: Vec<toml::Table>,
}

/// Reads a text. An error has its place in it.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let place = error.span().map(|span| place(text, span.start)).unwrap_or_default();
        ConfigError(format!("{place}{}", toml_error(error.message())))
    })
}

/// Returns the tables of a file's cameras, as written.
pub fn cameras_as_written(text: &str) -> Result<Vec<toml::Table>, ConfigError> {
    read(text).map(|file: CamerasAsWritten| file.camera)
}

/// Returns the number of the line that names a camera.
pub fn line_of_camera(text: &str, name: &str) -> Option<usize> {
    let quoted = [format!("\"{name}\""), format!("'{name}'")];
    let names_it = |line: &str| {
        let value = line.trim().strip_prefix("name").and_then(|rest| rest.trim().strip_prefix('='));
        value.is_some_and(|value| quoted.iter().any(|quoted| value.trim().starts_with(quoted)))
    };
    let mut in_camera = false;
    text.lines()
        .position(|line| {
            if line.trim_start().starts_with('[') {
                in_camera = line.trim_start().starts_with("[[camera]]");
            }
            in_camera && names_it(line)
        })
        .map(|at| at + 1)
}

impl File {
    fn check(self, folder: &Path) -> Result<Config, ConfigError> {
        let cameras = cameras(self.camera, folder)?;
        let wording = Wording {
            template: self.model.template.clone(),
            system_prompt: self.model.system_prompt.clone(),
            answer_prefix: self.generate.answer_prefix.clone(),
        };
        let journal = self.journal.check(folder)?;
        let targets = delivery::targets(self.webhook, self.ntfy, folder)?;
        let rules = alert_rule::rules(self.rule, &cameras, &targets)?;
        let buffer = self.buffer.check(folder)?;
        let tls = self.tls.check(folder)?;
        let access = self.access.check(folder)?;
        let search = self.search.check(folder, journal.is_some())?;
        let language = self.language.check(folder)?;
        if matches!(language, Language::OpenAi(_)) && !wording.answer_prefix.is_empty() {
            return Err(ConfigError(
                "generate.answer_prefix: without effect, because servers with language.backend = \
                 \"openai\" begin their answers themselves; remove it"
                    .into(),
            ));
        }
        let guards = Guards { tls: tls.is_some(), access: access.is_some() };
        let config = Config {
            model: self.model.check(folder, &language, search.is_some())?,
            search,
            language,
            wording,
            generate: self.generate.check()?,
            buffer,
            journal,
            grpc: self.grpc.check("grpc", 50051, 256, guards)?,
            http: self.http.check("http", 9090, 64, guards)?,
            tls,
            access,
            mqtt: self.mqtt.map(|mqtt| mqtt.check(folder)).transpose()?,
            traces: self.traces.check(folder)?,
            rules,
            targets,
            cameras,
            stop_timeout: at_least("stop_timeout", self.stop_timeout, Duration::ZERO)?,
            hang_timeout: at_least("hang_timeout", self.hang_timeout, Duration::from_secs(2))?,
            drop_in_folder: folder.join(self.drop_in_folder),
        };
        config.check_together()?;
        Ok(config)
    }
}

fn cameras(tables: Vec<CameraTable>, folder: &Path) -> Result<Vec<Camera>, ConfigError> {
    if tables.is_empty() {
        return Err(ConfigError("no [[camera]] table: wanted at least one".into()));
    }
    let mut names = HashSet::new();
    let check = |table: CameraTable| {
        let camera = table.check(folder)?;
        if !names.insert(camera.name.clone()) {
            let name = &camera.name;
            return Err(ConfigError(format!("two cameras are named {name:?}: rename one of them")));
        }
        Ok(camera)
    };
    tables.into_iter().map(check).collect()
}

/// Describes a place in the file, as in `line 12, [buffer] token_age: `.
fn place(text: &str, at: usize) -> String {
    let before = &text[..at];
    let number = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = text[start..].lines().next().unwrap_or_default().trim();
    let header = |line: &str| line.starts_with('[').then(|| header(line)).flatten();
    let table = header(line).or_else(|| before.lines().rev().find_map(|line| header(line.trim())));
    let names_key = |key: &&str| key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let key = line.split_once('=').map(|(key, _)| key.trim()).filter(names_key);
    let words: Vec<String> = table.into_iter().chain(key.map(String::from)).collect();
    if words.is_empty() {
        return format!("line {number}: ");
    }
    format!("line {number}, {}: ", words.join(" "))
}

/// Returns the header of a table without a comment that follows it.
fn header(line: &str) -> Option<String> {
    let end = line.rfind(']')?;
    let header = &line[..=end];
    header.chars().all(|c| c.is_ascii_alphanumeric() || "[]._".contains(c)).then(|| header.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        parse(text, Path::new("/")).unwrap_err().to_string()
    }

    #[test]
    fn an_error_names_line_table_and_key() {
        for (text, error) in [
            (
                "\n[buffer]\ntoken_agee = \"1s\"",
                "line 3, [buffer] token_agee: unknown key `token_agee`; the nearest known key is \
                 `token_age`",
            ),
            ("[[camera]] # gate\nfsp = 1", "line 2, [[camera]] fsp: unknown key `fsp`"),
            ("[bufer]", "line 1, [bufer]: unknown key `bufer`; the nearest known key is `buffer`"),
            ("stop_timeout = 5", "line 1, stop_timeout: "),
            ("[buffer.disk]\nbytes = \"much\"", "line 2, [buffer.disk] bytes: "),
            ("[model]\nprefill_chunk = -1", "line 2, [model] prefill_chunk: "),
            ("[grpc]\nlisten =", "line 2, [grpc] listen: "),
        ] {
            let refusal = refusal(text);
            assert!(refusal.starts_with(error), "{refusal}");
        }
    }

    #[test]
    fn a_missing_key_is_named() {
        let camera = "[[camera]]\nname = \"gate\"\n";
        assert!(refusal("").starts_with("no [[camera]] table"));
        assert!(refusal("[[camera]]").starts_with("camera.name is missing"));
        assert!(refusal(camera).starts_with("camera \"gate\": url is missing"));
        let camera = format!("{camera}url = \"rtsp://cam/x\"\n");
        assert!(refusal(&camera).starts_with("model.package is missing"));
        let servers = "[language]\nbackend = \"openai\"\nmodel = \"m\"\n\
                       endpoints = [\"http://a\"]\n";
        let openai = |more: &str| parse(&format!("{servers}{more}{camera}"), Path::new("/"));
        let config = openai("").expect("no package is needed");
        assert_eq!((config.model.package, config.model.plan.slow_frames), (None, 8));
        let error = openai("[model]\nplan = \"paper\"\npackage = \"p\"\n").unwrap_err();
        assert!(error.to_string().starts_with("model.package, model.plan: without"), "{error}");
        let error = openai("[generate]\nanswer_prefix = \"Well,\"\n").unwrap_err();
        assert!(error.to_string().starts_with("generate.answer_prefix: without"), "{error}");
        let error = parse(&format!("{servers}{camera}unchanged_threshold = 0.5"), Path::new("/"));
        let error = error.unwrap_err().to_string();
        assert!(
            error.starts_with("camera \"gate\": unchanged_threshold = 0.5: wanted 0"),
            "{error}"
        );
        let model = "[model]\npackage = \"p\"\n";
        let error = refusal(&format!("{model}[mqtt]\n{camera}"));
        assert!(error.starts_with("mqtt.broker is missing"), "{error}");
    }
}
