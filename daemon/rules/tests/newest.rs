//! Tests how many alerts are held to be acknowledged.

use super::*;

#[test]
fn the_oldest_of_too_many_alerts_can_no_longer_be_acknowledged() {
    let journal = journal();
    let rules = rules(PERSON, &journal);
    for number in 0..=NEWEST {
        score(&rules, "gate", 2 * number, 0.9);
        score(&rules, "gate", 2 * number + 1, 0.1);
    }
    let mut ids: Vec<_> = alerts(&journal).into_iter().map(|alert| alert.alert_id).collect();
    ids.dedup();
    assert!(ids.len() > NEWEST, "{} alerts", ids.len());
    let [oldest, next] = [&ids[ids.len() - 1 - NEWEST], &ids[ids.len() - NEWEST]];
    assert!(rules.acknowledge(oldest, false).is_err());
    rules.acknowledge(next, false).unwrap();
}
