//! Tests that the rules of a window are scored.

use super::*;
use crate::event::{AlertPhase, AlertUpdate};

/// Two rules of the camera `yard`, of which one window is enough for an alert.
const RULES: &str = r#"
    [[rule]]
    name = "dog"
    cameras = ["yard"]
    question = "Is there a dog?"
    on = 0.7
    of = "1/1"
    [[rule]]
    name = "car"
    cameras = ["yard"]
    question = "Is there a car?"
    on = 0.8
    of = "1/1"
"#;

/// Keys of a rule whose alerts are described.
const DESCRIBED: &str = "on = 0.7\ndescribe = \"Describe the dog.\"";

/// Returns the score of each rule, and the second at which the scored window ends.
fn scores(engine: &Engine) -> Vec<Option<(u64, f64)>> {
    let second = |time: SystemTime| time.duration_since(at(0)).expect("later").as_secs();
    let rules = engine.rules.list().into_iter();
    rules.map(|rule| rule.scored_at.map(second).zip(rule.score)).collect()
}

/// Returns the kinds of the events, in order.
fn kinds(engine: &Engine) -> Vec<&'static str> {
    let events = (1..).map_while(|sequence| engine.journal.get(None, sequence));
    let kind = |event: Arc<Event>| match &event.body {
        Body::Alert(_) => Some("alert"),
        Body::Caption(_) => Some("caption"),
        _ => None,
    };
    events.filter_map(kind).collect()
}

#[test]
fn the_rules_of_a_window_are_scored_before_its_caption() {
    let engine = filled(engine_with(RULES));
    closes(&engine, "yard", 10);
    closes(&engine, "gate", 10);
    assert_eq!(engine.jobs().scheduler.waiting(), 3, "gate has no rule");
    let _listening = asks(&engine, "Who?");
    assert!(work(&engine, vec![Fate::Steps(20)], for_steps(4)).is_ok());
    assert_eq!(scores(&engine), [Some((10, 0.75)), Some((10, 0.75))]);
    // The score of 0.75 is an alert of one rule only.
    assert_eq!(kinds(&engine), ["alert", "caption", "caption"]);
}

/// Returns the phase of each alert's event, its update and the text of its description.
fn alerts(engine: &Engine) -> Vec<(AlertPhase, Option<AlertUpdate>, Option<String>)> {
    let events = (1..).map_while(|sequence| engine.journal.get(None, sequence));
    let alert = |event: Arc<Event>| match &event.body {
        Body::Alert(alert) => {
            let text = alert.description.as_ref().map(|description| description.text.clone());
            Some((alert.phase, alert.update, text))
        }
        _ => None,
    };
    events.filter_map(alert).collect()
}

#[test]
fn an_alert_is_described_before_the_captions_that_wait() {
    let engine = filled(engine_with(&RULES.replacen("on = 0.7", DESCRIBED, 1)));
    closes(&engine, "yard", 10);
    closes(&engine, "gate", 10);
    let _listening = asks(&engine, "Who?");
    assert!(work(&engine, vec![Fate::Steps(20)], for_steps(5)).is_ok());
    let text = Some("A dog runs.".to_owned());
    let described = (AlertPhase::Update, Some(AlertUpdate::Description), text);
    assert_eq!(alerts(&engine), [(AlertPhase::New, None, None), described]);
    // The caption of `yard` was begun together with the scores.
    assert_eq!(kinds(&engine), ["alert", "caption", "alert", "caption"]);
    let Some(Body::Alert(alert)) = engine.journal.get(None, 3).map(|event| event.body.clone())
    else {
        panic!("no alert");
    };
    let description = alert.description.expect("a description");
    assert_eq!((&*description.prompt, description.window), ("Describe the dog.", alert.window));
}

#[test]
fn an_alert_without_a_description_is_complete() {
    let engine = filled(engine_with(&RULES.replacen("on = 0.7", DESCRIBED, 1)));
    closes(&engine, "yard", 10);
    let _listening = asks(&engine, "Who?");
    let failed = Fate::Fails(Failure::Run("out of memory".into()));
    let fates = vec![Fate::Steps(20), Fate::Steps(1), Fate::Steps(1), failed];
    assert!(work(&engine, fates, for_steps(5)).is_ok());
    assert_eq!(alerts(&engine), [(AlertPhase::New, None, None)]);
    assert_eq!(kinds(&engine), ["alert", "caption"]);
}

#[test]
fn a_window_on_which_the_model_fails_has_no_score_and_the_next_one_has() {
    let engine = filled(engine_with(RULES));
    closes(&engine, "yard", 10);
    let _listening = asks(&engine, "Who?");
    let failed = Fate::Fails(Failure::Run("out of memory".into()));
    let mut step = 0;
    let between = move |engine: &Arc<Engine>| {
        step += 1;
        match step {
            3 => {
                assert_eq!(scores(engine), [None, None]);
                closes(engine, "yard", 20);
            }
            8 => engine.jobs().stopping = true,
            _ => {}
        }
    };
    assert!(work(&engine, vec![Fate::Steps(20), failed], between).is_ok());
    assert_eq!(scores(&engine), [Some((20, 0.75)), Some((20, 0.75))]);
    assert_eq!(captions(&engine, "yard").len(), 2, "captions do not depend on rules");
}

#[test]
fn a_window_whose_frames_are_gone_has_no_score_and_the_next_one_has() {
    let engine = filled(engine_with(RULES));
    closes(&engine, "yard", FRAMES + 1000);
    let _listening = asks(&engine, "Who?");
    let mut step = 0;
    let between = move |engine: &Arc<Engine>| {
        step += 1;
        match step {
            2 => closes(engine, "yard", 20),
            6 => engine.jobs().stopping = true,
            _ => {}
        }
    };
    assert!(work(&engine, vec![Fate::Steps(20)], between).is_ok());
    assert_eq!(scores(&engine), [Some((20, 0.75)), Some((20, 0.75))]);
}
