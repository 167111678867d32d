//! Tests MCP with raw requests: the tools, their refusals, and what ends a call.

use serde_json::json;

use super::api::{Reply, Server};
use super::*;

/// The names of the tools, in the order of the list.
pub const TOOLS: [&str; 8] = [
    "list_cameras",
    "ask",
    "search_events",
    "list_events",
    "get_event",
    "get_frames",
    "list_rules",
    "try_rule",
];

const JSON: &str = "Content-Type: application/json\r\n\
                    Accept: application/json, text/event-stream\r\n";

/// A client of `/mcp`.
pub struct Mcp<'a> {
    server: &'a Server,
    pub headers: String,
}

impl<'a> Mcp<'a> {
    /// Initialises a client, and continues in the session that the server names.
    pub async fn start(server: &'a Server) -> Mcp<'a> {
        let mut mcp = Mcp { server, headers: JSON.into() };
        let reply = mcp.send(&request("initialize", initialize())).await;
        let session = reply.head.lines().find(|line| line.starts_with("mcp-session-id:"));
        mcp.headers += &format!("{}\r\n", session.expect("a session"));
        mcp
    }

    pub async fn send(&self, message: &Value) -> Reply {
        self.server.send("POST /mcp", &self.headers, &message.to_string()).await
    }

    pub async fn open(&self, message: &Value) -> TcpStream {
        self.server.open("POST /mcp", &self.headers, &message.to_string()).await
    }

    /// Calls a tool. Returns its result.
    async fn call(&self, name: &str, arguments: Value) -> Value {
        let reply = self.send(&call(name, arguments)).await;
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        reply.json()["result"].clone()
    }

    /// Calls a tool that succeeds. Returns what programs read of its result, and the text.
    async fn succeed(&self, name: &str, arguments: Value) -> (Value, String) {
        let result = self.call(name, arguments).await;
        assert_eq!(result["isError"], false, "{result}");
        let text = result["content"][0]["text"].as_str().expect("a text").to_owned();
        (result["structuredContent"].clone(), text)
    }

    /// Calls a tool that refuses. Returns why.
    async fn refuse(&self, name: &str, arguments: Value) -> String {
        let result = self.call(name, arguments).await;
        assert_eq!(result["isError"], true, "{result}");
        result["content"][0]["text"].as_str().expect("a text").to_owned()
    }
}

fn initialize() -> Value {
    json!({
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": { "name": "test", "version": "1" },
    })
}

fn request(method: &str, parameters: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": parameters })
}

fn call(name: &str, arguments: Value) -> Value {
    request("tools/call", json!({ "name": name, "arguments": arguments }))
}

/// Fills a fake daemon with what the tools return.
pub fn fill(daemon: &Daemon) {
    for text in ["A red car arrives.", "The yard is empty."] {
        daemon.caption(text);
    }
    daemon.service.journal.append("gate".into(), alert("person", "a1"));
    *daemon.service.rules.lock().unwrap() = vec![rule("person", Some("a1"))];
    daemon.service.answers_with(|question| {
        assert!(question.id().starts_with("mcp-"), "{}", question.id());
        let (to, answers) = mpsc::channel(4);
        to.try_send(AnswerItem::Token("Yes".into())).unwrap();
        to.try_send(AnswerItem::Token(".".into())).unwrap();
        to.try_send(finished(answer(question.id(), "Yes."))).unwrap();
        Ok(answers)
    });
    *daemon.service.try_rule.lock().unwrap() = Box::new(|request| {
        if request.rule.as_deref().is_some_and(|rule| rule != "person") {
            return Err(TrialError::RuleNotFound(request.rule.unwrap_or_default()));
        }
        let (to, items) = mpsc::channel(8);
        for item in trial() {
            to.try_send(item).unwrap();
        }
        Ok(items)
    });
}

/// Returns what the trial of a rule yields: a window without a score and one with an alert.
fn trial() -> Vec<TrialItem> {
    let Body::Alert(alert) = alert("person", "t1") else { unreachable!() };
    let thresholds = lookout::config::Thresholds {
        on: 0.7,
        off: 0.4,
        needed: 2,
        among: 3,
        cooldown: Duration::from_secs(60),
        hold: Duration::from_secs(60),
    };
    let started = Trial {
        camera: "gate".into(),
        rule: "person".into(),
        question: "Is it there?".into(),
        thresholds,
        temperature: 1.0,
        span: alert.window,
        windows: 2,
    };
    let window = |result| TrialItem::Window(TriedWindow { window: alert.window, result });
    vec![
        TrialItem::Started(Box::new(started)),
        window(TriedResult::Unknown(GapCause::CameraDown)),
        window(TriedResult::Score(0.9)),
        TrialItem::Alert(Box::new(alert)),
    ]
}

#[tokio::test]
async fn the_tools_are_described_and_only_read() {
    let daemon = Daemon::start(100).await;
    let server = Server::start(&daemon).await;
    let reply =
        server.send("POST /mcp", JSON, &request("initialize", initialize()).to_string()).await;
    assert!(reply.head.contains("cache-control: no-store"), "{}", reply.head);
    let result = reply.json()["result"].clone();
    assert_eq!(result["serverInfo"]["name"], "lookout");
    assert_eq!(result["protocolVersion"], "2025-11-25");
    assert!(result["instructions"].as_str().unwrap().contains("list_cameras"), "{result}");
    let mcp = Mcp::start(&server).await;
    let tools = mcp.send(&request("tools/list", json!({}))).await.json()["result"]["tools"].clone();
    let tools = tools.as_array().unwrap();
    let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, TOOLS);
    for tool in tools {
        assert_eq!(tool["annotations"]["readOnlyHint"], true, "{tool}");
        for schema in ["inputSchema", "outputSchema"] {
            assert_eq!(tool[schema]["type"], "object", "{tool}");
            assert!(jsonschema::meta::is_valid(&tool[schema]), "{tool}");
        }
        assert_eq!(tool["inputSchema"]["additionalProperties"], false, "{tool}");
        for (name, argument) in tool["inputSchema"]["properties"].as_object().unwrap() {
            assert!(argument["description"].is_string(), "{}: {name}", tool["name"]);
        }
    }
    let ping = mcp.send(&request("ping", json!({}))).await;
    assert_eq!(ping.json()["result"], json!({}));
    server.stopped().await;
}

#[tokio::test]
async fn every_tool_returns_what_its_schema_says_with_events_and_coverage() {
    let daemon = Daemon::start(100).await;
    fill(&daemon);
    let server = Server::start(&daemon).await;
    let mcp = Mcp::start(&server).await;
    let tools = mcp.send(&request("tools/list", json!({}))).await.json()["result"]["tools"].clone();
    let first = format!("{RUN}.1");
    let covered = "2 of 4 frames, gap 08:53:20–08:53:22 (camera_down)";
    for (name, arguments, expected) in [
        ("list_cameras", json!({}), vec!["gate: live", "yard: lost (no route)", &first[..13]]),
        ("ask", json!({ "question": "Open?", "cameras": ["gate"] }), vec!["Yes.", covered]),
        ("list_events", json!({ "kinds": ["caption"] }), vec!["A red car", &first, covered]),
        ("get_event", json!({ "event": first }), vec!["A red car", &first, covered]),
        ("get_frames", json!({ "camera": "gate", "last": "10m" }), vec!["1 frames [1 of 4"]),
        ("get_frames", json!({ "event": first }), vec!["1 left out", &first]),
        ("list_rules", json!({}), vec!["person on gate: Is it there?", "active"]),
        (
            "try_rule",
            json!({ "camera": "gate", "rule": "person", "last": "1h" }),
            vec!["1 of 2 windows scored, 1 alerts", "camera_down", "still active"],
        ),
    ] {
        let (output, text) = mcp.succeed(name, arguments.clone()).await;
        for expected in expected {
            assert!(text.contains(expected), "{name} {arguments}: {expected:?} is not in {text:?}");
        }
        let tool = tools.as_array().unwrap().iter().find(|tool| tool["name"] == name).unwrap();
        let schema = jsonschema::validator_for(&tool["outputSchema"]).expect("a schema");
        let errors: Vec<_> = schema.iter_errors(&output).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}: {output}");
    }
    let (events, _) = mcp.succeed("list_events", json!({ "limit": 1 })).await;
    assert_eq!(events["events"][0]["alert_id"], "a1");
    assert_eq!(events["events"][0]["coverage"]["gaps"][0]["cause"], "camera_down");
    let before = events["next_before"].clone();
    let (events, _) = mcp.succeed("list_events", json!({ "before": before, "limit": 1 })).await;
    assert_eq!(events["events"][0]["text"], "The yard is empty.");
    let (answers, _) = mcp.succeed("ask", json!({ "question": "Open?", "last": "1m" })).await;
    assert_eq!(answers["answers"].as_array().unwrap().len(), 2, "{answers}");
    assert_eq!(answers["answers"][0]["conversation"], "c1");
    server.stopped().await;
}

#[tokio::test]
async fn frames_are_images_with_their_times() {
    let daemon = Daemon::start(100).await;
    let server = Server::start(&daemon).await;
    let mcp = Mcp::start(&server).await;
    let result = mcp.call("get_frames", json!({ "camera": "gate" })).await;
    let [_, time, image] = result["content"].as_array().unwrap().as_slice() else {
        panic!("{result}")
    };
    assert_eq!(time["text"], "2025-10-09T08:53:22.123Z, frame 1.4:");
    assert_eq!((&image["type"], &image["mimeType"]), (&json!("image"), &json!("image/jpeg")));
    // The bytes `jpeg 4` in Base64.
    assert_eq!(image["data"], "anBlZyA0");
    let frames = &result["structuredContent"];
    assert_eq!(
        frames["frames"],
        json!([{ "frame": "1.4", "captured_at": "2025-10-09T08:53:22.123Z" }])
    );
    assert_eq!((&frames["left_out"], &frames["coverage"]["frames_used"]), (&json!(1), &json!(1)));
    server.stopped().await;
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    let daemon = Daemon::start(100).await;
    fill(&daemon);
    daemon.yard_is(CameraState::Lost);
    let server = Server::start(&daemon).await;
    let mcp = Mcp::start(&server).await;
    for (name, arguments, expected) in [
        ("ask", json!({ "question": "?", "cameras": ["attic"] }), "the cameras are: gate, yard"),
        ("ask", json!({ "question": " " }), "the question is empty"),
        ("ask", json!({ "question": "?", "last": "soon" }), "wanted seconds, or a length like"),
        ("ask", json!({ "question": "?", "from": "noon" }), "wanted a time such as 2026-03-01T"),
        ("ask", json!({ "question": "?", "camera": "gate" }), "unknown field `camera`"),
        ("ask", json!({}), "missing field `question`"),
        (
            "search_events",
            json!({ "query": "car" }),
            "set journal.folder in the config; list_events",
        ),
        ("list_events", json!({ "cameras": ["attic"] }), "the cameras are: gate, yard"),
        ("list_events", json!({ "limit": 101 }), "limit is 101; wanted 1 to 100"),
        (
            "list_events",
            json!({ "kinds": ["rumour"] }),
            "unknown variant `rumour`, expected one of",
        ),
        ("get_event", json!({ "event": "7" }), "wanted RUN.SEQUENCE"),
        ("get_event", json!({ "event": "1.7" }), "list_events and search_events return the IDs"),
        ("get_frames", json!({ "camera": "attic" }), "the cameras are: gate, yard"),
        ("get_frames", json!({ "camera": "gate", "last": "2h" }), "there are some from"),
        ("get_frames", json!({ "camera": "gate", "count": 17 }), "count is 17; wanted 1 to 16"),
        ("get_frames", json!({}), "list_cameras returns the cameras"),
        (
            "get_frames",
            json!({ "event": format!("{RUN}.4") }),
            "camera_status, which has no frames",
        ),
        ("get_frames", json!({ "event": "1.7", "last": "1m" }), "an event or a time, not both"),
        ("try_rule", json!({ "camera": "gate", "rule": "dog" }), "the rules are: person"),
        ("try_rule", json!({ "camera": "gate" }), "list_rules returns the rules"),
        (
            "try_rule",
            json!({ "camera": "gate", "rule": "person", "cooldown": "long" }),
            "cooldown is \"long\"",
        ),
    ] {
        let why = mcp.refuse(name, arguments.clone()).await;
        assert!(why.contains(expected), "{name} {arguments}: {expected:?} is not in {why:?}");
    }
    daemon.service.answers_with(|_| {
        Err(AskError::QueueFull { waiting: 8, retry_after: Duration::from_secs(4) })
    });
    let why = mcp.refuse("ask", json!({ "question": "?", "cameras": ["gate"] })).await;
    assert_eq!(why, "QUEUE_FULL: 8 questions are waiting already; ask again in 4 s");
    server.stopped().await;
}

#[tokio::test]
async fn malformed_messages_get_errors_of_json_rpc() {
    let daemon = Daemon::start(100).await;
    let server = Server::start(&daemon).await;
    let mcp = Mcp::start(&server).await;
    let code = async |body: &str| {
        let reply = server.send("POST /mcp", &mcp.headers, body).await;
        let error = reply.json();
        assert_eq!(error["jsonrpc"], "2.0", "{error}");
        (reply.status, error["error"]["code"].as_i64().unwrap())
    };
    for (body, expected) in [
        ("{", (400, -32700)),
        ("[]", (400, -32600)),
        ("{}", (400, -32600)),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, (400, -32600)),
        (r#"{"jsonrpc":"2.0","id":1,"method":"nothing"}"#, (200, -32601)),
        (r#"{"jsonrpc":"2.0","id":1,"method":"resources/list"}"#, (200, -32601)),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#, (200, -32602)),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#, (200, -32602)),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ask","arguments":[]}}"#,
            (200, -32602),
        ),
    ] {
        assert_eq!(code(body).await, expected, "{body}");
    }
    let unknown = mcp.send(&call("delete_everything", json!({}))).await.json();
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
    daemon.service.panics.store(true, Ordering::Relaxed);
    let failed = mcp.send(&call("list_cameras", json!({}))).await.json();
    assert_eq!(failed["error"]["code"], -32603, "{failed}");
    mcp.succeed("list_cameras", json!({})).await;
    let large = " ".repeat((1 << 20) + 1);
    assert_eq!(server.send("POST /mcp", JSON, &large).await.status, 413);
    for method in ["GET", "DELETE"] {
        assert_eq!(server.send(&format!("{method} /mcp"), JSON, "").await.status, 405, "{method}");
    }
    server.stopped().await;
}

#[tokio::test]
async fn other_origins_and_hosts_are_refused() {
    let daemon = Daemon::start(100).await;
    let server = Server::start(&daemon).await;
    for header in ["Origin: https://example.com", "Host: example.com"] {
        let headers = format!("{JSON}{header}\r\n");
        let body = request("tools/list", json!({})).to_string();
        let reply = server.send("POST /mcp", &headers, &body).await;
        assert_eq!(reply.status, 403, "{header}");
    }
    server.stopped().await;
}

/// Makes questions wait. Returns what receives the sender of each question's answer.
pub fn waiting_answers(daemon: &Daemon) -> mpsc::Receiver<mpsc::Sender<AnswerItem>> {
    let (to, asked) = mpsc::channel(8);
    daemon.service.answers_with(move |_| {
        let (answer, answers) = mpsc::channel(8);
        to.try_send(answer).unwrap();
        Ok(answers)
    });
    asked
}

#[tokio::test]
async fn a_call_ends_with_its_client_and_when_it_is_cancelled() {
    let daemon = Daemon::start(100).await;
    let mut asked = waiting_answers(&daemon);
    let server = Server::start(&daemon).await;
    let mcp = Mcp::start(&server).await;
    let question = call("ask", json!({ "question": "Open?", "cameras": ["gate"] }));
    let client = mcp.open(&question).await;
    let answer = timeout(SOON, asked.recv()).await.unwrap().unwrap();
    drop(client);
    timeout(SOON, answer.closed()).await.expect("the answer goes on without its client");

    let client = mcp.open(&question).await;
    let answer = timeout(SOON, asked.recv()).await.unwrap().unwrap();
    let cancel = |id: i32| {
        json!({
            "jsonrpc": "2.0", "method": "notifications/cancelled",
            "params": { "requestId": id, "reason": "the user left" },
        })
    };
    assert_eq!(mcp.send(&cancel(8)).await.status, 202);
    assert!(!answer.is_closed());
    assert_eq!(mcp.send(&cancel(7)).await.status, 202);
    timeout(SOON, answer.closed()).await.expect("the answer goes on although it is cancelled");
    drop(client);

    let client = mcp.open(&question).await;
    let answer = timeout(SOON, asked.recv()).await.unwrap().unwrap();
    server.stopped().await;
    timeout(SOON, answer.closed()).await.expect("the answer goes on without its daemon");
    drop(client);
}

#[tokio::test]
async fn progress_is_reported_to_a_client_that_asks_for_it() {
    let daemon = Daemon::start(100).await;
    let mut asked = waiting_answers(&daemon);
    let server = Server::start(&daemon).await;
    let mcp = Mcp::start(&server).await;
    let mut question = call("ask", json!({ "question": "Open?", "cameras": ["gate"] }));
    question["params"]["_meta"] = json!({ "progressToken": "p1" });
    let stream = mcp.open(&question).await;
    let answer = timeout(SOON, asked.recv()).await.unwrap().unwrap();
    answer.send(AnswerItem::Token("Ye".into())).await.unwrap();
    answer.send(finished(super::answer("q", "Yes."))).await.unwrap();
    let reply = String::from_utf8(to_its_end(stream).await).unwrap();
    let messages: Vec<Value> = reply
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok())
        .collect();
    assert_eq!(messages[0]["method"], "notifications/progress", "{reply}");
    assert_eq!(messages[0]["params"]["progressToken"], "p1");
    assert_eq!(messages[0]["params"]["message"], "gate: Ye");
    let last = messages.last().unwrap();
    assert_eq!(last["result"]["structuredContent"]["answers"][0]["text"], "Yes.", "{reply}");
    server.stopped().await;
}
