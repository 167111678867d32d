//! Tests what `make install` and the packages contain in addition to the program: manual pages,
//! completions of shells, the systemd unit and the config that they install.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use support::*;
use tempfile::TempDir;

/// Writes the manual pages or the completions to a folder.
fn generated(files: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    let written = Command::new(LOOKOUT).args(["generate", files]).arg(folder.path()).output();
    let written = written.expect("lookout generate");
    assert!(written.status.success(), "{written:?}");
    folder
}

/// Returns true if a program is installed; says on stdout what is not tested without it.
fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        println!("not tested: {program} is not installed");
    }
    found
}

/// Runs a program and returns its output, which must end with success.
fn output(program: &str, args: &[&str], folder: &Path) -> Output {
    let output = Command::new(program)
        .args(args)
        .current_dir(folder)
        .env("HOME", folder)
        .env("LC_ALL", "C.UTF-8")
        .env("MANWIDTH", "80")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    output
}

#[test]
fn every_command_has_a_manual_page_without_warnings() {
    let folder = generated("man");
    let configuration = repository().join("docs/lookout.toml.5");
    fs::copy(configuration, folder.path().join("lookout.toml.5")).expect("copy");
    let pages: Vec<String> = fs::read_dir(folder.path())
        .expect("folder")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    let command = lookout::cli::command();
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        let page = format!("lookout-{}.1", command.get_name());
        assert!(pages.contains(&page), "{page} is missing in {pages:?}");
    }
    assert!(!pages.iter().any(|page| page.contains("generate")), "{pages:?}");
    for page in &pages {
        let args = ["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page];
        let rendered = output("man", &args, folder.path());
        let warnings = String::from_utf8_lossy(&rendered.stderr).into_owned();
        assert!(warnings.is_empty(), "{page}: {warnings}");
    }
    if installed("mandoc") {
        let mut args = vec!["-T", "lint", "-W", "error"];
        args.extend(pages.iter().map(String::as_str));
        output("mandoc", &args, folder.path());
    }
}

#[test]
fn bash_completes_commands() {
    let folder = generated("completions");
    let script = "source lookout.bash; complete -p lookout; COMP_WORDS=(lookout se); COMP_CWORD=1; \
                  _lookout lookout se lookout; echo \"found: ${COMPREPLY[*]}\"";
    let completed = output("bash", &["--norc", "-c", script], folder.path());
    let completed = String::from_utf8_lossy(&completed.stdout).into_owned();
    assert!(completed.contains("found: search"), "{completed}");
    let text = fs::read_to_string(folder.path().join("lookout.bash")).expect("lookout.bash");
    assert!(!text.contains("demo-cameras"), "a hidden command is offered");
}

#[test]
fn zsh_and_fish_load_their_completions() {
    let folder = generated("completions");
    if installed("zsh") {
        let script = "fpath=($PWD $fpath); autoload -Uz compinit; compinit -D -u; \
                      print found: $_comps[lookout]; autoload +X -Uz _lookout";
        let loaded = output("zsh", &["-f", "-c", script], folder.path());
        let loaded = String::from_utf8_lossy(&loaded.stdout).into_owned();
        assert!(loaded.contains("found: _lookout"), "{loaded}");
    }
    if installed("fish") {
        let script = "source lookout.fish; complete -C 'lookout se'";
        let completed = output("fish", &["--no-config", "-c", script], folder.path());
        let completed = String::from_utf8_lossy(&completed.stdout).into_owned();
        assert!(completed.starts_with("search\t"), "{completed}");
    }
}

#[test]
fn the_unit_is_hardened_with_and_without_a_gpu() {
    if !installed("systemd-analyze") {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let read = |name: &str| {
        let path = repository().join("systemd").join(name);
        fs::read_to_string(path).expect(name)
    };
    let unit = read("lookout.service");
    for drop_in in [None, Some("lookout-nvidia.conf"), Some("lookout-vaapi.conf")] {
        // `systemd-analyze` reads no drop-in of a file that it is given.
        let (before, after) = unit.split_once("[Install]").expect("[Install]");
        let more = drop_in.map(read).unwrap_or_default();
        let file = folder.path().join("lookout.service");
        fs::write(&file, format!("{before}{more}\n[Install]{after}")).expect("write");
        let args = ["security", "--offline=true", "--threshold=20", "lookout.service"];
        let checked = output("systemd-analyze", &args, folder.path());
        let text = String::from_utf8_lossy(&checked.stdout).into_owned();
        let exposure = text.lines().last().unwrap_or_default().to_owned();
        assert!(exposure.contains("Overall exposure level"), "{drop_in:?}: {text}");
        println!("{drop_in:?}: {exposure}");
    }
}

#[test]
fn the_installed_config_lacks_only_a_camera() {
    let path = repository().join("configs/installed.toml");
    let text = fs::read_to_string(path).expect("installed.toml");
    let parse = |text: &str| {
        lookout::config::Config::parse(text, Path::new("/etc/lookout")).map_err(|e| e.to_string())
    };
    let error = parse(&text).expect_err("no camera");
    assert!(error.contains("no [[camera]] table"), "{error}");
    // Every commented line is a key or a table that the daemon knows.
    let is_code =
        |line: &str| line.starts_with("#[") || line.contains(" = \"") && !line.contains("# ");
    let all: Vec<&str> = text
        .lines()
        .map(|line| if is_code(line) { line.trim_start_matches('#') } else { line })
        .collect();
    let config = parse(&all.join("\n")).expect("every line");
    assert_eq!(config.cameras.len(), 1);
    assert!(config.search.is_some() && config.mqtt.is_some());
}

/// Compares the unit, which makes all but its folders read-only, with the folders that the installed
/// config makes the daemon write to.
#[test]
fn the_daemon_writes_only_where_the_unit_permits_it() {
    let read = |name: &str| fs::read_to_string(repository().join(name)).expect(name);
    let unit = read("systemd/lookout.service");
    let setting = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("the unit has no {key}")).to_owned()
    };
    assert_eq!(setting("ProtectSystem"), "strict");
    let state = Path::new("/var/lib").join(setting("StateDirectory"));
    let text =
        read("configs/installed.toml") + "[[camera]]\nname = \"gate\"\nurl = \"rtsp://h/\"\n";
    // The tokens' folder is a default: the config need not name it.
    let text = text + "[access]\nenabled = true\n";
    let config =
        lookout::config::Config::parse(&text, Path::new("/etc/lookout")).expect("a config");
    let written = [
        ("drop_in_folder", Some(config.drop_in_folder)),
        ("buffer.disk.folder", config.buffer.disk.map(|disk| disk.folder)),
        ("journal.folder", config.journal.map(|journal| journal.folder)),
        ("access.folder", config.access.map(|access| access.folder)),
    ];
    let install = read("docs/install.md");
    for (key, folder) in written {
        let folder = folder.unwrap_or_else(|| panic!("installed.toml does not set {key}"));
        let inside = folder.strip_prefix(&state);
        assert!(inside.is_ok(), "{key} = {folder:?}: the unit permits {state:?} only");
    }
    // Who owns them is the same everywhere.
    let user = setting("User");
    assert!(read("systemd/sysusers/lookout.conf").contains(&format!("u {user} ")));
    let owner = format!("install -d -o {user} -g {user} -m 700 {}", state.display());
    assert!(read("packaging/deb/postinst").contains(&owner), "postinst: no {owner}");
    assert!(install.contains(&format!("| `{}` |", state.display())), "docs/install.md");
    assert!(read("packaging/compose.yaml").contains(&format!("state:{}\n", state.display())));
}
