//! Tests TryRule over gRPC: its arguments, its items, and its end.

use std::sync::atomic::AtomicUsize;

use lookout::client::{self, TrialFiles};
use lookout::config::{RuleChanges, Thresholds};
use lookout::question::Range;
use tonic_types::StatusExt;

use super::*;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn time(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn window(number: u64, result: TriedResult) -> TrialItem {
    let at = |number| SystemTime::UNIX_EPOCH + Duration::from_secs(1_760_000_000 + 4 * number);
    TrialItem::Window(TriedWindow { window: Span { from: at(number), to: at(number + 2) }, result })
}

fn started() -> TrialItem {
    let second = Duration::from_secs(1);
    let thresholds = Thresholds {
        on: 0.75,
        off: 0.25,
        needed: 2,
        among: 3,
        cooldown: 30 * second,
        hold: 60 * second,
    };
    let from = SystemTime::UNIX_EPOCH + 1_760_000_000 * second;
    TrialItem::Started(Box::new(Trial {
        camera: "gate".into(),
        rule: "car".into(),
        question: "Is there a car?".into(),
        thresholds,
        temperature: 1.5,
        span: Span { from, to: from + 600 * second },
        windows: 3,
    }))
}

impl Daemon {
    /// Lets the daemon accept trials. Each begins with its request, and `send` sends its items.
    fn tries<F: Future<Output = ()> + Send + 'static>(
        &self,
        send: impl Fn(TrialRequest, mpsc::Sender<TrialItem>) -> F + Send + 'static,
    ) {
        *self.service.try_rule.lock().unwrap() = Box::new(move |request| {
            let (to, items) = mpsc::channel(1);
            tokio::spawn(send(request, to));
            Ok(items)
        });
    }

    async fn try_rule(
        &self,
        request: proto::TryRuleRequest,
    ) -> Result<tonic::Streaming<proto::TryRuleResponse>, tonic::Status> {
        Ok(self.client().await.try_rule(request).await?.into_inner())
    }
}

#[tokio::test]
async fn a_trial_with_an_invalid_argument_is_refused_by_its_field() {
    use proto::try_rule_request::Range::{Between, Last};
    let daemon = Daemon::start(10).await;
    daemon.tries(|_, _| async { panic!("the request was accepted") });
    let request = || proto::TryRuleRequest { camera: "gate".into(), ..Default::default() };
    let of = |range| proto::TryRuleRequest { range: Some(range), ..request() };
    let between = |from, to| of(Between(proto::Span { from, to }));
    for (request, field) in [
        (of(Last(prost_types::Duration { seconds: 0, nanos: 0 })), "last"),
        (of(Last(prost_types::Duration { seconds: -5, nanos: 0 })), "last"),
        (between(None, time(10)), "between.from"),
        (between(time(10), time(10)), "between.to"),
        (between(time(10), time(5)), "between.to"),
        (proto::TryRuleRequest { cooldown: seconds(-1), ..request() }, "cooldown"),
        (proto::TryRuleRequest { cooldown: seconds(i64::MIN), ..request() }, "cooldown"),
        (proto::TryRuleRequest { hold: seconds(-1), ..request() }, "hold"),
    ] {
        let context = format!("{request:?}");
        let status = daemon.try_rule(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{context}: {status}");
        let violations = status.get_details_bad_request().expect("a field").field_violations;
        assert_eq!(violations[0].field, field, "{context}: {status}");
    }
}

#[tokio::test]
async fn the_refusal_of_a_trial_has_its_code_and_reason() {
    let daemon = Daemon::start(10).await;
    let invalid = || TrialError::InvalidRule("on = 2: wanted 0.01 to 1".into());
    let no_camera = || TrialError::Refused(AskError::CameraNotFound("gate".into()));
    for (refusal, code, reason) in [
        (TrialError::RuleNotFound("car".into()), Code::NotFound, "RULE_NOT_FOUND"),
        (TrialError::TooManyTrials, Code::ResourceExhausted, "TOO_MANY_TRIALS"),
        (invalid(), Code::InvalidArgument, "INVALID_RULE"),
        (no_camera(), Code::NotFound, "CAMERA_NOT_FOUND"),
        (AskError::Stopping.into(), Code::Unavailable, "STOPPING"),
    ] {
        let message = refusal.to_string();
        *daemon.service.try_rule.lock().unwrap() = Box::new(move |_| Err(refusal.clone()));
        let status = daemon.try_rule(proto::TryRuleRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert_eq!(status.get_details_error_info().expect("a reason").reason, reason);
        assert!(status.message().contains(&message), "{status}");
    }
}

#[tokio::test]
async fn a_trial_gets_the_whole_request_and_sends_every_item_in_order() {
    use proto::try_rule_response::Item;
    let daemon = Daemon::start(10).await;
    let requests = Arc::<Mutex<Vec<TrialRequest>>>::default();
    let seen = requests.clone();
    daemon.tries(move |request, to| {
        seen.lock().unwrap().push(request);
        async move {
            let Body::Alert(of_trial) = alert("car", "a-1") else { unreachable!() };
            for item in [
                started(),
                window(0, TriedResult::Score(0.875)),
                TrialItem::Alert(Box::new(of_trial)),
                window(1, TriedResult::Unknown(GapCause::CameraDown)),
                window(2, TriedResult::OffSchedule),
                TrialItem::Failed(AskError::ModelFailed("spoilt".into())),
            ] {
                to.send(item).await.unwrap();
            }
        }
    });
    let span = proto::Span { from: time(1_760_000_000), to: time(1_760_000_600) };
    let request = proto::TryRuleRequest {
        camera: "gate".into(),
        rule: "car".into(),
        question: Some("Is there a car?".into()),
        on: Some(0.75),
        off: Some(0.25),
        of: Some("2/3".into()),
        cooldown: seconds(30),
        hold: seconds(60),
        temperature: Some(1.5),
        range: Some(proto::try_rule_request::Range::Between(span)),
    };
    let mut items = daemon.try_rule(request).await.unwrap();
    let mut next = async || timeout(SOON, items.message()).await.unwrap();
    let Item::Started(begun) = next().await.unwrap().unwrap().item.unwrap() else { panic!() };
    assert_eq!((&*begun.rule, begun.windows, begun.temperature), ("car", 3, 1.5));
    assert_eq!((begun.needed, begun.among, begun.hold), (2, 3, seconds(60)));
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(match next().await.unwrap().unwrap().item.unwrap() {
            Item::Window(window) => format!("{:?}", window.result),
            Item::Alert(alert) => alert.alert_id,
            item @ Item::Started(_) => panic!("{item:?}"),
        });
    }
    assert_eq!(seen, ["Some(Score(0.875))", "a-1", "Some(Unknown(CameraDown))", "None"]);
    let failed = next().await.unwrap_err();
    assert_eq!(failed.code(), Code::Internal, "{failed}");
    assert!(failed.message().contains("spoilt"), "{failed}");

    let second = Duration::from_secs(1);
    let from = SystemTime::UNIX_EPOCH + 1_760_000_000 * second;
    let wanted = TrialRequest {
        camera: "gate".into(),
        rule: Some("car".into()),
        changes: RuleChanges {
            question: Some("Is there a car?".into()),
            on: Some(0.75),
            off: Some(0.25),
            of: Some("2/3".into()),
            cooldown: Some(30 * second),
            hold: Some(60 * second),
            temperature: Some(1.5),
        },
        range: Range::Between { from, to: Some(from + 600 * second) },
    };
    assert_eq!(*requests.lock().unwrap(), [wanted]);

    // Without a name and a range, it is a new rule on the most recent window.
    let request = proto::TryRuleRequest { camera: "yard".into(), ..Default::default() };
    drop(daemon.try_rule(request).await.unwrap());
    let wanted = TrialRequest {
        camera: "yard".into(),
        rule: None,
        changes: RuleChanges::default(),
        range: Range::Recent,
    };
    assert_eq!(requests.lock().unwrap()[1], wanted);
}

#[tokio::test]
async fn a_trial_ends_when_its_client_goes_or_the_daemon_stops() {
    let mut daemon = Daemon::start(10).await;
    let (ended, mut ends) = mpsc::channel(2);
    daemon.tries(move |_, to| {
        let ended = ended.clone();
        async move {
            to.send(started()).await.unwrap();
            to.closed().await;
            ended.send(()).await.unwrap();
        }
    });
    let mut items = daemon.try_rule(proto::TryRuleRequest::default()).await.unwrap();
    timeout(SOON, items.message()).await.unwrap().unwrap().expect("the trial has begun");
    drop(items);
    timeout(SOON, ends.recv()).await.expect("the trial goes on without its client");

    let mut items = daemon.try_rule(proto::TryRuleRequest::default()).await.unwrap();
    timeout(SOON, items.message()).await.unwrap().unwrap().expect("the trial has begun");
    daemon.stop.cancel();
    let end = timeout(SOON, items.message()).await.unwrap();
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    timeout(SOON, ends.recv()).await.expect("the trial goes on after the stop");
    timeout(SOON, daemon.serving.take().unwrap()).await.unwrap().unwrap().unwrap();
}

/// A reader that begins to read when the trial has stopped to send.
struct Late {
    sent: Arc<AtomicUsize>,
    /// Number of windows that were sent before.
    sent_before: Option<usize>,
    lines: usize,
}

impl Write for Late {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut before = usize::MAX;
        while self.sent_before.is_none() {
            let sent = self.sent.load(Ordering::SeqCst);
            self.sent_before = (sent == before).then_some(sent);
            before = sent;
            std::thread::sleep(Duration::from_secs(1));
        }
        self.lines += bytes.iter().filter(|byte| **byte == b'\n').count();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_waits_for_a_client_that_reads_slowly() {
    const WINDOWS: usize = 30_000;
    let daemon = Daemon::start(10).await;
    let sent = Arc::<AtomicUsize>::default();
    let count = sent.clone();
    daemon.tries(move |_, to| {
        let count = count.clone();
        async move {
            to.send(started()).await.unwrap();
            for number in 0..WINDOWS {
                to.send(window(number as u64, TriedResult::Score(0.5))).await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let request = TrialRequest {
        camera: "gate".into(),
        rule: None,
        changes: RuleChanges::default(),
        range: Range::Recent,
    };
    let mut out = Late { sent, sent_before: None, lines: 0 };
    let files = TrialFiles::default();
    let tried = client::try_rule(&daemon.grpc, &request, &files, Output::Json, &mut out);
    timeout(6 * SOON, tried).await.unwrap().unwrap();
    assert!(out.sent_before.is_some_and(|sent| sent < WINDOWS), "{:?}", out.sent_before);
    // The trial and the summary have a line each.
    assert_eq!(out.lines, WINDOWS + 2);
}
