//! Tests gRPC with a real client.

use tonic_types::StatusExt;

use super::*;

#[tokio::test]
async fn an_event_is_the_same_on_both_interfaces() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let mut heard = Subscriber::connect(broker.port, "lookout/#").await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    heard.until("lookout/available", "online").await;

    let caption = daemon.caption("A red car drives from left to right.");
    let answer = daemon.service.journal.append("gate".into(), Body::Answer(answer("q", "Yes.")));
    let status =
        daemon.service.journal.append("gate".into(), Body::CameraStatus(status(CameraState::Lost)));

    let mut out = Lines::until(3);
    let filter = Filter { from: Some(FIRST), ..Filter::default() };
    let watching =
        lookout::client::watch(&daemon.grpc, filter, Output::Json, OnEnd::Return, &mut out);
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
    daemon
        .service
        .answers_with(|question| Err(AskError::ModelFailed(format!("{:?}", question.range()))));
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let span = |from, to| Some(Asked::Between(proto::Span { from, to }));
    let last = |seconds, nanos| Some(Asked::Last(prost_types::Duration { seconds, nanos }));
    let (low, high, least, most) = (i64::MIN, i64::MAX, i32::MIN, i32::MAX);
    let request = |range| proto::AskRequest {
        cameras: vec!["gate".into()],
        question: "Open?".into(),
        range,
        ..Default::default()
    };
    let zero = proto::AskRequest { max_new_tokens: Some(0), ..request(None) };
    let detail = proto::AskRequest { detail: 17, ..request(None) };
    let long = proto::AskRequest { question: "a".repeat(900_000), ..request(None) };
    for (request, code, wanted) in [
        (request(last(low, least)), Code::InvalidArgument, "last is less than nothing"),
        (request(last(-1, 0)), Code::InvalidArgument, "last is less than nothing"),
        (request(last(0, 0)), Code::InvalidArgument, "last is a range of no length"),
        (request(last(high, most)), Code::Internal, "Last(253402300799s)"),
        (request(span(time(low, least), time(high, most))), Code::Internal, "tv_sec: 253402300799"),
        (request(span(time(-1, 0), None)), Code::Internal, "tv_sec: 0,"),
        (request(span(time(low, 0), time(-5, most))), Code::InvalidArgument, "no length"),
        (request(span(time(high, 0), time(0, least))), Code::InvalidArgument, "backwards"),
        (request(span(None, time(1, 0))), Code::InvalidArgument, "between has no from"),
        (request(span(None, None)), Code::InvalidArgument, "between has no from"),
        (zero, Code::InvalidArgument, "max_new_tokens is 0"),
        (detail, Code::InvalidArgument, "detail is \"17\""),
        (long, Code::InvalidArgument, "at most 8192 bytes"),
    ] {
        let asked = (request.range, request.max_new_tokens);
        let status = daemon.client().await.ask(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{asked:?}: {}", status.message());
        let has_field = status.get_details_bad_request().is_some_and(|bad| {
            bad.field_violations.len() == 1 && !bad.field_violations[0].field.is_empty()
        });
        assert_eq!(has_field, code == Code::InvalidArgument, "{asked:?}");
        assert!(status.message().contains(wanted), "{asked:?}: {}", status.message());
    }
    let both = |range| {
        let cameras = vec!["gate".to_string(), "yard".to_string()];
        proto::AskRequest { cameras, ..request(range) }
    };
    for range in [last(high, most), span(time(high, most), None)] {
        let mut answers = daemon.client().await.ask(both(range)).await.unwrap().into_inner();
        let item = answers.message().await.unwrap().unwrap().item.unwrap();
        assert!(matches!(item, proto::ask_response::Item::Refused(_)), "{item:?}");
    }
}

#[tokio::test]
async fn events_of_different_runs_are_distinguished() {
    let daemon = Daemon::start(100).await;
    for n in 1..=8 {
        daemon.caption(&format!("caption {n}"));
    }
    let watch = async |run, sequence| {
        let from = Some(proto::EventId { run, sequence });
        let request = proto::WatchRequest { from, ..Default::default() };
        let mut events = daemon.client().await.watch(request).await.unwrap().into_inner();
        let mut next =
            async || timeout(SOON, events.message()).await.unwrap().unwrap().unwrap().item.unwrap();
        (next().await, next().await)
    };
    use proto::watch_response::Item::{Event, Missed};
    // The reader saw 4 events of the previous run; the daemon has appended 8 of its own since.
    let (Missed(missed), Event(first)) = watch(Some(RUN - 1), 5).await else {
        panic!("no missed events were reported")
    };
    let id = |sequence| Some(proto::EventId { run: Some(RUN), sequence });
    assert_eq!((missed.count, first.id), (None, id(1)));
    for run in [None, Some(RUN)] {
        let (Event(first), Event(second)) = watch(run, 5).await else { panic!("a loss") };
        assert_eq!([first.id, second.id], [id(5), id(6)]);
    }
    // A question about an event carries the event's run.
    daemon
        .service
        .answers_with(|question| Err(AskError::InvalidQuestion(format!("{:?}", question.range()))));
    let draft = Draft {
        camera: "gate".into(),
        text: "Open?".into(),
        run: Some(RUN - 1),
        event: Some(3),
        ..Draft::default()
    };
    let question = Question::new(draft, &Limits::unknown()).unwrap();
    let range = question.range();
    let asked =
        lookout::client::ask(&daemon.grpc, &[question], Output::Text, &mut Vec::new()).await;
    assert_eq!(asked.unwrap_err().to_string(), format!("{range:?}"));
}

#[tokio::test]
async fn a_slow_reader_receives_the_number_of_missed_events_and_delays_nobody() {
    const EVENTS: u64 = 1000;
    let daemon = Daemon::start(50).await;
    let from = Some(proto::EventId { run: None, sequence: 1 });
    let from_first = proto::WatchRequest { from, ..Default::default() };
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
            assert_eq!(sequence_of(&event), batch * 10 + n);
        }
    }
    let (mut lost, mut sequence) = (0, 0);
    while sequence < EVENTS {
        match timeout(SOON, slow.message()).await.unwrap().unwrap().unwrap().item.unwrap() {
            proto::watch_response::Item::Event(event) => {
                sequence += 1;
                assert_eq!(sequence_of(&event), sequence, "a loss that was not reported");
            }
            proto::watch_response::Item::Missed(missed) => {
                lost += missed.count();
                sequence += missed.count();
            }
        }
    }
    assert!(lost > EVENTS / 2, "only {lost} lost: something buffers without bound");
}

#[tokio::test]
async fn refused_questions_have_their_status() {
    let daemon = Daemon::start(10).await;
    let cases = [
        (AskError::CameraNotFound("x".into()), Code::NotFound),
        (AskError::NoFrames { camera: "x".into(), why: "down".into() }, Code::OutOfRange),
        (
            AskError::QueueFull { waiting: 4, retry_after: Duration::from_millis(2500) },
            Code::ResourceExhausted,
        ),
        (AskError::InvalidQuestion("empty".into()), Code::InvalidArgument),
        (AskError::Stopping, Code::Unavailable),
        (AskError::ModelFailed("nan".into()), Code::Internal),
    ];
    for (error, code) in cases {
        let refused = error.clone();
        daemon.service.answers_with(move |_| Err(refused.clone()));
        let status = daemon.ask("gate").await.unwrap_err();
        assert_eq!(status.code(), code);
        assert_eq!(status.message(), error.to_string());
        let info = status.get_details_error_info().expect("a reason");
        assert_eq!((info.domain.as_str(), info.reason.as_str()), ("lookout", error.reason()));
        let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
        assert_eq!(delay, (code == Code::ResourceExhausted).then_some(Duration::from_secs(3)));

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
    let frame = |number| Some(proto::FrameId { run: None, number });
    let request = proto::GetFrameRequest { camera: "gate".into(), frame: frame(10) };
    assert_eq!(daemon.client().await.get_frame(request).await.unwrap_err().code(), Code::NotFound);
    let request = proto::GetFrameRequest { camera: "gate".into(), frame: frame(8) };
    let refused = daemon.client().await.get_frame(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_question() {
    let daemon = Daemon::start(10).await;
    let (sender, mut receiver) = mpsc::channel(1);
    daemon.service.answers_with(move |_| {
        let (to, answer) = mpsc::channel(4);
        to.try_send(AnswerItem::Token("The".into())).unwrap();
        sender.try_send(to).unwrap();
        Ok(answer)
    });
    let mut stream = daemon.ask("gate").await.unwrap();
    assert!(stream.message().await.unwrap().is_some());
    let to = receiver.recv().await.unwrap();
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
    let request = HealthCheckRequest { service: "lookout.v1.LookoutService".into() };
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
    assert!(list.service.iter().any(|s| s.name == "lookout.v1.LookoutService"), "{list:?}");
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
    assert!(list.service.iter().any(|s| s.name == "lookout.v1.LookoutService"), "{list:?}");
}

#[tokio::test]
async fn silent_clients_do_not_lock_others_out() {
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
    client.list_cameras(proto::ListCamerasRequest::default()).await.unwrap();
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
async fn an_oversized_request_is_refused_and_its_connection_stays() {
    let daemon = Daemon::start(10).await;
    let mut client = daemon.client().await;
    let question = "why? ".repeat(800_000);
    let request =
        proto::AskRequest { cameras: vec!["gate".into()], question, ..Default::default() };
    let refused = client.ask(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    client.list_cameras(proto::ListCamerasRequest::default()).await.unwrap();
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
async fn an_occupied_address_is_reported_in_one_sentence() {
    let first = listener(Interface::Grpc, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = first.local_addr().unwrap();
    let error = listener(Interface::Http, addr).await.err().unwrap();
    assert!(matches!(error, PublishError::AddressInUse(_)));
    let wanted = format!(
        "{addr} is in use by another program; stop it, or choose another address in the config"
    );
    assert_eq!(error.to_string(), wanted);
}

fn sequence_of(event: &proto::Event) -> u64 {
    event.id.map_or(0, |id| id.sequence)
}

#[tokio::test]
async fn cameras_are_listed_in_pages() {
    let daemon = Daemon::start(10).await;
    let list = async |page_size, page_token: &str| {
        let request = proto::ListCamerasRequest { page_size, page_token: page_token.into() };
        daemon.client().await.list_cameras(request).await.map(|reply| {
            let proto::ListCamerasResponse { cameras, next_page_token, .. } = reply.into_inner();
            let names: Vec<String> = cameras.into_iter().map(|camera| camera.name).collect();
            (names.join(","), next_page_token)
        })
    };
    assert_eq!(list(0, "").await.unwrap(), ("gate,yard".into(), String::new()));
    assert_eq!(list(2, "").await.unwrap(), ("gate,yard".into(), String::new()));
    let (first, token) = list(1, "").await.unwrap();
    assert_eq!(first, "gate");
    assert_eq!(list(1, &token).await.unwrap(), ("yard".into(), String::new()));
    for (size, token, field) in [(-1, "", "page_size"), (1, "nowhere", "page_token")] {
        let status = list(size, token).await.unwrap_err();
        let request = status.get_details_bad_request().expect("a field");
        assert_eq!(request.field_violations[0].field, field);
    }
}
