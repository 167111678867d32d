//! Tests the HTTP API with raw requests.

use serde_json::json;

use super::*;

/// An HTTP server of the fake daemon.
pub struct Server {
    pub address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), PublishError>>,
}

/// A reply: its status, its head in lower case, and its body.
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Returns the data of the stream's messages.
    pub fn messages(&self) -> Vec<Value> {
        let text = String::from_utf8_lossy(&self.body);
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).expect("JSON")).collect()
    }

    /// Asserts that the request was refused with this status and this reason.
    pub fn refused(&self, status: u16, reason: &str) -> Value {
        let refusal = self.json();
        assert_eq!((self.status, &refusal["reason"]), (status, &json!(reason)), "{refusal}");
        refusal
    }
}

impl Server {
    pub async fn start(daemon: &Daemon) -> Server {
        Server::start_at(daemon, "127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts a server at an address that an earlier server may still be leaving.
    pub async fn start_at(daemon: &Daemon, address: SocketAddr) -> Server {
        let bound = async {
            loop {
                match listener(Interface::Http, address).await {
                    Err(PublishError::AddressInUse(_)) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    bound => break bound.unwrap(),
                }
            }
        };
        Server::serve(daemon, timeout(SOON, bound).await.expect("the address stays in use"))
    }

    /// Starts a server that closes no connection of a client that is slow on a loaded machine.
    pub async fn start_patient(daemon: &Daemon) -> Server {
        let address = "127.0.0.1:0".parse().unwrap();
        let timeouts = Timeouts { greeting: 3 * SOON, stalled: 3 * SOON, idle: 3 * SOON };
        let listener = listener(Interface::Http, address).await.unwrap();
        Server::serve(daemon, listener.with_timeouts(timeouts))
    }

    fn serve(daemon: &Daemon, listener: Listener) -> Server {
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let metrics = metrics();
        let gate = daemon.gate(&stop);
        let serving = tokio::spawn(publish::http::serve(listener, gate, metrics, stop.clone()));
        Server { address, stop, serving }
    }

    /// Opens a connection and sends a request. In HTTP/1.0 the reply ends with the connection.
    pub async fn open(&self, request: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
        let length = body.len();
        let request =
            format!("{request} HTTP/1.0\r\n{host}{headers}Content-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    pub async fn send(&self, request: &str, headers: &str, body: &str) -> Reply {
        let reply = to_its_end(self.open(request, headers, body).await).await;
        let end = reply.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&reply[..end]).to_lowercase();
        let status = head[9..12].parse().expect("a status");
        Reply { status, head, body: reply[end + 4..].to_vec() }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET /api/v1{path}"), "", "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        let kind = "Content-Type: application/json\r\n";
        self.send(&format!("POST /api/v1{path}"), kind, &body.to_string()).await
    }

    pub async fn stopped(self) {
        self.stop.cancel();
        timeout(SOON, self.serving).await.unwrap().unwrap().unwrap();
    }
}

/// Reads from a stream until it contains a text this many times.
pub async fn until(stream: &mut TcpStream, heard: &mut String, text: &str, times: usize) {
    let reading = async {
        while heard.matches(text).count() < times {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).await.unwrap();
            assert!(count > 0, "the stream ended: {heard}");
            heard.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    };
    timeout(SOON, reading).await.expect("too few messages");
}

#[tokio::test]
async fn the_daemon_its_cameras_and_its_rules_are_described() {
    let daemon = Daemon::start(100).await;
    *daemon.service.rules.lock().unwrap() = vec![rule("person", Some("a1"))];
    let server = Server::start(&daemon).await;
    let status = server.get("/status").await;
    assert!(status.head.contains("x-content-type-options: nosniff"), "{}", status.head);
    assert!(status.head.contains("cache-control: no-store"), "{}", status.head);
    let status = status.json();
    assert_eq!(status["ready"], true);
    assert_eq!(status["run"], RUN);
    assert_eq!(status["troubles"], json!(["the disk is full"]));
    daemon.service.ready.store(false, Ordering::Relaxed);
    let status = server.get("/status").await.json();
    assert_eq!(status["not_ready_reason"], "the model is loading");
    let cameras = server.get("/cameras").await.json();
    let [gate, yard] = cameras["cameras"].as_array().unwrap().as_slice() else { panic!() };
    assert_eq!((&gate["name"], &gate["state"]), (&json!("gate"), &json!("live")));
    assert_eq!((&yard["name"], &yard["reason"]), (&json!("yard"), &json!("no route")));
    let rules = server.get("/rules").await.json();
    assert_eq!(rules["rules"][0]["name"], "person");
    assert_eq!(rules["rules"][0]["state"], "active");
    assert_eq!(rules["rules"][0]["alert_id"], "a1");
    let path = "/alerts/a7/acknowledge";
    server.post(path, &json!({ "false_alarm": true })).await.refused(404, "ALERT_NOT_FOUND");
    server.stopped().await;
}

#[tokio::test]
async fn events_are_listed_in_pages_that_join() {
    let daemon = Daemon::start(100).await;
    // Markup stays what it is: a text in JSON.
    let texts = ["one", "<img onerror=alert(1)>", "three"];
    let events = texts.map(|text| daemon.caption(text));
    daemon.yard_is(CameraState::Live);
    let server = Server::start(&daemon).await;
    let all = server.get("/events?kind=caption&kind=answer&camera=gate&limit=2").await.json();
    let text = |page: &Value, n: usize| page["events"][n]["text"].clone();
    assert_eq!([text(&all, 0), text(&all, 1)], ["three", "<img onerror=alert(1)>"]);
    assert_eq!(all["events"][0], serde_json::to_value(&*events[2]).unwrap());
    let before = all["next_before"].as_str().unwrap();
    assert_eq!(before, format!("{RUN}.2"));
    let rest = server.get(&format!("/events?camera=gate&before={before}")).await.json();
    assert_eq!((text(&rest, 0), &rest["next_before"]), (json!("one"), &Value::Null));
    let none = server.get("/events?until=24h").await.json();
    assert_eq!(none["events"], json!([]));
    let one = server.get(&format!("/events/{RUN}.1")).await.json();
    assert_eq!(one["text"], "one");
    server.get(&format!("/events/{RUN}.99")).await.refused(404, "EVENT_NOT_FOUND");
    let path = format!("/events/{RUN}.1/keep");
    server.post(&path, &json!({ "kept": true })).await.refused(400, "NO_STORE");
    server.stopped().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_by_name() {
    let daemon = Daemon::start(100).await;
    let server = Server::start(&daemon).await;
    for (path, field) in [
        ("/timeline?since=1h&buckets=0", "buckets"),
        ("/timeline?since=1h&until=2h", "until"),
        ("/timeline", "query"),
        ("/events?limit=0", "limit"),
        ("/events?limit=201", "limit"),
        ("/events?limit=many", "query"),
        ("/events?kind=rumour", "query"),
        ("/events?cameras=gate", "query"),
        ("/events?since=yesterday", "since"),
        ("/events?before=7", "before"),
        ("/events/seven", "event"),
        ("/search?q=car&offset=10000", "offset"),
        ("/search", "query"),
        ("/cameras/gate/frames/4", "frame"),
    ] {
        let refusal = server.get(path).await.refused(400, "INVALID_REQUEST");
        assert_eq!(refusal["field"], field, "{path}: {refusal}");
    }
    server.get("/search?q=car").await.refused(400, "NO_STORE");
    server.get("/nothing").await.refused(404, "NO_SUCH_PATH");
    for request in ["POST /api/v1/status", "GET /api/v1/session"] {
        server.send(request, "", "").await.refused(405, "WRONG_METHOD");
    }
    let delete = "DELETE /api/v1/events?since=1h&until=2h";
    let refusal = server.send(delete, "", "").await.refused(400, "INVALID_REQUEST");
    assert_eq!(refusal["field"], "until");
    let ask = "POST /api/v1/ask";
    let plain = "Content-Type: text/plain\r\n";
    server
        .send(ask, plain, r#"{"cameras":["gate"],"question":"Open?"}"#)
        .await
        .refused(415, "INVALID_REQUEST");
    for body in [
        json!({ "question": "Open?" }),
        json!({ "cameras": [], "question": "Open?" }),
        json!({ "cameras": [7], "question": "Open?" }),
    ] {
        let refusal = server.post("/ask", &body).await.refused(400, "INVALID_REQUEST");
        assert_eq!(refusal["field"], "cameras", "{refusal}");
    }
    for body in [
        json!({ "cameras": ["gate"] }),
        json!({ "cameras": ["gate"], "question": "Open?", "questoin": "" }),
        json!({ "cameras": ["gate"], "question": "Open?", "last": "soon" }),
        json!({ "cameras": ["gate"], "question": "Open?", "score_yes_no": "yes" }),
    ] {
        server.post("/ask", &body).await.refused(400, "INVALID_QUESTION");
    }
    let unknown = json!({ "cameras": ["attic"], "question": "Open?" });
    server.post("/ask", &unknown).await.refused(404, "CAMERA_NOT_FOUND");
    server.stopped().await;
}

#[tokio::test]
async fn a_timeline_counts_captions_and_names_gaps() {
    let daemon = Daemon::start(100).await;
    daemon.caption("one");
    daemon.caption("two");
    daemon.yard_is(CameraState::Lost);
    let server = Server::start(&daemon).await;
    // The windows of the captions end at 08:53:28; the camera `yard` is lost since 08:53:20.
    // They are published now, after their windows.
    let path = "/timeline?since=2025-10-09T08:53:20.123Z&buckets=2";
    let timeline = server.get(path).await.json();
    let [gate, yard] = timeline["cameras"].as_array().unwrap().as_slice() else { panic!() };
    assert_eq!((&gate["camera"], &yard["camera"]), (&json!("gate"), &json!("yard")));
    assert_eq!(gate["captions"], json!([2, 0]));
    let [gap] = yard["gaps"].as_array().unwrap().as_slice() else { panic!("{yard}") };
    assert_eq!((&gap["cause"], &gap["reason"]), (&json!("camera_down"), &json!("no route")));
    assert_eq!((&gap["from"], &gap["to"]), (&timeline["span"]["from"], &timeline["span"]["to"]));
    let one = server.get(&format!("{path}&camera=yard")).await.json();
    assert_eq!(one["cameras"].as_array().unwrap().len(), 1);
    server.get("/timeline?since=1h&camera=attic").await.refused(404, "CAMERA_NOT_FOUND");
    server.stopped().await;
}

#[tokio::test]
async fn a_stream_of_events_resumes_without_a_gap_and_ends_with_the_daemon() {
    let daemon = Daemon::start(100).await;
    daemon.caption("one");
    daemon.yard_is(CameraState::Live);
    daemon.caption("two");
    let server = Server::start(&daemon).await;
    let stream = "Accept: text/event-stream\r\n";
    let mut heard = String::new();
    let mut first = server.open("GET /api/v1/events?since=1h&camera=gate", stream, "").await;
    until(&mut first, &mut heard, "data: ", 2).await;
    assert!(heard.contains("content-type: text/event-stream"), "{heard}");
    daemon.caption("three");
    until(&mut first, &mut heard, "data: ", 3).await;
    let ids = |heard: &str| {
        let ids = heard.lines().filter_map(|line| line.strip_prefix("id: "));
        ids.map(str::to_owned).collect::<Vec<_>>()
    };
    let expected = [1, 3, 4].map(|sequence| format!("{RUN}.{sequence}"));
    assert_eq!(ids(&heard), expected);
    drop(first);
    daemon.caption("four");
    let mut heard = String::new();
    let resumed = format!("{stream}Last-Event-ID: {RUN}.3\r\n");
    let mut second = server.open("GET /api/v1/events?camera=gate", &resumed, "").await;
    until(&mut second, &mut heard, "data: ", 2).await;
    assert_eq!(ids(&heard), [4, 5].map(|sequence| format!("{RUN}.{sequence}")));
    // A run that the journal does not know may have lost events.
    let mut heard = String::new();
    let unknown = format!("{stream}Last-Event-ID: 12.3\r\n");
    let mut third = server.open("GET /api/v1/events", &unknown, "").await;
    until(&mut third, &mut heard, "data: ", 2).await;
    assert!(heard.contains(r#"{"kind":"missed_events","count":null}"#), "{heard}");
    let refused = server.send("GET /api/v1/events?limit=3", stream, "").await;
    refused.refused(400, "INVALID_REQUEST");
    server
        .send("GET /api/v1/events?camera=attic", stream, "")
        .await
        .refused(404, "CAMERA_NOT_FOUND");
    server.stopped().await;
    to_its_end(second).await;
    to_its_end(third).await;
}

#[tokio::test]
async fn an_answer_is_one_value_or_a_stream() {
    let daemon = Daemon::start(100).await;
    daemon.service.answers_with(|question| {
        if question.camera() == "yard" {
            return Err(AskError::NoFrames { camera: "yard".into(), why: "it is lost".into() });
        }
        let (to, answer) = mpsc::channel(8);
        for item in [
            AnswerItem::Part(Box::new(part("Nobody."))),
            AnswerItem::Token("No".into()),
            AnswerItem::Token(".".into()),
            finished(super::answer(question.id(), "No.")),
        ] {
            to.try_send(item).unwrap();
        }
        Ok(answer)
    });
    let server = Server::start(&daemon).await;
    let question = json!({ "cameras": ["gate", "yard"], "question": "Open?", "question_id": 7 });
    let answers = server.post("/ask", &question).await.json();
    let [gate, yard] = answers["answers"].as_array().unwrap().as_slice() else { panic!() };
    assert_eq!((&gate["kind"], &gate["camera"]), (&json!("finished"), &json!("gate")));
    assert_eq!(
        (&gate["event"]["text"], &gate["event"]["question_id"]),
        (&json!("No."), &json!("7"))
    );
    assert_eq!((&yard["kind"], &yard["reason"]), (&json!("refused"), &json!("NO_FRAMES")));
    let headers = "Content-Type: application/json; charset=utf-8\r\nAccept: text/event-stream\r\n";
    let reply = server.send("POST /api/v1/ask", headers, &question.to_string()).await;
    let messages = reply.messages();
    let kinds: Vec<_> = messages.iter().map(|message| message["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["part", "text", "text", "finished", "refused"]);
    // A camera asked alone is refused as a whole.
    let alone = json!({ "cameras": ["yard"], "question": "Open?" });
    server.post("/ask", &alone).await.refused(400, "NO_FRAMES");
    daemon.service.answers_with(|_| {
        Err(AskError::QueueFull { waiting: 3, retry_after: Duration::from_secs(7) })
    });
    let full = server.post("/ask", &alone).await;
    assert_eq!(full.refused(429, "QUEUE_FULL")["retry_after_seconds"], 7);
    assert!(full.head.contains("retry-after: 7"), "{}", full.head);
    server.stopped().await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_answer() {
    let daemon = Daemon::start(100).await;
    let (asked, mut asking) = mpsc::channel(1);
    daemon.service.answers_with(move |_| {
        let (to, answer) = mpsc::channel(8);
        to.try_send(AnswerItem::Token("No".into())).unwrap();
        asked.try_send(to).unwrap();
        Ok(answer)
    });
    let server = Server::start(&daemon).await;
    let headers = "Content-Type: application/json\r\nAccept: text/event-stream\r\n";
    let question = json!({ "cameras": ["gate"], "question": "Open?" }).to_string();
    let mut stream = server.open("POST /api/v1/ask", headers, &question).await;
    until(&mut stream, &mut String::new(), "data: ", 1).await;
    drop(stream);
    let to = asking.recv().await.unwrap();
    // The server notices when it sends.
    let cancelled = async {
        while to.send(AnswerItem::Token("…".into())).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, cancelled).await.expect("the answer goes on");
    server.stopped().await;
}

#[tokio::test]
async fn a_frame_is_sent_once() {
    let daemon = Daemon::start(100).await;
    let server = Server::start(&daemon).await;
    let path = "GET /api/v1/cameras/gate/frames/1.4";
    let frame = server.send(path, "", "").await;
    assert_eq!((frame.status, &*frame.body), (200, &b"jpeg 4"[..]));
    assert!(frame.head.contains("content-type: image/jpeg"), "{}", frame.head);
    let tag = frame.head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag");
    let again = server.send(path, &format!("If-None-Match: {tag}\r\n"), "").await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    let part = server.send(path, "Range: bytes=0-3\r\n", "").await;
    assert_eq!((part.status, &*part.body), (206, &b"jpeg"[..]));
    server.get("/cameras/gate/frames/1.99").await.refused(404, "FRAME_NOT_FOUND");
    server.get("/cameras/gate/frames/1.8").await.refused(429, "QUEUE_FULL");
    server.stopped().await;
}

#[tokio::test]
async fn pages_of_other_sites_are_refused() {
    let daemon = Daemon::start(100).await;
    let server = Server::start(&daemon).await;
    let get = async |headers: &str| server.send("GET /api/v1/cameras", headers, "").await;
    get("Host: rebound.example.com\r\n").await.refused(403, "OTHER_HOST");
    get("Origin: https://example.com\r\n").await.refused(403, "OTHER_ORIGIN");
    get("Sec-Fetch-Site: cross-site\r\n").await.refused(403, "OTHER_ORIGIN");
    assert_eq!(
        get("Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n").await.status,
        200
    );
    server.stopped().await;
}

#[tokio::test]
async fn the_openapi_document_lists_the_paths_and_their_values() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let document = publish::http::openapi::document();
    let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &text).unwrap();
    } else {
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == text,
            "docs/openapi.json differs from the code; run UPDATE_DOCS=1 cargo test --test publish"
        );
    }
    let daemon = Daemon::start(100).await;
    let server = Server::start(&daemon).await;
    assert_eq!(server.get("/openapi.json").await.json(), document);
    for (path, methods) in document["paths"].as_object().unwrap() {
        let filled = path.replace("{camera}", "gate").replace("{frame}", "1.4");
        let filled = filled.replace("{event}", "1.1").replace("{alert}", "a1");
        for method in methods.as_object().unwrap().keys() {
            let request = format!("{} /api/v1{filled}", method.to_uppercase());
            let reply = server.send(&request, "", "").await;
            let body = String::from_utf8_lossy(&reply.body);
            assert!(!body.contains("NO_SUCH_PATH"), "{request}: {body}");
            assert!(!body.contains("WRONG_METHOD"), "{request}: {body}");
        }
    }
    // Every schema that the document refers to is in it.
    for name in text.split("\"#/components/schemas/").skip(1) {
        let name = name.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
    server.stopped().await;
}
