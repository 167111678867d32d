//! Runs the commands of `docs/backup.md`: saves an installed daemon while it runs, deletes all of it,
//! restores it, and compares.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::support::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// An installation below a folder in place of `/`.
struct Installed {
    root: tempfile::TempDir,
    cameras: Cameras,
    ports: [u16; 2],
}

impl Installed {
    fn new() -> Installed {
        let root = folder();
        let cameras = Cameras::start(root.path(), 0, &[("gate", &clip("gate"))], &[]);
        let installed = Installed { root, cameras, ports: [free_port(), free_port()] };
        let text = fs::read_to_string(repository().join("configs/installed.toml")).expect("config");
        let [grpc, http] = installed.ports;
        let package = repository().join("models/demo/package");
        let text = text.replace("/usr/share/lookout/demo/package", &package.to_string_lossy())
            + &camera("gate", &installed.cameras.url("gate"), "")
            + &format!(
                "[grpc]\nlisten = \"127.0.0.1:{grpc}\"\n[http]\nlisten = \"127.0.0.1:{http}\"\n\
                 [access]\nfolder = \"/var/lib/lookout/access\"\n"
            );
        let write = |file: &str, text: String| fs::write(installed.path(file), text).expect(file);
        fs::create_dir_all(installed.path("/etc/lookout")).expect("/etc/lookout");
        write("/etc/lookout/lookout.toml", installed.below(&text));
        // The daemon of this test asks for no token; the commands that make tokens insist on it.
        let with_access = text.replace("[access]", "[access]\nenabled = true");
        write("/etc/lookout/access.toml", installed.below(&with_access));
        installed
    }

    fn path(&self, absolute: &str) -> std::path::PathBuf {
        self.root.path().join(absolute.trim_start_matches('/'))
    }

    /// Puts the paths of an installation below the folder.
    fn below(&self, text: &str) -> String {
        let root = self.root.path().display();
        let mut text = text.replace("-C / ", &format!("-C {root} "));
        for folder in ["/etc/lookout", "/var/lib/lookout", "/backup"] {
            text = text.replace(&format!(" {folder}"), &format!(" {root}{folder}"));
            for quote in ['"', '\''] {
                text = text.replace(&format!("{quote}{folder}"), &format!("{quote}{root}{folder}"));
            }
        }
        text
    }

    fn daemon(&self) -> Daemon {
        let mut command = Command::new(LOOKOUT);
        command.args(["run", "--config"]).arg(self.path("/etc/lookout/lookout.toml"));
        let [grpc, http] = self.ports;
        Daemon::by(command, self.root.path(), grpc, http)
    }

    /// Runs a block of the document as a shell does, in which `sudo` and `systemctl` do nothing.
    fn shell(&self, block: &str) {
        // The user of the service is the one that runs the test.
        let script = self.below(block).replace("lookout:lookout", "$(id -u):$(id -g)");
        let script = format!("set -eu\nsudo() {{ \"$@\"; }}\nsystemctl() {{ :; }}\n{script}");
        let output = Command::new("bash").args(["-c", &script]).output().expect("bash");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{script}\n{error}");
    }

    /// Makes a token, or lists the tokens.
    fn token(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(LOOKOUT);
        command.arg("token").args(arguments).arg("--config");
        let output = command.arg(self.path("/etc/lookout/access.toml")).output().expect("lookout");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Returns the block of the document behind a mark.
fn block(mark: &str) -> String {
    let document = fs::read_to_string(repository().join("docs/backup.md")).expect("docs/backup.md");
    let (_, rest) = document.split_once(&format!("<!-- tested: {mark} -->\n```\n")).expect(mark);
    rest.split_once("```").expect("the block's end").0.to_owned()
}

/// Returns the captions of the journal.
fn captions(daemon: &Daemon) -> Vec<Value> {
    let (_, printed, _) =
        daemon.client(&["events", "--kind", "caption", "--limit", "1000", "--json"]);
    printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn wait_for_captions(daemon: &Daemon) {
    wait_for("three captions", PATIENCE, || (captions(daemon).len() >= 3).then_some(()));
}

#[test]
fn a_saved_installation_is_restored() {
    let installed = Installed::new();
    let daemon = installed.daemon();
    installed.token(&["add", "anna", "--role", "view"]);
    let url = installed.cameras.url("gate");
    let (code, _, error) = daemon.client(&["camera", "add", "hall", "--url", &url]);
    assert_eq!(code, Some(0), "{error}");
    wait_for_captions(&daemon);
    let (before, tokens) = (captions(&daemon), installed.token(&["list"]));
    installed.shell(&block("backup"));
    // The daemon continues, and its journal too: a copy that is not consistent would be noticed.
    wait_for("a caption after the backup", PATIENCE, || {
        (captions(&daemon).len() > before.len()).then_some(())
    });
    drop(daemon);

    for lost in ["/etc/lookout", "/var/lib/lookout"] {
        fs::remove_dir_all(installed.path(lost)).expect(lost);
    }
    // Files of a database that was there before the restored one.
    let journal = installed.path("/var/lib/lookout/journal");
    fs::create_dir_all(&journal).expect("the journal's folder");
    for other in ["events.sqlite-wal", "events.sqlite-shm"] {
        fs::write(journal.join(other), "of another database").expect(other);
    }
    installed.shell(&block("restore"));

    let daemon = installed.daemon();
    let after = captions(&daemon);
    for caption in &before {
        assert!(after.contains(caption), "{caption} is missing");
    }
    assert_eq!(installed.token(&["list"]), tokens);
    let cameras = daemon.client(&["cameras"]).1;
    assert!(cameras.contains("\nhall "), "{cameras}");
    assert!(set_aside(&journal).is_empty(), "{:?}", set_aside(&journal));
    wait_for("a caption after the restore", PATIENCE, || {
        let is_new = |caption: &Value| caption["run"] != before[0]["run"];
        captions(&daemon).iter().any(is_new).then_some(())
    });
}

/// Returns the databases that the daemon set aside because they were damaged.
fn set_aside(journal: &Path) -> Vec<String> {
    let files = fs::read_dir(journal).expect("the journal's folder");
    let names = files.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains("corrupt")).collect()
}
