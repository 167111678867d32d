//! Tests hostile clients of gRPC, HTTP and MQTT, with a real daemon and a real broker: whatever
//! they send, two cameras lose no window, and afterwards all other clients are served.

#[path = "hostile/clients.rs"]
mod clients;
#[path = "hostile/generated.rs"]
mod generated;
#[path = "hostile/generated_grpc.rs"]
mod generated_grpc;
#[path = "hostile/generated_http.rs"]
mod generated_http;
#[path = "hostile/generated_mqtt.rs"]
mod generated_mqtt;
mod support;

use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{fs, iter};

use lookout::proto;
use lookout::proto::ask_request::Range;
use lookout::proto::lookout_service_client::LookoutServiceClient;
use rumqttc::{AsyncClient, MqttOptions, QoS};
use serde_json::Value;
use support::windows::assert_most_windows_have_captions;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// Seconds between two captions of a camera, as in its config.
const EVERY: f64 = 2.0;

/// Lock that gives one daemon at a time the machine, because delays caused by another test prove
/// nothing.
static TURN: Mutex<()> = Mutex::new(());

#[derive(Clone, Copy)]
struct Target {
    grpc: u16,
    http: u16,
    broker: u16,
}

/// Runs an attack until each of two cameras has published several captions during it, then waits
/// for one more of each without it. Each window must have a caption, or have been skipped for lack
/// of time and counted; most have a caption. The daemon must be ready. Returns its log.
fn withstands<F>(files: Option<u32>, attack: impl FnOnce(Target) -> F) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate")), ("yard", &clip("yard"))], &[]);
    let broker = Broker::start(dir, free_port());
    let target = Target { grpc: free_port(), http: free_port(), broker: broker.port };
    let camera = |name| {
        let lenient = camera(name, &cameras.url(name), "max_caption_delay = \"10s\"");
        lenient.replace("window = \"4s\"", "window = \"2s\"")
    };
    let config = head(target.grpc, target.http, Some(broker.port));
    let file = dir.join("lookout.toml");
    fs::write(&file, config + &camera("gate") + &camera("yard")).expect("config");
    let mut command = Command::new("sh");
    let limit = files.map(|files| format!("ulimit -n {files}; ")).unwrap_or_default();
    command.args(["-c", &format!("{limit}exec \"$0\" run --config \"$1\"")]).arg(LOOKOUT).arg(file);
    let mut daemon = Daemon::by(command, dir, target.grpc, target.http);
    let mut events = daemon.watch(dir);
    let mut seen = Vec::new();
    // The reader connects before the attack begins, because the attack may take all connections.
    events.until("an event", SECONDS(20), &mut seen, |_| true);

    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let attacking = runtime.spawn(attack(target));
    let mut captions = |number: usize, seen: &mut Vec<Value>| {
        for camera in ["gate", "yard"] {
            let wanted = seen.iter().filter(|event| is_caption(event, camera)).count() + number;
            while seen.iter().filter(|event| is_caption(event, camera)).count() < wanted {
                events.until("captions", SECONDS(30), seen, |event| is_caption(event, camera));
            }
        }
    };
    captions(4, &mut seen);
    if attacking.is_finished() {
        runtime.block_on(attacking).expect("the attack");
    } else {
        attacking.abort();
    }
    // The attack's connections and tasks end as well.
    runtime.shutdown_timeout(SECONDS(1));
    captions(1, &mut seen);

    assert!(daemon.process.is_running());
    let sequences: Vec<u64> = seen.iter().filter_map(|e| e["sequence"].as_u64()).collect();
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequences:?}");
    // All other clients are served, at the latest when silent connections have been closed.
    wait_for("HTTP", SECONDS(10), || get(target.http, "/readyz").filter(|reply| reply.0 == 200));
    wait_for("gRPC", SECONDS(10), || (daemon.client(&["cameras"]).0 == Some(0)).then_some(()));
    for camera in ["gate", "yard"] {
        assert_most_windows_have_captions(&seen, camera, EVERY, &daemon.metrics());
    }
    assert_eq!(daemon.metric("lookout_interface_restarts_total"), 0.0);
    assert_eq!(daemon.metric("lookout_mqtt_connected"), 1.0);
    daemon.process.log()
}

async fn channel(port: u16) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("a port");
    endpoint.connect().await.expect("gRPC")
}

/// Reads an answer to its end. Returns its text, or the error.
async fn ask(channel: &Channel, request: proto::AskRequest) -> Result<String, Status> {
    let mut client = LookoutServiceClient::new(channel.clone());
    let mut answer = client.ask(request).await?.into_inner();
    let mut text = String::new();
    while let Some(reply) = answer.message().await? {
        if let Some(proto::ask_response::Item::TextDelta(token)) = reply.item {
            text += &token;
        }
    }
    Ok(text)
}

/// Checks that a refusal has a reason: a handler that panics gives none, or the stream breaks off.
fn assert_answered(what: &str, asked: &Result<String, Status>) {
    if let Err(status) = asked {
        let broke = matches!(status.code(), Code::Unknown | Code::Cancelled | Code::Internal);
        assert!(!broke, "{what}: {status}");
    }
}

/// Connects a publisher to the broker that reconnects after errors.
async fn publisher(broker: u16) -> AsyncClient {
    let id = format!("hostile-{}", rand::random::<u32>());
    let mut options = MqttOptions::new(id, "127.0.0.1", broker);
    options.set_max_packet_size(1 << 26, 1 << 26);
    let (client, mut turns) = AsyncClient::new(options, 100);
    tokio::spawn(async move {
        loop {
            if turns.poll().await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    client
}

/// The position of the first event.
const FIRST: Option<proto::EventId> = Some(proto::EventId { run: None, sequence: 1 });

fn question(range: Option<Range>) -> proto::AskRequest {
    proto::AskRequest {
        cameras: vec!["gate".into()],
        question: "Is there a person?".into(),
        range,
        ..Default::default()
    }
}

#[test]
fn extreme_times_and_limits_do_no_harm() {
    withstands(None, async |target: Target| {
        let (channel, mqtt) = (channel(target.grpc).await, publisher(target.broker).await);
        let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let now = i64::try_from(now.as_secs()).expect("a time");
        let seconds = [i64::MIN, -62_135_596_801, -1, 0, now, 253_402_300_800, i64::MAX];
        loop {
            for from in seconds {
                for to in seconds.map(|to| time(to, 0)).into_iter().chain([None, time(0, -1)]) {
                    let span = proto::Span { from: time(from, 0), to };
                    let asked = ask(&channel, question(Some(Range::Between(span)))).await;
                    assert_answered(&format!("{span:?}"), &asked);
                }
                let last = prost_types::Duration { seconds: from, nanos: i32::MAX };
                assert_answered("last", &ask(&channel, question(Some(Range::Last(last)))).await);
            }
            for max_new_tokens in [0, 1, u32::MAX] {
                let request =
                    proto::AskRequest { max_new_tokens: Some(max_new_tokens), ..question(None) };
                assert_answered("max_new_tokens", &ask(&channel, request).await);
            }
            let most = Some(u64::MAX);
            for (sequence, run) in [(0, None), (u64::MAX, None), (1, most), (u64::MAX, most)] {
                let range = Some(Range::Event(proto::EventId { run, sequence }));
                assert_answered("event", &ask(&channel, question(range)).await);
                let mut client = LookoutServiceClient::new(channel.clone());
                let frame = Some(proto::FrameId { run, number: sequence });
                let request = proto::GetFrameRequest { camera: "gate".to_owned(), frame };
                let _ = client.get_frame(request).await;
            }
            for fields in [
                r#""last":"60y""#,
                r#""last":"20000y""#,
                r#""last":"0s""#,
                r#""last":-1"#,
                r#""last":1e300"#,
                r#""from":"1969-12-31T23:59:59Z""#,
                r#""from":"0001-01-01T00:00:00Z","to":"9999-12-31T23:59:59.999999999Z""#,
                r#""from":"12000-01-01T00:00:00Z""#,
                r#""from":"2026-01-01T00:00:00+99:99""#,
                r#""event":18446744073709551615"#,
                r#""event":1,"run":18446744073709551615"#,
                r#""max_new_tokens":0"#,
                r#""max_new_tokens":18446744073709551615"#,
            ] {
                let payload = format!(r#"{{"question":"Is there a person?",{fields}}}"#);
                let _ = mqtt.publish("lookout/gate/ask", QoS::AtLeastOnce, false, payload).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
}

/// A message whose fields have other types than a question's.
#[derive(Clone, PartialEq, prost::Message)]
struct Garbage {
    #[prost(bytes = "vec", tag = "1")]
    camera: Vec<u8>,
    #[prost(uint64, tag = "2")]
    question: u64,
    #[prost(string, repeated, tag = "5")]
    last: Vec<String>,
}

async fn send_garbage(channel: &Channel, method: &'static str) {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("gRPC");
    let garbage = Garbage { camera: vec![0xff; 99], question: 7, last: vec!["x".into(); 99] };
    let codec = tonic_prost::ProstCodec::<Garbage, Garbage>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(method);
    let refused = client.unary(Request::new(garbage), path, codec).await;
    assert!(refused.is_err(), "{method} took it: {refused:?}");
}

/// Asks again without a pause, as fast as the daemon refuses.
async fn ask_at_length(port: u16, bytes: usize) {
    let channel = channel(port).await;
    let request = proto::AskRequest { question: "why ".repeat(bytes / 4), ..question(None) };
    loop {
        assert!(ask(&channel, request.clone()).await.is_err(), "{bytes} bytes were taken");
    }
}

#[test]
fn oversized_questions_and_malformed_messages_do_no_harm() {
    withstands(None, async |target: Target| {
        let mut attacks = tokio::task::JoinSet::new();
        attacks.spawn(ask_at_length(target.grpc, 3_900_000));
        attacks.spawn(ask_at_length(target.grpc, 3_900_000));
        attacks.spawn(ask_at_length(target.grpc, 900_000));
        attacks.spawn(async move {
            let channel = channel(target.grpc).await;
            loop {
                for method in [
                    "/lookout.v1.Lookout/Ask",
                    "/lookout.v1.Lookout/Watch",
                    "/lookout.v1.Lookout/GetFrame",
                    "/lookout.v1.Lookout/Nothing",
                    "/grpc.health.v1.Health/Check",
                ] {
                    send_garbage(&channel, method).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        attacks.spawn(async move {
            let mqtt = publisher(target.broker).await;
            loop {
                let payloads = [
                    b"{".to_vec(),
                    b"\xff\xfe\x00".to_vec(),
                    "[".repeat(60_000).into_bytes(),
                    format!(r#"{{"question":{}"#, r#"{"a":"#.repeat(9_000)).into_bytes(),
                    br#"{"question":["Is it open?"],"question_id":{"a":1}}"#.to_vec(),
                    vec![b'x'; 200_000],
                    vec![b'x'; 3_000_000],
                ];
                for payload in payloads {
                    for topic in ["lookout/gate/ask", "lookout/nowhere/ask", "homeassistant/status"]
                    {
                        let sent = mqtt.publish(topic, QoS::AtLeastOnce, false, payload.clone());
                        let _ = sent.await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        for port in [target.grpc, target.http] {
            attacks.spawn(async move {
                const ZEROS: &[u8] = &[0; 100_000];
                let texts: [&[u8]; 5] = [
                    b"GET / HTTP/1.1\r\n\r\n",
                    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                    b"POST /metrics HTTP/1.1\r\nContent-Length: 4000000000\r\n\r\n",
                    ZEROS,
                ];
                loop {
                    for text in texts {
                        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else {
                            continue;
                        };
                        let _ = stream.write_all(text).await;
                        let mut heard = [0; 1024];
                        let heard = stream.read(&mut heard);
                        let _ = tokio::time::timeout(Duration::from_millis(50), heard).await;
                    }
                }
            });
        }
        while let Some(ended) = attacks.join_next().await {
            ended.expect("an attack");
        }
    });
}

/// Keeps more connections to a port than it accepts, indefinitely. Each sends `text` and nothing
/// more.
async fn crowd(port: u16, connections: usize, text: &'static [u8]) {
    let mut open: Vec<TcpStream> = Vec::new();
    loop {
        while open.len() < connections {
            let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { break };
            let _ = stream.write_all(text).await;
            open.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        // Connections that the daemon has closed are replaced.
        open.retain_mut(|stream| {
            let error = stream.try_read(&mut [0; 256]).err();
            error.is_some_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        });
    }
}

/// Limits the process to few open files: without a free descriptor no camera could be reached, and
/// libraries would end the process. Clients get half of 256, in the proportion of the config's 256
/// and 64.
#[test]
fn idle_and_half_open_connections_are_limited() {
    let log = withstands(Some(256), async |target: Target| {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        tokio::join!(
            crowd(target.grpc, 150, b""),
            crowd(target.grpc, 150, &preface[..9]),
            crowd(target.grpc, 150, preface),
            crowd(target.http, 60, b""),
            crowd(target.http, 60, b"GET /metrics HTTP/1.1\r\nHost: "),
        );
    });
    assert!(log.contains("the limit on open files is 256"), "{log}");
    assert!(log.contains("gRPC: 102 connections are open"), "{log}");
    assert!(log.contains("HTTP: 25 connections are open"), "{log}");
    assert!(!log.contains("Too many open files"), "{log}");
}

#[test]
fn two_hundred_slow_readers_delay_nothing() {
    withstands(None, async |target: Target| {
        let mut streams = Vec::new();
        for _ in 0..5 {
            let channel = channel(target.grpc).await;
            for _ in 0..40 {
                let request = proto::WatchRequest { from: FIRST, ..Default::default() };
                let mut client = LookoutServiceClient::new(channel.clone());
                streams.push(client.watch(request).await.expect("a stream").into_inner());
            }
        }
        // Streams beyond the limit of all clients together are refused and do not wait.
        let mut refused = 0;
        let channels = [channel(target.grpc).await, channel(target.grpc).await];
        for channel in iter::repeat_n(channels, 30).flatten() {
            let mut client = LookoutServiceClient::new(channel);
            match client.watch(proto::WatchRequest::default()).await {
                Ok(stream) => streams.push(stream.into_inner()),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "{} streams were opened", streams.len());
        // The remaining connections request metrics and do not read them.
        let mut silent = Vec::new();
        for _ in 0..40 {
            let mut stream = TcpStream::connect(("127.0.0.1", target.http)).await.expect("HTTP");
            for _ in 0..50 {
                let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
            }
            silent.push(stream);
        }
        std::future::pending::<()>().await;
    });
}
