//! Tests gRPC, MQTT and HTTP from outside: a real mosquitto, a real gRPC client, and a fake daemon
//! with a journal and a few answers.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use lookout::client::{self, ClientError, Filter, OnEnd, Output};
use lookout::config::{Mqtt, MqttTls};
use lookout::event::*;
use lookout::frame::{Clock, Span};
use lookout::interface::Interface;
use lookout::journal::{Journal, MemoryJournal};
use lookout::proto;
use lookout::proto::lookout_client::LookoutClient;
use lookout::publish::{Listener, PublishError, Timeouts, grpc, http, mqtt};
use lookout::question::{Draft, Limits, Question};
use lookout::service::*;
use rumqttc::{AsyncClient, MqttOptions, Packet, QoS};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

/// The run of the fake daemon.
const RUN: u64 = 1_760_000_000_000;

const SOON: Duration = Duration::from_secs(20);

/// Connections that each server accepts in these tests.
const CONNECTIONS: usize = 24;

// --- gRPC ---------------------------------------------------------------------------------------

#[tokio::test]
async fn an_event_is_the_same_on_both_interfaces() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let mut heard = Subscriber::connect(broker.port, "lookout/#").await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    heard.until("lookout/available", "online").await;

    let caption = daemon.caption("A red car drives from left to right.");
    let answer = daemon.service.journal.append("gate".into(), Body::Answer(words("q", "Yes.")));
    let status = daemon.service.journal.append("gate".into(), Body::Camera(status(Phase::Lost)));

    let mut out = Lines::until(3);
    let filter = Filter { from_sequence: 1, ..Filter::default() };
    let watching = client::watch(&daemon.grpc, filter, Output::Json, OnEnd::Return, &mut out);
    timeout(SOON, watching).await.unwrap().unwrap();
    let mqtt = [
        heard.next_on("lookout/gate/caption").await,
        heard.next_on("lookout/gate/answer").await,
        heard.next_on("lookout/gate/status").await,
    ];
    for ((event, line), message) in
        [caption, answer, status].iter().zip(out.lines()).zip(mqtt.map(|m| m.payload))
    {
        assert_eq!(line, serde_json::to_string(&**event).unwrap());
        assert_eq!(line, message);
    }
    publisher.stop().await;
}

/// Asks with numbers that only protobuf can carry. Each question is refused with a reason, or its
/// range can be formatted.
#[tokio::test]
async fn numbers_out_of_range_are_refused_or_clamped_over_grpc() {
    use proto::ask_request::Range as Asked;
    let daemon = Daemon::start(10).await;
    // The error repeats the range that reaches the service.
    daemon.service.answers_with(|question| Err(AskError::Model(format!("{:?}", question.range()))));
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let span = |from, to| Some(Asked::Between(proto::Span { from, to }));
    let last = |seconds, nanos| Some(Asked::Last(prost_types::Duration { seconds, nanos }));
    let (low, high, least, most) = (i64::MIN, i64::MAX, i32::MIN, i32::MAX);
    let request = |range| proto::AskRequest {
        camera: "gate".into(),
        question: "Open?".into(),
        range,
        ..Default::default()
    };
    let zero = proto::AskRequest { max_new_tokens: Some(0), ..request(None) };
    let detail = proto::AskRequest { detail: 17, ..request(None) };
    let long = proto::AskRequest { question: "a".repeat(900_000), ..request(None) };
    for (request, code, said) in [
        (request(last(low, least)), Code::InvalidArgument, "last is less than nothing"),
        (request(last(-1, 0)), Code::InvalidArgument, "last is less than nothing"),
        (request(last(0, 0)), Code::InvalidArgument, "last is a range of no length"),
        (request(last(high, most)), Code::Internal, "Last(253402300799s)"),
        (request(span(time(low, least), time(high, most))), Code::Internal, "tv_sec: 253402300799"),
        (request(span(time(-1, 0), None)), Code::Internal, "tv_sec: 0,"),
        (request(span(time(low, 0), time(-5, most))), Code::InvalidArgument, "no length"),
        (request(span(time(high, 0), time(0, least))), Code::InvalidArgument, "backwards"),
        (request(span(None, time(1, 0))), Code::InvalidArgument, "needs its from"),
        (request(span(None, None)), Code::InvalidArgument, "needs its from"),
        (zero, Code::InvalidArgument, "max_new_tokens is 0"),
        (detail, Code::InvalidArgument, "detail is \"17\""),
        (long, Code::InvalidArgument, "at most 8192 bytes"),
    ] {
        let asked = (request.range, request.max_new_tokens);
        let status = daemon.client().await.ask(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{asked:?}: {}", status.message());
        assert!(status.message().contains(said), "{asked:?}: {}", status.message());
    }
    let both = |range| {
        let cameras = vec!["gate".to_string(), "yard".to_string()];
        proto::AskRequest { camera: String::new(), cameras, ..request(range) }
    };
    for range in [last(high, most), span(time(high, most), None)] {
        let mut answers = daemon.client().await.ask(both(range)).await.unwrap().into_inner();
        let told = answers.message().await.unwrap().unwrap().item.unwrap();
        assert!(matches!(told, proto::ask_response::Item::Refused(_)), "{told:?}");
    }
}

#[tokio::test]
async fn an_event_of_another_run_is_not_taken_for_one_of_this() {
    let daemon = Daemon::start(100).await;
    for n in 1..=8 {
        daemon.caption(&format!("caption {n}"));
    }
    let watch = async |from_run, from_sequence| {
        let request = proto::WatchRequest { from_run, from_sequence, ..Default::default() };
        let mut events = daemon.client().await.watch(request).await.unwrap().into_inner();
        let mut next =
            async || timeout(SOON, events.message()).await.unwrap().unwrap().unwrap().item.unwrap();
        (next().await, next().await)
    };
    use proto::watch_response::Item::{Event, Lost};
    // The reader saw 4 events of the previous run; the daemon has appended 8 of its own since.
    let (Lost(lost), Event(first)) = watch(RUN - 1, 5).await else { panic!("nothing was said") };
    assert_eq!((lost.events, first.run, first.sequence), (None, RUN, 1));
    for run in [0, RUN] {
        let (Event(first), Event(second)) = watch(run, 5).await else { panic!("a loss") };
        assert_eq!([first.sequence, second.sequence], [5, 6]);
        assert_eq!([first.run, second.run], [RUN, RUN]);
    }
    // A question about an event carries the event's run.
    daemon
        .service
        .answers_with(|question| Err(AskError::BadQuestion(format!("{:?}", question.range()))));
    let draft = Draft {
        camera: "gate".into(),
        text: "Open?".into(),
        run: Some(RUN - 1),
        event: Some(3),
        ..Draft::default()
    };
    let question = Question::new(draft, &Limits::unknown()).unwrap();
    let range = question.range();
    let asked = client::ask(&daemon.grpc, &[question], Output::Text, &mut Vec::new()).await;
    assert_eq!(asked.unwrap_err().to_string(), format!("{range:?}"));
}

#[tokio::test]
async fn a_slow_reader_is_told_its_loss_and_delays_nobody() {
    const EVENTS: u64 = 1000;
    let daemon = Daemon::start(50).await;
    let from_first = proto::WatchRequest { from_sequence: 1, ..Default::default() };
    let mut slow = daemon.client().await.watch(from_first.clone()).await.unwrap().into_inner();
    let mut quick = daemon.client().await.watch(from_first).await.unwrap().into_inner();
    let text = "long ".repeat(4000);
    for batch in 0..EVENTS / 10 {
        for _ in 0..10 {
            daemon.caption(&text);
        }
        for n in 1..=10 {
            let item = timeout(SOON, quick.message()).await.unwrap().unwrap().unwrap().item;
            let Some(proto::watch_response::Item::Event(event)) = item else { panic!("{item:?}") };
            assert_eq!(event.sequence, batch * 10 + n);
        }
    }
    let (mut lost, mut sequence) = (0, 0);
    while sequence < EVENTS {
        match timeout(SOON, slow.message()).await.unwrap().unwrap().unwrap().item.unwrap() {
            proto::watch_response::Item::Event(event) => {
                sequence += 1;
                assert_eq!(event.sequence, sequence, "a loss that nobody told");
            }
            proto::watch_response::Item::Lost(n) => {
                lost += n.events();
                sequence += n.events();
            }
        }
    }
    assert!(lost > EVENTS / 2, "only {lost} lost: something buffers without bound");
}

#[tokio::test]
async fn refused_questions_have_their_status() {
    let daemon = Daemon::start(10).await;
    let cases = [
        (AskError::NoSuchCamera("x".into()), Code::NotFound),
        (AskError::NoFootage { camera: "x".into(), why: "down".into() }, Code::OutOfRange),
        (
            AskError::QueueFull { waiting: 4, retry_after: Duration::from_millis(2500) },
            Code::ResourceExhausted,
        ),
        (AskError::BadQuestion("empty".into()), Code::InvalidArgument),
        (AskError::Stopping, Code::Unavailable),
        (AskError::Model("nan".into()), Code::Internal),
    ];
    for (error, code) in cases {
        let refused = error.clone();
        daemon.service.answers_with(move |_| Err(refused.clone()));
        let status = daemon.ask("gate").await.unwrap_err();
        assert_eq!(status.code(), code);
        assert_eq!(status.message(), error.to_string());
        let retry_after = status.metadata().get("retry-after").map(|v| v.to_str().unwrap());
        assert_eq!(retry_after, (code == Code::ResourceExhausted).then_some("3"));

        // The same for a failure during the answer.
        daemon.service.answers_with(move |_| {
            let (to, answer) = mpsc::channel(4);
            to.try_send(AnswerItem::Token("Th".into())).unwrap();
            to.try_send(AnswerItem::Failed(error.clone())).unwrap();
            Ok(answer)
        });
        let mut stream = daemon.ask("gate").await.unwrap();
        assert!(stream.message().await.is_ok());
        assert_eq!(stream.message().await.unwrap_err().code(), code);
    }
    let unknown = proto::WatchRequest { cameras: vec!["gaet".into()], ..Default::default() };
    assert_eq!(daemon.client().await.watch(unknown).await.unwrap_err().code(), Code::NotFound);
    let frame = proto::GetFrameRequest { camera: "gate".into(), number: 9, run: 0 };
    assert_eq!(daemon.client().await.get_frame(frame).await.unwrap_err().code(), Code::NotFound);
    let frame = proto::GetFrameRequest { camera: "gate".into(), number: 8, run: 0 };
    let refused = daemon.client().await.get_frame(frame).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_question() {
    let daemon = Daemon::start(10).await;
    let (tell, mut told) = mpsc::channel(1);
    daemon.service.answers_with(move |_| {
        let (to, answer) = mpsc::channel(4);
        to.try_send(AnswerItem::Token("The".into())).unwrap();
        tell.try_send(to).unwrap();
        Ok(answer)
    });
    let mut stream = daemon.ask("gate").await.unwrap();
    assert!(stream.message().await.unwrap().is_some());
    let to = told.recv().await.unwrap();
    assert!(!to.is_closed());
    drop(stream);
    timeout(SOON, to.closed()).await.expect("the answer's receiver is still held");
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

    let daemon = Daemon::start(10).await;
    let mut health = HealthClient::new(daemon.channel().await);
    let request = HealthCheckRequest { service: "lookout.v1.Lookout".into() };
    let mut statuses = health.watch(request).await.unwrap().into_inner();
    let first = timeout(SOON, statuses.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    daemon.service.ready.store(false, Ordering::Relaxed);
    let then = timeout(SOON, statuses.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(then.status(), ServingStatus::NotServing);

    let mut reflection = ServerReflectionClient::new(daemon.channel().await);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let replies = reflection.server_reflection_info(tokio_stream::once(list)).await.unwrap();
    let ServerReflectionResponse { message_response, .. } =
        replies.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = message_response else { panic!() };
    assert!(list.service.iter().any(|s| s.name == "lookout.v1.Lookout"), "{list:?}");
}

#[tokio::test]
async fn older_clients_can_reflect_too() {
    use tonic_reflection::pb::v1alpha::ServerReflectionRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;

    let daemon = Daemon::start(10).await;
    let mut reflection = ServerReflectionClient::new(daemon.channel().await);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let replies = reflection.server_reflection_info(tokio_stream::once(list)).await.unwrap();
    let reply = replies.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else {
        panic!("{reply:?}")
    };
    assert!(list.service.iter().any(|s| s.name == "lookout.v1.Lookout"), "{list:?}");
}

/// Reads a connection to its end. Returns what was received until then.
async fn to_its_end(mut stream: TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    // A reset connection has ended, too.
    let _ = timeout(SOON, stream.read_to_end(&mut heard)).await.expect("still open");
    heard
}

#[tokio::test]
async fn silent_clients_keep_nobody_out() {
    let daemon = Daemon::start(10).await;
    let mut silent = Vec::new();
    for n in 0..2 * CONNECTIONS {
        let mut stream = TcpStream::connect(&daemon.grpc).await.unwrap();
        // Every second connection sends the start of a request and stops.
        if n % 2 == 0 {
            let _ = stream.write_all(b"PRI * HTTP/2.0\r\n").await;
        }
        silent.push(stream);
    }
    for stream in silent.drain(..) {
        to_its_end(stream).await;
    }
    let mut client = daemon.client().await;
    client.list_cameras(proto::ListCamerasRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_client_without_a_call_is_closed() {
    let daemon = Daemon::start(10).await;
    let mut stream = TcpStream::connect(&daemon.grpc).await.unwrap();
    // The preface and an empty SETTINGS frame: a well-behaved client without a call.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let connected = std::time::Instant::now();
    to_its_end(stream).await;
    assert!(connected.elapsed() > Duration::from_millis(1500), "closed before its time");
}

#[tokio::test]
async fn a_client_with_a_watch_stays_connected_while_nothing_happens() {
    let daemon = Daemon::start(10).await;
    let mut watch = daemon.client().await.watch(proto::WatchRequest::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    daemon.caption("late");
    let item = timeout(SOON, watch.get_mut().message()).await.unwrap().unwrap().unwrap();
    assert!(matches!(item.item, Some(proto::watch_response::Item::Event(_))), "{item:?}");
}

#[tokio::test]
async fn a_request_too_large_is_refused_and_its_connection_goes_on() {
    let daemon = Daemon::start(10).await;
    let mut client = daemon.client().await;
    let question = "why? ".repeat(800_000);
    let request = proto::AskRequest { camera: "gate".into(), question, ..Default::default() };
    let refused = client.ask(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    client.list_cameras(proto::ListCamerasRequest {}).await.unwrap();
}

#[tokio::test]
async fn streams_end_when_the_daemon_stops() {
    let mut daemon = Daemon::start(10).await;
    let mut watch = daemon.client().await.watch(proto::WatchRequest::default()).await.unwrap();
    daemon.stop.cancel();
    let end = timeout(SOON, watch.get_mut().message()).await.unwrap();
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    timeout(SOON, daemon.serving.take().unwrap()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_occupied_address_is_one_sentence() {
    let first = listener(Interface::Grpc, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = first.local_addr().unwrap();
    let error = listener(Interface::Http, addr).await.err().unwrap();
    assert!(matches!(error, PublishError::AddressInUse(_)));
    let wanted = format!(
        "{addr} is in use by another program; stop it, or choose another address in the config"
    );
    assert_eq!(error.to_string(), wanted);
}

// --- the client ---------------------------------------------------------------------------------

#[tokio::test]
async fn the_client_prints_for_people() {
    let daemon = Daemon::start(10).await;
    let mut out = Vec::new();
    client::cameras(&daemon.grpc, Output::Text, &mut out).await.unwrap();
    let table = String::from_utf8(out).unwrap();
    assert!(table.contains("gate    live"), "{table}");
    assert!(table.contains("rtsp://camera.example/1"), "{table}");

    daemon.caption("A red car\ndrives.");
    let mut out = Lines::until(1);
    let filter = Filter { from_sequence: 1, ..Filter::default() };
    client::watch(&daemon.grpc, filter, Output::Text, OnEnd::Return, &mut out).await.unwrap();
    let line = out.lines().next().unwrap().to_owned();
    let printed = "  gate      A red car drives.   [2/4 frames, 0.21 s, \
                 cpu (auto: libcuda.so.1 is missing), gap ";
    assert!(line.contains(printed), "{line}");
    assert!(line.ends_with(" (camera down)]"), "{line}");

    daemon.service.answers_with(|question| {
        let (to, answer) = mpsc::channel(4);
        to.try_send(AnswerItem::Token("Ye".into())).unwrap();
        to.try_send(AnswerItem::Token("s.".into())).unwrap();
        to.try_send(AnswerItem::Finished(Box::new(words(question.id(), "Yes.")))).unwrap();
        Ok(answer)
    });
    let asked = |cameras: &[&str]| -> Vec<Question> {
        let draft = |camera: &str| Draft {
            camera: camera.into(),
            text: "Open?".into(),
            ..Draft::default()
        };
        let question = |camera: &&str| Question::new(draft(camera), &Limits::unknown()).unwrap();
        cameras.iter().map(question).collect()
    };
    let mut out = Vec::new();
    client::ask(&daemon.grpc, &asked(&["gate"]), Output::Text, &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("Yes.\n[2/4 frames"), "{text}");

    let mut out = Vec::new();
    client::ask(&daemon.grpc, &asked(&["gate"]), Output::Json, &mut out).await.unwrap();
    let json: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((&json["kind"], &json["camera"]), (&"answer".into(), &"gate".into()));
    assert!(json["id"].as_str().unwrap().starts_with("grpc-"));

    // If one of several cameras has no answer, this is reported, and the other answers anyway.
    let both = || asked(&["gate", "yard"]);
    let no_footage = AskError::NoFootage { camera: "gate".into(), why: "no footage".into() };
    let failed = AskError::Failed("out of memory".into());
    for (refusal, code) in [(no_footage, "OUT_OF_RANGE"), (failed, "UNAVAILABLE")] {
        daemon.service.answers_with(move |question| match question.camera() {
            "gate" => Err(refusal.clone()),
            _ => {
                let (to, answer) = mpsc::channel(4);
                to.try_send(AnswerItem::Token("No.".into())).unwrap();
                to.try_send(AnswerItem::Finished(Box::new(words(question.id(), "No.")))).unwrap();
                Ok(answer)
            }
        });
        let mut out = Vec::new();
        let error = client::ask(&daemon.grpc, &both(), Output::Text, &mut out).await.unwrap_err();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("yard: No.\n[2/4 frames"), "{text}");
        assert_eq!(error.to_string(), format!("camera \"gate\" gave no answer ({code})"));
    }
    let unknown = asked(&["gate", "gaet"]);
    let error = client::ask(&daemon.grpc, &unknown, Output::Text, &mut Vec::new()).await;
    assert_eq!(error.unwrap_err().to_string(), "no camera is named \"gaet\"");

    // Parts are printed as they arrive, and the answer after them. An answer that only lists the
    // parts is not printed again.
    for (summary, answer) in [(Summary::YesNo, "Yes, in 1 of 2 parts.\n"), (Summary::List, "")] {
        daemon.service.answers_with(move |question| {
            let mut whole = words(question.id(), "Yes, in 1 of 2 parts.");
            (whole.summary, whole.parts) = (Some(summary), vec![part("No."), part("Yes.")]);
            let (to, answer) = mpsc::channel(4);
            for part in whole.parts.clone() {
                to.try_send(AnswerItem::Part(Box::new(part))).unwrap();
            }
            to.try_send(AnswerItem::Token(whole.text.clone())).unwrap();
            to.try_send(AnswerItem::Finished(Box::new(whole))).unwrap();
            Ok(answer)
        });
        let mut out = Vec::new();
        client::ask(&daemon.grpc, &both(), Output::Text, &mut out).await.unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let of_yard = lines.iter().position(|line| *line == "yard:\n").expect("yard");
        for (camera, lines) in [("gate:\n", &lines[..of_yard]), ("yard:\n", &lines[of_yard..])] {
            assert_eq!(lines[0], camera);
            assert!(lines[1].ends_with("  No.\n") && lines[2].ends_with("  Yes.\n"), "{text}");
            assert_eq!(lines[3..lines.len() - 1].concat(), answer);
            assert!(lines.last().is_some_and(|line| line.contains(", in 2 parts")), "{text}");
        }
        let mut out = Vec::new();
        client::ask(&daemon.grpc, &both(), Output::Json, &mut out).await.unwrap();
        let json = String::from_utf8(out).unwrap();
        assert_eq!(json.lines().count(), 2, "{json}");
    }

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frame.jpg");
    let mut out = Vec::new();
    client::frame(&daemon.grpc, "gate", (0, 7), &path, &mut out).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"a jpeg");
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_said() {
    let address = format!("127.0.0.1:{}", free_port());
    let error = client::cameras(&address, Output::Text, &mut Vec::new()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("is `lookout run` going?"), "{text}");
}

#[tokio::test]
async fn a_watch_finds_the_daemon_again() {
    let mut daemon = Daemon::start(10).await;
    daemon.caption("before");
    let mut out = Lines::until(2);
    let filter = Filter { from_sequence: 1, ..Filter::default() };
    let endpoint = daemon.grpc.clone();
    let watching = client::watch(&endpoint, filter, Output::Json, OnEnd::Reconnect, &mut out);
    let restart = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        daemon.stop.cancel();
        daemon.serving.take().unwrap().await.unwrap().unwrap();
        daemon.caption("between");
        daemon.serve_again().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        watched = timeout(SOON, watching) => watched.unwrap().unwrap(),
        () = restart => {}
    }
    let texts: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&texts[0]["text"], &texts[1]["text"]), (&"before".into(), &"between".into()));
}

// --- MQTT ---------------------------------------------------------------------------------------

#[tokio::test]
async fn a_broker_that_dies_loses_nothing() {
    let mut broker = Broker::start();
    let gate = Gate::open_to(broker.port).await;
    let daemon = Daemon::start(1000).await;
    let mut heard = Subscriber::connect(broker.port, "lookout/gate/caption").await;
    let publisher = Publisher::start(&daemon, mqtt_config(gate.port));

    let mut sequences = Vec::new();
    for n in 0..10 {
        daemon.caption(&format!("calm {n}"));
    }
    heard.sequences_to(10, &mut sequences).await;

    // The broker hangs with messages in transit, then is killed; time goes on.
    broker.hang();
    for n in 0..40 {
        daemon.caption(&format!("hanging {n}"));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    gate.shut(true);
    broker.kill();
    for n in 0..40 {
        daemon.caption(&format!("away {n}"));
    }
    broker.start_again();
    heard.back().await;
    gate.shut(false);
    heard.sequences_to(90, &mut sequences).await;

    // Every event arrives, in order except for those repeated from the oldest unacknowledged one
    // on.
    let mut unique = sequences.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique, (1..=90).collect::<Vec<_>>());
    let mut newest = 0;
    for sequence in sequences {
        assert!(sequence <= newest + 1, "{sequence} came before {}", newest + 1);
        newest = newest.max(sequence);
    }
    publisher.stop().await;
}

/// Publishes captions 1 to 6, of which the third is larger than the broker accepts. `port` is the
/// broker's as the publisher sees it, `heard` as the subscriber does.
async fn all_but_the_third_arrive(port: u16, heard: u16) {
    let daemon = Daemon::start(100).await;
    let mut captions = Subscriber::connect(heard, "lookout/gate/caption").await;
    let mut states = Subscriber::connect(heard, "lookout/gate/state").await;
    let publisher = Publisher::start(&daemon, mqtt_config(port));
    for n in 1..=6 {
        daemon.caption(&if n == 3 { "long ".repeat(2000) } else { format!("caption {n}") });
    }
    let mut sequences = Vec::new();
    captions.sequences_to(6, &mut sequences).await;
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences, [1, 2, 4, 5, 6]);
    // Its short state arrives.
    states.until("lookout/gate/state", "caption 2").await;
    while !states.next().await.payload.starts_with("long long") {}
    states.until("lookout/gate/state", "caption 6").await;
    // The connection works again.
    daemon.caption("caption 7");
    captions.sequences_to(7, &mut sequences).await;
    publisher.stop().await;
}

#[tokio::test]
async fn an_event_larger_than_the_broker_takes_holds_up_nothing() {
    let broker = Broker::start_on(free_port(), "max_packet_size 6000\n");
    all_but_the_third_arrive(broker.port, broker.port).await;
}

#[tokio::test]
async fn an_event_that_the_broker_refuses_holds_up_nothing() {
    let broker = Broker::start_on(free_port(), "message_size_limit 6000\n");
    all_but_the_third_arrive(broker.port, broker.port).await;
}

#[tokio::test]
async fn an_event_at_which_an_old_broker_ends_the_connection_holds_up_nothing() {
    let broker = Broker::start_on(free_port(), "max_packet_size 6000\n");
    let old = Gate::of_an_old_broker(broker.port).await;
    all_but_the_third_arrive(old.port, broker.port).await;
}

#[tokio::test]
async fn a_retained_question_of_any_size_ends_no_connection() {
    let broker = Broker::start();
    let old = Gate::of_an_old_broker(broker.port).await;
    let daemon = Daemon::start(100).await;
    let mut heard = Subscriber::connect(broker.port, "lookout/+/caption").await;
    for (topic, bytes) in [("lookout/gate/ask", 3 << 20), ("lookout/yard/ask", 100_000)] {
        let payload = "x".repeat(bytes);
        heard.client.publish(topic, QoS::AtLeastOnce, true, payload).await.unwrap();
    }
    // The first of these brokers supports a client's packet size limit, the second does not.
    for (turn, port) in [broker.port, old.port].into_iter().enumerate() {
        let publisher = Publisher::start(&daemon, mqtt_config(port));
        daemon.caption("before");
        heard.sequences_to(turn as u64 * 2 + 1, &mut Vec::new()).await;
        // A connection that breaks would have ended by now.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        daemon.caption("after");
        heard.sequences_to(turn as u64 * 2 + 2, &mut Vec::new()).await;
        publisher.stop().await;
    }
}

#[tokio::test]
async fn a_broker_that_forgot_everything_is_told_everything() {
    let mut broker = Broker::start();
    let gate = Gate::open_to(broker.port).await;
    let daemon = Daemon::start(1000).await;
    let publisher = Publisher::start(&daemon, mqtt_config(gate.port));
    let mut heard = Subscriber::connect(broker.port, "#").await;
    daemon.caption("the last words");
    daemon.yard_is(Phase::Refused);
    heard.until("lookout/gate/state", "the last words").await;
    heard.next_on("lookout/yard/status").await;
    heard.until("lookout/yard/available", "offline").await;
    tokio::time::sleep(Duration::from_millis(200)).await;

    gate.shut(true);
    broker.kill();
    broker.start_again();
    heard.back().await;
    while heard.messages.try_recv().is_ok() {}
    gate.shut(false);
    let wanted = [
        "homeassistant/device/lookout-test/config",
        "lookout/available",
        "lookout/gate/attributes",
        "lookout/gate/available",
        "lookout/gate/state",
        "lookout/yard/available",
        "lookout/yard/status",
    ];
    let mut told = std::collections::BTreeSet::new();
    while told.len() < wanted.len() {
        let message = heard.next().await;
        assert_ne!(message.topic, "lookout/gate/caption", "a caption that is no news");
        told.insert(message.topic);
    }
    assert_eq!(told.into_iter().collect::<Vec<_>>(), wanted);
    publisher.stop().await;
}

#[tokio::test]
async fn availability_does_not_flap_when_old_events_are_sent_late() {
    let broker = Broker::start();
    let daemon = Daemon::start(1000).await;
    // All of this happened while there was no broker.
    for _ in 0..20 {
        daemon.yard_is(Phase::Live);
        daemon.yard_is(Phase::Lost);
    }
    daemon.yard_is(Phase::Live);
    daemon.caption("the end");
    let mut heard = Subscriber::connect(broker.port, "lookout/#").await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    let mut statuses = 0;
    loop {
        let message = heard.next().await;
        match message.topic.as_str() {
            "lookout/yard/available" => assert_eq!(message.payload, "online"),
            "lookout/yard/status" => statuses += 1,
            "lookout/gate/state" => break,
            _ => {}
        }
    }
    assert_eq!(statuses, 41);
    publisher.stop().await;
}

#[tokio::test]
async fn an_event_that_panics_an_interface_is_skipped_and_the_interface_restarts() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let mut heard = Subscriber::connect(broker.port, "lookout/+/caption").await;
    let (stop, publisher) = (
        CancellationToken::new(),
        mqtt::Publisher::shared(mqtt_config(broker.port), daemon.service.clone()),
    );
    let end = stop.clone();
    let interface = move || mqtt::run(publisher.clone(), end.clone());
    let kept = tokio::spawn(lookout::publish::supervise(Interface::Mqtt, stop.clone(), interface));
    daemon.caption("well");
    heard.sequences_to(1, &mut Vec::new()).await;
    daemon.service.panics.store(true, Ordering::Relaxed);
    daemon.yard_is(Phase::Live);
    daemon.caption("well again");
    let mut sequences = Vec::new();
    heard.sequences_to(3, &mut sequences).await;
    assert_eq!(sequences, [3], "what was done is not said again");
    assert!(!kept.is_finished());
    stop.cancel();
    timeout(SOON, kept).await.unwrap().unwrap();
}

/// Collects everything logged on this thread while the guard lives.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn begin(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn two_daemons_of_one_client_id_are_told_so() {
    let log = Log::default();
    let _logging = log.begin();
    let broker = Broker::start();
    let (one, other) = (Daemon::start(100).await, Daemon::start(100).await);
    let mut heard = Subscriber::connect(broker.port, "lookout/gate/state").await;
    let publisher = Publisher::start(&one, mqtt_config(broker.port));
    let second = Publisher::start(&other, mqtt_config(broker.port));
    timeout(SOON, async {
        while !log.text().contains("Has another client the client_id \"lookout-test\"?") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{}", log.text()));
    // When one of them stops, the other keeps the broker and has lost nothing.
    second.stop().await;
    one.caption("here");
    heard.until("lookout/gate/state", "here").await;
    publisher.stop().await;
}

#[tokio::test]
async fn a_broker_may_come_late() {
    let port = free_port();
    let daemon = Daemon::start(100).await;
    let publisher = Publisher::start(&daemon, mqtt_config(port));
    daemon.caption("early");
    tokio::time::sleep(Duration::from_millis(700)).await;
    let _broker = Broker::start_on(port, "");
    let mut heard = Subscriber::connect(port, "lookout/#").await;
    // The state is retained, whichever side connected first.
    let state = heard.next_on("lookout/gate/state").await;
    assert_eq!(state.payload, "early");
    publisher.stop().await;
}

#[tokio::test]
async fn availability_is_retained_and_the_last_will_says_offline() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    let mut heard = Subscriber::connect(broker.port, "lookout/#").await;
    heard.until("lookout/available", "online").await;
    heard.until("lookout/gate/available", "online").await;
    heard.until("lookout/yard/available", "offline").await;
    daemon.yard_is(Phase::Live);
    heard.until("lookout/yard/available", "online").await;

    publisher.running.abort();
    heard.until("lookout/available", "offline").await;
    let mut late = Subscriber::connect(broker.port, "lookout/#").await;
    let mut retained = Vec::new();
    while retained.len() < 4 {
        let message = late.next().await;
        assert!(message.retain, "{message:?}");
        retained.push((message.topic, message.payload));
    }
    let has = |topic: &str, payload: &str| retained.contains(&(topic.into(), payload.into()));
    assert!(has("lookout/available", "offline"), "{retained:?}");
    assert!(has("lookout/gate/available", "online"));
    assert!(has("lookout/yard/available", "online"));

    // A proper stop publishes the same, and at once.
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    late.until("lookout/available", "online").await;
    timeout(Duration::from_secs(2), publisher.stop()).await.unwrap();
    // The cameras are offline first, because they are no longer watched.
    late.until("lookout/gate/available", "offline").await;
    late.until("lookout/yard/available", "offline").await;
    late.until("lookout/available", "offline").await;
}

#[tokio::test]
async fn captions_have_a_short_state_with_attributes() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let mut heard = Subscriber::connect(broker.port, "lookout/#").await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    let event = daemon.caption(&"ä".repeat(400));
    let caption = heard.next_on("lookout/gate/caption").await;
    let attributes = heard.next_on("lookout/gate/attributes").await;
    let state = heard.next_on("lookout/gate/state").await;
    assert_eq!(caption.payload, serde_json::to_string(&*event).unwrap());
    assert_eq!(attributes.payload, caption.payload);
    assert_eq!(state.payload.chars().count(), 255);
    let mut late = Subscriber::connect(broker.port, "lookout/gate/+").await;
    let mut retained =
        vec![late.next().await.topic, late.next().await.topic, late.next().await.topic];
    retained.sort();
    let wanted = ["lookout/gate/attributes", "lookout/gate/available", "lookout/gate/state"];
    assert_eq!(retained, wanted);
    publisher.stop().await;
}

#[tokio::test]
async fn home_assistant_is_told_and_told_again() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    let topic = "homeassistant/device/lookout-test/config";
    let mut heard = Subscriber::connect(broker.port, "homeassistant/#").await;
    let first = heard.next_on(topic).await;
    let config: Value = serde_json::from_str(&first.payload).unwrap();
    for key in ["dev", "o", "cmps", "availability"] {
        assert!(!config[key].is_null(), "{key} is missing: {config}");
    }
    let caption = &config["cmps"]["gate_caption"];
    assert_eq!(caption["p"], "sensor");
    assert_eq!(caption["state_topic"], "lookout/gate/state");
    assert_eq!(caption["json_attributes_topic"], "lookout/gate/attributes");
    let connection = &config["cmps"]["yard_connection"];
    assert_eq!(connection["p"], "binary_sensor");
    assert_eq!(connection["device_class"], "connectivity");
    assert_eq!(connection["state_topic"], "lookout/yard/available");

    heard.say("homeassistant/status", "online").await;
    let again = heard.next_on(topic).await;
    assert_eq!(again.payload, first.payload);
    assert!(Subscriber::connect(broker.port, topic).await.next().await.retain);
    publisher.stop().await;
}

#[tokio::test]
async fn questions_come_by_mqtt_too() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let service = daemon.service.clone();
    daemon.service.answers_with(move |question| {
        let (to, answer) = mpsc::channel(4);
        match question.text() {
            "full?" => {
                let retry_after = Duration::from_secs(4);
                return Err(AskError::QueueFull { waiting: 8, retry_after });
            }
            "broken?" => to.try_send(AnswerItem::Failed(AskError::Model("nan".into()))).unwrap(),
            text => {
                let answer = words(question.id(), &format!("{text} Yes."));
                service.journal.append("gate".into(), Body::Answer(answer.clone()));
                to.try_send(AnswerItem::Finished(Box::new(answer))).unwrap();
            }
        }
        Ok(answer)
    });
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    let mut heard = Subscriber::connect(broker.port, "lookout/#").await;
    heard.until("lookout/available", "online").await;

    heard.say("lookout/gate/ask", r#"{"id":"q1","question":"Open?"}"#).await;
    let answer = heard.json_on("lookout/gate/answer").await;
    assert_eq!((&answer["id"], &answer["text"]), (&"q1".into(), &"Open? Yes.".into()));
    assert_eq!((&answer["camera"], &answer["kind"]), (&"gate".into(), &"answer".into()));

    // A template turns an id that looks like a number into one.
    heard.say("lookout/gate/ask", r#"{"id":1795649810620,"question":"Open?"}"#).await;
    assert_eq!(heard.json_on("lookout/gate/answer").await["id"], "1795649810620");

    heard.say("lookout/gate/ask", "Plain?").await;
    let answer = heard.json_on("lookout/gate/answer").await;
    assert_eq!(answer["text"], "Plain? Yes.");

    for (topic, question, id, code) in [
        ("lookout/gate/ask", r#"{"id":"q2","question":"full?"}"#, "q2", "RESOURCE_EXHAUSTED"),
        ("lookout/gate/ask", r#"{"id":"q3","question":"broken?"}"#, "q3", "INTERNAL"),
        ("lookout/gate/ask", r#"{"id":"q4"}"#, "q4", "INVALID_ARGUMENT"),
        ("lookout/gate/ask", "{nonsense", "", "INVALID_ARGUMENT"),
        ("lookout/gate/ask", r#"{"id":6,"question":"Open?","last":-1}"#, "6", "INVALID_ARGUMENT"),
        ("lookout/nowhere/ask", r#"{"id":"q5","question":"Open?"}"#, "q5", "NOT_FOUND"),
    ] {
        heard.say(topic, question).await;
        let refusal = heard.json_on(&topic.replace("/ask", "/answer")).await;
        assert_eq!((&refusal["id"], &refusal["code"]), (&id.into(), &code.into()), "{refusal}");
        assert!(!refusal["error"].as_str().unwrap().is_empty());
        let retry_after = refusal["retry_after_seconds"].as_u64();
        assert_eq!(retry_after, (code == "RESOURCE_EXHAUSTED").then_some(4));
    }
    // Each question was answered once.
    tokio::time::sleep(Duration::from_millis(300)).await;
    while let Ok(message) = heard.messages.try_recv() {
        assert!(!message.topic.ends_with("/answer"), "{message:?}");
    }
    publisher.stop().await;
}

#[tokio::test]
async fn the_broker_may_want_tls_and_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(at("ca.pem"), authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    std::fs::write(at("leaf.pem"), leaf.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    std::fs::write(at("leaf.key"), key.serialize_pem()).unwrap();
    let hashed = Command::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(at("passwords"))
        .args(["lookout", "sesame"])
        .status();
    assert!(hashed.unwrap().success());
    std::fs::write(at("password"), "wrong\n").unwrap();

    let (port, plain) = (free_port(), free_port());
    let settings = format!(
        "per_listener_settings true\nlistener {port} 127.0.0.1\ncertfile {leaf}\nkeyfile {key}\n\
         password_file {passwords}\nallow_anonymous false\n",
        leaf = at("leaf.pem").display(),
        key = at("leaf.key").display(),
        passwords = at("passwords").display(),
    );
    let _broker = Broker::start_on(plain, &settings);
    let daemon = Daemon::start(10).await;
    let mut heard = Subscriber::connect(plain, "lookout/#").await;
    let config = Mqtt {
        host: "localhost".into(),
        tls: Some(MqttTls { ca_file: Some(at("ca.pem")) }),
        username: Some("lookout".into()),
        password_file: Some(at("password")),
        ..mqtt_config(port)
    };
    let publisher = Publisher::start(&daemon, config);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(heard.messages.try_recv().is_err(), "a wrong password was taken");
    // The file is read again for each attempt.
    std::fs::write(at("password"), "sesame\n").unwrap();
    heard.until("lookout/available", "online").await;
    publisher.stop().await;
}

// --- HTTP ---------------------------------------------------------------------------------------

#[tokio::test]
async fn while_the_model_loads_http_is_healthy_and_not_ready() {
    let listener = listener(Interface::Http, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let loaded = CancellationToken::new();
    let serving = tokio::spawn(http::serve_loading(listener, loaded.clone()));
    for (path, status) in [("/healthz", "200"), ("/readyz", "503"), ("/metrics", "503")] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let reply = String::from_utf8(to_its_end(stream).await).unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {reply}");
        assert!(path == "/healthz" || reply.ends_with("the model is loading\n"), "{reply}");
    }
    loaded.cancel();
    timeout(SOON, serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn http_tells_health_readiness_and_metrics() {
    let daemon = Daemon::start(10).await;
    let metrics = lookout::metrics::install().unwrap();
    lookout::metrics::frame("gate");
    lookout::metrics::published("gate", Interface::Mqtt, Duration::from_millis(7));
    let listener = listener(Interface::Http, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving =
        tokio::spawn(http::serve(listener, daemon.service.clone(), metrics, stop.clone()));
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    };
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    let ready = get("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert!(ready.ends_with("ready; the disk is full\n"), "{ready}");
    daemon.service.ready.store(false, Ordering::Relaxed);
    let not_ready = get("/readyz").await;
    assert!(not_ready.starts_with("HTTP/1.1 503"), "{not_ready}");
    assert!(not_ready.ends_with("the model is loading\n"), "{not_ready}");
    // Clients that send nothing or an incomplete request block no other client.
    let mut silent = Vec::new();
    for n in 0..2 * CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if n % 2 == 0 {
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").await;
        }
        silent.push(stream);
    }
    for stream in silent.drain(..) {
        let reply = to_its_end(stream).await;
        assert!(!reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply));
    }
    for garbage in [
        "\0\0\0\0",
        "GET",
        "GET / HTTP/9.9\r\n\r\n",
        "POST /metrics HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(garbage.as_bytes()).await.unwrap();
        let reply = to_its_end(stream).await;
        assert!(!reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply));
    }
    let metrics = get("/metrics").await;
    assert!(metrics.contains("# HELP lookout_frames_total"), "{metrics}");
    let refused = r#"lookout_connections_refused_total{interface="http"} "#;
    assert!(metrics.contains(refused), "{metrics}");
    let timed_out = r#"lookout_connections_timed_out_total{interface="http"} "#;
    assert!(metrics.contains(timed_out), "{metrics}");
    assert!(metrics.contains(r#"lookout_frames_total{camera="gate"} 1"#), "{metrics}");
    assert!(metrics.contains("lookout_publish_seconds_bucket"), "{metrics}");
    stop.cancel();
    timeout(SOON, serving).await.unwrap().unwrap().unwrap();
}

// --- test helpers --------------------------------------------------------------------------------

type Ask = Box<dyn Fn(Question) -> Result<Answer, AskError> + Send>;

struct Fake {
    journal: Arc<dyn Journal>,
    ready: AtomicBool,
    yard: Mutex<Phase>,
    /// Set to make the next query of the cameras panic.
    panics: AtomicBool,
    ask: Mutex<Ask>,
}

impl Fake {
    fn answers_with(&self, ask: impl Fn(Question) -> Result<Answer, AskError> + Send + 'static) {
        *self.ask.lock().unwrap() = Box::new(ask);
    }
}

impl Service for Fake {
    fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    fn cameras(&self) -> Vec<CameraInfo> {
        assert!(!self.panics.swap(false, Ordering::Relaxed), "wanted by a test");
        [("gate", Phase::Live), ("yard", *self.yard.lock().unwrap())]
            .map(|(name, phase)| CameraInfo {
                name: name.into(),
                source: "rtsp://camera.example/1".into(),
                status: status(phase),
                buffer_frames: 3,
                buffer_bytes: 4096,
                disk_bytes: 0,
                oldest_frame: None,
            })
            .into()
    }

    fn evidence(&self, camera: &str, run: Option<u64>, number: u64) -> Looking {
        let found = match number {
            7 if run.is_none() => {
                Ok(Evidence { jpeg: b"a jpeg"[..].into(), captured_at: SystemTime::now() })
            }
            8 => Err(EvidenceError::Busy),
            _ => Err(EvidenceError::NoSuchFrame { camera: camera.into(), number }),
        };
        Box::pin(std::future::ready(found))
    }

    fn limits(&self) -> Limits {
        Limits { text_bytes: 8192, cameras: Some(vec!["gate".into(), "yard".into()]) }
    }

    fn ask(&self, question: Question) -> Result<Answer, AskError> {
        self.ask.lock().unwrap()(question)
    }

    fn troubles(&self) -> Vec<String> {
        vec!["the disk is full".into()]
    }

    fn readiness(&self) -> Readiness {
        match self.ready.load(Ordering::Relaxed) {
            true => Readiness::Ready,
            false => Readiness::NotYet("the model is loading".into()),
        }
    }
}

struct Daemon {
    service: Arc<Fake>,
    grpc: String,
    stop: CancellationToken,
    serving: Option<JoinHandle<Result<(), PublishError>>>,
}

impl Daemon {
    async fn start(journal: usize) -> Daemon {
        let service = Arc::new(Fake {
            journal: MemoryJournal::shared(RUN, journal),
            ready: AtomicBool::new(true),
            yard: Mutex::new(Phase::Lost),
            panics: AtomicBool::new(false),
            ask: Mutex::new(Box::new(|_| Err(AskError::Stopping))),
        });
        let grpc = format!("127.0.0.1:{}", free_port());
        let stop = CancellationToken::new();
        let mut daemon = Daemon { service, grpc, stop, serving: None };
        daemon.serve_again().await;
        daemon
    }

    async fn serve_again(&mut self) {
        let listener = listener(Interface::Grpc, self.grpc.parse().unwrap()).await.unwrap();
        self.stop = CancellationToken::new();
        let serving = grpc::serve(listener, self.service.clone(), self.stop.clone());
        self.serving = Some(tokio::spawn(serving));
    }

    fn yard_is(&self, phase: Phase) {
        *self.service.yard.lock().unwrap() = phase;
        self.service.journal.append("yard".into(), Body::Camera(status(phase)));
    }

    fn caption(&self, text: &str) -> Arc<Event> {
        self.service.journal.append("gate".into(), Body::Caption(words("", text)))
    }

    async fn channel(&self) -> Channel {
        let uri = format!("http://{}", self.grpc);
        Channel::from_shared(uri).unwrap().connect().await.unwrap()
    }

    async fn client(&self) -> LookoutClient<Channel> {
        LookoutClient::new(self.channel().await)
    }

    async fn ask(
        &self,
        camera: &str,
    ) -> Result<tonic::Streaming<proto::AskResponse>, tonic::Status> {
        let question = "Is it open?".into();
        let request = proto::AskRequest { camera: camera.into(), question, ..Default::default() };
        Ok(self.client().await.ask(request).await?.into_inner())
    }
}

/// Binds a listener with enough connections for a test and short timeouts.
async fn listener(interface: Interface, addr: SocketAddr) -> Result<Listener, PublishError> {
    let second = Duration::from_secs(1);
    let timeouts = Timeouts { greeting: second, stalled: 5 * second, idle: 2 * second };
    Ok(Listener::bind(interface, addr, CONNECTIONS).await?.with_timeouts(timeouts))
}

struct Publisher {
    running: JoinHandle<Result<(), PublishError>>,
    stop: CancellationToken,
}

impl Publisher {
    fn start(daemon: &Daemon, config: Mqtt) -> Publisher {
        let stop = CancellationToken::new();
        let publisher = mqtt::Publisher::shared(config, daemon.service.clone());
        let running = tokio::spawn(mqtt::run(publisher, stop.clone()));
        Publisher { running, stop }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(SOON, self.running).await.unwrap().unwrap().unwrap();
    }
}

fn mqtt_config(port: u16) -> Mqtt {
    Mqtt {
        host: "127.0.0.1".into(),
        port,
        tls: None,
        username: None,
        password_file: None,
        client_id: "lookout-test".into(),
        topic_prefix: "lookout".into(),
        discovery: Some("homeassistant".into()),
    }
}

fn words(id: &str, text: &str) -> Description {
    let at = |s: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(1_760_000_000_123 + s * 1000);
    let gap = Span { from: at(0), to: at(2) };
    Description {
        id: id.into(),
        prompt: "What happens?".into(),
        text: text.into(),
        window: Span { from: at(0), to: at(8) },
        coverage: Coverage {
            frames_wanted: 4,
            frames_used: 2,
            covered: Some(Span { from: at(2), to: at(6) }),
            gaps: vec![Gap { span: gap, cause: GapCause::CameraDown }],
            clock: Clock::Camera,
        },
        frames: vec![
            FrameRef { run: 1, number: 4, captured_at: at(2), slow: true },
            FrameRef { run: 1, number: 6, captured_at: at(6), slow: false },
        ],
        model: "tiny".into(),
        device: "cpu".into(),
        device_reason: "auto: libcuda.so.1 is missing".into(),
        finish: Finish::Stop,
        usage: Usage { video_tokens: 320, text_tokens: 20, new_tokens: 9, cached_tokens: 300 },
        timing: Timing { total_seconds: 0.21, prefill_seconds: 0.1, ..Timing::default() },
        skipped: 0,
        unchanged: None,
        conversation: String::new(),
        earlier_turns: 0,
        parts: Vec::new(),
        summary: None,
    }
}

fn part(text: &str) -> Part {
    let Description { window, coverage, .. } = words("", "");
    Part { window, text: text.into(), coverage }
}

fn status(phase: Phase) -> CameraStatus {
    CameraStatus {
        phase,
        since: SystemTime::UNIX_EPOCH + Duration::from_secs(1_760_000_000),
        reason: if phase == Phase::Live { String::new() } else { "no route".into() },
        last_frame: None,
        reconnects: 2,
        decoder: "avdec_h264".into(),
    }
}

/// A reader that takes this number of lines and then closes, as `| head -n` does.
struct Lines {
    wanted: usize,
    text: String,
}

impl Lines {
    fn until(wanted: usize) -> Lines {
        Lines { wanted, text: String::new() }
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text += std::str::from_utf8(bytes).unwrap();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.text.matches('\n').count() >= self.wanted {
            true => Err(ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }
}

/// Returns a free port below the system's range for outgoing connections (from 32768 on), so that
/// no other test's connection takes the port while its server is being restarted.
fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A mosquitto process, killed when dropped.
struct Broker {
    port: u16,
    folder: tempfile::TempDir,
    child: Child,
}

impl Broker {
    fn start() -> Broker {
        Broker::start_on(free_port(), "")
    }

    /// Starts a broker; `more` is added to the configuration of the anonymous listener.
    fn start_on(port: u16, more: &str) -> Broker {
        let folder = tempfile::tempdir().unwrap();
        let anonymous = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        let settings = format!("user root\nmax_queued_messages 0\n{more}{anonymous}");
        std::fs::write(folder.path().join("mosquitto.conf"), settings).unwrap();
        let child = Broker::spawn(&folder);
        let broker = Broker { port, folder, child };
        broker.wait();
        broker
    }

    fn spawn(folder: &tempfile::TempDir) -> Child {
        let path = std::env::var_os("MOSQUITTO").unwrap_or("/usr/sbin/mosquitto".into());
        Command::new(path)
            .arg("-c")
            .arg(folder.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests need mosquitto")
    }

    fn wait(&self) {
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("mosquitto does not listen on {}", self.port);
    }

    fn hang(&self) {
        // SAFETY: a signal to a child that is not reaped yet.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, libc::SIGSTOP) }, 0);
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = Broker::spawn(&self.folder);
        self.wait();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy between publisher and broker. When shut, it breaks open connections and accepts no new
/// ones, so that a subscriber can reconnect before the publisher.
struct Gate {
    port: u16,
    shut: Arc<tokio::sync::watch::Sender<bool>>,
}

impl Gate {
    async fn open_to(broker: u16) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shut = Arc::new(tokio::sync::watch::Sender::new(false));
        let state = shut.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut state = state.subscribe();
                tokio::spawn(async move {
                    if *state.borrow() {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", broker)).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.wait_for(|shut| *shut) => {}
                    }
                });
            }
        });
        Gate { port, shut }
    }

    /// Opens a proxy that acts like a broker without MQTT 5: it refuses the version as MQTT 3.1.1
    /// specifies.
    async fn of_an_old_broker(broker: u16) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut begin = [0; 16];
                    while near.peek(&mut begin).await.is_ok_and(|length| length < begin.len()) {
                        tokio::task::yield_now().await;
                    }
                    let name = begin.windows(4).position(|bytes| bytes == b"MQTT").unwrap();
                    if begin[name + 4] > 4 {
                        near.read_exact(&mut begin).await.unwrap();
                        near.write_all(&[0x20, 2, 0, 1]).await.unwrap();
                        return;
                    }
                    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", broker)).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Gate { port, shut: Arc::new(tokio::sync::watch::Sender::new(false)) }
    }

    fn shut(&self, shut: bool) {
        self.shut.send_replace(shut);
    }
}

#[derive(Debug)]
struct Message {
    topic: String,
    payload: String,
    retain: bool,
}

/// A subscriber to a topic filter that reconnects when the broker comes back.
struct Subscriber {
    client: AsyncClient,
    messages: mpsc::Receiver<Message>,
    subscribed: tokio::sync::watch::Receiver<u32>,
}

impl Subscriber {
    async fn connect(port: u16, filter: &str) -> Subscriber {
        let id = format!("test-{}", rand::random::<u32>());
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_max_packet_size(1 << 24, 1 << 24);
        let (client, mut eventloop) = AsyncClient::new(options, 100);
        let (to, messages) = mpsc::channel(10_000);
        let (count, subscribed) = tokio::sync::watch::channel(0);
        let (filter, subscriber) = (filter.to_owned(), client.clone());
        tokio::spawn(async move {
            loop {
                match eventloop.poll().await {
                    Ok(rumqttc::Event::Incoming(Packet::ConnAck(_))) => {
                        subscriber.try_subscribe(&filter, QoS::AtLeastOnce).unwrap();
                    }
                    Ok(rumqttc::Event::Incoming(Packet::SubAck(_))) => {
                        count.send_modify(|count| *count += 1);
                    }
                    Ok(rumqttc::Event::Incoming(Packet::Publish(publish))) => {
                        let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
                        let (topic, retain) = (publish.topic, publish.retain);
                        if to.try_send(Message { topic, payload, retain }).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        let mut subscriber = Subscriber { client, messages, subscribed };
        subscriber.back().await;
        subscriber
    }

    /// Waits for the next subscription since the last call.
    async fn back(&mut self) {
        timeout(SOON, self.subscribed.changed()).await.expect("no subscription").unwrap();
    }

    async fn say(&self, topic: &str, payload: &str) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
    }

    async fn next(&mut self) -> Message {
        timeout(SOON, self.messages.recv()).await.expect("no message").unwrap()
    }

    async fn next_on(&mut self, topic: &str) -> Message {
        loop {
            let message = self.next().await;
            if message.topic == topic {
                return message;
            }
        }
    }

    async fn json_on(&mut self, topic: &str) -> Value {
        serde_json::from_str(&self.next_on(topic).await.payload).unwrap()
    }

    async fn until(&mut self, topic: &str, payload: &str) {
        while self.next_on(topic).await.payload != payload {}
    }

    /// Collects the sequence numbers of events until this one has arrived.
    async fn sequences_to(&mut self, last: u64, sequences: &mut Vec<u64>) {
        while sequences.last() != Some(&last) {
            let event: Value = serde_json::from_str(&self.next().await.payload).unwrap();
            sequences.push(event["sequence"].as_u64().unwrap());
        }
    }
}
