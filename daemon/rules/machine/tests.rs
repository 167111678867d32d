//! Tests the state machine: single transitions, and properties over any sequence of windows.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Seconds between two windows.
const INTERVAL: u64 = 10;

fn at(window: usize) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + window as u64 * INTERVAL)
}

fn thresholds(needed: usize, among: usize) -> Thresholds {
    Thresholds {
        on: 0.8,
        off: 0.4,
        needed,
        among,
        cooldown: Duration::from_secs(30),
        hold: Duration::from_secs(25),
    }
}

/// Runs windows: `+` is above `on`, `=` between the thresholds, `-` below `off`, `?` unknown.
/// Returns a letter for each: `B`egin, `E`nd or `.`.
fn changes(machine: &mut Machine, windows: &str) -> String {
    let step = |(window, letter)| match machine.step(at(window), score(letter)).change {
        Some(Change::Begin(_)) => 'B',
        Some(Change::End) => 'E',
        None => '.',
    };
    windows.chars().enumerate().map(step).collect()
}

fn score(letter: char) -> Option<f64> {
    match letter {
        '+' => Some(0.9),
        '=' => Some(0.6),
        '-' => Some(0.1),
        _ => None,
    }
}

#[test]
fn an_alert_begins_and_ends_with_n_of_m_windows() {
    for (needed, among, windows, expected) in [
        (2, 3, "-+-+--", "...B.E"),
        (2, 3, "-+--+=", "......"),
        (2, 3, "++=-=-", ".B...E"),
        (2, 3, "++-==-", ".B...."),
        (1, 1, "-+=-", ".B.E"),
        (3, 3, "++-+++---", ".....B..E"),
        // Windows from before the beginning do not count for the end.
        (2, 3, "-++-+-", "..B..E"),
    ] {
        let mut machine = Machine::new(thresholds(needed, among));
        assert_eq!(changes(&mut machine, windows), expected, "{needed}/{among} {windows}");
    }
}

#[test]
fn windows_in_the_cooldown_do_not_count() {
    // The alert ends at window 1; windows up to 3 are within 30 s.
    let mut machine = Machine::new(thresholds(1, 1));
    assert_eq!(changes(&mut machine, "+-++++"), "BE..B.");
    let mut machine = Machine::new(Thresholds { cooldown: Duration::ZERO, ..thresholds(1, 1) });
    assert_eq!(changes(&mut machine, "+-+-"), "BEBE");
}

#[test]
fn an_unknown_window_counts_for_neither_side() {
    let mut machine = Machine::new(thresholds(2, 3));
    assert_eq!(changes(&mut machine, "+?+"), "..B");
    let mut machine = Machine::new(thresholds(2, 3));
    assert_eq!(changes(&mut machine, "+??+"), "....");
    let mut machine = Machine::new(thresholds(1, 1));
    assert_eq!(changes(&mut machine, "+????????"), "B........");
    assert_eq!(machine.state(), RuleState::Active);
}

#[test]
fn the_states_are_named() {
    let mut machine = Machine::new(thresholds(2, 2));
    let mut states = vec![machine.state()];
    for (window, letter) in "+=++--".chars().enumerate() {
        machine.step(at(window), score(letter));
        states.push(machine.state());
    }
    use RuleState::{Active, Cooldown, Idle, Pending};
    assert_eq!(states, [Idle, Pending, Pending, Pending, Active, Active, Cooldown]);
}

#[test]
fn the_curve_begins_with_the_first_window_that_counted() {
    let mut machine = Machine::new(thresholds(2, 3));
    machine.step(at(0), score('-'));
    machine.step(at(1), score('+'));
    machine.step(at(2), None);
    let step = machine.step(at(3), score('+'));
    let Some(Change::Begin(points)) = step.change else { panic!("{step:?}") };
    let points: Vec<_> = points.iter().map(|point| (point.at, point.score)).collect();
    assert_eq!(points, [(at(1), Some(0.9)), (at(2), None), (at(3), Some(0.9))]);
}

#[test]
fn a_rule_that_is_blind_for_longer_than_hold_says_so_once() {
    let mut machine = Machine::new(thresholds(1, 1));
    let mut sight = |window: usize, letter| machine.step(at(window), score(letter)).sight;
    assert_eq!(sight(0, '-'), None);
    assert_eq!(sight(1, '?'), None);
    assert_eq!(sight(2, '?'), None);
    assert_eq!(sight(3, '?'), Some((Sight::Blind, at(0))));
    assert_eq!(sight(4, '?'), None);
    assert_eq!(sight(5, '='), Some((Sight::Seeing, at(5))));
    assert_eq!(sight(6, '='), None);
    // A rule that has never seen anything is blind too.
    let mut machine = Machine::new(thresholds(1, 1));
    let blind = (0..4).find_map(|window| machine.step(at(window), None).sight);
    assert_eq!(blind, Some((Sight::Blind, at(0))));
    assert!(machine.is_blind());
}

#[test]
fn a_suspended_rule_begins_from_nothing() {
    let mut machine = Machine::new(thresholds(2, 3));
    machine.step(at(0), score('+'));
    assert!(!machine.suspend());
    assert_eq!(machine.state(), RuleState::Idle);
    assert_eq!(changes(&mut machine, "++"), ".B");
    assert!(machine.suspend() && !machine.suspend());
    assert_eq!(machine.state(), RuleState::Idle);
}

#[test]
fn a_resumed_alert_ends_as_any_other() {
    let mut machine = Machine::new(thresholds(2, 3));
    machine.resume();
    assert_eq!(changes(&mut machine, "?+--"), "...E");
}

#[test]
fn a_clock_that_is_set_back_delays_an_alert_by_no_more_than_the_cooldown() {
    let mut machine = Machine::new(thresholds(1, 1));
    machine.step(at(1_000_000), score('+'));
    machine.step(at(1_000_001), score('-'));
    assert_eq!(changes(&mut machine, "+++++"), "...B.");
    // The same for the time without sight.
    assert_eq!(machine.step(at(1_000_000), None).sight, Some((Sight::Blind, at(4))));
    machine.step(at(2_000_000), score('='));
    let blind = (0..9).position(|window| machine.step(at(window), None).sight.is_some());
    assert_eq!(blind, Some(3));
}

/// Generates scores: mostly on either side, some at and around the thresholds.
fn scores() -> impl Strategy<Value = Vec<Option<f64>>> {
    let score = prop_oneof![
        4 => (0.0..=1.0f64).prop_map(Some),
        2 => prop::sample::select(vec![0.0, 0.1, 0.39, 0.4, 0.6, 0.79, 0.8, 0.9, 1.0]).prop_map(Some),
        1 => Just(None),
    ];
    prop::collection::vec(score, 0..120)
}

fn any_thresholds() -> impl Strategy<Value = Thresholds> {
    (1usize..6, 0usize..4, 0u64..60, 0u64..60).prop_map(|(needed, more, cooldown, hold)| {
        Thresholds {
            cooldown: Duration::from_secs(cooldown),
            hold: Duration::from_secs(hold),
            ..thresholds(needed, needed + more)
        }
    })
}

proptest! {
    /// Beginnings and ends alternate, so that an occurrence has one ID, and each has its N of M.
    #[test]
    fn no_alert_begins_or_ends_without_n_of_m(scores in scores(), thresholds in any_thresholds()) {
        let Thresholds { on, off, needed, among, .. } = thresholds;
        let mut machine = Machine::new(thresholds);
        // The first window that may count for the next change.
        let mut from = 0;
        let mut is_active = false;
        for (window, score) in scores.iter().enumerate() {
            let change = machine.step(at(window), *score).change;
            let newest = &scores[from.max((window + 1).saturating_sub(among))..=window];
            let count = |counts: &dyn Fn(f64) -> bool| {
                newest.iter().flatten().filter(|score| counts(**score)).count()
            };
            match change {
                Some(Change::Begin(points)) => {
                    prop_assert!(!is_active, "a second alert for one occurrence");
                    prop_assert!(score.is_some_and(|score| score >= on));
                    prop_assert!(count(&|score| score >= on) >= needed);
                    prop_assert!(points.len() <= among && points.len() >= needed);
                    (is_active, from) = (true, window + 1);
                }
                Some(Change::End) => {
                    prop_assert!(is_active);
                    prop_assert!(score.is_some_and(|score| score < off));
                    prop_assert!(count(&|score| score < off) >= needed);
                    (is_active, from) = (false, window + 1);
                }
                None => {}
            }
            prop_assert_eq!(machine.state() == RuleState::Active, is_active);
        }
    }

    /// N of M windows always begin an alert if there is no cooldown.
    #[test]
    fn n_of_m_windows_begin_an_alert(scores in scores(), thresholds in any_thresholds()) {
        let thresholds = Thresholds { cooldown: Duration::ZERO, ..thresholds };
        let mut machine = Machine::new(thresholds);
        let mut from = 0;
        for (window, score) in scores.iter().enumerate() {
            let was_active = machine.state() == RuleState::Active;
            let change = machine.step(at(window), *score).change;
            let newest = &scores[from.max((window + 1).saturating_sub(thresholds.among))..=window];
            let count = newest.iter().flatten().filter(|score| match was_active {
                true => **score < thresholds.off,
                false => **score >= thresholds.on,
            });
            prop_assert_eq!(change.is_some(), count.count() >= thresholds.needed);
            if change.is_some() {
                from = window + 1;
            }
        }
    }

    /// Scores between the thresholds, and unknown windows, never change the state.
    #[test]
    fn nothing_changes_inside_the_hysteresis(
        before in scores(),
        inside in prop::collection::vec(prop::option::of(0.4..0.8f64), 0..60),
        thresholds in any_thresholds(),
    ) {
        let mut machine = Machine::new(thresholds);
        for (window, score) in before.iter().enumerate() {
            machine.step(at(window), *score);
        }
        let was_active = machine.state() == RuleState::Active;
        for (window, score) in inside.iter().enumerate() {
            prop_assert_eq!(machine.step(at(before.len() + window), *score).change, None);
            prop_assert_eq!(machine.state() == RuleState::Active, was_active);
        }
    }

    /// Alerts are at least the cooldown apart.
    #[test]
    fn no_alert_begins_within_the_cooldown(scores in scores(), thresholds in any_thresholds()) {
        let mut machine = Machine::new(thresholds);
        let mut ended: Option<SystemTime> = None;
        for (window, score) in scores.iter().enumerate() {
            match machine.step(at(window), *score).change {
                Some(Change::Begin(points)) => {
                    let first = points[0].at;
                    prop_assert!(ended.is_none_or(|ended| first >= ended + thresholds.cooldown));
                }
                Some(Change::End) => ended = Some(at(window)),
                None => {}
            }
        }
    }

    /// A rule is blind exactly while its last scored window is older than `hold`.
    #[test]
    fn blindness_is_reported_once_and_taken_back_once(
        scores in scores(), thresholds in any_thresholds(),
    ) {
        let mut machine = Machine::new(thresholds);
        let mut is_blind = false;
        for (window, score) in scores.iter().enumerate() {
            match machine.step(at(window), *score).sight {
                Some((Sight::Blind, _)) => {
                    prop_assert!(!is_blind && score.is_none());
                    is_blind = true;
                }
                Some((Sight::Seeing, since)) => {
                    prop_assert!(is_blind && score.is_some() && since == at(window));
                    is_blind = false;
                }
                None => {}
            }
            let seen = scores[..=window].iter().rposition(Option::is_some).unwrap_or(0);
            let unseen = at(window).duration_since(at(seen)).unwrap_or_default();
            let should = score.is_none() && unseen > thresholds.hold;
            prop_assert_eq!((is_blind, machine.is_blind()), (should, should));
        }
    }
}
