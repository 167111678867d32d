//! Sends tokens in every way that a client can, right and wrong ones, and passwords of cameras that are
//! added while the daemon runs. Then it searches for them in all that the daemon and its commands print,
//! serve and store.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::secrets::{PATIENCE, Secrets};
use crate::support::*;

/// Runs a command of lookout with more variables. Returns all that it prints.
fn printed(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, Vec<u8>) {
    let mut command = Command::new(LOOKOUT);
    command.args(arguments).envs(variables.iter().copied()).env("RUST_LOG", "trace");
    let output = command.output().expect("lookout");
    (output.status.code(), [output.stdout, output.stderr].concat())
}

/// Sends a request over HTTP. Returns the whole reply, without the cookie of a session.
fn request(port: u16, line: &str, headers: &str, body: &str) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("HTTP");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("a request");
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).expect("a reply");
    let text = String::from_utf8_lossy(&reply).into_owned();
    let status = text.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
    // The browser gets the token back as its cookie, and from nowhere else.
    let is_cookie = |line: &&str| line.to_lowercase().starts_with("set-cookie: lookout_session=");
    let lines: Vec<&str> = text.lines().filter(|line| !is_cookie(line)).collect();
    (status, lines.join("\n").into_bytes())
}

/// Makes a token with the command, and returns it.
fn token(config: &Path, name: &str, options: &[&str]) -> String {
    let config = config.to_str().expect("a path");
    let arguments = [&["token", "add", name], options, &["--config", config]].concat();
    let output = Command::new(LOOKOUT).args(&arguments).output().expect("lookout");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let token = out.split_whitespace().find(|word| word.starts_with("lookout_"));
    token.unwrap_or_else(|| panic!("no token in {out}")).to_owned()
}

/// A client that sends tokens, and keeps all that it gets.
struct Client<'a> {
    grpc: u16,
    http: u16,
    secret_dir: &'a Path,
}

type Seen = Vec<(String, Vec<u8>)>;

impl Client<'_> {
    /// Sends a token in every way that the daemon reads.
    fn use_token(&self, place: &str, token: &str, seen: &mut Seen) {
        let mut send = |line: &str, headers: &str, body: &str| {
            let (_, reply) = request(self.http, line, headers, body);
            seen.push((format!("{line} with the {place}"), reply));
        };
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        for headers in [
            format!("Authorization: Bearer {token}\r\n"),
            format!("Cookie: lookout_session={token}\r\n"),
        ] {
            send("GET /api/v1/events?limit=2", &headers, "");
            send("GET /metrics", &headers, "");
            send("POST /mcp", &headers, call);
        }
        send("POST /api/v1/session", "", &format!("{{\"token\":\"{token}\"}}"));
        let file = self.secret_dir.join("token");
        fs::write(&file, token).expect("a token");
        let file = file.to_str().expect("a path");
        let server = format!("http://127.0.0.1:{}", self.grpc);
        let by_file = ["--server", &server, "--token-file", file];
        for (arguments, variables) in [
            ([&["cameras"], &by_file[..]].concat(), vec![]),
            ([&["ask", "gate", "Who?"], &by_file[..]].concat(), vec![]),
            (vec!["cameras", "--server", &server], vec![("LOOKOUT_TOKEN", token)]),
            (vec!["cameras", "--server", "http://127.0.0.1:1", "--token-file", file], vec![]),
        ] {
            seen.push((arguments.join(" "), printed(&arguments, &variables).1));
        }
        let address = format!("127.0.0.1:{}", self.http);
        let mut command = Command::new(LOOKOUT);
        command.args(["mcp", "--http", &address, "--token-file", file]).env("RUST_LOG", "trace");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut mcp = command.spawn().expect("lookout mcp");
        let call = format!("{call}\n");
        mcp.stdin.take().expect("stdin").write_all(call.as_bytes()).expect("a call");
        let output = mcp.wait_with_output().expect("lookout mcp");
        seen.push(("lookout mcp".into(), [output.stdout, output.stderr].concat()));
    }

    /// Sends a token where the daemon does not read it.
    fn misuse_token(&self, place: &str, token: &str, seen: &mut Seen) {
        for (line, headers, body) in [
            (format!("GET /api/v1/events?token={token}"), String::new(), String::new()),
            (format!("GET /api/v1/events/{token}"), String::new(), String::new()),
            ("GET /api/v1/events".into(), format!("Authorization: {token}\r\n"), String::new()),
            ("GET /metrics".into(), format!("Authorization: Basic {token}\r\n"), String::new()),
            ("POST /api/v1/session".into(), String::new(), format!("{{\"token\":{token}")),
            ("POST /api/v1/session".into(), String::new(), format!("{{\"token\":[\"{token}\"]}}")),
        ] {
            let (status, reply) = request(self.http, &line, &headers, &body);
            assert!(status >= 400, "{line}: {status}");
            seen.push((format!("a misused {place}"), reply));
        }
    }
}

#[test]
fn no_token_of_a_client_leaves_the_daemon() {
    let (folder, files) = (folder(), folder());
    let (dir, secret_dir) = (folder.path(), files.path());
    let (grpc, http) = (free_port(), free_port());
    let file_camera = camera("gate", &format!("file:{}", clip("drive").display()), "");
    let config = head(grpc, http, None)
        + &format!(
            "[access]\nenabled = true\nfolder = {:?}\n[journal]\nfolder = {:?}\n",
            dir.join("access"),
            dir.join("journal")
        )
        + &file_camera;
    // The config and the drop-ins contain passwords, as they must.
    let config_file = secret_dir.join("lookout.toml");
    fs::write(&config_file, &config).expect("config");
    let mut secrets = Secrets(BTreeMap::new());
    for (place, name, options) in [
        ("view token", "viewer", &["--role", "view"][..]),
        ("admin token", "chief", &["--role", "admin"]),
        ("limited token", "guest", &["--role", "ask", "--camera", "gate"]),
        ("expired token", "old", &["--role", "admin", "--expires", "1ns"]),
    ] {
        secrets.0.insert(place, token(&config_file, name, options));
    }
    // A wrong token may be a right one of another daemon.
    secrets.plant("wrong token");
    let mut command = Command::new(LOOKOUT);
    command.args(["run", "--config"]).arg(&config_file).stdout(Stdio::null());
    command.env("RUST_LOG", "trace,ort=warn,rmcp=trace").env("GST_DEBUG", "1");
    let mut process = Process::start("lookout", &mut command, dir);
    let server = format!("http://127.0.0.1:{grpc}");
    let admin = secrets.0["admin token"].clone();
    wait_for("the daemon", PATIENCE, || {
        assert!(process.is_running(), "the daemon ended: {}", process.log());
        let (code, _) = printed(&["cameras", "--server", &server], &[("LOOKOUT_TOKEN", &admin)]);
        (code == Some(0)).then_some(())
    });
    let mut seen = Vec::new();

    let is_valid = |place: &str| !["wrong token", "expired token"].contains(&place);
    let mut tokens: Vec<(&str, String)> =
        secrets.0.iter().map(|(place, text)| (*place, text.clone())).collect();
    // The wrong ones last, because they make the address wait.
    tokens.sort_by_key(|(place, _)| !is_valid(place));
    let (valid, others) = tokens.split_at(3);
    let client = Client { grpc, http, secret_dir };
    for (place, token) in valid {
        client.use_token(place, token, &mut seen);
        let headers = format!("Authorization: Bearer {token}\r\n");
        let (status, _) = request(http, "GET /api/v1/access", &headers, "");
        assert_eq!(status, 200, "{place}");
    }

    // The password of a camera that a client adds is in its drop-in only, which its owner can read.
    let added = secrets.plant("password of an added camera");
    let url = format!("rtsp://me:{added}@127.0.0.1:1/x");
    let variables = [("LOOKOUT_TOKEN", admin.as_str())];
    let config = config_file.to_str().expect("a path");
    for (arguments, wanted) in [
        (&["camera", "add", "hall", "--url", &url, "--force", "--server", &server][..], 0),
        (&["camera", "add", "hall", "--url", &url, "--force", "--server", &server], 1),
        (&["camera", "add", "a b", "--url", &url, "--server", &server], 1),
        (&["camera", "add", "yard", "--url", &url, "--server", &server], 1),
        (&["camera", "update", "hall", "--set", &format!("ulr={url}"), "--server", &server], 1),
        (&["camera", "update", "hall", "--set", &format!("fps={url}"), "--server", &server], 1),
        (&["cameras", "--json", "--server", &server], 0),
        (&["reload", "--server", &server], 0),
        (&["events", "--json", "--server", &server], 0),
        (&["token", "list", "--config", config], 0),
        // The ports are taken.
        (&["check", "--config", config], 2),
    ] {
        let (code, out) = printed(arguments, &variables);
        assert_eq!(code, Some(wanted), "{arguments:?}: {}", String::from_utf8_lossy(&out));
        seen.push((arguments[..2].join(" "), out));
    }
    let drop_in = secret_dir.join("lookout.d/hall.toml");
    let text = fs::read_to_string(&drop_in).expect("the drop-in");
    assert!(text.contains(&added), "{text}");
    let mode = fs::metadata(&drop_in).expect("the drop-in").permissions().mode();
    assert_eq!(mode & 0o077, 0, "others can read {}", drop_in.display());
    for (place, token) in others {
        client.use_token(place, token, &mut seen);
        client.misuse_token(place, token, &mut seen);
    }
    process.signal(libc::SIGTERM);
    process.ended(PATIENCE);

    assert_eq!(secrets.0.len(), 6, "{:?}", secrets.0.keys());
    assert!(process.log().contains("TRACE"), "the log is not complete");
    let audit = fs::read_to_string(dir.join("access/audit.jsonl")).expect("the audit log");
    assert!(audit.contains("\"chief\"") && audit.contains("\"guest\""), "{audit}");
    for (what, text) in &seen {
        secrets.assert_not_in(what, text);
    }
    // The log, the journal, the tokens' hashes and the audit log.
    secrets.assert_not_below(dir);
}
