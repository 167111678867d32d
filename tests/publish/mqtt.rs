//! Tests MQTT with a real mosquitto.

use super::*;

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
    let mut states = Subscriber::connect(heard, "lookout/gate/last_caption_text").await;
    let publisher = Publisher::connected(&daemon, mqtt_config(port), heard).await;
    for n in 1..=6 {
        daemon.caption(&if n == 3 { "long ".repeat(2000) } else { format!("caption {n}") });
    }
    let mut sequences = Vec::new();
    captions.sequences_to(6, &mut sequences).await;
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences, [1, 2, 4, 5, 6]);
    states.until("lookout/gate/last_caption_text", "caption 2").await;
    states.until("lookout/gate/last_caption_text", "caption 6").await;
    // The connection works again.
    daemon.caption("caption 7");
    captions.sequences_to(7, &mut sequences).await;
    publisher.stop().await;
}

#[tokio::test]
async fn an_event_too_large_for_the_broker_blocks_nothing() {
    let broker = Broker::start_on(free_port(), "max_packet_size 6000\n");
    all_but_the_third_arrive(broker.port, broker.port).await;
}

#[tokio::test]
async fn an_event_that_the_broker_refuses_blocks_nothing() {
    let broker = Broker::start_on(free_port(), "message_size_limit 6000\n");
    all_but_the_third_arrive(broker.port, broker.port).await;
}

#[tokio::test]
async fn an_event_at_which_an_old_broker_disconnects_blocks_nothing() {
    let broker = Broker::start_on(free_port(), "max_packet_size 6000\n");
    let old = Gate::of_an_old_broker(broker.port).await;
    all_but_the_third_arrive(old.port, broker.port).await;
}

#[tokio::test]
async fn a_retained_question_of_any_size_keeps_the_connection() {
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
async fn a_broker_that_lost_its_state_gets_everything_again() {
    let mut broker = Broker::start();
    let gate = Gate::open_to(broker.port).await;
    let daemon = Daemon::start(1000).await;
    let publisher = Publisher::start(&daemon, mqtt_config(gate.port));
    let mut heard = Subscriber::connect(broker.port, "#").await;
    daemon.caption("the last words");
    daemon.yard_is(CameraState::Refused);
    heard.until("lookout/gate/last_caption_text", "the last words").await;
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
        "homeassistant/device/lookout-test/gate/config",
        "homeassistant/device/lookout-test/yard/config",
        "lookout/available",
        "lookout/gate/available",
        "lookout/gate/last_caption",
        "lookout/gate/last_caption_text",
        "lookout/gate/last_frame",
        "lookout/yard/available",
        "lookout/yard/status",
    ];
    let mut topics = std::collections::BTreeSet::new();
    while topics.len() < wanted.len() {
        let message = heard.next().await;
        assert_ne!(message.topic, "lookout/gate/caption", "a caption that is no news");
        topics.insert(message.topic);
    }
    assert_eq!(topics.into_iter().collect::<Vec<_>>(), wanted);
    publisher.stop().await;
}

#[tokio::test]
async fn availability_does_not_flap_when_old_events_are_sent_late() {
    let broker = Broker::start();
    let daemon = Daemon::start(1000).await;
    // All of this happened while there was no broker.
    for _ in 0..20 {
        daemon.yard_is(CameraState::Live);
        daemon.yard_is(CameraState::Lost);
    }
    daemon.yard_is(CameraState::Live);
    daemon.caption("the end");
    let mut heard = Subscriber::connect(broker.port, "lookout/#").await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    let mut statuses = 0;
    loop {
        let message = heard.next().await;
        match message.topic.as_str() {
            "lookout/yard/available" => assert_eq!(message.payload, "online"),
            "lookout/yard/status_change" => statuses += 1,
            "lookout/yard/status" => assert!(message.payload.contains("\"live\""), "{message:?}"),
            "lookout/gate/caption" => break,
            _ => {}
        }
    }
    assert_eq!(statuses, 41);
    publisher.stop().await;
}

#[tokio::test]
async fn an_event_that_panics_an_interface_is_skipped_and_the_interface_restarts() {
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let daemon = mqtt_replay::stored(folder.path(), 0);
    let mut heard = Subscriber::connect(broker.port, "lookout/+/caption").await;
    let (stop, publisher) = (
        CancellationToken::new(),
        publish::mqtt::Publisher::shared(mqtt_config(broker.port), daemon.service.clone(), None),
    );
    let end = stop.clone();
    let interface = move || publish::mqtt::run(publisher.clone(), end.clone());
    let kept = tokio::spawn(publish::supervise(Interface::Mqtt, stop.clone(), interface));
    daemon.caption("well");
    heard.sequences_to(1, &mut Vec::new()).await;
    mqtt_replay::acknowledged(&daemon, broker.port, 1).await;
    daemon.service.panics.store(true, Ordering::Relaxed);
    daemon.yard_is(CameraState::Live);
    daemon.caption("well again");
    let mut sequences = Vec::new();
    heard.sequences_to(3, &mut sequences).await;
    assert_eq!(sequences, [3], "an event that was delivered is not sent again");
    assert!(!kept.is_finished());
    stop.cancel();
    timeout(SOON, kept).await.unwrap().unwrap();
}

/// Collects everything logged on this thread while the guard lives.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn begin(&self) -> tracing::subscriber::DefaultGuard {
        // While a program has only one subscriber, tracing lets the thread that reaches a log line
        // first decide for all threads whether the line is logged. So there is always a second one.
        static SECOND: OnceLock<tracing::Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| tracing::Dispatch::new(tracing_subscriber::registry()));
        let log = self.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    pub fn text(&self) -> String {
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

#[test]
fn a_line_that_a_thread_without_a_log_reached_first_is_collected() {
    let log = Log::default();
    let _logging = log.begin();
    let line = || tracing::info!("reached twice");
    std::thread::spawn(line).join().unwrap();
    line();
    assert!(log.text().contains("reached twice"));
}

#[tokio::test]
async fn a_client_id_used_twice_is_logged() {
    let log = Log::default();
    let _logging = log.begin();
    let broker = Broker::start();
    let (one, other) = (Daemon::start(100).await, Daemon::start(100).await);
    let mut heard = Subscriber::connect(broker.port, "lookout/gate/last_caption_text").await;
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
    heard.until("lookout/gate/last_caption_text", "here").await;
    publisher.stop().await;
}

#[tokio::test]
async fn a_broker_may_start_later() {
    let port = free_port();
    let daemon = Daemon::start(100).await;
    let publisher = Publisher::start(&daemon, mqtt_config(port));
    daemon.caption("early");
    tokio::time::sleep(Duration::from_millis(700)).await;
    let _broker = Broker::start_on(port, "");
    let mut heard = Subscriber::connect(port, "lookout/#").await;
    // The state is retained, whichever side connected first.
    let state = heard.next_on("lookout/gate/last_caption_text").await;
    assert_eq!(state.payload, "early");
    publisher.stop().await;
}

#[tokio::test]
async fn availability_is_retained_and_the_last_will_says_offline() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    let mut heard = Subscriber::connect(broker.port, "lookout/#").await;
    heard.until("lookout/gate/available", "online").await;
    heard.until("lookout/yard/available", "offline").await;
    heard.until("lookout/available", "online").await;
    daemon.yard_is(CameraState::Live);
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
    let publisher = Publisher::connected(&daemon, mqtt_config(broker.port), broker.port).await;
    let event = daemon.caption(&"ä".repeat(400));
    let attributes = heard.next_on("lookout/gate/last_caption").await;
    let state = heard.next_on("lookout/gate/last_caption_text").await;
    let caption = heard.next_on("lookout/gate/caption").await;
    assert_eq!(caption.payload, serde_json::to_string(&*event).unwrap());
    assert_eq!(attributes.payload, caption.payload);
    assert_eq!(state.payload.chars().count(), 255);
    let mut late = Subscriber::connect(broker.port, "lookout/gate/+").await;
    let mut retained = std::collections::BTreeSet::new();
    while retained.len() < 4 {
        retained.insert(late.next().await.topic);
    }
    let wanted = [
        "lookout/gate/available",
        "lookout/gate/last_caption",
        "lookout/gate/last_caption_text",
        "lookout/gate/last_frame",
    ];
    assert_eq!(retained.into_iter().collect::<Vec<_>>(), wanted);
    publisher.stop().await;
}

#[tokio::test]
async fn questions_are_answered_over_mqtt() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let service = daemon.service.clone();
    daemon.service.answers_with(move |question| {
        let (to, items) = mpsc::channel(4);
        match question.text() {
            "full?" => {
                let retry_after = Duration::from_secs(4);
                return Err(AskError::QueueFull { waiting: 8, retry_after });
            }
            "broken?" => {
                to.try_send(AnswerItem::Failed(AskError::ModelFailed("nan".into()))).unwrap()
            }
            text => {
                let answer = Body::Answer(answer(question.id(), &format!("{text} Yes.")));
                let event = service.journal.append("gate".into(), answer);
                to.try_send(AnswerItem::Finished(event)).unwrap();
            }
        }
        Ok(items)
    });
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    let mut heard = Subscriber::connect(broker.port, "lookout/#").await;
    heard.until("lookout/available", "online").await;

    heard.say("lookout/gate/ask", r#"{"question_id":"q1","question":"Open?"}"#).await;
    let answer = heard.json_on("lookout/gate/answer").await;
    assert_eq!((&answer["question_id"], &answer["text"]), (&"q1".into(), &"Open? Yes.".into()));
    assert_eq!((&answer["camera"], &answer["kind"]), (&"gate".into(), &"answer".into()));

    // A template turns an id that looks like a number into one.
    heard.say("lookout/gate/ask", r#"{"question_id":1795649810620,"question":"Open?"}"#).await;
    assert_eq!(heard.json_on("lookout/gate/answer").await["question_id"], "1795649810620");

    heard.say("lookout/gate/ask", "Plain?").await;
    let answer = heard.json_on("lookout/gate/answer").await;
    assert_eq!(answer["text"], "Plain? Yes.");

    for (topic, question, id, code) in [
        (
            "lookout/gate/ask",
            r#"{"question_id":"q2","question":"full?"}"#,
            "q2",
            "RESOURCE_EXHAUSTED",
        ),
        ("lookout/gate/ask", r#"{"question_id":"q3","question":"broken?"}"#, "q3", "INTERNAL"),
        ("lookout/gate/ask", r#"{"question_id":"q4"}"#, "q4", "INVALID_ARGUMENT"),
        ("lookout/gate/ask", "{nonsense", "", "INVALID_ARGUMENT"),
        (
            "lookout/gate/ask",
            r#"{"question_id":6,"question":"Open?","last":-1}"#,
            "6",
            "INVALID_ARGUMENT",
        ),
        ("lookout/nowhere/ask", r#"{"question_id":"q5","question":"Open?"}"#, "q5", "NOT_FOUND"),
    ] {
        heard.say(topic, question).await;
        let refusal = heard.json_on(&topic.replace("/ask", "/answer")).await;
        assert_eq!(
            (&refusal["question_id"], &refusal["code"]),
            (&id.into(), &code.into()),
            "{refusal}"
        );
        assert_eq!(refusal["kind"], "refused");
        assert!(!refusal["message"].as_str().unwrap().is_empty());
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
async fn alerts_are_acknowledged_over_mqtt_and_refusals_carry_the_id() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let rules = vec![rule("person", Some("a1")), rule("car", None)];
    *daemon.service.rules.lock().unwrap() = rules;
    let publisher = Publisher::connected(&daemon, mqtt_config(broker.port), broker.port).await;
    let mut heard = Subscriber::connect(broker.port, "lookout/#").await;
    let topic = "lookout/acknowledge";
    for (payload, false_alarm) in [
        ("a1", false),
        (r#"{"alert_id":"a1","false_alarm":true}"#, true),
        (r#"{"camera":"gate","rule":"person"}"#, false),
    ] {
        heard.say(topic, payload).await;
        let event = heard.json_on("lookout/gate/alert").await;
        assert_eq!((&event["alert_id"], &event["phase"]), (&"a1".into(), &"acknowledged".into()));
        assert_eq!(event["acknowledgement"]["false_alarm"], false_alarm, "{payload}");
    }
    for (payload, id, code, reason) in [
        ("a2", "a2", "NOT_FOUND", "ALERT_NOT_FOUND"),
        (r#"{"alert_id":"a1","note":1}"#, "a1", "INVALID_ARGUMENT", "INVALID_ACKNOWLEDGEMENT"),
        (r#"{"camera":"gate","rule":"car"}"#, "", "NOT_FOUND", "ALERT_NOT_FOUND"),
        ("", "", "INVALID_ARGUMENT", "INVALID_ACKNOWLEDGEMENT"),
    ] {
        heard.say(topic, payload).await;
        let refusal = heard.json_on("lookout/acknowledge_refused").await;
        assert_eq!((&refusal["kind"], &refusal["alert_id"]), (&"refused".into(), &id.into()));
        assert_eq!((&refusal["code"], &refusal["reason"]), (&code.into(), &reason.into()));
        assert!(!refusal["message"].as_str().unwrap().is_empty());
    }
    // A retained acknowledgement would be repeated on every connection.
    publisher.stop().await;
    heard.client.publish(topic, QoS::AtLeastOnce, true, "a1").await.unwrap();
    heard.until(topic, "a1").await;
    let publisher = Publisher::connected(&daemon, mqtt_config(broker.port), broker.port).await;
    heard.say(topic, "a3").await;
    assert_eq!(heard.json_on("lookout/acknowledge_refused").await["alert_id"], "a3");
    let filter = EventFilter { kinds: vec![EventKind::Alert], ..EventFilter::default() };
    let alerts = daemon.service.journal.list(Query { filter, before: None, limit: 100 });
    assert_eq!(alerts.await.unwrap().events.len(), 3);
    publisher.stop().await;
}
