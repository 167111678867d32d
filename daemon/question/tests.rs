//! Tests the checks of a question's values.

use proptest::prelude::*;

use super::*;

fn draft() -> Draft {
    Draft { camera: "gate".into(), text: "Is it open?".into(), ..Draft::default() }
}

fn asked(draft: Draft) -> Result<Question, String> {
    let limits = Limits { text_bytes: 8192, cameras: Some(vec!["gate".into()]) };
    Question::new(draft, &limits).map_err(|e| e.to_string())
}

fn refused(draft: Draft) -> String {
    asked(draft.clone()).expect_err(&format!("{draft:?}"))
}

fn between(from: &str, to: Option<&str>) -> Draft {
    let raw = |text: &str| RawTime::Text(text.into());
    Draft { from: Some(raw(from)), to: to.map(raw), ..draft() }
}

fn from(text: &str) -> Option<String> {
    match asked(between(text, None)).ok()?.range() {
        Range::Between { from, to: None } => Some(rfc3339::format(from)),
        range => panic!("{range:?}"),
    }
}

fn last(text: &str) -> Option<Duration> {
    let last = Some(RawLength::Text(text.into()));
    match asked(Draft { last, ..draft() }).ok()?.range() {
        Range::Last(length) => Some(length),
        range => panic!("{range:?}"),
    }
}

#[test]
fn a_question_needs_a_known_camera_and_a_bounded_text() {
    let question = asked(draft()).expect("a question");
    assert_eq!((question.camera(), question.text()), ("gate", "Is it open?"));
    assert_eq!((question.range(), question.detail()), (Range::Recent, Detail::Auto));
    let yard = Draft { camera: "yard".into(), ..draft() };
    assert_eq!(refused(yard.clone()), "no camera is named \"yard\"");
    assert!(Question::new(yard, &Limits::unknown()).is_ok());
    assert!(refused(Draft { text: " \n".into(), ..draft() }).contains("is empty"));
    assert!(asked(Draft { text: "a".repeat(8192), ..draft() }).is_ok());
    let long = refused(Draft { text: "a".repeat(8193), ..draft() });
    assert_eq!(long, "a question has at most 8192 bytes; this one has 8193");
    assert!(refused(Draft { id: "7".repeat(257), ..draft() }).contains("256 bytes"));
    for name in ["", &"a".repeat(257)] {
        let conversation = Some(name.to_string());
        assert!(refused(Draft { conversation, ..draft() }).contains("256 bytes"));
    }
}

#[test]
fn a_limit_of_no_tokens_is_refused() {
    let most = |max_new_tokens| asked(Draft { max_new_tokens, ..draft() });
    assert_eq!(most(None).map(|question| question.max_new_tokens()), Ok(None));
    assert_eq!(most(Some(1)).map(|question| question.max_new_tokens()), Ok(Some(1)));
    assert!(most(Some(u64::MAX)).is_ok());
    assert!(most(Some(0)).expect_err("0").contains("max_new_tokens is 0"));
}

#[test]
fn detail_is_one_of_three() {
    let detail = |name: &str| asked(Draft { detail: Some(name.into()), ..draft() });
    assert_eq!(detail("parts").map(|question| question.detail()), Ok(Detail::Parts));
    assert_eq!(detail("auto").map(|question| question.detail()), Ok(Detail::Auto));
    assert!(detail("17").expect_err("no detail").contains("detail is \"17\""));
}

#[test]
fn a_time_is_read_with_its_offset() {
    for (text, utc) in [
        ("2026-11-25T23:45:30.000000+05:30", "2026-11-25T18:15:30.000Z"),
        ("2026-11-25T23:45:30.5+05:30", "2026-11-25T18:15:30.500Z"),
        ("2026-11-26T00:45:30+01:00", "2026-11-25T23:45:30.000Z"),
        ("2026-11-25T18:45:30.25-05:00", "2026-11-25T23:45:30.250Z"),
        ("2026-11-25T18:45:30-05:00", "2026-11-25T23:45:30.000Z"),
        ("2026-11-25T23:45:30Z", "2026-11-25T23:45:30.000Z"),
        ("2026-11-25t23:45:30.123456789z", "2026-11-25T23:45:30.123Z"),
        (" 2026-11-25 23:45:30 ", "2026-11-25T23:45:30.000Z"),
        ("2026-11-25T23:45:30", "2026-11-25T23:45:30.000Z"),
        ("1969-12-31T23:59:59Z", "1970-01-01T00:00:00.000Z"),
        ("1970-01-01T01:00:00+02:00", "1970-01-01T00:00:00.000Z"),
        ("0001-01-01T00:00:00+23:00", "1970-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000Z"),
        ("9999-12-31T23:59:59-23:00", "9999-12-31T23:59:59.000Z"),
    ] {
        assert_eq!(from(text).as_deref(), Some(utc), "{text}");
    }
}

#[test]
fn invalid_times_are_rejected() {
    for text in [
        "yesterday",
        "",
        "2026-11-25",
        "23:45:30",
        "2026-11-25T25:00:00Z",
        "2026-11-25T23:45:30 05:30",
        "2026-11-25T23:45:30+0530x",
        "2026-11-25T23:45:30[Europe/Berlin]",
        "2026-11-25T23:45:30+01:00[Europe/Berlin]",
        "12026-11-25T23:45:30Z",
    ] {
        assert_eq!(from(text), None, "{text}");
    }
    let error = refused(between("2026-11-25T00:00:00Z", Some("tomorrow")));
    assert!(error.starts_with("to is \"tomorrow\"; wanted RFC 3339"), "{error}");
}

#[test]
fn a_length_is_seconds_or_units_or_a_clock() {
    let minutes = |count: u64| Some(Duration::from_secs(count * 60));
    for text in ["600", "600.0", "10m", "10min", "00:10:00", "0:10:00", "5m 300s"] {
        assert_eq!(last(text), minutes(10), "{text}");
    }
    assert_eq!(last("24h"), minutes(24 * 60));
    assert_eq!(last("24:00:00"), minutes(24 * 60));
    assert_eq!(last("1.5"), Some(Duration::from_millis(1500)));
    for text in ["soon", "", "-5", "-00:10:00", "10:00", "NaN", "inf", "-inf", "5 m x"] {
        assert_eq!(last(text), None, "{text}");
    }
    for text in ["0", "0s", "00:00:00", "-0.0"] {
        let last = Some(RawLength::Text(text.into()));
        assert!(refused(Draft { last, ..draft() }).contains("no length"), "{text}");
    }
    let longest = latest().duration_since(EARLIEST).ok();
    for text in ["1e300", "9000y", "9999999999:00:00"] {
        assert_eq!(last(text), longest, "{text}");
    }
}

#[test]
fn a_range_is_given_once_and_runs_forwards() {
    let (early, late) = ("2026-11-25T23:45:30Z", "2026-11-26T01:45:30+01:00");
    assert!(asked(between(early, Some(late))).is_ok());
    for (draft, wanted) in [
        (between(late, Some(early)), "backwards, from 2026-11-26T00:45:30.000Z"),
        (between(early, Some(early)), "no length"),
        (between("1950-01-01T00:00:00Z", Some("1960-01-01T00:00:00Z")), "no length"),
        (Draft { from: None, ..between(early, Some(late)) }, "needs its from"),
        (Draft { event: Some(1), ..between(early, None) }, "wanted one range"),
        (Draft { last: Some(RawLength::Seconds(1.0)), ..between(early, None) }, "wanted one range"),
    ] {
        let error = refused(draft);
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_scored_question_takes_one_pass_and_no_conversation() {
    let scored = || Draft { score_yes_no: true, ..draft() };
    let question = asked(scored()).expect("a question");
    assert_eq!((question.is_scored(), question.detail()), (true, Detail::Overview));
    let parts = Draft { detail: Some("parts".into()), ..scored() };
    assert!(refused(parts).contains("scored question"));
    let further = Draft { conversation: Some("c".into()), ..scored() };
    assert!(refused(further).contains("continues no conversation"));
}

#[test]
fn a_schema_is_bounded_and_needs_a_text() {
    let by = |schema: &str| Draft { schema: Some(schema.into()), ..draft() };
    assert_eq!(asked(by("{}")).expect("a question").schema(), Some("{}"));
    assert!(asked(by(&"a".repeat(16 << 10))).is_ok());
    let wanted = "a schema has 1 to 16384 bytes";
    assert!(refused(by("")).contains(wanted));
    assert!(refused(by(&"a".repeat((16 << 10) + 1))).contains(wanted));
    assert!(refused(Draft { score_yes_no: true, ..by("{}") }).contains("no text for a schema"));
}

#[test]
fn an_error_quotes_only_the_beginning_of_the_input() {
    let long = "ä".repeat(4 << 20);
    for draft in [
        Draft { camera: long.clone(), ..draft() },
        Draft { detail: Some(long.clone()), ..draft() },
        Draft { last: Some(RawLength::Text(long.clone())), ..draft() },
        between(&long, None),
    ] {
        assert!(refused(draft).len() < 400);
    }
}

#[test]
fn a_recent_range_can_be_fixed_to_a_time() {
    let last = |seconds| Draft { last: Some(RawLength::Seconds(seconds)), ..draft() };
    let at = |seconds| EARLIEST + Duration::from_secs(seconds);
    let pinned = |seconds| asked(last(seconds)).expect("a question").as_of(at(100)).range();
    assert_eq!(pinned(60.0), Range::Between { from: at(40), to: None });
    assert_eq!(pinned(1e12), Range::Between { from: at(0), to: None });
}

fn seconds() -> impl Strategy<Value = i64> {
    prop_oneof![any::<i64>(), -3..3i64, Just(i64::MIN), Just(i64::MAX)]
}

proptest! {
    /// Every value of protobuf is refused or becomes a time between 1970 and 9999.
    #[test]
    fn every_number_gives_a_valid_range_or_an_error(
        a in seconds(), b in any::<i32>(), c in seconds(), d in any::<i32>(),
    ) {
        let bounds = EARLIEST..=latest();
        let raw = |seconds, nanos| Some(RawTime::Parts { seconds, nanos });
        if let Ok(question) = asked(Draft { from: raw(a, b), to: raw(c, d), ..draft() }) {
            let Range::Between { from, to: Some(to) } = question.range() else {
                panic!("{question:?}")
            };
            prop_assert!(from < to && bounds.contains(&from) && bounds.contains(&to));
            let written: jiff::Timestamp =
                rfc3339::format(from).parse().expect("RFC 3339");
            let near = SystemTime::from(written);
            prop_assert!(near <= from && from < near + Duration::from_millis(1));
        }
        let last = Some(RawLength::Parts { seconds: a, nanos: b });
        if let Ok(question) = asked(Draft { last, ..draft() }) {
            let Range::Last(length) = question.range() else { panic!("{question:?}") };
            prop_assert!(length > Duration::ZERO && EARLIEST + length <= latest());
        }
    }

    #[test]
    fn no_input_causes_a_panic(seconds in any::<f64>(), text in "\\PC*") {
        let _ = asked(Draft { last: Some(RawLength::Seconds(seconds)), ..draft() });
        let _ = (last(&text), from(&text));
    }

    #[test]
    fn an_offset_shifts_a_time_exactly(
        at in 100_000_000u32..4_000_000_000, minutes in -1439i32..1440, millis in 0u32..1000,
    ) {
        let utc = EARLIEST + Duration::new(at.into(), millis * 1_000_000);
        let local = jiff::Timestamp::new(i64::from(at) + i64::from(minutes) * 60, 0);
        let local = local.expect("a time").to_string();
        let (sign, most) = (if minutes < 0 { '-' } else { '+' }, minutes.abs());
        let text = format!(
            "{}.{millis:03}{sign}{:02}:{:02}",
            local.trim_end_matches('Z'), most / 60, most % 60
        );
        prop_assert_eq!(from(&text), Some(rfc3339::format(utc)), "{}", text);
    }
}
