//! Tests `lookout fetch` with a server that speaks the hub's protocol.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::hub::{COMMIT, Hub, NAME, Repository, TOKEN};
use super::small_disk::SmallDisk;
use super::{PLAN, demo};

const DECODER: &str = "onnx/decoder_model_merged.onnx";

/// Runs of `lookout fetch` in a folder of their own.
struct Fetching {
    hub: Hub,
    folder: TempDir,
}

struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Returns the files of a folder and its folders, by their paths in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for part in ["", "onnx"] {
        for entry in fs::read_dir(folder.join(part)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                let name = path.strip_prefix(folder).expect("inside").display().to_string();
                found.insert(name, fs::read(&path).expect("bytes"));
            }
        }
    }
    found
}

/// The demo's package, with files that are not part of a package.
fn package() -> Repository {
    let mut files = files(&demo());
    files.insert("README.md".into(), b"# A model".to_vec());
    files.insert("model.safetensors".into(), b"other weights".to_vec());
    files.insert("onnx/decoder_model.onnx".into(), b"another graph".to_vec());
    Repository { files, licence: Some("apache-2.0"), ..Repository::default() }
}

impl Fetching {
    fn of(repository: Repository) -> Fetching {
        Fetching { hub: Hub::start(repository), folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str], token: Option<&str>) -> Done {
        let output = self.prepared(arguments, token).output().expect("lookout");
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into());
        Done { code: output.status.code(), stdout, stderr }
    }

    fn prepared(&self, arguments: &[&str], token: Option<&str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lookout"));
        command.args(["--log", "warn", "fetch", "--device", "cpu"]);
        let plan = if arguments.contains(&"--plan") { &[][..] } else { &["--plan", PLAN] };
        command
            .args(plan)
            .args(arguments)
            .current_dir(self.folder.path())
            .env("HF_ENDPOINT", &self.hub.url);
        // The tokens of whoever runs the tests.
        command.env_remove("HF_TOKEN_PATH").env("HF_HOME", self.folder.path());
        match token {
            Some(token) => command.env("HF_TOKEN", token),
            None => command.env_remove("HF_TOKEN"),
        };
        command
    }

    /// Fetches the package into the folder `llava`, and compares it with the demo's.
    fn succeeds(&self) -> Done {
        let done = self.command(&[NAME], None);
        self.is_whole(&done);
        done
    }

    fn is_whole(&self, done: &Done) {
        assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
        // The test's failure would print all bytes.
        assert!(files(&self.path("llava")) == files(&demo()), "other files: {}", done.stderr);
        assert!(!self.path("llava.partial").exists(), "{}", done.stderr);
    }

    /// Checks that a command ends with this exit code and with one error that contains all of
    /// `wanted`, and that no folder appears.
    fn fails(&self, arguments: &[&str], token: Option<&str>, code: i32, wanted: &[&str]) {
        let done = self.command(arguments, token);
        assert_eq!(done.code, Some(code), "{}{}", done.stdout, done.stderr);
        let error = done.stderr.lines().find(|line| line.starts_with("lookout: "));
        let error = error.unwrap_or_else(|| panic!("no error: {}", done.stderr));
        for part in wanted {
            assert!(error.contains(part), "{error:?} does not contain {part:?}");
        }
        assert!(!done.stderr.contains(TOKEN), "{}", done.stderr);
        assert!(!self.path("llava").exists(), "{}", done.stderr);
    }

    /// Returns the ranges of the requests that brought bytes of a file.
    fn ranges(&self, file: &str) -> Vec<Option<String>> {
        let of_file = self.hub.requested().into_iter().filter(|request| {
            request.file == file && (request.of_large_files || !file.starts_with("onnx/"))
        });
        of_file.map(|request| request.range).collect()
    }
}

#[test]
fn a_package_is_fetched_and_runs() {
    let fetching = Fetching::of(package());
    let done = fetching.command(&[&format!("{NAME}@{COMMIT}"), "llava"], Some(TOKEN));
    fetching.is_whole(&done);
    assert!(done.stdout.contains("runs        yes"), "{}", done.stdout);
    assert!(done.stdout.contains("llava (llava)"), "{}", done.stdout);
    for part in ["licence: apache-2.0", &COMMIT[..12], "8 files", "llava is complete"] {
        assert!(done.stderr.contains(part), "{part:?} is not in {}", done.stderr);
    }
    assert!(!format!("{}{}", done.stdout, done.stderr).contains(TOKEN));
    let requested = fetching.hub.requested();
    let large = requested.iter().filter(|request| request.of_large_files).count();
    assert_eq!((requested.len(), large), (11, 3), "{requested:?}");
    for request in requested {
        // The token must not follow a redirect to another server.
        assert_eq!(request.authorization.is_some(), !request.of_large_files, "{request:?}");
    }

    let again = fetching.command(&[NAME], None);
    assert_eq!(again.code, Some(2), "{}", again.stderr);
    assert!(again.stderr.contains("llava is not empty"), "{}", again.stderr);
}

#[test]
fn a_package_that_cannot_run_is_kept_and_described() {
    let fetching = Fetching::of(package());
    let done = fetching.command(&[NAME, "there/new", "--plan", "paper", "--json"], None);
    assert_eq!(done.code, Some(2), "{}", done.stderr);
    let found: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    assert!(found["refusals"][0].as_str().expect("a reason").contains("context of 1024 tokens"));
    assert!(files(&fetching.path("there/new")) == files(&demo()));
}

#[test]
fn a_connection_that_is_cut_is_continued() {
    let mut repository = package();
    repository.cut.insert(DECODER, 1000);
    repository.cut.insert("tokenizer.json", 10);
    repository.unavailable.insert("config.json", 2);
    let fetching = Fetching::of(repository);
    let done = fetching.succeeds();
    assert!(done.stderr.contains(&format!("{DECODER}: ")), "{}", done.stderr);
    assert!(done.stderr.contains("config.json: it answered 503"), "{}", done.stderr);
    assert_eq!(fetching.ranges(DECODER), [None, Some("bytes=1000-".into())]);
}

#[test]
fn a_server_without_ranges_sends_the_file_again() {
    let mut repository = package();
    repository.cut.insert(DECODER, 1000);
    repository.without_ranges = true;
    let fetching = Fetching::of(repository);
    fetching.succeeds();
    assert_eq!(fetching.ranges(DECODER), [None, Some("bytes=1000-".into())]);
}

#[test]
fn a_download_that_was_killed_continues() {
    let mut repository = package();
    repository.hang.insert(DECODER, 3000);
    let fetching = Fetching::of(repository);
    let mut child =
        fetching.prepared(&[NAME], None).stderr(Stdio::null()).spawn().expect("lookout");
    let part = fetching.path("llava.partial").join(format!("{DECODER}.part"));
    let length = || fs::metadata(&part).map_or(0, |found| found.len());
    let deadline = Instant::now() + Duration::from_secs(60);
    while length() < 3000 {
        assert!(Instant::now() < deadline, "{} bytes", length());
        thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    fetching.hub.requested();
    fetching.succeeds();
    let requested = fetching.hub.requested();
    // Redirected once. The other files were complete.
    assert_eq!(requested.len(), 2, "{requested:?}");
    for request in requested {
        assert_eq!(request.range.as_deref(), Some("bytes=3000-"), "{request:?}");
    }
}

#[test]
fn a_full_disk_is_reported_before_the_download() {
    let fetching = Fetching::of(package());
    let Some(disk) = SmallDisk::mount(fetching.path("disk")) else { return };
    disk.fill();
    let folder = disk.0.join("llava");
    let folder = folder.to_str().expect("a path");
    // Folders need no room on this file system.
    fetching.fails(&[NAME, folder], None, 2, &["llava.partial", "are needed", "0 B are free"]);
    assert_eq!(fetching.hub.requested(), []);
    disk.empty();
    let done = fetching.command(&[NAME, folder], None);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}

#[test]
fn files_of_an_earlier_run_are_used_if_they_fit() {
    let repository = package();
    let fetching = Fetching::of(repository.clone());
    let partial = fetching.path("llava.partial");
    fs::create_dir_all(partial.join("onnx")).expect("made");
    let write = |name: &str, bytes: &[u8]| fs::write(partial.join(name), bytes).expect("written");
    write(&format!("{DECODER}.part"), &repository.files[DECODER][..5000]);
    // Complete: not requested again.
    write("tokenizer.json", &repository.files["tokenizer.json"]);
    // Longer than the file, of another version, and of another choice of graphs.
    write("config.json.part", &[b'x'; 100_000]);
    write("onnx/embed_tokens.onnx.part", b"the beginning of another version");
    write("onnx/decoder_model_merged_q4.onnx", b"another graph");
    fetching.succeeds();
    let requested = fetching.hub.requested();
    let count = |file: &str| requested.iter().filter(|request| request.file == file).count();
    assert_eq!(count("tokenizer.json"), 0, "{requested:?}");
    assert_eq!(count(DECODER), 2, "{requested:?}");
    // Redirected twice: for the rest of the other version, and for the whole file.
    assert_eq!(count("onnx/embed_tokens.onnx"), 4, "{requested:?}");
    let decoder = requested.iter().filter(|request| request.file == DECODER);
    for request in decoder {
        assert_eq!(request.range.as_deref(), Some("bytes=5000-"), "{request:?}");
    }
}

#[test]
fn a_damaged_file_is_removed() {
    for (file, kind) in [(DECODER, "SHA-256"), ("config.json", "git SHA-1")] {
        let mut repository = package();
        repository.damaged.insert(file);
        let fetching = Fetching::of(repository);
        fetching.fails(&[NAME], None, 2, &[file, "damaged", kind, "run this again"]);
        fetching.hub.change(|repository| repository.damaged.clear());
        fetching.succeeds();
    }
}

#[test]
fn a_file_that_is_listed_and_missing_is_named() {
    let mut repository = package();
    repository.missing.insert("tokenizer.json");
    let fetching = Fetching::of(repository);
    fetching.fails(&[NAME], None, 2, &["lists tokenizer.json", "does not have it"]);
}

#[test]
fn a_gated_repository_needs_a_token() {
    let fetching = Fetching::of(Repository { gated: true, licence: None, ..package() });
    let page = format!("{}/{NAME}", fetching.hub.url);
    fetching.fails(&[NAME], None, 2, &["gated", &page, "accept the conditions", "HF_TOKEN"]);
    fetching.fails(&[NAME], Some("hf_of_another"), 2, &["gated", "may not read it"]);
    // The login of `hf auth login`.
    fs::write(fetching.path("token"), TOKEN).expect("written");
    let done = fetching.succeeds();
    assert!(done.stderr.contains("licence: not stated"), "{}", done.stderr);
}

#[test]
fn a_repository_without_a_package_is_refused() {
    let fetching = Fetching::of(package());
    let refused = |arguments: &[&str], wanted: &[&str]| fetching.fails(arguments, None, 2, wanted);
    refused(&["nobody/nothing"], &["nobody/nothing", "no such public repository", "HF_TOKEN"]);
    refused(&[&format!("{NAME}@v9")], &["no revision \"v9\""]);
    refused(&[NAME, "--precision", "q4"], &["vision_encoder in \"q4\"", "onnx/ holds fp32"]);
    fetching.hub.change(|repository| {
        repository.files.insert("onnx/vision_encoder_q4.onnx".into(), b"graph".to_vec());
    });
    refused(&[NAME], &["vision_encoder in fp32 (2.0 MiB), q4 (5 B)", "--precision"]);
    fetching.hub.change(|repository| {
        repository.files.retain(|name, _| !name.starts_with("onnx/"));
    });
    refused(&[NAME], &["not a model package", "vision_encoder.onnx is missing", "lookout-export"]);
}

#[test]
fn a_server_that_is_not_a_hub_is_named() {
    let fetching = Fetching::of(package());
    let endpoint = fetching.hub.url.clone();
    let refused = |wanted: &[&str]| fetching.fails(&[NAME], None, 2, wanted);
    for text in ["<html>Please log in</html>", "{}", "{\"sha\": \"../../main\"}"] {
        fetching.hub.change(|repository| repository.instead_of_listing = Some(text));
        refused(&[&endpoint, "the answer is not a repository's list of files"]);
    }
    fetching.hub.change(|repository| {
        repository.instead_of_listing = None;
        repository.redirect = Some("?again");
    });
    refused(&[&endpoint, "more than 8 redirects"]);
    fetching.hub.change(|repository| repository.redirect = Some("file:///etc/passwd"));
    refused(&[&endpoint, "a redirect without an address"]);
}

#[test]
fn a_hub_that_cannot_be_reached_is_named() {
    let fetching = Fetching::of(package());
    // Every connection is closed without an answer.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || listener.incoming().for_each(drop));
    let arguments = [NAME, "--endpoint", &endpoint];
    fetching.fails(&arguments, None, 1, &[&endpoint, "the same command continues"]);
    fetching.fails(
        &[NAME, "--endpoint", "https://user:s3cret@hub"],
        None,
        2,
        &["HF_ENDPOINT", "wanted a URL"],
    );
}
