//! Tests the HTTP API of alerts: their list, their clips, and the trial of a rule.

use bytes::Bytes;
use serde_json::json;

use super::api::*;
use super::*;

/// Appends the first event of an alert of the camera `gate`. Returns the alert as it is listed.
fn raise(daemon: &Daemon, id: &str, change: impl FnOnce(&mut Alert)) -> ListedAlert {
    let Body::Alert(mut alert) = alert("person", id) else { unreachable!() };
    change(&mut alert);
    let event = daemon.service.journal.append("gate".into(), Body::Alert(alert.clone()));
    let first_frames = alert.frames.clone();
    ListedAlert { event: event.id, camera: "gate".into(), first_frames, alert }
}

fn clip(state: ClipState, bytes: u64, reason: &str) -> Option<AlertClip> {
    let clip = AlertClip { state, bytes, reason: reason.into(), ..AlertClip::pending() };
    Some(clip)
}

#[tokio::test]
async fn a_clip_is_sent_as_a_whole_or_in_ranges() {
    let daemon = Daemon::start(100).await;
    let server = Server::start(&daemon).await;
    // More than two chunks of the journal.
    let file: Bytes = (0..600_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    let journal = &daemon.service.journal;
    journal.store_clip("a1".into(), file.clone()).await.unwrap();
    let raised =
        raise(&daemon, "a1", |alert| alert.clip = clip(ClipState::Ready, file.len() as u64, ""));
    let path = format!("/api/v1/events/{RUN}.{}/clip", raised.event.sequence);
    let get = format!("GET {path}");
    let whole = server.send(&get, "", "").await;
    assert_eq!((whole.status, whole.body == file), (200, true), "{}", whole.head);
    for line in ["content-type: video/mp4", "content-length: 600000", "accept-ranges: bytes"] {
        assert!(whole.head.contains(line), "{}", whole.head);
    }
    let head = server.send(&format!("HEAD {path}"), "", "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.head.contains("content-length: 600000"), "{}", head.head);
    for (range, from, to) in [
        ("bytes=0-1", 0, 2),
        ("bytes=262143-262144", 262_143, 262_145),
        ("bytes=262144-524287", 262_144, 524_288),
        ("bytes=100-599998", 100, 599_999),
        ("bytes=-7", 599_993, 600_000),
        ("bytes=599999-", 599_999, 600_000),
    ] {
        let part = server.send(&get, &format!("Range: {range}\r\n"), "").await;
        assert_eq!((part.status, part.body == file[from..to]), (206, true), "{range}");
        let shown = format!("content-range: bytes {from}-{}/600000", to - 1);
        assert!(part.head.contains(&shown), "{}", part.head);
    }
    assert_eq!(server.send(&get, "Range: bytes=600000-\r\n", "").await.status, 416);
    let tag = whole.head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag");
    let again = server.send(&get, &format!("If-None-Match: {tag}\r\n"), "").await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    server.stopped().await;
}

#[tokio::test]
async fn a_clip_that_cannot_be_sent_has_a_reason() {
    let daemon = Daemon::start(100).await;
    let server = Server::start(&daemon).await;
    let get = async |listed: ListedAlert| {
        server.get(&format!("/events/{RUN}.{}/clip", listed.event.sequence)).await
    };
    let pending = raise(&daemon, "a1", |alert| alert.clip = Some(AlertClip::pending()));
    get(pending).await.refused(400, "CLIP_PENDING");
    let missing = AlertClip::missing("the camera sends MJPEG");
    let missing = raise(&daemon, "a2", |alert| alert.clip = Some(missing));
    let refusal = get(missing).await.refused(404, "CLIP_NOT_FOUND");
    assert!(refusal["message"].as_str().unwrap().contains("sends MJPEG"), "{refusal}");
    let deleted = raise(&daemon, "a3", |alert| alert.clip = clip(ClipState::Ready, 9, ""));
    let refusal = get(deleted).await.refused(404, "CLIP_NOT_FOUND");
    assert!(refusal["message"].as_str().unwrap().contains("was deleted"), "{refusal}");
    let without = raise(&daemon, "a4", |_| {});
    get(without).await.refused(404, "CLIP_NOT_FOUND");
    let caption = daemon.caption("A red car.").id.sequence;
    server.get(&format!("/events/{RUN}.{caption}/clip")).await.refused(404, "CLIP_NOT_FOUND");
    server.get(&format!("/events/{RUN}.99/clip")).await.refused(404, "EVENT_NOT_FOUND");
    server.stopped().await;
}

#[tokio::test]
async fn alerts_are_listed_in_pages_with_their_present_state() {
    let daemon = Daemon::start(3).await;
    let server = Server::start(&daemon).await;
    let ended = |alert: &mut Alert| {
        (alert.ended_at, alert.end_reason) = (Some(alert.window.to), Some(EndReason::Cleared));
    };
    // The journal has the newest three events.
    let mut alerts = vec![
        raise(&daemon, "active, without its event", |_| {}),
        raise(&daemon, "ended, without its event", ended),
        raise(&daemon, "a3", ended),
        raise(&daemon, "a4", ended),
        raise(&daemon, "a5", |_| {}),
    ];
    alerts.reverse();
    *daemon.service.alerts.lock().unwrap() = alerts;
    let ids = async |query: &str| {
        let page = server.get(&format!("/alerts{query}")).await.json();
        let id = |alert: &Value| alert["alert_id"].as_str().unwrap().to_owned();
        let ids: Vec<_> = page["alerts"].as_array().unwrap().iter().map(id).collect();
        (ids.join(" "), page["next_before"].as_str().map(str::to_owned))
    };
    assert_eq!(ids("").await, ("a5 a4 a3 active, without its event".into(), None));
    assert_eq!(ids("?state=ended&limit=1").await, ("a4".into(), Some("a4".into())));
    assert_eq!(ids("?state=ended&limit=1&before=a4").await, ("a3".into(), Some("a3".into())));
    assert_eq!(ids("?state=ended&limit=2&before=a4").await, ("a3".into(), None));
    let active = ("a5 active, without its event".into(), None);
    assert_eq!(ids("?state=active&rule=person&camera=gate").await, active);
    assert_eq!(ids("?rule=car").await, (String::new(), None));
    assert_eq!(ids("?camera=yard").await, (String::new(), None));
    let newest = &server.get("/alerts?limit=1").await.json()["alerts"][0];
    assert_eq!((&newest["camera"], &newest["sequence"]), (&json!("gate"), &json!(5)));
    assert_eq!(newest["curve"][0]["score"], 0.9);
    server.get("/alerts?camera=attic").await.refused(404, "CAMERA_NOT_FOUND");
    server.get("/alerts?state=past").await.refused(400, "INVALID_REQUEST");
    server.get("/alerts?limit=0").await.refused(400, "INVALID_REQUEST");
    server.stopped().await;
}

fn span(from: u64, to: u64) -> Span {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(1_760_000_000 + seconds);
    Span { from: at(from), to: at(to) }
}

fn started() -> TrialItem {
    let thresholds = lookout::config::Thresholds {
        on: 0.8,
        off: 0.4,
        needed: 2,
        among: 3,
        cooldown: Duration::from_secs(60),
        hold: Duration::from_secs(30),
    };
    TrialItem::Started(Box::new(Trial {
        camera: "gate".into(),
        rule: "trial".into(),
        question: "Is it open?".into(),
        thresholds,
        temperature: 1.0,
        span: span(0, 8),
        windows: 3,
    }))
}

fn window(from: u64, result: TriedResult) -> TrialItem {
    TrialItem::Window(TriedWindow { window: span(from, from + 4), result })
}

/// Lets the daemon yield these items for every trial.
fn yields(daemon: &Daemon, items: impl Fn() -> Vec<TrialItem> + Send + 'static) {
    *daemon.service.try_rule.lock().unwrap() = Box::new(move |_| {
        let (to, stream) = mpsc::channel(8);
        items().into_iter().for_each(|item| to.try_send(item).unwrap());
        Ok(stream)
    });
}

#[tokio::test]
async fn a_trial_is_a_stream_of_windows_and_alerts_with_a_summary() {
    let daemon = Daemon::start(10).await;
    let server = Server::start(&daemon).await;
    yields(&daemon, || {
        let Body::Alert(alert) = alert("trial", "a1") else { unreachable!() };
        vec![
            started(),
            window(0, TriedResult::Score(0.9)),
            TrialItem::Alert(Box::new(alert)),
            window(4, TriedResult::Unknown(GapCause::CameraDown)),
            window(8, TriedResult::OffSchedule),
        ]
    });
    let body = json!({ "camera": "gate", "question": "Is it open?", "last": 60, "on": 0.7 });
    let reply = server.post("/rules/try", &body).await;
    assert!(reply.head.contains("content-type: text/event-stream"), "{}", reply.head);
    let messages = reply.messages();
    let [trial, scored, alert, unknown, off, summary] = messages.as_slice() else {
        panic!("{messages:#?}")
    };
    assert_eq!((&trial["kind"], &trial["of"]), (&json!("trial"), &json!("2/3")));
    assert_eq!((&scored["kind"], &scored["score"]), (&json!("tried_window"), &json!(0.9)));
    assert_eq!((&alert["kind"], &alert["phase"]), (&json!("tried_alert"), &json!("new")));
    assert_eq!((&unknown["unknown"], &off["off_schedule"]), (&json!("camera_down"), &json!(true)));
    let expected = json!({
        "kind": "trial_summary", "windows": 3, "scored": 1, "unknown": { "camera_down": 1 },
        "off_schedule": 1, "alerts": 1, "active": true,
    });
    assert_eq!(*summary, expected);
    yields(&daemon, || vec![started(), TrialItem::Failed(AskError::Stopping)]);
    let messages = server.post("/rules/try", &body).await.messages();
    assert_eq!((messages.len(), &messages[1]["kind"]), (2, &json!("failed")));
    assert_eq!(messages[1]["reason"], "STOPPING");
    server.stopped().await;
}

#[tokio::test]
async fn a_trial_reads_its_request_and_refuses_what_is_wrong_in_it() {
    let daemon = Daemon::start(10).await;
    let server = Server::start(&daemon).await;
    let (tried, mut trying) = mpsc::channel(1);
    *daemon.service.try_rule.lock().unwrap() = Box::new(move |request| {
        tried.try_send(request).unwrap();
        Err(TrialError::TooManyTrials)
    });
    let body = json!({
        "camera": "gate", "rule": "person", "question": "Is it open?", "on": 0.7, "off": 0.2,
        "of": "3/4", "cooldown": "2m", "hold": "1m 30s", "temperature": 2, "from":
        "2026-03-01T14:05:00Z", "to": "2026-03-01T15:05:00+00:00",
    });
    server.post("/rules/try", &body).await.refused(429, "TOO_MANY_TRIALS");
    let request = trying.recv().await.unwrap();
    assert_eq!((&*request.camera, request.rule.as_deref()), ("gate", Some("person")));
    let changes = request.changes;
    assert_eq!((changes.on, changes.off, changes.temperature), (Some(0.7), Some(0.2), Some(2.0)));
    assert_eq!(changes.of.as_deref(), Some("3/4"));
    let seconds = |duration: Option<Duration>| duration.unwrap().as_secs();
    assert_eq!((seconds(changes.cooldown), seconds(changes.hold)), (120, 90));
    for (change, reason, field) in [
        (json!({ "cooldown": "soon" }), "INVALID_REQUEST", "cooldown"),
        (json!({ "hold": "-1s" }), "INVALID_REQUEST", "hold"),
        (json!({ "last": "10m", "from": "2026-03-01T14:05:00Z" }), "INVALID_QUESTION", "range"),
        (json!({ "last": "soon" }), "INVALID_QUESTION", "last"),
        (json!({ "to": "2026-03-01T14:05:00Z" }), "INVALID_QUESTION", "from"),
        (json!({ "threshold": 1 }), "INVALID_REQUEST", "body"),
        (json!({ "camera": null }), "INVALID_REQUEST", "body"),
    ] {
        let mut body = json!({ "camera": "gate", "question": "Is it open?" });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refusal = server.post("/rules/try", &body).await.refused(400, reason);
        assert_eq!(refusal["field"], field, "{refusal}");
    }
    server.stopped().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_trial() {
    let daemon = Daemon::start(10).await;
    let server = Server::start(&daemon).await;
    let (tried, mut trying) = mpsc::channel(1);
    *daemon.service.try_rule.lock().unwrap() = Box::new(move |_| {
        let (to, stream) = mpsc::channel(8);
        to.try_send(started()).unwrap();
        tried.try_send(to).unwrap();
        Ok(stream)
    });
    let body = json!({ "camera": "gate", "question": "Is it open?" }).to_string();
    let kind = "Content-Type: application/json\r\n";
    let mut stream = server.open("POST /api/v1/rules/try", kind, &body).await;
    until(&mut stream, &mut String::new(), "data: ", 1).await;
    drop(stream);
    let to = trying.recv().await.unwrap();
    // The server notices when it sends.
    let ended = async {
        while to.send(window(0, TriedResult::Score(0.1))).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, ended).await.expect("the trial goes on");
    server.stopped().await;
}
