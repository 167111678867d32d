//! Generated HTTP requests at every route: methods, queries, headers, bodies, ranges and encodings.

use lookout::publish::http::openapi;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::SECONDS;
use super::generated::{Connect, LONGEST, Odd, Seeds, assert_clear, withstands_generated};

const METHODS: &[&str] =
    &["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "get", "X"];

/// Headers with values that a server may trip over.
const HEADERS: &[&str] = &[
    "Range: bytes=0-",
    "Range: bytes=-1",
    "Range: bytes=5-2",
    "Range: bytes=0-0,2-3",
    "Range: bytes=18446744073709551615-",
    "Range: lines=1-2",
    "If-Range: x",
    "If-None-Match: *",
    "If-Modified-Since: yesterday",
    "Accept: text/event-stream",
    "Accept: ",
    "Accept: image/*;q=nan",
    "Accept-Encoding: gzip, br, identity;q=0",
    "Content-Encoding: gzip",
    "Content-Type: application/json; charset=utf-16",
    "Content-Type: multipart/form-data; boundary=",
    "Content-Type: ",
    "Last-Event-ID: 1.1",
    "Last-Event-ID: -1",
    "Last-Event-ID: 99999999999999999999.1",
    "Authorization: Bearer x",
    "Authorization: Basic Og==",
    "Authorization: Bearer",
    "Cookie: lookout_session=",
    "Cookie: ;;=;=",
    "Origin: null",
    "Origin: http://evil.example",
    "Sec-Fetch-Site: cross-site",
    "Sec-Fetch-Mode: navigate",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "Sec-WebSocket-Key: x",
    "Sec-WebSocket-Version: 13",
    "Expect: 100-continue",
    "Traceparent: 00-00-00-00",
    "Forwarded: for=1.1.1.1",
    "X-Forwarded-For: 1.1.1.1",
    "Mcp-Protocol-Version: 1",
    "Te: trailers",
    "MCP-Session-Id: x",
    "Host: localhost",
    "Host: evil.example",
    "Host: [::1",
    "Host: 127.0.0.1:99999",
];

/// Headers that are no HTTP.
const BROKEN: &[&str] = &[
    "Content-Length: -1",
    "Content-Length: 18446744073709551616",
    "Content-Length: 1, 2",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: x",
    " folded: x",
    "no colon",
    "a\0b: c",
    ": x",
];

struct Route {
    path: String,
    methods: Vec<String>,
    parameters: Vec<String>,
}

/// Returns the routes of the API and the other paths.
fn routes() -> Vec<Route> {
    let document = openapi::document();
    let name = |parameter: &Value| parameter["name"].as_str().map(String::from);
    let mut routes: Vec<Route> = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let methods = methods.as_object().expect("methods");
        let parameters = methods.values().filter_map(|method| method["parameters"].as_array());
        routes.push(Route {
            path: format!("/api/v1{path}"),
            methods: methods.keys().map(|method| method.to_uppercase()).collect(),
            parameters: parameters.flatten().filter_map(name).collect(),
        });
    }
    assert!(routes.len() > 12, "the document has few paths");
    for path in
        ["/", "/metrics", "/readyz", "/healthz", "/mcp", "/mcp", "/api/v1/openapi.json", "/none"]
    {
        let methods = vec!["GET".into(), "POST".into()];
        routes.push(Route { path: path.into(), methods, parameters: vec!["a".into()] });
    }
    routes
}

/// Fields of the bodies of all routes.
const FIELDS: &[&str] = &[
    "cameras",
    "question",
    "last",
    "from",
    "to",
    "since",
    "until",
    "event",
    "run",
    "detail",
    "conversation",
    "max_new_tokens",
    "score_yes_no",
    "schema",
    "camera",
    "rule",
    "on",
    "off",
    "of",
    "cooldown",
    "hold",
    "temperature",
    "kept",
    "false_alarm",
    "token",
    "jsonrpc",
    "id",
    "method",
    "params",
    "name",
    "arguments",
    "query",
    "limit",
    "settings",
    "force",
    "no_field",
];

fn value(odd: &mut Odd, depth: usize) -> Value {
    match odd.0.random_range(0..9) {
        0 => Value::Null,
        1 => json!(odd.0.random::<bool>()),
        2 => json!(odd.number()),
        3 => json!(f64::from_bits(odd.0.random())),
        4 if depth < 4 => (0..odd.0.random_range(0..4)).map(|_| value(odd, depth + 1)).collect(),
        5 if depth < 4 => object(odd, depth + 1),
        _ => json!(odd.text()),
    }
}

fn object(odd: &mut Odd, depth: usize) -> Value {
    let mut fields = Map::new();
    for _ in 0..odd.0.random_range(0..6) {
        let value = value(odd, depth);
        fields.insert(odd.one(FIELDS).to_owned(), value);
    }
    Value::Object(fields)
}

fn body(odd: &mut Odd, path: &str) -> Vec<u8> {
    let mut fields = object(odd, 0);
    if path == "/mcp" && !odd.chance(4) {
        let tool =
            odd.one(&["ask", "list_cameras", "list_events", "search_events", "get_frames", "none"]);
        let method =
            odd.one(&["initialize", "tools/call", "tools/call", "tools/list", "ping", "none"]);
        let params = json!({ "name": tool, "arguments": fields });
        fields = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    } else if odd.chance(2) {
        fields["cameras"] = json!([odd.one(&["gate", "yard", "nowhere"])]);
        fields["camera"] = json!("gate");
    }
    let mut bytes = fields.to_string().into_bytes();
    odd.damage(&mut bytes);
    bytes
}

/// Escapes all that a query or a path cannot contain as it is.
fn escaped(odd: &mut Odd, text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let text: String = text.chars().take(3000).collect();
    if odd.chance(8) {
        return text.bytes().filter(|byte| byte.is_ascii_graphic()).map(char::from).collect();
    }
    let escape =
        |byte: u8| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}

struct Request {
    bytes: Vec<u8>,
    /// True if a server may end the connection without a reply.
    is_broken: bool,
    is_head: bool,
}

fn request(odd: &mut Odd, routes: &[Route]) -> Request {
    let route = &routes[odd.0.random_range(0..routes.len())];
    let mut path = String::new();
    for (at, part) in route.path.split('/').enumerate() {
        if at > 0 {
            path.push('/');
        }
        let value = match part {
            "{camera}" if !odd.chance(4) => "gate".into(),
            "{event}" | "{frame}" if odd.chance(2) => {
                format!("{}.{}", odd.number(), odd.number())
            }
            part if part.starts_with('{') => odd.text(),
            part => part.to_owned(),
        };
        path += &if value == part { value } else { escaped(odd, &value) };
    }
    let mut separator = '?';
    for _ in 0..odd.0.random_range(0..4) {
        let index = odd.0.random_range(0..=route.parameters.len());
        let name = route.parameters.get(index).cloned().unwrap_or_else(|| odd.text());
        let value = if name == "camera" && odd.chance(2) { "gate".into() } else { odd.text() };
        let (name, value) = (escaped(odd, &name), escaped(odd, &value));
        path += &format!("{separator}{name}={value}");
        separator = '&';
    }
    let index = odd.0.random_range(0..route.methods.len());
    let method = if odd.chance(6) { odd.one(METHODS) } else { &route.methods[index] };
    let mut is_broken = path.contains(['#', '"', '<', '>', '\\', '^', '`', '{', '|', '}']);
    is_broken |= path.len() > 8000;
    let version =
        if odd.chance(30) { odd.one(&["HTTP/1.0", "HTTP/2.0", "HTTP/9", ""]) } else { "HTTP/1.1" };
    is_broken |= !version.starts_with("HTTP/1.");
    let mut head = format!("{method} {path} {version}\r\n");
    if !odd.chance(20) {
        head += "Host: localhost\r\n";
    }
    for _ in 0..odd.0.random_range(0..4) {
        head += &format!("{}\r\n", odd.one(HEADERS));
    }
    let mut body =
        if method == "GET" && !odd.chance(8) { Vec::new() } else { body(odd, &route.path) };
    if odd.chance(60) {
        body = vec![b' '; odd.one(&[1 << 20, (1 << 20) + 1, 3 << 20])];
    }
    if !odd.chance(6) {
        head += "Content-Type: application/json\r\n";
    }
    if odd.chance(30) {
        head += &format!("{}\r\n", odd.one(BROKEN));
        is_broken = true;
    }
    if odd.chance(40) {
        head += &format!("X-Long: {}\r\n", "y".repeat(odd.one(&[8000, 20_000, 100_000])));
        is_broken = true;
    }
    match odd.0.random_range(0..10) {
        0 => {
            let chunk = format!("{:x}\r\n", body.len()).into_bytes();
            head += "Transfer-Encoding: chunked\r\n";
            body = [&chunk[..], &body, b"\r\n0\r\n\r\n"].concat();
        }
        1 => {
            // Fewer bytes than the head announces.
            head += &format!("Content-Length: {}\r\n", body.len() + 10);
            is_broken = true;
        }
        _ => head += &format!("Content-Length: {}\r\n", body.len()),
    }
    let mut bytes = (head + "\r\n").into_bytes();
    if odd.chance(40) {
        odd.damage(&mut bytes);
        is_broken = true;
    }
    bytes.extend(body);
    Request { bytes, is_broken, is_head: method == "HEAD" }
}

/// Sends a request. Returns the start of the reply, to its end if it ends soon.
async fn exchange(port: u16, request: &Request) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    let (mut from, mut to) = stream.split();
    // A server that refuses a request early does not read all of it.
    let write = async {
        let _ = to.write_all(&request.bytes).await;
        if request.is_broken {
            let _ = to.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let mut reply = Vec::new();
    let read = async {
        let mut bytes = [0; 16 * 1024];
        loop {
            // The first bytes may need the model.
            let patience = if reply.is_empty() { LONGEST } else { SECONDS(1) / 10 };
            match timeout(patience, from.read(&mut bytes)).await {
                Ok(Ok(read @ 1..)) if reply.len() < 1 << 20 => reply.extend(&bytes[..read]),
                Err(_) if reply.is_empty() => return false,
                _ => return true,
            }
        }
    };
    let began = tokio::select! { began = read => began, () = write => false };
    let start = String::from_utf8_lossy(&request.bytes[..request.bytes.len().min(600)]);
    assert!(began, "no reply: {start}");
    reply
}

async fn send(connect: Connect, seeds: Seeds) {
    let routes = routes();
    for seed in seeds {
        let mut odd = Odd(StdRng::seed_from_u64(seed));
        let request = request(&mut odd, &routes);
        let reply = exchange(connect.http, &request).await;
        let start = String::from_utf8_lossy(&request.bytes[..request.bytes.len().min(600)]);
        let context = format!("seed {seed}: {start}");
        let text = String::from_utf8_lossy(&reply);
        if reply.is_empty() {
            assert!(request.is_broken, "the connection was closed: {context}");
            continue;
        }
        let status = text.get(9..12).and_then(|status| status.parse::<u16>().ok());
        let status = status.unwrap_or_else(|| panic!("no status: {text}: {context}"));
        assert!((100..600).contains(&status) && status != 500, "{text}: {context}");
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        // The rest of a body that the daemon did not read can be another request.
        let length = head.to_lowercase();
        let length = length.lines().find_map(|line| line.strip_prefix("content-length: "));
        let body = length.and_then(|length| body.get(..length.parse().ok()?)).unwrap_or(body);
        let is_json = head.to_lowercase().contains("content-type: application/json");
        let is_refused = (400..600).contains(&status);
        if is_refused && is_json && !request.is_head {
            let refusal: Value =
                serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}: {context}"));
            let message = refusal["message"].as_str().or(refusal["error"]["message"].as_str());
            assert_clear(&context, message.unwrap_or_default());
        } else if is_refused
            && start.contains(" /api/v1/")
            && !(request.is_broken || request.is_head)
            // A head that is not HTTP.
            && !(status == 400 && body.is_empty())
        {
            panic!("a refusal without JSON: {text}: {context}");
        }
    }
}

#[test]
fn generated_http_requests_do_no_harm() {
    withstands_generated("HTTP", 8, send);
}
