//! Tests what is sent again, after a broken connection and after a restart of the daemon.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use lookout::event_store::{EventStore, Settings};

use super::mqtt::Log;
use super::*;

/// Waits until the broker has acknowledged everything up to an event of the run `RUN`. `port` is the
/// broker's as the publisher sees it.
pub async fn acknowledged(daemon: &Daemon, port: u16, sequence: u64) {
    let reader = format!("mqtt lookout-test at 127.0.0.1:{port}");
    let journal = daemon.service.journal.clone();
    let is_acknowledged = async {
        while journal.acknowledged(&reader) != Some(EventId { run: RUN, sequence }) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, is_acknowledged).await.unwrap();
}

/// Returns a daemon that stores its journal in a folder, as its run `RUN + number`.
pub fn stored(folder: &Path, number: u64) -> Daemon {
    let settings =
        Settings { folder: folder.into(), retention: Duration::from_secs(3600), bytes: 1 << 30 };
    // A process that another test starts holds the folder's lock for a moment, until its own
    // program begins.
    let begun = Instant::now();
    let store = loop {
        match EventStore::open(settings.clone()) {
            Ok(store) => break store,
            Err(error) if begun.elapsed() > SOON => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let journal = store.journal(RUN + number).unwrap();
    assert_eq!(journal.trouble(), None);
    Daemon::with_journal(journal)
}

/// Returns the run, counted from `RUN`, and the sequence of the event in a message.
fn id(message: &Message) -> (u64, u64) {
    let event: Value = serde_json::from_str(&message.payload).unwrap();
    (event["run"].as_u64().unwrap() - RUN, event["sequence"].as_u64().unwrap())
}

/// Collects the messages of the camera `gate` until an event has arrived on a topic.
async fn until(heard: &mut Subscriber, topic: &str, event: (u64, u64)) -> Vec<Message> {
    let topic = format!("lookout/gate/{topic}");
    let mut messages: Vec<Message> = Vec::new();
    while messages.last().is_none_or(|last| last.topic != topic || id(last) != event) {
        messages.push(heard.next().await);
    }
    messages
}

fn on(messages: &[Message], topic: &str) -> Vec<(u64, u64)> {
    let topic = format!("lookout/gate/{topic}");
    messages.iter().filter(|message| message.topic == topic).map(id).collect()
}

#[tokio::test]
async fn a_restarted_daemon_continues_where_the_broker_was() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start();
    let gate = Gate::open_to(broker.port).await;
    let mut heard = Subscriber::connect(broker.port, "lookout/gate/#").await;
    let daemon = stored(folder.path(), 0);
    let publisher = Publisher::connected(&daemon, mqtt_config(gate.port), broker.port).await;
    for n in 1..=20 {
        daemon.caption(&format!("with a broker {n}"));
    }
    let messages = until(&mut heard, "caption", (0, 20)).await;
    assert_eq!(on(&messages, "caption"), (1..=20).map(|n| (0, n)).collect::<Vec<_>>());
    // The daemon ends while the broker is away.
    acknowledged(&daemon, gate.port, 20).await;
    gate.shut(true);
    for n in 21..=30 {
        daemon.caption(&format!("without a broker {n}"));
    }
    publisher.stop().await;
    drop(daemon);

    let daemon = stored(folder.path(), 1);
    for state in [CameraState::Lost, CameraState::Live] {
        daemon.service.journal.append("gate".into(), Body::CameraStatus(status(state)));
    }
    daemon.caption("of the next run 3");
    daemon.caption("of the next run 4");
    daemon.service.journal.flush();
    while heard.messages.try_recv().is_ok() {}
    gate.shut(false);
    let publisher = Publisher::start(&daemon, mqtt_config(gate.port));
    let mut messages = until(&mut heard, "caption", (1, 4)).await;
    daemon.caption("a live one");
    messages.extend(until(&mut heard, "caption", (1, 5)).await);
    let earlier = (21..=30).map(|n| (0, n));
    let wanted: Vec<_> = earlier.chain([(1, 3), (1, 4), (1, 5)]).collect();
    assert_eq!(on(&messages, "caption"), wanted, "each event once and in order");
    assert_eq!(on(&messages, "status_change"), [(1, 1), (1, 2)]);
    // Only the newest is shown.
    assert_eq!(on(&messages, "last_caption"), [(1, 4), (1, 5)]);
    assert_eq!(on(&messages, "status"), [(1, 2)]);
    publisher.stop().await;
}

#[tokio::test]
async fn retained_messages_do_not_go_back_when_events_are_sent_again() {
    let broker = Broker::start();
    let gate = Gate::open_to(broker.port).await;
    let mut heard = Subscriber::connect(broker.port, "lookout/gate/#").await;
    let daemon = Daemon::start(1000).await;
    let publisher = Publisher::connected(&daemon, mqtt_config(gate.port), broker.port).await;
    daemon.caption("caption 1");
    until(&mut heard, "caption", (0, 1)).await;
    // The broker receives these, but its acknowledgements are lost.
    gate.loses_answers.store(true, Ordering::Relaxed);
    for n in 2..=5 {
        daemon.caption(&format!("caption {n}"));
    }
    let mut messages = until(&mut heard, "caption", (0, 5)).await;
    gate.shut(true);
    daemon.caption("caption 6");
    gate.loses_answers.store(false, Ordering::Relaxed);
    gate.shut(false);
    messages.extend(until(&mut heard, "caption", (0, 6)).await);
    let sent = on(&messages, "caption");
    let different: BTreeSet<_> = sent.iter().map(|(_, sequence)| *sequence).collect();
    assert!((2..=6).all(|sequence| different.contains(&sequence)), "{sent:?}");
    assert!(sent.len() > different.len(), "nothing was sent again: {sent:?}");
    let shown = on(&messages, "last_caption");
    assert!(shown.is_sorted(), "the last caption went back: {shown:?}");
    publisher.stop().await;
}

#[tokio::test]
async fn events_older_than_catch_up_are_not_sent() {
    let log = Log::default();
    let _logging = log.begin();
    let folder = tempfile::tempdir().unwrap();
    let daemon = stored(folder.path(), 0);
    let broker = Broker::start();
    let catch_up = Duration::from_millis(500);
    let config = Mqtt { catch_up, ..mqtt_config(broker.port) };
    let mut heard = Subscriber::connect(broker.port, "lookout/gate/caption").await;
    // The daemon ends before it has sent these.
    drop(publish::mqtt::Publisher::shared(config.clone(), daemon.service.clone(), None));
    daemon.caption("old 1");
    daemon.caption("old 2");
    drop(daemon);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let daemon = stored(folder.path(), 1);
    let publisher = Publisher::start(&daemon, config);
    // On a slow machine an event may be too old before it is sent.
    let first = loop {
        daemon.caption("new");
        if let Ok(message) = timeout(Duration::from_millis(100), heard.messages.recv()).await {
            break message.unwrap();
        }
    };
    assert!(first.payload.contains("\"new\""), "{first:?}");
    let text = log.text();
    assert!(text.contains("events are older than mqtt.catch_up: not sent"), "{text}");
    publisher.stop().await;
}

#[tokio::test]
async fn a_clock_that_was_set_makes_no_event_of_this_run_too_old() {
    let broker = Broker::start();
    let daemon = Daemon::start(10).await;
    let mut heard = Subscriber::connect(broker.port, "lookout/gate/caption").await;
    daemon.caption("by the clock of 1970");
    // As old by the host's clock as if it had been set since.
    tokio::time::sleep(Duration::from_millis(4500)).await;
    let catch_up = Duration::from_secs(4);
    let publisher = Publisher::start(&daemon, Mqtt { catch_up, ..mqtt_config(broker.port) });
    heard.sequences_to(1, &mut Vec::new()).await;
    publisher.stop().await;
}
