//! Tests the delivery of alerts with a real HTTP server that fails in every way.

use std::collections::BTreeSet;
use std::path::Path;

use hmac::{Hmac, Mac};
use lookout::config::{self, Config};
use lookout::publish::delivery::{self, Delivery, Target};
use lookout::publish::traces;
use sha2::Sha256;

use super::mqtt::Log;
use super::mqtt_replay::stored;
use super::receiver::*;
use super::*;

/// A config whose rule `cat` does not deliver to the tested target.
const TABLES: &str = r#"
    [model]
    package = "model"
    [[camera]]
    name = "gate"
    url = "rtsp://127.0.0.1:1/gate"
    [[rule]]
    name = "car"
    question = "Is there a car?"
    [[rule]]
    name = "cat"
    question = "Is there a cat?"
    deliver = ["other"]
    [[webhook]]
    name = "other"
    url = "http://127.0.0.1:1/"
"#;

/// Returns a config with further tables.
pub fn config(tables: &str, folder: &Path) -> Config {
    Config::parse(&format!("{TABLES}{tables}"), folder).unwrap()
}

/// Returns the config of a webhook with short pauses.
pub fn webhook(port: u16, more: &str) -> String {
    format!(
        "[[webhook]]\nname = \"hook\"\nurl = \"http://127.0.0.1:{port}/hook/s3cret-path\"\n\
         timeout = \"2s\"\nmax_retry_delay = \"20ms\"\n{more}"
    )
}

/// A running delivery to one target.
pub struct Running {
    stop: CancellationToken,
    running: JoinHandle<Result<(), PublishError>>,
}

impl Running {
    /// Starts the delivery to the last target of a config.
    pub fn start(daemon: &Daemon, mut config: Config) -> Running {
        let target = config.targets.pop().unwrap();
        Running::start_target(daemon, &config, target)
    }

    /// Starts the delivery to the last target of a config. It is traced.
    pub fn traced(daemon: &Daemon, mut config: Config, recorder: Arc<traces::Recorder>) -> Running {
        let target = config.targets.pop().unwrap();
        Running::with(daemon, &config, target, Some(recorder))
    }

    fn start_target(daemon: &Daemon, config: &Config, target: config::Target) -> Running {
        Running::with(daemon, config, target, None)
    }

    fn with(
        daemon: &Daemon,
        config: &Config,
        target: config::Target,
        recorder: Option<Arc<traces::Recorder>>,
    ) -> Running {
        let target = Target::new(target).unwrap();
        let delivery = Delivery::shared(target, &config.rules, daemon.service.clone(), recorder);
        let stop = CancellationToken::new();
        let running = tokio::spawn(delivery::run(delivery, stop.clone()));
        Running { stop, running }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        timeout(SOON, self.running).await.unwrap().unwrap().unwrap();
    }
}

pub fn memory() -> Daemon {
    Daemon::with_journal(MemoryJournal::shared(RUN, 1000))
}

/// Publishes an event of an alert.
pub fn publish_alert(daemon: &Daemon, rule: &str, phase: AlertPhase) -> Arc<Event> {
    let Body::Alert(alert) = alert(rule, "a-1") else { unreachable!() };
    daemon.service.journal.append("gate".into(), Body::Alert(Alert { phase, ..alert }))
}

/// Returns the sequences of the events, each once. They must be in order.
fn in_order(received: &[Received]) -> Vec<u64> {
    let sequences: Vec<u64> = received.iter().map(Received::sequence).collect();
    assert!(sequences.is_sorted(), "{sequences:?}");
    sequences.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

fn hex_hmac(key: &str, text: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_webhook_gets_every_phase_in_order_with_a_valid_signature() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "sesame\n").unwrap();
    std::fs::write(folder.path().join("token"), "t0ken\n").unwrap();
    let daemon = memory();
    let mut receiver = Receiver::start().await;
    let more =
        "signature_key_file = \"key\"\ntoken_file = \"token\"\nheaders = { X-Site = \"north\" }";
    let running = Running::start(&daemon, config(&webhook(receiver.port, more), folder.path()));
    daemon.caption("not an alert");
    let events = [AlertPhase::New, AlertPhase::Update, AlertPhase::Acknowledged, AlertPhase::End]
        .map(|phase| publish_alert(&daemon, "car", phase));
    for event in events {
        let received = receiver.next().await;
        assert_eq!((&*received.method, &*received.path), ("POST", "/hook/s3cret-path"));
        assert_eq!(received.json(), serde_json::to_value(&*event).unwrap());
        let Body::Alert(alert) = &event.body else { unreachable!() };
        for (name, value) in [
            ("x-lookout-event", format!("{RUN}-{}", event.id.sequence)),
            ("x-lookout-alert", "a-1".into()),
            ("x-lookout-phase", alert.phase.name().into()),
            ("idempotency-key", event.uuid.to_string()),
            ("content-type", "application/json".into()),
            ("authorization", "Bearer t0ken".into()),
            ("x-site", "north".into()),
        ] {
            assert_eq!(received.header(name), value, "{name}");
        }
        assert_signed(&received);
    }
    running.stop().await;
}

/// Checks that a request was signed with the key `sesame` a short time ago.
fn assert_signed(received: &Received) {
    let signature = received.header("x-lookout-signature");
    let (time, hex) = signature.split_once(",v1=").unwrap();
    let time = time.strip_prefix("t=").unwrap();
    let signed = [time.as_bytes(), b".", &received.body].concat();
    assert_eq!(hex, hex_hmac("sesame", &signed));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert!(now.as_secs() - time.parse::<u64>().unwrap() < 60, "{time}");
}

#[tokio::test]
async fn a_webhook_that_fails_in_every_way_gets_every_alert_in_order() {
    let log = Log::default();
    let _logging = log.begin();
    let daemon = memory();
    let mut receiver = Receiver::start().await;
    receiver.reacts([
        Reaction::Answer(500, ""),
        Reaction::Close,
        Reaction::Reset,
        Reaction::Answer(301, "Location: https://elsewhere.example/s3cret\r\n"),
        Reaction::Answer(429, "Retry-After: 1\r\n"),
        Reaction::Hang,
        Reaction::Answer(200, ""),
        Reaction::Answer(503, ""),
        Reaction::Answer(408, ""),
    ]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "sesame").unwrap();
    let table = webhook(receiver.port, "signature_key_file = \"key\"");
    let running = Running::start(&daemon, config(&table, folder.path()));
    let events = [AlertPhase::New, AlertPhase::Update, AlertPhase::End]
        .map(|phase| publish_alert(&daemon, "car", phase));
    let received = receiver.until(3).await;
    assert_eq!(in_order(&received), [1, 2, 3]);
    for request in &received {
        assert_signed(request);
        let event = &events[request.sequence() as usize - 1];
        assert_eq!(request.header("idempotency-key"), event.uuid.to_string());
    }
    let too_many = |request: &Received| matches!(request.reaction, Reaction::Answer(429, _));
    let at = received.iter().position(too_many).unwrap();
    let pause = received[at + 1].at - received[at].at;
    assert!(pause >= Duration::from_millis(990), "{pause:?}");
    running.stop().await;
    let text = log.text();
    for part in [
        "webhook \"hook\" at http://127.0.0.1:",
        "the target answered 500 Internal Server Error; trying again, alerts wait",
        "301 Moved Permanently to https://elsewhere.example; redirects are not followed",
        "the target answered 429 Too Many Requests",
        "no response within 2 s",
        "alerts are delivered again",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn a_refused_alert_is_dropped_and_logged_once() {
    let log = Log::default();
    let _logging = log.begin();
    let daemon = memory();
    let mut receiver = Receiver::start().await;
    receiver.reacts([404, 404, 200].map(|status| Reaction::Answer(status, "")));
    let running = Running::start(&daemon, config(&webhook(receiver.port, ""), Path::new("/")));
    (0..3).for_each(|_| drop(publish_alert(&daemon, "car", AlertPhase::New)));
    let received = receiver.until(3).await;
    assert_eq!(received.iter().map(Received::sequence).collect::<Vec<_>>(), [1, 2, 3]);
    running.stop().await;
    let text = log.text();
    assert_eq!(text.matches("404 Not Found; the alert is not sent again").count(), 1, "{text}");
}

#[tokio::test]
async fn a_restarted_daemon_continues_where_the_target_was() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let start =
        |daemon: &Daemon| Running::start(daemon, config(&webhook(port, ""), Path::new("/")));
    let daemon = stored(folder.path(), 0);
    let mut receiver = Receiver::start_on(port).await;
    let running = start(&daemon);
    publish_alert(&daemon, "car", AlertPhase::New);
    receiver.until(1).await;
    drop(receiver);
    // The target is away until the next run.
    publish_alert(&daemon, "car", AlertPhase::Update);
    publish_alert(&daemon, "car", AlertPhase::End);
    daemon.service.journal.flush();
    running.stop().await;
    drop(daemon);

    let daemon = stored(folder.path(), 1);
    let running = start(&daemon);
    publish_alert(&daemon, "car", AlertPhase::New);
    let mut receiver = Receiver::start_on(port).await;
    let mut received = Vec::new();
    for _ in 0..3 {
        received.push(receiver.next().await.header("x-lookout-event").to_owned());
    }
    let id = |run, sequence| format!("{}-{sequence}", RUN + run);
    assert_eq!(received, [id(0, 2), id(0, 3), id(1, 1)]);
    running.stop().await;
}

#[tokio::test]
async fn a_target_that_hangs_delays_neither_another_nor_mqtt() {
    let daemon = memory();
    let (hanging, mut receiver) = (Receiver::start().await, Receiver::start().await);
    hanging.reacts(vec![Reaction::Hang; 100]);
    let broker = Broker::start();
    let mut heard = Subscriber::connect(broker.port, "lookout/gate/alert").await;
    let publisher = Publisher::connected(&daemon, mqtt_config(broker.port), broker.port).await;
    let slow = webhook(hanging.port, "").replace("\"2s\"", "\"1h\"");
    let slow = Running::start(&daemon, config(&slow, Path::new("/")));
    let running = Running::start(&daemon, config(&webhook(receiver.port, ""), Path::new("/")));
    for sequence in 1..=3 {
        publish_alert(&daemon, "car", AlertPhase::Update);
        assert_eq!(receiver.next().await.sequence(), sequence);
        assert_eq!(heard.json_on("lookout/gate/alert").await["sequence"], sequence);
    }
    // A hanging request ends soon after the stop.
    slow.stop().await;
    running.stop().await;
    publisher.stop().await;
}

#[tokio::test]
async fn a_target_gets_the_phases_and_rules_that_the_config_names() {
    let daemon = memory();
    let mut receiver = Receiver::start().await;
    let more = "phases = [\"new\", \"end\"]";
    let running = Running::start(&daemon, config(&webhook(receiver.port, more), Path::new("/")));
    for rule in ["car", "cat", "removed"] {
        for phase in [AlertPhase::New, AlertPhase::Update, AlertPhase::End] {
            publish_alert(&daemon, rule, phase);
        }
    }
    // The alerts of `cat` go to another target. Those of a rule that is gone go to all.
    for sequence in [1, 3, 7, 9] {
        assert_eq!(receiver.next().await.sequence(), sequence);
    }
    running.stop().await;
    assert!(receiver.try_next().is_none());
}

#[tokio::test]
async fn a_template_makes_the_body_and_may_contain_the_picture() {
    let daemon = memory();
    let mut receiver = Receiver::start().await;
    let more = r#"
        picture = "inline"
        template = '''{"text": {{ (rule ~ " at " ~ camera) | tojson }},
            "jpeg": "{% if picture %}{{ picture.base64 }}{% endif %}"}'''
        "#;
    let running = Running::start(&daemon, config(&webhook(receiver.port, more), Path::new("/")));
    publish_alert(&daemon, "car", AlertPhase::New);
    let received = receiver.next().await.json();
    // The fake daemon's frame is `jpeg 4`.
    assert_eq!(received, serde_json::json!({"text": "car at gate", "jpeg": "anBlZyA0"}));
    running.stop().await;

    let more = "picture = \"inline\"";
    let running = Running::start(&daemon, config(&webhook(receiver.port, more), Path::new("/")));
    let received = receiver.next().await.json();
    assert_eq!(received["picture"]["base64"], "anBlZyA0");
    assert_eq!(received["picture"]["content_type"], "image/jpeg");
    assert_eq!(received["picture"]["frame"]["number"], 4);
    running.stop().await;
}

#[tokio::test]
async fn ntfy_gets_a_notification_with_the_picture() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "tk_s3cret\n").unwrap();
    let daemon = memory();
    let mut receiver = Receiver::start().await;
    let tables = format!(
        "[[ntfy]]\nname = \"phone\"\nurl = \"http://127.0.0.1:{}\"\ntopic = \"alerts\"\n\
         token_file = \"token\"\nclick = \"https://home.example/lookout\"\n\
         phases = [\"new\", \"end\"]\nmax_retry_delay = \"20ms\"",
        receiver.port
    );
    let running = Running::start(&daemon, config(&tables, folder.path()));
    publish_alert(&daemon, "car", AlertPhase::New);
    let received = receiver.next().await;
    assert_eq!((&*received.method, &*received.path), ("PUT", "/alerts"));
    assert_eq!(received.body, b"jpeg 4");
    for (name, value) in [
        ("title", "car: gate"),
        ("priority", "4"),
        ("tags", "warning"),
        ("filename", "gate.jpg"),
        ("click", "https://home.example/lookout"),
        ("message", "Is it there? Score 0.90 at 2025-10-09T08:53:28Z"),
        ("x-sequence-id", "a-1"),
        ("authorization", "Bearer tk_s3cret"),
    ] {
        assert_eq!(received.header(name), value, "{name}");
    }
    // A server that takes no attachment gets the text.
    receiver.reacts([Reaction::Answer(413, "")]);
    publish_alert(&daemon, "car", AlertPhase::End);
    assert_eq!(receiver.next().await.method, "PUT");
    let received = receiver.next().await;
    assert_eq!((&*received.method, &*received.path), ("POST", "/alerts"));
    assert_eq!(received.body, b"Is it there? No longer, at 2025-10-09T08:53:28Z");
    assert_eq!((received.header("priority"), received.header("tags")), ("2", "white_check_mark"));
    running.stop().await;
}

#[tokio::test]
async fn alerts_older_than_catch_up_are_not_sent() {
    let log = Log::default();
    let _logging = log.begin();
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start().await;
    let config = config(&webhook(receiver.port, ""), Path::new("/"));
    let target = || {
        let target = config.targets.last().unwrap().clone();
        config::Target { catch_up: Duration::from_millis(500), ..target }
    };
    let daemon = stored(folder.path(), 0);
    // The daemon ends before it has sent these.
    drop(Delivery::shared(Target::new(target()).unwrap(), &[], daemon.service.clone(), None));
    publish_alert(&daemon, "car", AlertPhase::New);
    publish_alert(&daemon, "car", AlertPhase::End);
    daemon.service.journal.flush();
    drop(daemon);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let daemon = stored(folder.path(), 1);
    let running = Running::start_target(&daemon, &config, target());
    // On a slow machine an alert may be too old before it is sent.
    let first = loop {
        publish_alert(&daemon, "car", AlertPhase::New);
        tokio::time::sleep(Duration::from_millis(100)).await;
        if let Some(received) = receiver.try_next() {
            break received;
        }
    };
    assert_eq!(first.json()["run"], RUN + 1);
    running.stop().await;
    let text = log.text();
    assert!(text.contains("alerts are older than catch_up: not sent"), "{text}");
}

#[tokio::test]
async fn no_secret_of_a_target_is_shown() {
    let log = Log::default();
    let _logging = log.begin();
    let folder = tempfile::tempdir().unwrap();
    let daemon = memory();
    let mut receiver = Receiver::start().await;
    receiver.reacts([401, 500].map(|status| Reaction::Answer(status, "X-Echo: s3cret\r\n")));
    let more = "headers = { Authorization = \"Basic s3cret\" }\nsignature_key_file = \"key\"";
    let file = folder.path().join("key");
    let parsed = config(&webhook(receiver.port, more), folder.path());
    assert!(!format!("{parsed:?}").contains("s3cret"), "{parsed:?}");
    let target = Target::new(parsed.targets.last().unwrap().clone()).unwrap();
    let error = target.check_files().unwrap_err();
    assert!(error.contains(file.to_str().unwrap()), "{error}");
    let token = config(&webhook(receiver.port, "token_file = \"token\""), folder.path());
    std::fs::write(folder.path().join("token"), "s3cret\ntwo lines").unwrap();
    let target = Target::new(token.targets.last().unwrap().clone()).unwrap();
    let error = target.check_files().unwrap_err();
    assert!(error.starts_with("token_file: wanted one line") && !error.contains("s3cret"));
    let running = Running::start(&daemon, parsed);
    publish_alert(&daemon, "car", AlertPhase::New);
    // The key's file is missing, until somebody creates it.
    timeout(SOON, async {
        while !log.text().contains("trying again, alerts wait") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    std::fs::write(&file, "s3cret").unwrap();
    publish_alert(&daemon, "car", AlertPhase::End);
    let received = receiver.until(2).await;
    assert_eq!(received[0].header("authorization"), "Basic s3cret");
    running.stop().await;
    let text = log.text();
    assert!(text.contains("401 Unauthorized") && !text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn a_certificate_is_checked_against_the_authority_of_the_config() {
    let log = Log::default();
    let _logging = log.begin();
    let folder = tempfile::tempdir().unwrap();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(folder.path().join("ca.pem"), cert.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into(),
        )
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (to, mut received) = mpsc::channel(100);
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let tls = rustls::ServerConnection::new(Arc::new(server.clone())).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, connection);
            let mut bytes = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = io::Read::read(&mut stream, &mut buffer) {
                bytes.extend(&buffer[..length]);
                if let Some(request) = parse(&bytes) {
                    let _ = stream.write_all(b"HTTP/1.1 204 Said\r\n\r\n");
                    let _ = to.try_send(request);
                    break;
                }
            }
        }
    });
    let daemon = memory();
    let url = |more| webhook(port, more).replace("http://127.0.0.1", "https://localhost");
    // The system's authorities do not know this certificate.
    let unknown = Running::start(&daemon, config(&url(""), folder.path()));
    publish_alert(&daemon, "car", AlertPhase::New);
    timeout(SOON, async {
        while !log.text().contains("trying again, alerts wait") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert!(log.text().contains("its certificate is not signed by a known authority"));
    unknown.stop().await;
    assert!(received.try_recv().is_err());
    let running = Running::start(&daemon, config(&url("ca_file = \"ca.pem\""), folder.path()));
    let request: Received = timeout(SOON, received.recv()).await.unwrap().unwrap();
    assert_eq!(request.sequence(), 1);
    running.stop().await;
}
