//! Tests access control: every RPC, route and tool with every role, and what a token limited to a
//! camera can learn about the others.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::Path;

use lookout::access::{Audit, NewToken, Role, TokenStore, Tokens};
use lookout::config::TokenLimits;
use lookout::event_store::{EventStore, Settings};
use prost::Message;
use serde_json::json;
use tempfile::TempDir;
use tonic::Code;
use tonic::metadata::MetadataValue;

use super::api::{Server, until};
use super::*;

const LIMITS: TokenLimits =
    TokenLimits { questions_per_minute: NonZeroU32::new(20).unwrap(), streams: 2 };

/// A fake daemon with access control, and a token of each sort.
struct Guarded {
    daemon: Daemon,
    server: Server,
    folder: TempDir,
    store: TokenStore,
    tokens: BTreeMap<&'static str, String>,
}

impl Guarded {
    async fn start() -> Guarded {
        let folder = tempfile::tempdir().unwrap();
        let store = TokenStore::new(folder.path());
        let mut tokens = BTreeMap::new();
        let sorts = [
            ("view", Role::View, None, None),
            ("ask", Role::Ask, None, None),
            ("admin", Role::Admin, None, None),
            ("gate", Role::Admin, Some(BTreeSet::from(["gate".to_owned()])), None),
            ("expired", Role::Admin, None, Some(SystemTime::UNIX_EPOCH)),
            ("revoked", Role::Admin, None, None),
        ];
        for (name, role, cameras, expires_at) in sorts {
            let new = NewToken { name: name.into(), role, cameras, expires_at };
            tokens.insert(name, store.add(new).unwrap());
        }
        store.revoke("revoked").unwrap();
        tokens.insert("garbage", "lookout_garbage".into());
        let (retention, bytes) = (Duration::from_secs(3600), 1 << 30);
        let settings = Settings { folder: folder.path().join("journal"), retention, bytes };
        let journal = EventStore::open(settings).unwrap().journal(RUN).unwrap();
        let mut daemon = Daemon::with_journal(journal);
        let known = Tokens::read(store.clone(), LIMITS, daemon.stop.clone()).unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        daemon.access = Some((Arc::new(known), audit));
        daemon.serve_again().await;
        let server = Server::start(&daemon).await;
        Guarded { daemon, server, folder, store, tokens }
    }

    fn header(&self, token: &str) -> String {
        match self.tokens.get(token) {
            Some(text) => format!("Authorization: Bearer {text}\r\n"),
            None => String::new(),
        }
    }

    /// Sends an encoded request to a method of gRPC, and returns the code of its first reply.
    async fn call(&self, method: &str, token: &str, message: Vec<u8>) -> Code {
        let mut client = tonic::client::Grpc::new(self.daemon.channel().await);
        client.ready().await.unwrap();
        let mut request = tonic::Request::new(tokio_stream::once(Raw(message)));
        if let Some(text) = self.tokens.get(token) {
            let value = MetadataValue::try_from(format!("Bearer {text}")).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let path = format!("/lookout.v1.LookoutService/{method}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<Raw, Raw>::default();
        let reply = match client.streaming(request, path, codec).await {
            Ok(reply) => reply,
            Err(status) => return status.code(),
        };
        // A stream without messages is open.
        match timeout(Duration::from_millis(300), reply.into_inner().message()).await {
            Ok(Err(status)) => status.code(),
            Ok(Ok(_)) | Err(_) => Code::Ok,
        }
    }
}

/// A message of any type.
#[derive(Clone, Debug, Default, PartialEq)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, to: &mut impl prost::bytes::BufMut) {
        to.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: prost::encoding::WireType,
        from: &mut impl prost::bytes::Buf,
        context: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        prost::encoding::skip_field(wire_type, tag, from, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// The role that each method needs.
const METHODS: &[(&str, Role)] = &[
    ("ListCameras", Role::View),
    ("Watch", Role::View),
    ("ListEvents", Role::View),
    ("SearchEvents", Role::View),
    ("GetEvent", Role::View),
    ("GetEventFrames", Role::View),
    ("KeepEvent", Role::Ask),
    ("DeleteEvents", Role::Admin),
    ("Ask", Role::Ask),
    ("GetFrame", Role::View),
    ("ListRules", Role::View),
    ("TryRule", Role::Ask),
    ("GetClip", Role::View),
    ("AckAlert", Role::Ask),
    ("Reload", Role::Admin),
    ("AddCamera", Role::Admin),
    ("UpdateCamera", Role::Admin),
    ("PauseCamera", Role::Admin),
    ("ResumeCamera", Role::Admin),
    ("RemoveCamera", Role::Admin),
];

/// The methods that need a token that sees all cameras.
const CONFIG_METHODS: [&str; 6] =
    ["Reload", "AddCamera", "UpdateCamera", "PauseCamera", "ResumeCamera", "RemoveCamera"];

/// The role that each route of the API needs. `None`: a token is not needed.
const ROUTES: &[(&str, &str, Option<Role>)] = &[
    ("GET", "/access", Some(Role::View)),
    ("POST", "/session", None),
    ("DELETE", "/session", None),
    ("GET", "/status", Some(Role::View)),
    ("GET", "/cameras", Some(Role::View)),
    ("POST", "/cameras", Some(Role::Admin)),
    ("PATCH", "/cameras/{camera}", Some(Role::Admin)),
    ("DELETE", "/cameras/{camera}", Some(Role::Admin)),
    ("POST", "/cameras/{camera}/pause", Some(Role::Admin)),
    ("POST", "/cameras/{camera}/resume", Some(Role::Admin)),
    ("GET", "/config/cameras", Some(Role::Admin)),
    ("GET", "/cameras/{camera}/frames/{frame}", Some(Role::View)),
    ("GET", "/cameras/{camera}/live", Some(Role::View)),
    ("GET", "/events", Some(Role::View)),
    ("DELETE", "/events", Some(Role::Admin)),
    ("GET", "/events/{event}", Some(Role::View)),
    ("GET", "/events/{event}/clip", Some(Role::View)),
    ("POST", "/events/{event}/keep", Some(Role::Ask)),
    ("GET", "/search", Some(Role::View)),
    ("GET", "/timeline", Some(Role::View)),
    ("POST", "/ask", Some(Role::Ask)),
    ("GET", "/rules", Some(Role::View)),
    ("POST", "/rules/try", Some(Role::Ask)),
    ("GET", "/alerts", Some(Role::View)),
    ("POST", "/alerts/{alert}/acknowledge", Some(Role::Ask)),
];

/// The routes that need a token that sees all cameras, and their bodies.
const CONFIG_ROUTES: &[(&str, &str, &str)] = &[
    ("POST", "/cameras", r#"{"name": "hall", "settings": {}}"#),
    ("PATCH", "/cameras/{camera}", r#"{"settings": {}}"#),
    ("DELETE", "/cameras/{camera}", ""),
    ("POST", "/cameras/{camera}/pause", ""),
    ("POST", "/cameras/{camera}/resume", ""),
    ("GET", "/config/cameras", ""),
];

/// The tokens, and the role of each that is valid.
const TOKENS: &[(&str, Option<Role>)] = &[
    ("none", None),
    ("garbage", None),
    ("expired", None),
    ("revoked", None),
    ("view", Some(Role::View)),
    ("ask", Some(Role::Ask)),
    ("admin", Some(Role::Admin)),
    ("gate", Some(Role::Admin)),
];

#[tokio::test]
async fn every_method_checks_the_token_and_its_role() {
    let files = prost_types::FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let services = files.file.iter().flat_map(|file| &file.service);
    let lookout = services.filter(|service| service.name() == "LookoutService");
    let declared: BTreeSet<_> =
        lookout.flat_map(|service| &service.method).map(|method| method.name()).collect();
    let listed: BTreeSet<_> = METHODS.iter().map(|(name, _)| *name).collect();
    assert_eq!(declared, listed, "METHODS has every method");
    let guarded = Guarded::start().await;
    // Few wrong tokens at a time, because many make the client wait.
    for (method, needed) in METHODS {
        for (token, role) in TOKENS {
            let is_wrong = role.is_none() && *token != "none";
            if is_wrong && *method != "ListCameras" {
                continue;
            }
            let code = guarded.call(method, token, Vec::new()).await;
            let context = format!("{method} with the token {token}: {code:?}");
            match role {
                None => assert_eq!(code, Code::Unauthenticated, "{context}"),
                // A change of the config can concern cameras that the token does not see.
                Some(_) if CONFIG_METHODS.contains(method) && *token == "gate" => {
                    assert_eq!(code, Code::PermissionDenied, "{context}");
                }
                Some(role) if role < needed => {
                    assert_eq!(code, Code::PermissionDenied, "{context}");
                }
                Some(_) => {
                    let denied =
                        [Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented];
                    assert!(!denied.contains(&code), "{context}");
                }
            }
        }
    }
}

#[tokio::test]
async fn every_route_checks_the_token_and_its_role() {
    let document = publish::http::openapi::document();
    let paths = document["paths"].as_object().unwrap();
    let declared: BTreeSet<_> = paths
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path))
        })
        .collect();
    let listed: Vec<_> =
        ROUTES.iter().map(|(method, path, _)| (method.to_string(), path.to_string())).collect();
    assert_eq!(declared, listed.iter().map(|(m, p)| (m.clone(), p)).collect(), "ROUTES has all");
    let guarded = Guarded::start().await;
    let mut wrong_tokens = 0;
    for (method, path, needed) in ROUTES {
        for (token, role) in TOKENS {
            if role.is_none() && *token != "none" {
                wrong_tokens += 1;
                if wrong_tokens > 6 {
                    continue;
                }
            }
            let config_route = CONFIG_ROUTES.iter().find(|(m, p, _)| (m, p) == (method, path));
            let body = config_route.map_or("{}", |(_, _, body)| body);
            let path = path
                .replace("{camera}", "gate")
                .replace("{frame}", "1.4")
                .replace("{event}", "1.1")
                .replace("{alert}", "a1");
            let headers = guarded.header(token) + "Content-Type: application/json\r\n";
            let reply =
                guarded.server.send(&format!("{method} /api/v1{path}"), &headers, body).await;
            let context = format!("{method} {path} with the token {token}: {}", reply.status);
            match (needed, role) {
                (None, _) => assert!(![401, 403, 404].contains(&reply.status), "{context}"),
                (Some(_), None) => {
                    assert_eq!(reply.status, 401, "{context}");
                    assert!(reply.head.contains("www-authenticate: bearer"), "{}", reply.head);
                }
                (Some(needed), Some(role)) if role < needed => {
                    assert_eq!(reply.status, 403, "{context}");
                }
                (Some(_), Some(_)) if config_route.is_some() => {
                    let status = if *token == "gate" { 403 } else { 200 };
                    assert_eq!(reply.status, status, "{context}");
                }
                (Some(_), Some(_)) => assert!(![401, 403].contains(&reply.status), "{context}"),
            }
        }
    }
}

#[tokio::test]
async fn metrics_are_for_tokens_that_see_all_cameras() {
    let guarded = Guarded::start().await;
    for (token, status) in [("none", 401), ("garbage", 401), ("gate", 403), ("view", 200)] {
        let reply = guarded.server.send("GET /metrics", &guarded.header(token), "").await;
        assert_eq!(reply.status, status, "{token}");
    }
    for token in ["none", "gate"] {
        let reply = guarded.server.send("GET /readyz", &guarded.header(token), "").await;
        assert_eq!((reply.status, &reply.body[..]), (200, &b"ready\n"[..]), "{token}");
    }
    let reply = guarded.server.send("GET /readyz", &guarded.header("view"), "").await;
    assert!(String::from_utf8_lossy(&reply.body).contains("the disk is full"));
    assert_eq!(guarded.server.send("GET /healthz", "", "").await.status, 200);
}

#[tokio::test]
async fn a_token_limited_to_a_camera_learns_nothing_of_the_others() {
    let guarded = Guarded::start().await;
    let daemon = &guarded.daemon;
    let shown = daemon.caption("a red car at the gate");
    let hidden = daemon.service.journal.append("yard".into(), caption("a red car in the yard"));
    daemon.service.journal.visible(hidden.id.sequence).await;
    let hidden_rule = RuleInfo { camera: "yard".into(), ..rule("yard rule", Some("a2")) };
    *daemon.service.rules.lock().unwrap() = vec![rule("gate rule", Some("a1")), hidden_rule];
    let header = guarded.header("gate");
    let get =
        async |path: &str| guarded.server.send(&format!("GET /api/v1{path}"), &header, "").await;

    // What a list or a search returns.
    for path in ["/cameras", "/rules", "/alerts", "/events", "/search?q=red", "/timeline?since=1h"]
    {
        let reply = get(path).await;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, 200, "{path}: {text}");
        assert!(!text.contains("yard"), "{path}: {text}");
    }
    let events = get("/events").await.json();
    assert_eq!(events["events"].as_array().unwrap().len(), 1, "{events}");
    let events = get("/events?camera=yard").await.json();
    assert_eq!(events["events"], json!([]));
    let found = get("/search?q=red").await.json();
    assert_eq!(found["results"].as_array().unwrap().len(), 1, "{found}");

    // What names a hidden camera or its event gets the reply of one that does not exist.
    let (yes, no) = (shown.id.to_string(), hidden.id.to_string());
    assert_eq!(get(&format!("/events/{yes}")).await.status, 200);
    for (hidden, missing) in [
        (format!("/events/{no}"), format!("/events/{RUN}.999")),
        (format!("/events/{no}/clip"), format!("/events/{RUN}.999/clip")),
        ("/cameras/yard/frames/1.4".into(), "/cameras/other/frames/1.4".into()),
        ("/timeline?since=1h&camera=yard".into(), "/timeline?since=1h&camera=other".into()),
    ] {
        let replies = [get(&hidden).await, get(&missing).await];
        let [hidden_reply, missing_reply] = replies.map(|reply| {
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            (reply.status, text.replace("yard", "NAME").replace("other", "NAME").replace(&no, "ID"))
        });
        let missing_text = missing_reply.1.replace(&format!("{RUN}.999"), "ID");
        let place =
            |text: &str| text.replace(&format!("event {}", hidden_sequence(&no)), "event N");
        let missing_text = missing_text.replace("event 999", "event N");
        assert_eq!(hidden_reply.0, missing_reply.0, "{hidden}");
        assert_eq!(place(&hidden_reply.1), missing_text, "{hidden}");
    }
    let ask = |camera: &str| json!({ "cameras": [camera], "question": "Is it open?" }).to_string();
    let headers = header.clone() + "Content-Type: application/json\r\n";
    let post = async |path: &str, body: &str| {
        guarded.server.send(&format!("POST /api/v1{path}"), &headers, body).await
    };
    post("/ask", &ask("yard")).await.refused(404, "CAMERA_NOT_FOUND");
    let trial = json!({ "camera": "yard", "rule": "yard rule", "last": "1m" }).to_string();
    post("/rules/try", &trial).await.refused(404, "CAMERA_NOT_FOUND");
    let trial = json!({ "camera": "gate", "rule": "yard rule", "last": "1m" }).to_string();
    post("/rules/try", &trial).await.refused(404, "RULE_NOT_FOUND");
    post("/alerts/a2/acknowledge", "{}").await.refused(404, "ALERT_NOT_FOUND");
    let keep = format!("/events/{no}/keep");
    post(&keep, r#"{"kept": true}"#).await.refused(404, "EVENT_NOT_FOUND");

    // A watcher gets the events of its camera only.
    let text = &guarded.tokens["gate"];
    let channel = daemon.channel().await;
    let value: MetadataValue<_> = format!("Bearer {text}").parse().unwrap();
    let mut client =
        LookoutServiceClient::with_interceptor(channel, move |mut request: tonic::Request<()>| {
            request.metadata_mut().insert("authorization", value.clone());
            Ok(request)
        });
    let from = Some(proto::EventId { run: None, sequence: 0 });
    let request = proto::WatchRequest { from, ..Default::default() };
    let mut events = client.watch(request).await.unwrap().into_inner();
    daemon.service.journal.append("yard".into(), caption("hidden"));
    daemon.caption("shown");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let message = timeout(SOON, events.message()).await.unwrap().unwrap().unwrap();
        let Some(proto::watch_response::Item::Event(event)) = message.item else {
            panic!("missed")
        };
        seen.push(event.camera);
    }
    assert_eq!(seen, ["gate", "gate"]);

    // A deletion leaves the events of other cameras.
    let path = "/api/v1/events?since=2000-01-01T00:00:00Z&until=2100-01-01T00:00:00Z";
    let reply = guarded.server.send(&format!("DELETE {path}"), &header, "").await;
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    assert!(daemon.service.journal.get(None, shown.id.sequence).is_none());
    assert!(daemon.service.journal.get(None, hidden.id.sequence).is_some());
}

fn hidden_sequence(id: &str) -> &str {
    id.split_once('.').unwrap().1
}

#[tokio::test]
async fn a_revoked_token_ends_its_streams() {
    let guarded = Guarded::start().await;
    let (tokens, _) = guarded.daemon.access.clone().unwrap();
    tokio::spawn(async move { tokens.follow().await });
    let text = guarded.tokens["view"].clone();
    let channel = guarded.daemon.channel().await;
    let value: MetadataValue<_> = format!("Bearer {text}").parse().unwrap();
    let mut client =
        LookoutServiceClient::with_interceptor(channel, move |mut request: tonic::Request<()>| {
            request.metadata_mut().insert("authorization", value.clone());
            Ok(request)
        });
    let request = proto::WatchRequest::default();
    let mut events = client.watch(request.clone()).await.unwrap().into_inner();
    let headers = guarded.header("view") + "Accept: text/event-stream\r\n";
    let mut stream = guarded.server.open("GET /api/v1/events", &headers, "").await;
    let mut heard = String::new();
    until(&mut stream, &mut heard, "\r\n\r\n", 1).await;
    guarded.daemon.caption("before");
    until(&mut stream, &mut heard, "before", 1).await;
    assert!(timeout(SOON, events.message()).await.unwrap().unwrap().is_some());
    guarded.store.revoke("view").unwrap();
    let ended = timeout(SOON, events.message()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
    timeout(SOON, to_its_end(stream)).await.unwrap();
    let again = client.watch(request).await.unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_token_has_limits() {
    let guarded = Guarded::start().await;
    let watch = || guarded.call("Watch", "view", Vec::new());
    let open = async || {
        let text = guarded.tokens["view"].clone();
        let mut request = tonic::Request::new(proto::WatchRequest::default());
        request.metadata_mut().insert("authorization", format!("Bearer {text}").parse().unwrap());
        guarded.daemon.client().await.watch(request).await.map(tonic::Response::into_inner)
    };
    let streams = [open().await.unwrap(), open().await.unwrap()];
    assert_eq!(watch().await, Code::ResourceExhausted);
    drop(streams);
    // The daemon notices soon that the clients are gone.
    timeout(SOON, async { while watch().await != Code::Ok {} }).await.unwrap();

    guarded.daemon.service.answers_with(|_| Err(AskError::Stopping));
    let body = json!({ "cameras": ["gate"], "question": "Is it open?" }).to_string();
    let headers = guarded.header("ask") + "Content-Type: application/json\r\n";
    let ask = || guarded.server.send("POST /api/v1/ask", &headers, &body);
    let mut refused = None;
    for _ in 0..2 * LIMITS.questions_per_minute.get() {
        let reply = ask().await;
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
    }
    let refusal = refused.expect("a refusal").refused(429, "TOO_MANY_QUESTIONS");
    assert!(refusal["retry_after_seconds"].as_u64().is_some_and(|wait| wait >= 1), "{refusal}");
}

#[tokio::test]
async fn wrong_tokens_make_an_address_wait() {
    let guarded = Guarded::start().await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let headers = guarded.header("garbage");
        statuses.push(guarded.server.send("GET /api/v1/status", &headers, "").await.status);
    }
    assert_eq!(statuses[..10], [401; 10]);
    assert_eq!(statuses[10..], [429; 2]);
    // A right token of the same address waits too, or the client could try on.
    let reply = guarded.server.send("GET /api/v1/status", &guarded.header("view"), "").await;
    reply.refused(429, "TOO_MANY_FAILURES");
    assert!(reply.head.contains("retry-after: "), "{}", reply.head);
}

#[tokio::test]
async fn a_session_is_a_cookie_that_scripts_cannot_read() {
    let guarded = Guarded::start().await;
    let kind = "Content-Type: application/json\r\n";
    let login = |token: &str| json!({ "token": token }).to_string();
    let wrong = guarded.server.send("POST /api/v1/session", kind, &login("lookout_x")).await;
    wrong.refused(401, "WRONG_TOKEN");
    let token = &guarded.tokens["gate"];
    let begun = guarded.server.send("POST /api/v1/session", kind, &login(token)).await;
    assert_eq!(begun.json(), json!({ "token": "gate", "role": "admin", "cameras": ["gate"] }));
    for part in ["set-cookie: lookout_session=", "httponly", "samesite=strict", "path=/"] {
        assert!(begun.head.contains(part), "{part}: {}", begun.head);
    }
    // A browser would not send it without TLS.
    assert!(!begun.head.contains("; secure"), "{}", begun.head);
    let cookie = format!("Cookie: a=b; lookout_session={token}\r\n");
    let access = guarded.server.send("GET /api/v1/access", &cookie, "").await;
    assert_eq!(access.json()["token"], "gate");
    let other = cookie + "Origin: http://example.com\r\n";
    let access = guarded.server.send("GET /api/v1/access", &other, "").await;
    access.refused(403, "OTHER_ORIGIN");
    let ended = guarded.server.send("DELETE /api/v1/session", "", "").await;
    assert!(ended.status == 204 && ended.head.contains("max-age=0"), "{}", ended.head);
}

#[tokio::test]
async fn the_commands_send_the_token_of_a_file() {
    let guarded = Guarded::start().await;
    let cameras = async |file: Option<std::path::PathBuf>| {
        let address = guarded.daemon.grpc.clone();
        let server = lookout::client::Server { address, token_file: file, ..Default::default() };
        let mut out = Vec::new();
        let listed = lookout::client::cameras(server, Output::Text, &mut out).await;
        listed.map(|()| String::from_utf8(out).unwrap()).map_err(|error| error.to_string())
    };
    let refused = cameras(None).await.unwrap_err();
    assert!(refused.contains("a token is needed"), "{refused}");
    let file = guarded.folder.path().join("token");
    std::fs::write(&file, format!("{}\n", guarded.tokens["gate"])).unwrap();
    let listed = cameras(Some(file.clone())).await.unwrap();
    assert!(listed.contains("gate") && !listed.contains("yard"), "{listed}");
    std::fs::write(&file, "a token\nof two lines").unwrap();
    let wrong = cameras(Some(file)).await.unwrap_err();
    assert!(!wrong.contains("two lines"), "{wrong}");
    let missing = cameras(Some("none".into())).await.unwrap_err();
    assert!(missing.contains("--token-file: none: "), "{missing}");
}

#[tokio::test]
async fn the_audit_log_names_who_did_what() {
    let guarded = Guarded::start().await;
    let (ask, view) = (guarded.header("ask"), guarded.header("view"));
    let kind = "Content-Type: application/json\r\n";
    let body = json!({ "cameras": ["gate"], "question": "Is it open?" }).to_string();
    guarded.server.send("POST /api/v1/ask", &(ask + kind), &body).await;
    guarded.server.send("GET /api/v1/cameras/gate/frames/1.4", &view, "").await;
    let path = guarded.folder.path().join("audit.jsonl");
    let entries = timeout(SOON, async {
        loop {
            let entries = read(&path);
            if entries.len() >= 2 {
                return entries;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let entries = entries.await.unwrap();
    assert_eq!(entries[0]["token"], "ask");
    assert_eq!(entries[0]["action"], "ask");
    assert_eq!(entries[0]["detail"], json!({ "camera": "gate", "question": "Is it open?" }));
    assert_eq!(entries[1]["token"], "view");
    assert_eq!(entries[1]["action"], "frame");
    assert_eq!(entries[1]["interface"], "http");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(guarded.tokens.values().all(|token| !text.contains(token)));
}

fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}
