//! Tests the rules with a journal.

mod newest;
mod replaced;

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::event::{
    AlertPhase, AlertUpdate, Coverage, Devices, FinishReason, FrameReference, Placement, Sight,
    Timing, Usage,
};
use crate::frame::{Clock, FrameId};
use crate::journal::MemoryJournal;
use crate::metrics;
use crate::service::RuleState;

const HEAD: &str = r#"
    [model]
    package = "model"
    [[camera]]
    name = "gate"
    url = "rtsp://127.0.0.1:1/gate"
    [[camera]]
    name = "yard"
    url = "rtsp://127.0.0.1:1/yard"
"#;

/// A rule for all cameras, whose alerts begin and end with one window.
const PERSON: &str = r#"
    [[rule]]
    name = "person"
    question = "Is there a person?"
    of = "1/1"
    cooldown = "0s"
    hold = "25s"
"#;

const CAR: &str = r#"
    [[rule]]
    name = "car"
    question = "Is there a car?"
    cameras = ["gate"]
    of = "2/3"
"#;

fn rules(tables: &str, journal: &Arc<dyn Journal>) -> Arc<Rules> {
    let config = Config::parse(&format!("{HEAD}{tables}"), Path::new("/")).expect("a config");
    Rules::new(&config.rules, &config.cameras, journal.clone())
}

fn journal() -> Arc<dyn Journal> {
    MemoryJournal::shared(7, 10_000)
}

/// Returns the span of a window. The first ends at noon of the 2nd of March 2026, a Monday, in UTC.
fn span(window: usize) -> Span {
    let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_452_800);
    let to = noon + Duration::from_secs(10 * window as u64);
    Span { from: to - Duration::from_secs(50), to }
}

fn window(number: usize) -> ScoredWindow {
    let window = span(number);
    ScoredWindow {
        window,
        coverage: Coverage {
            frames_expected: 50,
            frames_used: 50,
            covered_span: Some(window),
            gaps: Vec::new(),
            clock_source: Clock::Host,
        },
        frames: vec![FrameReference {
            id: FrameId { run: 7, number: number as u64 },
            captured_at: window.from,
            slow: true,
        }],
        jpegs: Vec::new(),
    }
}

/// Scores a window of a camera for all rules that are due.
fn score(rules: &Rules, camera: &str, number: usize, score: f64) {
    let due = rules.due(camera, span(number));
    let scores: Vec<_> = due.into_iter().map(|rule| (rule, score)).collect();
    rules.window_scored(camera, &window(number), &scores);
}

fn skip(rules: &Rules, camera: &str, number: usize) {
    let due = rules.due(camera, span(number));
    rules.window_unknown(camera, span(number), &due);
}

fn bodies(journal: &Arc<dyn Journal>) -> Vec<(String, Body)> {
    let mut cursor = journal.read_from(None, 0);
    let mut bodies = Vec::new();
    while let Some(read) = cursor.try_next() {
        if let crate::journal::Read::Event(event) = read {
            bodies.push((event.camera.to_string(), event.body.clone()));
        }
    }
    bodies
}

fn alerts(journal: &Arc<dyn Journal>) -> Vec<Alert> {
    let alert = |(_, body)| match body {
        Body::Alert(alert) => Some(alert),
        _ => None,
    };
    bodies(journal).into_iter().filter_map(alert).collect()
}

fn phases(journal: &Arc<dyn Journal>) -> Vec<AlertPhase> {
    alerts(journal).iter().map(|alert| alert.phase).collect()
}

#[test]
fn an_alert_has_one_id_and_its_scores_from_its_beginning_to_its_end() {
    let journal = journal();
    let rules = rules(CAR, &journal);
    let scores = [0.1, 0.9, 0.5, 0.85, 0.95, 0.6, 0.3, 0.2];
    for (number, value) in scores.into_iter().enumerate() {
        score(&rules, "gate", number, value);
    }
    let alerts = alerts(&journal);
    let [begin, end] = [&alerts[0], &alerts[alerts.len() - 1]];
    assert_eq!((begin.phase, end.phase), (AlertPhase::New, AlertPhase::End));
    assert!(alerts.iter().all(|alert| alert.alert_id == begin.alert_id));
    assert_eq!(Uuid::parse_str(&begin.alert_id).map(|id| id.get_version_num()), Ok(7));
    assert_eq!((begin.score, begin.peak_score, begin.scored_windows), (0.85, 0.9, 3));
    assert_eq!((begin.started_at, begin.ended_at, begin.end_reason), (span(1).to, None, None));
    assert_eq!((begin.window, &begin.frames), (span(3), &window(3).frames));
    assert_eq!((end.score, end.peak_score, end.scored_windows), (0.2, 0.95, 7));
    assert_eq!(end.ended_at, Some(span(7).to));
    assert_eq!(end.end_reason, Some(EndReason::Cleared));
    let curve: Vec<_> = end.curve.iter().filter_map(|point| point.score).collect();
    assert_eq!(curve, scores[1..]);
}

#[test]
fn a_temperature_applies_before_the_thresholds() {
    let journal = journal();
    let rules = rules(&PERSON.replace("hold", "temperature = 2.0\nhold"), &journal);
    // The logit of 0.9 is 2.2, and that of 0.7503 is 1.1.
    score(&rules, "gate", 0, 0.9);
    assert_eq!(phases(&journal), []);
    let of_gate = rules.list().into_iter().find(|rule| &*rule.camera == "gate").expect("a rule");
    assert_eq!(of_gate.score.map(|score| (score * 100.0).round()), Some(75.0));
    score(&rules, "gate", 1, 0.99);
    assert_eq!(phases(&journal), [AlertPhase::New]);
    assert!((alerts(&journal)[0].score - 0.9087).abs() < 0.001);
}

#[test]
fn updates_become_rarer_while_an_alert_lasts() {
    let journal = journal();
    let rules = rules(PERSON, &journal);
    (0..2000).for_each(|number| score(&rules, "gate", number, 0.9));
    let alerts = alerts(&journal);
    let windows: Vec<u32> = alerts.iter().map(|alert| alert.scored_windows).collect();
    assert_eq!(windows, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792]);
    assert!(alerts[1..].iter().all(|alert| alert.phase == AlertPhase::Update));
    assert!(alerts.iter().all(|alert| alert.curve.len() <= curve::POINTS));
}

#[test]
fn rules_and_cameras_are_independent() {
    let journal = journal();
    let rules = rules(&format!("{CAR}{PERSON}"), &journal);
    let due = |camera| {
        let due = rules.due(camera, span(0));
        due.iter().map(|rule| rule.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(due("gate"), ["car", "person"]);
    assert_eq!(due("yard"), ["person"]);
    assert!(due("attic").is_empty());
    score(&rules, "yard", 0, 0.9);
    score(&rules, "gate", 0, 0.9);
    let shown: Vec<_> = rules
        .list()
        .iter()
        .map(|r| (r.name.to_string(), r.camera.to_string(), r.state, r.alert_id.is_some()))
        .collect();
    let row = |name: &str, camera: &str, state, is_active| {
        (name.to_owned(), camera.to_owned(), state, is_active)
    };
    assert_eq!(
        shown,
        [
            row("car", "gate", RuleState::Pending, false),
            row("person", "gate", RuleState::Active, true),
            row("person", "yard", RuleState::Active, true),
        ]
    );
    let ids: Vec<_> = alerts(&journal).iter().map(|alert| alert.alert_id.clone()).collect();
    assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
}

#[test]
fn a_window_that_was_not_seen_neither_begins_nor_ends_an_alert() {
    let journal = journal();
    let rules = rules(PERSON, &journal);
    let report = |number, frames_used, score| {
        let mut window = window(number);
        window.coverage.frames_used = frames_used;
        let due = rules.due("gate", window.window);
        rules.window_scored("gate", &window, &[(due[0].clone(), score)]);
    };
    report(0, 24, 0.9);
    report(1, 50, f64::NAN);
    assert!(alerts(&journal).is_empty());
    report(2, 25, 0.9);
    report(3, 24, 0.1);
    skip(&rules, "gate", 4);
    assert_eq!(phases(&journal), [AlertPhase::New]);
    report(5, 50, 0.1);
    let end = alerts(&journal).pop().unwrap();
    assert_eq!((end.phase, end.scored_windows, end.unknown_windows), (AlertPhase::End, 2, 2));
}

#[test]
fn a_blind_rule_and_its_recovery_are_events() {
    let journal = journal();
    let rules = rules(PERSON, &journal);
    score(&rules, "gate", 0, 0.1);
    (1..6).for_each(|number| skip(&rules, "gate", number));
    assert!(rules.list()[0].is_blind && !rules.list()[1].is_blind);
    score(&rules, "gate", 6, 0.1);
    assert!(!rules.list()[0].is_blind);
    let status = |(camera, body)| match body {
        Body::RuleStatus(status) => (camera, status.rule.to_string(), status.sight, status.since),
        body => panic!("{body:?}"),
    };
    let statuses: Vec<_> = bodies(&journal).into_iter().map(status).collect();
    let row = |sight, since| ("gate".to_owned(), "person".to_owned(), sight, since);
    assert_eq!(statuses, [row(Sight::Blind, span(0).to), row(Sight::Seeing, span(6).to)]);
}

#[test]
fn a_rule_whose_camera_never_sends_a_frame_is_blind() {
    let journal = journal();
    let rules = rules(&PERSON.replace("25s", "0s"), &journal);
    score(&rules, "yard", 0, 0.1);
    std::thread::sleep(Duration::from_millis(2));
    rules.tick();
    rules.tick();
    let bodies = bodies(&journal);
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    let (camera, Body::RuleStatus(status)) = &bodies[0] else { panic!("{bodies:?}") };
    assert_eq!((camera.as_str(), status.sight), ("gate", Sight::Blind));
    score(&rules, "gate", 1, 0.1);
    assert!(!rules.list()[0].is_blind);
}

#[test]
fn an_alert_ends_with_its_schedule_and_begins_again_with_it() {
    let journal = journal();
    let schedule = "schedule = \"Mon 11:00-12:01, Mon 13:00-14:00\"\ntime_zone = \"UTC\"\n";
    let rules = rules(&format!("{PERSON}{schedule}"), &journal);
    score(&rules, "gate", 0, 0.9);
    // A minute later, the window that was due before is scored late.
    let late = rules.due("gate", span(5));
    assert!(rules.due("gate", span(6)).is_empty());
    rules.window_scored("gate", &window(5), &[(late[0].clone(), 0.9)]);
    let alerts_until_now = alerts(&journal);
    let [begin, end] = &alerts_until_now[..] else { panic!("{alerts_until_now:?}") };
    assert_eq!(begin.alert_id, end.alert_id);
    assert_eq!((end.ended_at, end.end_reason), (Some(span(6).to), Some(EndReason::OffSchedule)));
    score(&rules, "gate", 360, 0.9);
    let next = alerts(&journal).pop().unwrap();
    assert!(next.phase == AlertPhase::New && next.alert_id != begin.alert_id);
    let state = |number: usize| rules.list_at(span(number).to)[0].state;
    assert_eq!((state(7), state(360)), (RuleState::OffSchedule, RuleState::Active));
}

#[test]
fn an_alert_is_acknowledged_while_it_is_active_and_afterwards() {
    let journal = journal();
    let rules = rules(PERSON, &journal);
    score(&rules, "gate", 0, 0.9);
    let id = alerts(&journal)[0].alert_id.clone();
    let newest = || rules.newest_alert("gate", "person").unwrap();
    assert_eq!((newest().alert_id, newest().is_active()), (id.clone(), true));
    assert_eq!(rules.newest_alert("yard", "person"), None);
    let event = rules.acknowledge(&id, false).unwrap();
    let Body::Alert(acknowledged) = &event.body else { panic!("{event:?}") };
    assert_eq!((acknowledged.phase, acknowledged.is_active()), (AlertPhase::Acknowledged, true));
    score(&rules, "gate", 1, 0.1);
    let end = alerts(&journal).pop().unwrap();
    assert_eq!(end.acknowledgement, acknowledged.acknowledgement);
    assert!(!end.is_false_alarm());
    let event = rules.acknowledge(&id, true).unwrap();
    let Body::Alert(marked) = &event.body else { panic!("{event:?}") };
    assert!(marked.is_false_alarm() && !marked.is_active());
    assert_eq!(marked.end_reason, Some(EndReason::Cleared));
    assert_eq!(newest(), *marked);
    let error = rules.acknowledge("no-alert", true).unwrap_err().to_string();
    assert!(error.contains("\"no-alert\"") && error.contains("lookout events"), "{error}");
}

#[test]
fn an_alert_is_described_while_it_is_active_and_afterwards() {
    let journal = journal();
    let rules = rules(PERSON, &journal);
    let description = |text: &str| Description {
        prompt: "Describe the person.".into(),
        text: text.into(),
        window: span(0),
        model: "tiny".into(),
        devices: Devices { vision: placement(), language: placement() },
        finish_reason: FinishReason::Stop,
        usage: Usage::default(),
        timing: Timing::default(),
    };
    score(&rules, "gate", 0, 0.9);
    let id = alerts(&journal)[0].alert_id.clone();
    rules.described(&id, &description("A postman."));
    score(&rules, "gate", 1, 0.1);
    rules.described(&id, &description("A late text."));
    rules.described("no-alert", &description("About nothing."));
    let alerts = alerts(&journal);
    let told: Vec<_> = alerts
        .iter()
        .map(|alert| {
            let text = alert.description.as_ref().map(|description| &*description.text);
            (alert.phase, alert.update, text, alert.is_active())
        })
        .collect();
    let update = Some(AlertUpdate::Description);
    assert_eq!(
        told,
        [
            (AlertPhase::New, None, None, true),
            (AlertPhase::Update, update, Some("A postman."), true),
            (AlertPhase::End, None, Some("A postman."), false),
            (AlertPhase::Update, update, Some("A late text."), false),
        ]
    );
    assert!(alerts.iter().all(|alert| alert.alert_id == id));
}

fn placement() -> Placement {
    Placement { device: "cpu".into(), reason: String::new() }
}

#[test]
fn the_alerts_of_today_are_counted() {
    let journal = journal();
    let rules = rules(&format!("{PERSON}time_zone = \"UTC\"\n"), &journal);
    // Two alerts of 2026-03-02, and three of the day after.
    let windows = [0, 1, 2, 3, 8640, 8641, 8642, 8643, 8644];
    for (number, value) in windows.into_iter().zip([0.9, 0.1].into_iter().cycle()) {
        score(&rules, "gate", number, value);
    }
    let id = alerts(&journal).pop().unwrap().alert_id;
    rules.acknowledge(&id, true).unwrap();
    rules.acknowledge(&id, true).unwrap();
    let counts = |number: usize| {
        let gate = rules.list_at(span(number).to).swap_remove(0);
        (gate.alerts_today, gate.false_alarms_today)
    };
    assert_eq!((counts(8645), counts(2 * 8640)), ((3, 1), (0, 0)));
    assert_eq!(rules.list_at(span(8645).to)[1].alerts_today, 0);
}

#[test]
fn the_alerts_of_a_removed_camera_end() {
    let journal = journal();
    let rules = rules(PERSON, &journal);
    score(&rules, "gate", 0, 0.9);
    rules.remove_camera("gate");
    let end = alerts(&journal).pop().unwrap();
    assert_eq!((end.phase, end.end_reason), (AlertPhase::End, Some(EndReason::Removed)));
    assert!(rules.due("gate", span(1)).is_empty());
    rules.add_camera(&"gate".into());
    rules.add_camera(&"gate".into());
    assert_eq!(rules.due("gate", span(1)).len(), 1);
}

#[tokio::test]
async fn a_restart_continues_the_alert_or_ends_it() {
    let journal = journal();
    let first = rules(&format!("{PERSON}{CAR}"), &journal);
    for number in 0..3 {
        score(&first, "gate", number, 0.9);
    }
    let ids: Vec<_> = first.list().into_iter().filter_map(|rule| rule.alert_id).collect();
    assert_eq!(ids.len(), 2);
    let before = alerts(&journal).len();
    drop(first);

    // The rule `car` was removed from the config in the meantime.
    let second = rules(PERSON, &journal);
    second.restore().await;
    let new = alerts(&journal).split_off(before);
    let [end] = &new[..] else { panic!("{new:?}") };
    assert_eq!((&*end.rule, end.end_reason), ("car", Some(EndReason::Removed)));
    assert_eq!(second.list()[0].alert_id.as_ref(), Some(&ids[0]));
    score(&second, "gate", 3, 0.9);
    score(&second, "gate", 4, 0.1);
    let end = alerts(&journal).pop().unwrap();
    assert_eq!((end.phase, &end.alert_id, end.scored_windows), (AlertPhase::End, &ids[0], 4));

    // An ended alert is not continued, but it can be acknowledged.
    let third = rules(PERSON, &journal);
    third.restore().await;
    assert_eq!(third.list()[0].alert_id, None);
    assert!(third.acknowledge(&ids[0], true).is_ok());
}

proptest! {
    /// Holds for kills at any moment: an occurrence has one ID, which is never used again, and the
    /// events of one rule and camera are `new`, updates, `end`.
    #[test]
    fn restarts_never_double_an_alert(
        steps in prop::collection::vec((0u8..8, 0usize..2), 0..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let journal = journal();
        let mut current = rules(&format!("{PERSON}{CAR}"), &journal);
        for (number, (step, camera)) in steps.into_iter().enumerate() {
            let camera = ["gate", "yard"][camera];
            match step {
                0..3 => score(&current, camera, number, 0.9),
                3..5 => score(&current, camera, number, 0.1),
                5 => skip(&current, camera, number),
                6 => {
                    current = rules(&format!("{PERSON}{CAR}"), &journal);
                    runtime.block_on(current.restore());
                }
                _ => {
                    let active = current.list().into_iter().filter_map(|rule| rule.alert_id).next();
                    let _ = active.map(|id| current.acknowledge(&id, false));
                }
            }
        }
        let mut active = std::collections::HashMap::new();
        let mut used = std::collections::HashSet::new();
        for (camera, body) in bodies(&journal) {
            let Body::Alert(alert) = body else { continue };
            let key = (camera, alert.rule.clone());
            match alert.phase {
                AlertPhase::New => {
                    prop_assert!(used.insert(alert.alert_id.clone()), "an ID was used again");
                    prop_assert_eq!(active.insert(key, alert.alert_id), None);
                }
                AlertPhase::Update | AlertPhase::Acknowledged => {
                    prop_assert_eq!(active.get(&key), Some(&alert.alert_id));
                }
                AlertPhase::End => prop_assert_eq!(active.remove(&key), Some(alert.alert_id)),
            }
        }
        for rule in current.list() {
            let key = (rule.camera.to_string(), rule.name);
            prop_assert_eq!(active.get(&key), rule.alert_id.as_ref());
        }
    }
}

/// A camera that is added again begins with rules that have no alert.
#[test]
fn a_removed_camera_leaves_no_metrics_of_its_rules() {
    let text = metrics::rendered(|| {
        let journal = journal();
        let rules = rules(PERSON, &journal);
        score(&rules, "gate", 0, 0.9);
        score(&rules, "yard", 0, 0.9);
        rules.remove_camera("gate");
    });
    let line = |camera: &str, value: u8| {
        format!("lookout_rule_active{{camera=\"{camera}\",rule=\"person\"}} {value}\n")
    };
    assert!(text.contains(&line("gate", 0)) && text.contains(&line("yard", 1)), "{text}");
    let shown = metrics::of_cameras(&text, |series| series.camera == "yard");
    assert!(
        !shown.contains("gate") && shown.contains("lookout_rule_score{camera=\"yard\""),
        "{shown}"
    );
}

#[test]
fn alerts_are_listed_with_their_newest_scores_the_newest_first() {
    let rules = rules(PERSON, &journal());
    for (window, value) in [0.9, 0.1, 0.9, 0.1, 0.9, 0.85, 0.84, 0.83].into_iter().enumerate() {
        score(&rules, "gate", window, value);
    }
    let all = rules.alerts(&AlertQuery { limit: 10, ..AlertQuery::default() });
    let scores: Vec<_> = all.iter().map(|listed| listed.alert.score).collect();
    assert_eq!(scores, [0.83, 0.1, 0.1]);
    assert_eq!((all[1].first_frames[0].id.number, all[1].alert.frames[0].id.number), (2, 3));
    let before = Some(all[1].alert.alert_id.to_string());
    assert_eq!(rules.alerts(&AlertQuery { before, limit: 10, ..AlertQuery::default() }), all[2..]);
}
