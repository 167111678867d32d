//! Tests rules that are replaced while cameras are watched.

use super::*;

/// Returns the rules of a config.
fn parsed(tables: &str) -> Vec<Rule> {
    Config::parse(&format!("{HEAD}{tables}"), Path::new("/")).expect("a config").rules
}

#[test]
fn rules_that_stay_keep_their_state_and_the_alerts_of_those_that_are_gone_end() {
    let journal = journal();
    let rules = rules(&format!("{PERSON}{CAR}"), &journal);
    for window in 0..3 {
        score(&rules, "gate", window, 0.9);
    }
    let active = |rules: &Rules| -> Vec<(String, Option<Arc<str>>)> {
        rules.list().into_iter().map(|r| (format!("{} {}", r.name, r.camera), r.alert_id)).collect()
    };
    let before = active(&rules);
    let events = alerts(&journal).len();
    assert_eq!(before.iter().filter(|(_, id)| id.is_some()).count(), 2);

    // Another severity and another rule do not disturb the state.
    let other = CAR.replace("car", "dog");
    let severe = PERSON.replace("of = ", "severity = \"critical\"\n    of = ");
    rules.replace(&parsed(&format!("{severe}{other}{CAR}")));
    let after = active(&rules);
    assert_eq!(after[..2], before[..2]);
    assert_eq!(after[3], before[2], "the order is that of the config");
    assert_eq!(rules.list()[0].severity, crate::event::Severity::Critical);
    assert_eq!(alerts(&journal).len(), events, "nothing was published");

    // With other thresholds the state starts again, and the alert stays active.
    rules.replace(&parsed(&format!("{}{CAR}", severe.replace("\"1/1\"", "\"2/2\""))));
    assert_eq!(rules.list()[0].alert_id, before[0].1);
    score(&rules, "gate", 3, 0.1);
    assert_eq!(rules.list()[0].alert_id, before[0].1, "2 of 2 windows are needed now");

    rules.replace(&parsed(&severe));
    let new = alerts(&journal).split_off(events);
    let ends = new.iter().filter_map(|alert| Some((&*alert.rule, alert.end_reason?)));
    assert_eq!(ends.collect::<Vec<_>>(), [("car", EndReason::Removed)]);
    assert!(rules.get("car").is_none());
}

#[test]
fn the_score_of_a_question_that_was_replaced_is_dropped() {
    let rules = rules(PERSON, &journal());
    let due = rules.due("gate", span(0));
    rules.replace(&parsed(&PERSON.replace("a person", "a dog")));
    let scores = [(due[0].clone(), 0.9)];
    assert!(rules.window_scored("gate", &window(0), &scores).is_empty());
    assert!(rules.list()[0].score.is_none());
}
