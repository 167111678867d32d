//! Tests the delivery of alerts with the whole daemon: a webhook gets every event of every alert in
//! order, although it is away for an hour and the daemon is killed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::host_clock::HostClock;
use crate::support::*;

/// A rule about the clip `drive`, which shows a car from 2 s to 6 s and from 16 s to 20 s.
const RULES: &str = r#"
[[rule]]
name = "car"
question = "Is there a car?"
of = "1/2"
cooldown = "0s"
describe = "What is happening?"
describe_schema = '''
    {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"],
     "additionalProperties": false}'''
"#;

/// A request as it was accepted.
#[derive(Clone, Debug)]
struct Accepted {
    idempotency_key: String,
    event: Value,
}

impl Accepted {
    /// Returns the run and the sequence of the event.
    fn id(&self) -> (u64, u64) {
        id(&self.event)
    }
}

fn id(event: &Value) -> (u64, u64) {
    let number = |key: &str| event[key].as_u64().expect("a number");
    (number("run"), number("sequence"))
}

/// A server that accepts alerts, or answers 500 while it is away.
struct Webhook {
    port: u16,
    accepted: Arc<Mutex<Vec<Accepted>>>,
    is_away: Arc<AtomicBool>,
    failures: Arc<AtomicBool>,
}

impl Webhook {
    fn start() -> Webhook {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let webhook = Webhook {
            port: listener.local_addr().expect("its address").port(),
            accepted: Arc::default(),
            is_away: Arc::default(),
            failures: Arc::default(),
        };
        let (accepted, is_away) = (webhook.accepted.clone(), webhook.is_away.clone());
        let failures = webhook.failures.clone();
        std::thread::spawn(move || {
            for mut connection in listener.incoming().map_while(Result::ok) {
                // A killed daemon may leave half a request.
                let Some(request) = read(&mut connection) else { continue };
                let is_away = is_away.load(Ordering::SeqCst);
                failures.fetch_or(is_away, Ordering::SeqCst);
                if !is_away {
                    accepted.lock().unwrap().push(request);
                }
                let status = if is_away { "500 Away" } else { "204 Accepted" };
                let _ = write!(connection, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            }
        });
        webhook
    }

    fn accepted(&self) -> Vec<Accepted> {
        self.accepted.lock().unwrap().clone()
    }

    /// Waits until an event was accepted.
    fn until(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, Duration::from_secs(60), || {
            self.accepted().into_iter().map(|one| one.event).find(&is_wanted)
        })
    }
}

fn read(connection: &mut TcpStream) -> Option<Accepted> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = connection.read(&mut buffer).ok().filter(|length| *length > 0)?;
        bytes.extend(&buffer[..length]);
        let Some(head) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&bytes[..head]).expect("a head");
        let header = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(": "));
            let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
            found.unwrap_or_else(|| panic!("no {name}: {text}")).1.to_owned()
        };
        let length: usize = header("content-length").parse().expect("a length");
        let Some(body) = bytes.get(head + 4..head + 4 + length) else { continue };
        let event = serde_json::from_slice(body).expect("JSON");
        return Some(Accepted { idempotency_key: header("idempotency-key"), event });
    }
}

/// Returns the events of alerts in the journal, the oldest first.
fn alerts(daemon: &Daemon) -> Vec<Value> {
    let arguments = ["events", "--kind", "alert", "--limit", "100000", "--json"];
    let (code, out, error) = daemon.client(&arguments);
    assert_eq!(code, Some(0), "{error}");
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_webhook_gets_every_alert_in_order_after_an_hour_away_and_a_kill_of_the_daemon() {
    let folder = folder();
    let dir = folder.path();
    let webhook = Webhook::start();
    let (grpc, http) = (free_port(), free_port());
    let target = format!(
        "[[webhook]]\nname = \"hook\"\nurl = \"http://127.0.0.1:{}/alerts\"\n\
         max_retry_delay = \"100ms\"\npicture = \"inline\"\n",
        webhook.port
    );
    let journal = format!("[journal]\nfolder = {:?}\n", dir.join("journal"));
    let camera = camera("drive", &format!("file:{}", clip("drive").display()), "");
    let config = head(grpc, http, None) + &journal + &camera + RULES + &target;
    let mut daemon = Daemon::with_config(dir, &config, grpc, http);
    let file = dir.join("lookout.toml");
    let tested = Command::new(LOOKOUT).args(["test-alert", "hook", "--config"]).arg(&file).output();
    let tested = tested.expect("lookout");
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
    assert_eq!(webhook.until("a test alert", |event| event["rule"] == "test")["camera"], "test");
    webhook.accepted.lock().unwrap().retain(|one| one.event["rule"] != "test");

    // The picture comes first, then the text.
    let is = |phase: &'static str| move |event: &Value| event["phase"] == phase;
    let begin = webhook.until("an alert", is("new"));
    assert!(begin["picture"]["base64"].as_str().is_some_and(|jpeg| jpeg.starts_with("/9j/")));
    let to_webhook = |what: &str| {
        daemon.metric_sum(&format!("lookout_publish_seconds_{what}"), "interface=\"webhook\"")
    };
    let mean = wait_for("a metric", Duration::from_secs(20), || {
        let count = to_webhook("count");
        (count > 0.0).then(|| to_webhook("sum") / count)
    });
    println!("accepted {mean:.3} s after the alert's event, on average");
    let described = webhook.until("its description", |event| event["update"] == "description");
    assert_eq!(described["alert_id"], begin["alert_id"]);
    assert_eq!(described["description"]["prompt"], "What is happening?");
    assert_eq!(described["description"]["window"], begin["window"]);
    let text = described["description"]["text"].as_str().expect("a text");
    assert!(text.trim_start().starts_with('{'), "{text}");
    // The text depends on the model, and may have no other word than the schema's.
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let word = words.max_by_key(|word| word.len()).expect("a word");
    let (_, found, _) = daemon.client(&["search", word, "--kind", "alert", "--json"]);
    assert!(found.contains("\"update\":\"description\""), "{word}: {found}");

    // The daemon is killed while it retries, and starts again an hour later.
    webhook.is_away.store(true, Ordering::SeqCst);
    wait_for("the end of the alert", Duration::from_secs(60), || {
        let ended = alerts(&daemon).iter().any(is("end"));
        (ended && webhook.failures.load(Ordering::SeqCst)).then_some(())
    });
    daemon.process.signal(libc::SIGKILL);
    daemon.process.ended(Duration::from_secs(5));
    let before = webhook.accepted().len();
    let clock = HostClock::new(dir);
    clock.set(3600);
    let mut command = clock.command(&[], LOOKOUT);
    command.args(["run", "--config"]).arg(&file);
    daemon = Daemon::by(command, dir, grpc, http);
    webhook.is_away.store(false, Ordering::SeqCst);
    let run = begin["run"].clone();
    webhook.until("an alert of the next run", |event| event["run"] != run);

    // Every event of the journal arrives.
    let journal = alerts(&daemon);
    wait_for("all alerts", Duration::from_secs(60), || {
        let accepted = webhook.accepted();
        journal.iter().all(|event| accepted.iter().any(|one| one.id() == id(event))).then_some(())
    });
    let accepted = webhook.accepted();
    let ids: Vec<_> = accepted.iter().map(Accepted::id).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    let mut duplicates = 0;
    for pair in accepted.windows(2) {
        let is_same = pair[0].id() == pair[1].id();
        assert_eq!(pair[0].idempotency_key == pair[1].idempotency_key, is_same, "{pair:#?}");
        duplicates += usize::from(is_same);
    }
    // The one event whose acknowledgement the kill may have prevented.
    assert!(duplicates <= 1, "{ids:?}");
    println!("{} events accepted, {before} of them before the kill", accepted.len());
    let published = accepted.iter().map(|one| seconds(&one.event["published_at"]));
    let published: Vec<f64> = published.collect();
    assert!(published[published.len() - 1] - published[before - 1] > 3590.0, "{published:?}");
    let of_hook = |result: &str| {
        let name = "lookout_delivery_attempts_total";
        daemon.metric(&format!("{name}{{target=\"hook\",result=\"{result}\"}}"))
    };
    assert!(of_hook("delivered") >= (accepted.len() - before) as f64);
    assert_eq!(daemon.metric_sum("lookout_delivery_missed_total", "target=\"hook\""), 0.0);
}
