//! Many clients of a daemon with TLS and access control, half of them hostile: most captions are in
//! time, no window is lost, and nobody gets what the token does not allow. `LOOKOUT_CLIENTS` is
//! their number.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig};

use super::*;

/// Number of clients without `LOOKOUT_CLIENTS`.
const CLIENTS: usize = 40;

/// Maximum time for a reply, far above the daemon's limits.
const LONGEST: Duration = Duration::from_secs(60);

/// The tokens, with their options on the command line.
const TOKENS: &[(&str, &[&str])] = &[
    ("view", &["--role", "view"]),
    ("ask", &["--role", "ask"]),
    ("admin", &["--role", "admin"]),
    ("gate-view", &["--role", "view", "--camera", "gate"]),
    ("gate-ask", &["--role", "ask", "--camera", "gate"]),
    ("gate-admin", &["--role", "admin", "--camera", "gate"]),
];

/// A daemon as all clients know it.
struct Secured {
    grpc: u16,
    http: u16,
    ca: String,
    tls: Arc<rustls::ClientConfig>,
    tokens: BTreeMap<&'static str, String>,
    /// Replies that honest clients got, and attempts of hostile ones that were refused.
    served: AtomicUsize,
    refused: AtomicUsize,
}

/// A reply over HTTP.
struct Reply {
    status: u16,
    text: String,
}

impl Secured {
    async fn connect(&self, port: u16, from: Ipv4Addr) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        socket.connect((Ipv4Addr::LOCALHOST, port).into()).await
    }

    async fn encrypted(&self, from: Ipv4Addr) -> io::Result<TlsStream<TcpStream>> {
        let tcp = self.connect(self.http, from).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(self.tls.clone()).connect(name, tcp).await
    }

    fn head(&self, request: &str, token: &str, length: usize) -> String {
        let token = self.tokens.get(token).map(String::as_str).unwrap_or(token);
        let token = match token {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        format!(
            "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
    }

    /// Sends a request. `None` if the connection ended without a reply.
    async fn http(&self, from: Ipv4Addr, request: &str, token: &str, body: &[u8]) -> Option<Reply> {
        let exchange = async {
            let mut stream = self.encrypted(from).await.ok()?;
            let head = self.head(request, token, body.len());
            stream.write_all(head.as_bytes()).await.ok()?;
            // A refusal may come before the end of the body.
            let _ = stream.write_all(body).await;
            let mut reply = Vec::new();
            let _ = stream.read_to_end(&mut reply).await;
            let text = String::from_utf8_lossy(&reply).into_owned();
            let status = text.get(9..12)?.parse().ok()?;
            Some(Reply { status, text })
        };
        timeout(LONGEST, exchange).await.unwrap_or_else(|_| panic!("no reply to {request}"))
    }

    async fn channel(&self, from: Ipv4Addr) -> Channel {
        let ca = Certificate::from_pem(&self.ca);
        let address = format!("https://localhost:{}", self.grpc);
        let endpoint = Endpoint::from_shared(address).expect("an address");
        let endpoint = endpoint.local_address(Some(IpAddr::V4(from)));
        let endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(ca)).expect("TLS");
        timeout(LONGEST, endpoint.connect()).await.expect("a connection").expect("gRPC")
    }

    fn request<T>(&self, token: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = self.tokens.get(token) {
            let value = MetadataValue::try_from(format!("Bearer {token}")).expect("a token");
            request.metadata_mut().insert("authorization", value);
        }
        request
    }

    fn was_served(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    fn was_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// Fails if a text contains something about the camera `yard`.
fn assert_hides_yard(what: &str, text: &str) {
    for field in ["\"camera\":\"yard\"", "\"name\":\"yard\""] {
        assert!(!text.contains(field), "{what}: {text}");
    }
}

/// Uses the daemon as a token allows, again and again.
async fn honest(secured: Arc<Secured>, number: usize) {
    let from = Ipv4Addr::LOCALHOST;
    let limited = number.is_multiple_of(2);
    let token = |unlimited: &'static str, limited_token: &'static str| {
        if limited { limited_token } else { unlimited }
    };
    if number.is_multiple_of(5) {
        let token = token("view", "gate-view");
        let mut client = LookoutServiceClient::new(secured.channel(from).await);
        let request = proto::WatchRequest { from: FIRST, ..Default::default() };
        let request = secured.request(token, request);
        let mut events = client.watch(request).await.expect("a stream").into_inner();
        while let Some(message) = events.message().await.expect("an event") {
            let Some(proto::watch_response::Item::Event(event)) = message.item else { continue };
            assert!(!limited || event.camera == "gate", "{event:?}");
            secured.was_served();
        }
        panic!("a stream ended");
    }
    loop {
        let get = async |path: &str| {
            let token = token("admin", "gate-admin");
            let reply = secured.http(from, &format!("GET /api/v1{path}"), token, b"").await;
            let reply = reply.unwrap_or_else(|| panic!("no reply to {path}"));
            if limited {
                assert_hides_yard(path, &reply.text);
            }
            reply
        };
        match number % 5 {
            1 => {
                for path in ["/cameras", "/search?q=car", "/timeline?since=1h", "/alerts", "/rules"]
                {
                    let reply = get(path).await;
                    assert_eq!(reply.status, 200, "{path}: {}", reply.text);
                    secured.was_served();
                }
            }
            2 => {
                let token = token("ask", "gate-ask");
                let body =
                    br#"{"cameras":["gate"],"question":"Is there a car?","max_new_tokens":4}"#;
                let reply =
                    secured.http(from, "POST /api/v1/ask", token, body).await.expect("a reply");
                // Many clients fill the queue.
                assert!([200, 429].contains(&reply.status), "{}", reply.text);
                secured.was_served();
                sleep(SECONDS(4)).await;
            }
            _ => {
                let events = get("/events?kind=caption&limit=3").await;
                assert_eq!(events.status, 200, "{}", events.text);
                let (_, body) = events.text.split_once("\r\n\r\n").expect("a body");
                let events: Value =
                    serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"));
                for event in events["events"].as_array().expect("events") {
                    let (run, number) = (&event["frames"][0]["run"], &event["frames"][0]["number"]);
                    let camera = event["camera"].as_str().expect("a camera");
                    let frame = get(&format!("/cameras/{camera}/frames/{run}.{number}")).await;
                    assert_eq!(frame.status, 200, "{}", frame.text);
                    if limited {
                        let frame = get(&format!("/cameras/yard/frames/{run}.{number}")).await;
                        assert_eq!(frame.status, 404, "{}", frame.text);
                    }
                    secured.was_served();
                }
            }
        }
        sleep(SECONDS(1) / 2).await;
    }
}

/// Attacks again and again from an address of its own.
async fn hostile(secured: Arc<Secured>, number: usize) {
    let from = Ipv4Addr::new(127, 0, 1, 1 + (number % 250) as u8);
    let ports = [secured.grpc, secured.http];
    let port = ports[number / 10 % 2];
    let refused = |reply: Option<Reply>, wanted: &[u16], what: &str| {
        if let Some(reply) = reply {
            assert!(wanted.contains(&reply.status), "{what}: {}", reply.text);
            assert_hides_yard(what, &reply.text);
            assert!(!reply.text.contains("\"camera\":\"gate\""), "{what}: {}", reply.text);
        }
        secured.was_refused();
    };
    loop {
        match number % 10 {
            // Half open, at four places of the connection.
            0 => {
                let mut open = Vec::new();
                for bytes in [
                    &b""[..],
                    b"\x16",
                    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                    b"\x16\x03\x01\xff\xff",
                ] {
                    let Ok(mut stream) = secured.connect(port, from).await else { continue };
                    let _ = stream.write_all(bytes).await;
                    open.push(stream);
                }
                sleep(SECONDS(2)).await;
                secured.was_refused();
            }
            1 => {
                let Ok(mut stream) = secured.connect(port, from).await else { continue };
                let _ = stream
                    .write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    .await;
                let mut reply = Vec::new();
                let _ = timeout(LONGEST, stream.read_to_end(&mut reply)).await.expect("an end");
                let reply = String::from_utf8_lossy(&reply);
                assert!(!reply.contains("200 OK") && !reply.contains("caption"), "{reply}");
                secured.was_refused();
            }
            // Without a token, and with a wrong one.
            2 | 3 => {
                let token = if number % 10 == 2 { "" } else { "lookout_wrong" };
                for request in [
                    "GET /api/v1/events",
                    "GET /metrics",
                    "POST /api/v1/ask",
                    "POST /mcp",
                    "GET /api/v1/cameras/gate/live",
                ] {
                    let reply = secured.http(from, request, token, b"{}").await;
                    refused(reply, &[401, 429], request);
                }
                let mut client = LookoutServiceClient::new(secured.channel(from).await);
                let watched =
                    client.watch(secured.request(token, proto::WatchRequest::default())).await;
                assert_eq!(watched.expect_err("a refusal").code(), Code::Unauthenticated);
            }
            4 => {
                for request in
                    ["POST /api/v1/ask", "POST /api/v1/rules/try", "POST /api/v1/events/1.1/keep"]
                {
                    refused(secured.http(from, request, "view", b"{}").await, &[403], request);
                }
                let request = "DELETE /api/v1/events?since=2000-01-01T00:00:00Z";
                refused(secured.http(from, request, "ask", b"").await, &[403], request);
                let mut client = LookoutServiceClient::new(secured.channel(from).await);
                let reload = secured.request("gate-admin", proto::ReloadRequest {});
                let status = client.reload(reload).await.expect_err("a refusal");
                assert_eq!(status.code(), Code::PermissionDenied, "{status}");
                let name = "yard".to_owned();
                let remove = secured.request("ask", proto::RemoveCameraRequest { name });
                let status = client.remove_camera(remove).await.expect_err("a refusal");
                assert_eq!(status.code(), Code::PermissionDenied, "{status}");
            }
            // A camera that the token does not see.
            5 => {
                let body = br#"{"cameras":["yard"],"question":"Is there a car?"}"#;
                let request = "POST /api/v1/ask";
                refused(secured.http(from, request, "gate-ask", body).await, &[404], request);
                let request = "GET /api/v1/cameras/yard/frames/1.1";
                refused(secured.http(from, request, "gate-view", b"").await, &[404], request);
                let request = "GET /api/v1/events?camera=yard";
                refused(secured.http(from, request, "gate-view", b"").await, &[200], request);
                let mut client = LookoutServiceClient::new(secured.channel(from).await);
                let cameras = vec!["yard".to_owned()];
                let request = proto::WatchRequest { cameras, ..Default::default() };
                let status = client.watch(secured.request("gate-view", request)).await;
                assert_eq!(status.expect_err("a refusal").code(), Code::NotFound);
            }
            6 => {
                let request = "POST /api/v1/ask";
                let reply = secured.http(from, request, "ask", &vec![b'x'; 3 << 20]).await;
                refused(reply, &[413], request);
                let request = format!("GET /{}", "y".repeat(100_000));
                refused(secured.http(from, &request, "ask", b"").await, &[400, 414, 431], "a head");
                let mut client = LookoutServiceClient::new(secured.channel(from).await);
                let large = proto::AskRequest { question: "x".repeat(2 << 20), ..question(None) };
                assert!(client.ask(secured.request("ask", large)).await.is_err());
            }
            // Streams that are not read.
            7 => {
                let Ok(mut stream) = secured.encrypted(from).await else { continue };
                let head = secured.head("GET /api/v1/events?since=1h", "view", 0);
                let head =
                    head.replace("Content-Length", "Accept: text/event-stream\r\nContent-Length");
                let _ = stream.write_all(head.as_bytes()).await;
                let mut client = LookoutServiceClient::new(secured.channel(from).await);
                let request = proto::WatchRequest { from: FIRST, ..Default::default() };
                let events = client.watch(secured.request("view", request)).await;
                sleep(SECONDS(5)).await;
                drop((stream, events));
                secured.was_refused();
            }
            // A byte at a time, within TLS.
            8 => {
                let Ok(mut stream) = secured.encrypted(from).await else { continue };
                for byte in secured.head("GET /api/v1/status", "view", 0).bytes() {
                    if stream.write_all(&[byte]).await.is_err() {
                        break;
                    }
                    sleep(SECONDS(1) / 5).await;
                }
                secured.was_refused();
            }
            // Connections that are cut in the handshake or in a reply.
            _ => {
                for length in [3, 100, 400] {
                    let Ok(stream) = secured.connect(secured.http, from).await else { continue };
                    let name = ServerName::try_from("localhost").expect("a name");
                    let connector = TlsConnector::from(secured.tls.clone());
                    let connecting = connector.connect(name, stream);
                    let cut = SECONDS(1) / 1000 * length;
                    if let Ok(Ok(mut stream)) = timeout(cut, connecting).await {
                        let head = secured.head("GET /api/v1/events", "admin", 0);
                        let _ = stream.write_all(head.as_bytes()).await;
                    }
                    secured.was_refused();
                }
            }
        }
        sleep(SECONDS(1) / 5).await;
    }
}

/// Starts a daemon with TLS, tokens and two cameras.
fn start(dir: &std::path::Path, cameras: &Cameras) -> (Process, Secured, PathBuf) {
    let key = KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned()];
    let certificate = CertificateParams::new(names).and_then(|params| params.self_signed(&key));
    let ca = certificate.expect("a certificate").pem();
    let [cert_file, key_file] = ["lookout.pem", "lookout.key"].map(|name| dir.join(name));
    fs::write(&cert_file, &ca).expect("a certificate");
    fs::write(&key_file, key.serialize_pem()).expect("a key");
    let (grpc, http) = (free_port(), free_port());
    let head = head(grpc, http, None).replace("[grpc]\n", "[grpc]\nconnections = 1000\n");
    let camera = |name| {
        let lenient = camera(name, &cameras.url(name), "max_caption_delay = \"30s\"");
        lenient.replace("caption_interval = \"2s\"", "caption_interval = \"4s\"")
    };
    let config =
        head + &format!(
            "connections = 1000\n[tls]\ncert_file = {cert_file:?}\nkey_file = {key_file:?}\n\
             [access]\nenabled = true\nfolder = {:?}\nquestions_per_minute = 10000\n\
             streams = 1024\n[journal]\nfolder = {:?}\n",
            dir.join("access"),
            dir.join("journal")
        ) + &camera("gate")
            + &camera("yard");
    let file = dir.join("lookout.toml");
    fs::write(&file, config).expect("config");
    let mut tokens = BTreeMap::new();
    for (name, options) in TOKENS {
        let mut command = Command::new(LOOKOUT);
        command.args(["token", "add", name]).args(*options).arg("--config").arg(&file);
        let output = command.output().expect("lookout");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let token = out.split_whitespace().find(|word| word.starts_with("lookout_"));
        tokens.insert(*name, token.unwrap_or_else(|| panic!("no token in {out}")).to_owned());
    }
    let mut command = Command::new(LOOKOUT);
    command.args(["run", "--config"]).arg(&file).stdout(std::process::Stdio::null());
    let process = Process::start("lookout", &mut command, dir);
    let roots = lookout::tls::authorities("--ca", Some(&cert_file)).expect("an authority");
    let tls = Arc::new(lookout::tls::client(roots, None).expect("TLS"));
    let (served, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    (process, Secured { grpc, http, ca, tls, tokens, served, refused }, cert_file)
}

#[test]
fn hostile_clients_over_tls_delay_no_caption_and_learn_nothing() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let clients = std::env::var("LOOKOUT_CLIENTS")
        .map_or(CLIENTS, |number| number.parse().expect("a number"));
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate")), ("yard", &clip("yard"))], &[]);
    let (mut process, secured, ca) = start(dir, &cameras);
    let secured = Arc::new(secured);
    let server = format!("https://localhost:{}", secured.grpc);
    let client = |arguments: &[&str]| {
        let mut command = Command::new(LOOKOUT);
        command.args(arguments).args(["--server", &server, "--ca"]).arg(&ca);
        command.env("LOOKOUT_TOKEN", &secured.tokens["admin"]);
        command
    };
    wait_for("the daemon", SECONDS(120), || {
        assert!(process.is_running(), "the daemon ended: {}", process.log());
        client(&["cameras"]).output().expect("lookout").status.success().then_some(())
    });
    let mut watch = client(&["watch", "--json", "--from-sequence", "1"]);
    let mut events = Lines::of("watch", &mut watch, dir);
    let mut seen = Vec::new();
    // Clients find events and frames from the start.
    for camera in ["gate", "yard"] {
        events.until("a caption", SECONDS(120), &mut seen, |event| is_caption(event, camera));
    }

    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut running = tokio::task::JoinSet::new();
    for number in 0..clients / 2 {
        running.spawn_on(honest(secured.clone(), number), runtime.handle());
        running.spawn_on(hostile(secured.clone(), number), runtime.handle());
    }
    // Each kind of client has had its turn several times.
    let enough = |count: &AtomicUsize| count.load(Ordering::Relaxed) >= 3 * clients;
    let mut captions = |number: usize, seen: &mut Vec<Value>| {
        for camera in ["gate", "yard"] {
            for _ in 0..number {
                events.until("a caption", SECONDS(120), seen, |event| is_caption(event, camera));
            }
        }
    };
    captions(4, &mut seen);
    wait_for("the clients", SECONDS(120), || {
        if let Some(ended) = running.try_join_next() {
            ended.expect("a client");
        }
        (enough(&secured.served) && enough(&secured.refused)).then_some(())
    });
    captions(1, &mut seen);
    let (served, refused) =
        (secured.served.load(Ordering::Relaxed), secured.refused.load(Ordering::Relaxed));
    while let Some(ended) = running.try_join_next() {
        ended.expect("a client");
    }
    running.abort_all();
    runtime.shutdown_timeout(SECONDS(1));
    captions(1, &mut seen);

    assert!(process.is_running());
    let metrics = secured.http(Ipv4Addr::LOCALHOST, "GET /metrics", "admin", b"");
    let metrics = tokio::runtime::Runtime::new().expect("a runtime").block_on(metrics);
    let metrics = metrics.filter(|reply| reply.status == 200).expect("metrics").text;
    for camera in ["gate", "yard"] {
        assert_most_windows_have_captions(&seen, camera, 4.0, &metrics);
    }
    let sequences: Vec<u64> = seen.iter().filter_map(|e| e["sequence"].as_u64()).collect();
    assert!(sequences.windows(2).all(|pair| pair[1] > pair[0]), "{sequences:?}");
    let threads =
        fs::read_dir(format!("/proc/{}/task", process.child.id())).expect("it runs").count();
    eprintln!(
        "{clients} clients: {served} replies, {refused} attacks, {} captions, {threads} threads, {} MiB",
        seen.iter().filter(|event| event["kind"] == "caption").count(),
        process.memory() >> 20
    );
    let log = process.log();
    assert!(log.contains("no TLS with 127.0.1."), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert!(secured.tokens.values().all(|token| !log.contains(token)), "{log}");
}
