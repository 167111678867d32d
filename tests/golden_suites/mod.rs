//! Reads the golden set: manifest, cases, tensors, images. One module per suite.

pub mod e2e;
pub mod pooling;
pub mod preprocess;
pub mod sampling;
pub mod templates;
pub mod tokenization;

#[path = "../support/recorded.rs"]
mod recorded;

use std::path::PathBuf;
use std::{env, fs};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use recorded::{Picture, Tensor};

const FORMAT: &str = "slowfast-golden/1";

pub struct Golden {
    pub folder: PathBuf,
    manifest: Manifest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: String,
    #[serde(rename = "set")]
    _set: String,
    #[serde(rename = "versions")]
    _versions: Value,
    cases: Vec<Case>,
    files: Vec<File>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub id: String,
    pub suite: String,
    pub kind: String,
    json: String,
    pointer: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: String,
    bytes: usize,
    sha256: String,
}

/// A check of one case: takes its kind and its JSON, and returns an error if it fails.
pub type Check = fn(&Golden, &str, Value) -> Result<(), String>;

impl Golden {
    pub fn open() -> Golden {
        let folder = env::var_os("LOOKOUT_GOLDEN").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
            PathBuf::from,
        );
        let text = fs::read_to_string(folder.join("manifest.json"))
            .unwrap_or_else(|e| panic!("{}/manifest.json: {e}", folder.display()));
        let manifest: Manifest = serde_json::from_str(&text).expect("manifest.json");
        assert_eq!(manifest.format, FORMAT);
        Golden { folder, manifest }
    }

    pub fn cases(&self) -> &[Case] {
        &self.manifest.cases
    }

    /// Runs every case of a suite and reports all that fail.
    pub fn run(&self, suite: &str, check: Check) {
        let cases: Vec<&Case> = self.cases().iter().filter(|case| case.suite == suite).collect();
        assert!(!cases.is_empty(), "no case of {suite} in {}", self.folder.display());
        let failed: Vec<String> = cases
            .iter()
            .filter_map(|case| {
                let outcome = self.json(case).and_then(|json| check(self, &case.kind, json));
                outcome.err().map(|why| format!("{}: {why}", case.id))
            })
            .collect();
        let all = cases.len();
        assert!(failed.is_empty(), "{} of {all} failed:\n{}", failed.len(), failed.join("\n"));
        println!("{suite}: {all} cases");
    }

    fn json(&self, case: &Case) -> Result<Value, String> {
        let text = String::from_utf8(self.read(&case.json)?).map_err(|e| e.to_string())?;
        let whole: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        whole.pointer(&case.pointer).cloned().ok_or(format!("nothing at {}", case.pointer))
    }

    pub fn check_files(&self) {
        let mut failed = Vec::new();
        for File { path, bytes, sha256 } in &self.manifest.files {
            match self.read(path) {
                Ok(found) if found.len() == *bytes && hex_digest(&found) == *sha256 => {}
                Ok(_) => failed.push(format!("{path} is not as the manifest says")),
                Err(e) => failed.push(e),
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        fs::read(self.folder.join(path)).map_err(|e| format!("{path}: {e}"))
    }

    pub fn png(&self, path: &str) -> Result<Picture, String> {
        recorded::png(&self.folder.join(path))
    }

    pub fn npy(&self, path: &str) -> Result<Tensor, String> {
        recorded::npy(&self.folder.join(path))
    }
}

/// Parses a case; fails on an unknown field.
pub fn parse<T: DeserializeOwned>(json: Value) -> Result<T, String> {
    serde_json::from_value(json).map_err(|e| e.to_string())
}

pub fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares two values; the error names the difference.
pub fn equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    wanted: &T,
) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{what}: found {found:?}, wanted {wanted:?}"))
}
