//! Alerts that are not sent again: they were deleted, or the target fails at them only.

use std::path::Path;

use super::delivery::*;
use super::mqtt::Log;
use super::receiver::*;
use super::*;

#[tokio::test]
async fn an_alert_that_is_deleted_while_it_waits_is_not_sent_again() {
    let daemon = memory();
    let mut receiver = Receiver::start().await;
    receiver.reacts(vec![Reaction::Answer(500, ""); 1000]);
    let running = Running::start(&daemon, config(&webhook(receiver.port, ""), Path::new("/")));
    publish_alert(&daemon, "car", AlertPhase::New);
    receiver.next().await;
    let window = Span { from: SystemTime::UNIX_EPOCH, to: SystemTime::now() };
    let deletion = Deletion { span: window, cameras: Vec::new(), include_kept: true };
    assert_eq!(daemon.service.delete(deletion).await.unwrap().events, 1);
    publish_alert(&daemon, "car", AlertPhase::End);
    let received = receiver.until(2).await;
    assert!(received.len() < 100, "the deleted alert was sent {} times", received.len());
    running.stop().await;
}

#[tokio::test]
async fn an_alert_at_which_a_target_always_fails_is_dropped_when_it_accepts_the_next() {
    let log = Log::default();
    let _logging = log.begin();
    let daemon = memory();
    let mut receiver = Receiver::start().await;
    receiver.fails_at(1);
    let phases = [AlertPhase::New, AlertPhase::Update, AlertPhase::End];
    phases.into_iter().for_each(|phase| drop(publish_alert(&daemon, "car", phase)));
    let running = Running::start(&daemon, config(&webhook(receiver.port, ""), Path::new("/")));
    let received = receiver.until(3).await;
    let sequences: Vec<u64> = received.iter().map(Received::sequence).collect();
    let (first, rest) = sequences.split_at(20);
    assert_eq!(first, [1; 20]);
    // The next one, the first one again, and the others in order.
    assert_eq!(rest, [2, 1, 2, 3]);
    running.stop().await;
    let text = log.text();
    let part = "500 Internal Server Error each time, and accepted the next alert; the alert is not sent again";
    assert!(text.contains(part), "{text}");
}

#[tokio::test]
async fn a_target_that_fails_at_every_alert_gets_all_when_it_works_again() {
    let daemon = memory();
    let mut receiver = Receiver::start().await;
    receiver.reacts(vec![Reaction::Answer(503, ""); 100]);
    let running = Running::start(&daemon, config(&webhook(receiver.port, ""), Path::new("/")));
    (0..3).for_each(|_| drop(publish_alert(&daemon, "car", AlertPhase::New)));
    let mut delivered = Vec::new();
    while delivered.len() < 3 {
        let received = receiver.next().await;
        if matches!(received.reaction, Reaction::Answer(200, _)) {
            delivered.push(received.sequence());
        }
    }
    assert_eq!(delivered, [1, 2, 3]);
    running.stop().await;
}
