//! Tests MCP with the official clients in Python and TypeScript and with the inspector's command:
//! over HTTP, and over the standard input and output of `lookout mcp`.

use serde_json::json;
use tokio::process::Command as Program;

use super::api::Server;
use super::mcp::{TOOLS, fill};
use super::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/mcp-env/bin/python");
const INSPECTOR: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/target/npm/node_modules/@modelcontextprotocol/inspector-cli/build"
);

/// Longest run of a client. A loaded machine needs seconds for what takes one second otherwise.
const RUN_TIME: Duration = Duration::from_secs(120);

/// Returns a call of each tool. The journal in memory cannot be searched.
fn calls() -> Vec<(&'static str, Value)> {
    vec![
        ("list_cameras", json!({})),
        ("ask", json!({ "question": "Is it open?", "cameras": ["gate"], "last": "1m" })),
        ("search_events", json!({ "query": "red car", "last": "24h" })),
        ("list_events", json!({ "kinds": ["caption"] })),
        ("get_event", json!({ "event": format!("{RUN}.1") })),
        ("get_frames", json!({ "event": format!("{RUN}.1") })),
        ("list_rules", json!({})),
        ("try_rule", json!({ "camera": "gate", "rule": "person", "last": "1h" })),
    ]
}

/// Runs a program to its end. Returns its standard output.
async fn run(mut program: Program) -> String {
    let output = timeout(RUN_TIME, program.kill_on_drop(true).output()).await;
    let output = output.expect("too slow").expect("run `.ci/setup test` first");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn python(mode: &str, server: &str) -> Program {
    let mut program = Program::new(PYTHON);
    program.arg(format!("{ROOT}/tests/mcp/client.py")).args([mode, server]);
    program.arg(json!(calls()).to_string());
    program
}

fn typescript(server: &str) -> Program {
    let mut program = Program::new("node");
    program.arg(format!("{ROOT}/tests/mcp/client.mjs")).arg(server);
    program.arg(json!(calls()).to_string());
    program
}

/// The address of a server's MCP, and the command that connects standard input and output with it.
fn addresses(server: &Server) -> [String; 2] {
    let address = server.address.to_string();
    let command = json!([env!("CARGO_BIN_EXE_lookout"), "mcp", "--http", address]);
    [format!("http://{address}/mcp"), command.to_string()]
}

/// Checks what a client received.
fn check(received: &str) -> Value {
    let received: Value = serde_json::from_str(received).expect("JSON");
    assert_eq!(received["tools"], json!(TOOLS));
    assert!(received["instructions"].as_str().unwrap().contains("list_cameras"));
    assert_eq!(received["code"], -32602);
    let results = received["results"].as_array().unwrap();
    for ((name, _), result) in calls().iter().zip(results) {
        let refused = result["isError"] == true;
        assert_eq!(refused, *name == "search_events", "{name}: {result}");
    }
    assert_eq!(results[1]["structuredContent"]["answers"][0]["text"], "Yes.");
    assert_eq!(results[3]["structuredContent"]["events"][1]["text"], "A red car arrives.");
    assert_eq!(results[5]["content"][2]["type"], "image");
    received
}

#[tokio::test]
async fn the_python_client_calls_every_tool() {
    let daemon = Daemon::start(100).await;
    fill(&daemon);
    let server = Server::start_patient(&daemon).await;
    let [http, stdio] = addresses(&server);
    for (mode, version) in [("auto", "2026-07-28"), ("legacy", "2025-11-25")] {
        let received = check(&run(python(mode, &http)).await);
        assert_eq!(received["version"], version);
    }
    check(&run(python("auto", &stdio)).await);
    server.stopped().await;
}

#[tokio::test]
async fn the_typescript_client_calls_every_tool() {
    let daemon = Daemon::start(100).await;
    fill(&daemon);
    let server = Server::start_patient(&daemon).await;
    for server in addresses(&server) {
        check(&run(typescript(&server)).await);
    }
    server.stopped().await;
}

#[tokio::test]
async fn the_inspector_lists_and_calls_tools() {
    let daemon = Daemon::start(100).await;
    fill(&daemon);
    let server = Server::start_patient(&daemon).await;
    let [http, _] = addresses(&server);
    let inspector = |arguments: &[&str]| {
        let mut program = Program::new("node");
        program.current_dir(INSPECTOR).args(["index.js", &http]).args(arguments);
        program
    };
    let tools = run(inspector(&["--method", "tools/list"])).await;
    let tools: Value = serde_json::from_str(&tools).expect("JSON");
    assert_eq!(tools["tools"].as_array().unwrap().len(), TOOLS.len());
    for (name, arguments) in calls() {
        let mut program = inspector(&["--method", "tools/call", "--tool-name", name]);
        for (name, value) in arguments.as_object().unwrap() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            program.args(["--tool-arg", &format!("{name}={value}")]);
        }
        let result: Value = serde_json::from_str(&run(program).await).expect("JSON");
        assert!(result["content"][0]["text"].is_string(), "{name}: {result}");
    }
    server.stopped().await;
}

/// Checks that a daemon that is not there is an error in the reply, and that the next request
/// reaches one that has come.
#[tokio::test]
async fn standard_input_and_output_survive_a_restart_of_the_daemon() {
    let daemon = Daemon::start(100).await;
    let address = format!("127.0.0.1:{}", free_port());
    let mut program = Program::new(env!("CARGO_BIN_EXE_lookout"));
    program.args(["mcp", "--http", &address]).kill_on_drop(true);
    let mut proxy = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = proxy.stdin.take().unwrap();
    let output = tokio::io::BufReader::new(proxy.stdout.take().unwrap());
    let mut output = tokio::io::AsyncBufReadExt::lines(output);
    let mut ask = async |message: &str| {
        input.write_all(format!("{message}\n").as_bytes()).await.unwrap();
        let line = timeout(SOON, output.next_line()).await.expect("no reply").unwrap();
        serde_json::from_str::<Value>(&line.expect("a reply")).expect("JSON")
    };
    let list = r#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#;
    let missing = ask(list).await;
    assert_eq!((&missing["id"], &missing["error"]["code"]), (&json!("a"), &json!(-32000)));
    let why = missing["error"]["message"].as_str().unwrap();
    assert!(why.contains("is it running?"), "{why}");
    assert_eq!(ask("{").await["error"]["code"], -32700);
    for _ in 0..2 {
        let server = Server::start_at(&daemon, address.parse().unwrap()).await;
        let listed = ask(list).await;
        assert_eq!(listed["result"]["tools"].as_array().map(Vec::len), Some(TOOLS.len()));
        server.stopped().await;
    }
    drop(input);
    assert!(timeout(SOON, proxy.wait()).await.expect("it goes on").unwrap().success());
}

/// Checks that a call that a client cancels by standard input ends in the daemon.
#[tokio::test]
async fn a_cancelled_call_of_standard_input_ends() {
    let daemon = Daemon::start(100).await;
    let mut asked = super::mcp::waiting_answers(&daemon);
    let server = Server::start_patient(&daemon).await;
    let mut program = Program::new(env!("CARGO_BIN_EXE_lookout"));
    program.args(["mcp", "--http", &server.address.to_string()]).kill_on_drop(true);
    let mut proxy = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = proxy.stdin.take().unwrap();
    let question = json!({ "name": "ask", "arguments": { "question": "?", "cameras": ["gate"] } });
    let mut send = async |message: Value| {
        input.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    };
    send(json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": question })).await;
    let answer = timeout(SOON, asked.recv()).await.unwrap().unwrap();
    let cancelled = json!({ "requestId": 3 });
    send(json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled }))
        .await;
    timeout(SOON, answer.closed()).await.expect("the answer goes on although it is cancelled");
    drop(input);
    assert!(timeout(SOON, proxy.wait()).await.expect("it goes on").unwrap().success());
    server.stopped().await;
}
