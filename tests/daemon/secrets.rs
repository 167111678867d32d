//! Plants secrets in every place that has one, makes everything fail that can, and searches for them
//! in all that the daemon and its commands print, serve and store.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};

use crate::support::*;

pub const PATIENCE: Duration = Duration::from_secs(60);

/// Secrets by their place. Each is unlike any other text.
pub struct Secrets(pub BTreeMap<&'static str, String>);

impl Secrets {
    pub fn plant(&mut self, place: &'static str) -> String {
        let secret = format!("Planted{:016x}", rand::random::<u64>());
        self.0.insert(place, secret.clone());
        secret
    }

    /// Fails if a text contains a secret, also in an encoding that programs use.
    pub fn assert_not_in(&self, what: &str, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        for (place, secret) in &self.0 {
            let bytes: Vec<String> = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
            let numbers: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
            for form in [secret.clone(), bytes.concat(), numbers.join(", ")] {
                if let Some(at) = text.find(&form) {
                    let line = text[..at].matches('\n').count();
                    let line = text.lines().nth(line).unwrap_or_default();
                    panic!("the secret of {place} is in {what}: {line}");
                }
            }
            // Base64 of `user:password` and of other texts: any of three alignments.
            for encoded in base64(secret) {
                assert!(!text.contains(&encoded), "the secret of {place} is in {what} as base64");
            }
        }
    }

    /// Fails if a file in the folder contains a secret.
    pub fn assert_not_below(&self, folder: &Path) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                self.assert_not_below(&path);
            } else {
                let contents = fs::read(&path).unwrap_or_default();
                self.assert_not_in(&path.display().to_string(), &contents);
            }
        }
    }
}

/// Returns the part of the base64 of a longer text that depends only on `text`, for each of the
/// three alignments.
fn base64(text: &str) -> [String; 3] {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    [0, 1, 2].map(|skipped| {
        let whole = text.as_bytes()[skipped..].chunks_exact(3);
        let letters = whole.flat_map(|three| {
            let bits = three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
            [18, 12, 6, 0].map(|shift| char::from(LETTERS[bits >> shift & 63]))
        });
        letters.collect()
    })
}

#[test]
fn an_encoded_secret_is_found() {
    let secrets = Secrets(BTreeMap::from([("a place", "Planted0123456789".to_owned())]));
    for text in [
        "x Planted0123456789 y",
        "Basic dmlld2VyOlBsYW50ZWQwMTIzNDU2Nzg5",
        "[80, 108, 97, 110, 116, 101, 100, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57]",
        "506c616e74656430313233343536373839",
    ] {
        let searched =
            std::panic::catch_unwind(|| secrets.assert_not_in("a text", text.as_bytes()));
        assert!(searched.is_err(), "not found in {text}");
    }
    secrets.assert_not_in("a text", b"Planted0123456780");
}

/// A server that refuses every alert with a text that repeats the request.
fn webhook() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let mut request = vec![0; 64 * 1024];
            let length = connection.read(&mut request).unwrap_or(0);
            let head =
                String::from_utf8_lossy(&request[..length.min(2000)]).replace(['\r', '\n'], " ");
            let reply = format!(
                "HTTP/1.1 503 Away\r\nX-Echo: {head}\r\nContent-Length: {}\r\n\r\n{head}",
                head.len()
            );
            let _ = connection.write_all(reply.as_bytes());
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, requests)
}

/// Starts a broker that lets in the user `lookout` with this password.
fn broker(folder: &Path, port: u16, password: &str) -> Process {
    let passwords = folder.join("passwords");
    let hashed = Command::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(&passwords)
        .args(["lookout", password])
        .status();
    assert!(hashed.expect("mosquitto_passwd").success());
    let config = folder.join("mosquitto.conf");
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {}\n",
        passwords.display()
    );
    fs::write(&config, text).expect("config");
    let mut command = Command::new("/usr/sbin/mosquitto");
    command.arg("-c").arg(config).stdout(Stdio::null());
    Process::start("mosquitto", &mut command, folder)
}

/// Runs a command of lookout. Returns all that it prints.
fn printed(arguments: &[&str], last: &Path) -> Vec<u8> {
    let mut command = Command::new(LOOKOUT);
    let output = command.args(arguments).arg(last).env("RUST_LOG", "trace").output();
    let output = output.expect("lookout");
    [output.stdout, output.stderr].concat()
}

#[test]
fn no_secret_leaves_the_daemon() {
    let (folder, files) = (folder(), folder());
    let (dir, secret_dir) = (folder.path(), files.path());
    let mut secrets = Secrets(BTreeMap::new());
    let file = |secrets: &mut Secrets, place: &'static str| -> PathBuf {
        let path = secret_dir.join(place);
        fs::write(&path, secrets.plant(place) + "\n").expect("a secret");
        path
    };
    let camera_password = secrets.plant("camera password");
    let login = format!("viewer:{camera_password}");
    let streams = [("gate", &*clip("drive")), ("yard", &*clip("yard"))];
    let cameras = Cameras::start(secret_dir, 0, &streams, &["--credentials", &login]);
    let at = |user: &str, path: &str| format!("rtsp://{user}127.0.0.1:{}/{path}", cameras.port);
    let password_file = secret_dir.join("camera");
    fs::write(&password_file, &camera_password).expect("a secret");
    let in_file = format!("username = \"viewer\"\npassword_file = {password_file:?}");
    let wrong = format!("viewer:{}@", secrets.plant("wrong camera password"));
    let in_query = format!("gate?user=viewer&password={}", secrets.plant("password in a path"));

    let mqtt_password = file(&mut secrets, "mqtt password");
    let port = free_port();
    let broker = broker(secret_dir, port, secrets.0["mqtt password"].as_str());
    let (hook, requests) = webhook();
    let key = KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned()];
    let certificate = CertificateParams::new(names).and_then(|params| params.self_signed(&key));
    let (cert_file, key_file) = (dir.join("lookout.pem"), secret_dir.join("lookout.key"));
    fs::write(&cert_file, certificate.expect("a certificate").pem()).expect("a certificate");
    let pem = key.serialize_pem();
    fs::write(&key_file, &pem).expect("a key");
    let key = pem.lines().rfind(|line| line.len() > 40).expect("a line");
    secrets.0.insert("TLS key", key.trim_end_matches('=').to_owned());

    let (grpc, http) = (free_port(), free_port());
    let config = head(grpc, http, None)
        + &format!(
            "tls = false\n[tls]\ncert_file = {cert_file:?}\nkey_file = {key_file:?}\n\
             [journal]\nfolder = {:?}\n[buffer.disk]\nfolder = {:?}\n\
             [mqtt]\nbroker = \"mqtt://127.0.0.1:{port}\"\nusername = \"lookout\"\n\
             password_file = {mqtt_password:?}\n\
             [[rule]]\nname = \"car\"\nquestion = \"Is there a car?\"\nof = \"1/1\"\n\
             cooldown = \"0s\"\n\
             [[webhook]]\nname = \"hook\"\nurl = \"http://127.0.0.1:{hook}/{}?key={}\"\n\
             headers = {{ X-Api-Key = \"{}\" }}\ntoken_file = {:?}\nsignature_key_file = {:?}\n\
             max_retry_delay = \"1s\"\n\
             [[ntfy]]\nname = \"phone\"\nurl = \"http://127.0.0.1:{hook}\"\ntopic = \"{}\"\n\
             token_file = {:?}\nmax_retry_delay = \"1s\"\n",
            dir.join("journal"),
            dir.join("frames"),
            secrets.plant("webhook path"),
            secrets.plant("webhook query"),
            secrets.plant("webhook header"),
            file(&mut secrets, "webhook token"),
            file(&mut secrets, "webhook signature key"),
            secrets.plant("ntfy topic"),
            file(&mut secrets, "ntfy token"),
        )
        + &camera("gate", &at(&format!("{login}@"), "gate"), "")
        + &camera("yard", &at("", "yard"), &in_file)
        + &camera("refused", &at(&wrong, "gate"), "")
        + &camera("query", &at("", &in_query), "");
    let config_file = secret_dir.join("lookout.toml");
    fs::write(&config_file, &config).expect("config");
    let check = printed(&["check", "--config"], &config_file);
    let mut command = Command::new(LOOKOUT);
    command.args(["run", "--config"]).arg(&config_file);
    // Every library logs all it has.
    command.env("RUST_LOG", "trace,ort=trace,rmcp=trace").env("GST_DEBUG", "2");
    let mut daemon = Daemon::by(command, dir, grpc, http);
    daemon.server = format!("https://localhost:{grpc}");

    let client = |arguments: &[&str]| {
        let ca = ["--ca", cert_file.to_str().expect("a path")];
        daemon.client(&[arguments, &ca].concat())
    };
    let listed = |wanted: &str| {
        wait_for(wanted, PATIENCE, || {
            let (_, out, _) = client(&["cameras", "--json"]);
            let is_so = |line: &str| line.contains("\"name\":\"refused\"") && line.contains(wanted);
            out.lines().any(is_so).then_some(out)
        })
    };
    let mut seen = vec![("lookout check".to_owned(), check)];
    seen.push(("cameras".into(), listed("wrong user or password").into_bytes()));
    // Both live cameras have captions, alerts were refused, and MQTT is connected.
    let metric = |line: &str, least: f64| {
        wait_for(line, PATIENCE, || (daemon.metric(line) >= least).then_some(()));
    };
    metric("lookout_captions_total{camera=\"gate\"}", 2.0);
    metric("lookout_captions_total{camera=\"yard\"}", 2.0);
    metric("lookout_mqtt_connected", 1.0);
    metric("lookout_delivery_failing{target=\"hook\"}", 1.0);
    metric("lookout_delivery_failing{target=\"phone\"}", 1.0);
    assert!(requests.load(Ordering::SeqCst) >= 2);
    // The broker refuses the next login.
    drop(broker);
    fs::remove_file(secret_dir.join("mosquitto.conf")).expect("a file");
    fs::remove_file(secret_dir.join("passwords")).expect("a file");
    let _broker = self::broker(secret_dir, port, "another");
    wait_for("a refused login", PATIENCE, || {
        daemon
            .process
            .log()
            .contains("MQTT")
            .then_some(())
            .filter(|()| daemon.metric("lookout_mqtt_connected") == 0.0)
    });
    for arguments in [
        &["events", "--json", "--limit", "1000"][..],
        &["rules", "--json"],
        &["search", "car", "--json"],
        &["ask", "gate", "Is there a car?", "--json"],
        &["ask", "nowhere", "Is there a car?"],
        &["cameras", "--server", "https://127.0.0.1:1"],
    ] {
        let (_, out, error) = if arguments.contains(&"--server") {
            let output = printed(&["cameras", "--server"], Path::new("https://127.0.0.1:1"));
            (None, String::from_utf8_lossy(&output).into_owned(), String::new())
        } else {
            client(arguments)
        };
        seen.push((arguments.join(" "), (out + &error).into_bytes()));
    }
    for path in ["/metrics", "/readyz", "/api/v1/status", "/api/v1/cameras", "/api/v1/events", "/"]
    {
        let (status, body) = get(http, path).expect("a reply");
        seen.push((format!("GET {path}: {status}"), body.into_bytes()));
    }
    for arguments in [&["test-alert", "hook", "--config"], &["test-alert", "phone", "--config"]] {
        seen.push((arguments.join(" "), printed(arguments, &config_file)));
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.process.child.id()));
    let limits = limits.expect("/proc");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    daemon.process.signal(libc::SIGTERM);
    daemon.process.ended(PATIENCE);

    assert_eq!(secrets.0.len(), 12, "secrets in {:?}", secrets.0.keys());
    let log = daemon.process.log();
    assert!(log.contains("TRACE"), "the log is not complete");
    for (what, text) in &seen {
        secrets.assert_not_in(what, text);
    }
    // The log, the journal, the frames and the certificate.
    secrets.assert_not_below(dir);
}
