//! A checked question. Every interface fills a [`Draft`] with the values it read, and only
//! [`Question::new`] makes a [`Question`] of it.
//!
//! Guarantees: no number that a client can send causes a panic. A value out of range is refused;
//! times and lengths are limited to the range that lookout uses.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::fmt::temporal::DateTimeParser;

use crate::frame::{EARLIEST, clamped, latest, rfc3339};

/// Maximum number of bytes in a question's ID and in a conversation's name.
const NAME_MOST: usize = 256;

/// Maximum number of characters of a client's input that an error repeats.
const QUOTED: usize = 64;

const LENGTHS: &str = "wanted seconds, or a length like \"10m\" or \"00:10:00\"";
const TIMES: &str =
    "wanted RFC 3339, like \"2026-03-01T14:05:00Z\" or \"2026-03-01T15:05:00+01:00\"";

/// The raw values of a question, as an interface received them.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    pub camera: String,
    /// ID of the question, returned in the answer's `id`.
    pub id: String,
    pub text: String,
    pub last: Option<RawLength>,
    pub from: Option<RawTime>,
    pub to: Option<RawTime>,
    /// The sequence of an event.
    pub event: Option<u64>,
    /// The run of the daemon that made the event.
    pub run: Option<u64>,
    /// The name of a [`Detail`], or `None` for the default.
    pub detail: Option<String>,
    pub conversation: Option<String>,
    pub max_new_tokens: Option<u64>,
}

/// A length of time as an interface receives it.
#[derive(Clone, Debug, PartialEq)]
pub enum RawLength {
    Text(String),
    Seconds(f64),
    /// Protobuf's `Duration`: the sum of both.
    Parts {
        seconds: i64,
        nanos: i32,
    },
}

/// A point in time as an interface receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawTime {
    Text(String),
    /// Protobuf's `Timestamp`: the sum of both, since 1970.
    Parts {
        seconds: i64,
        nanos: i32,
    },
}

/// Limits that a question is checked against.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Maximum number of bytes in the text.
    pub text_bytes: usize,
    /// Cameras that can be asked about, or `None` if they are not known here.
    pub cameras: Option<Vec<Arc<str>>>,
}

impl Limits {
    /// Returns the limits of a client. The checks that need the daemon are left to the daemon.
    pub fn unknown() -> Limits {
        Limits { text_bytes: usize::MAX, cameras: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    #[error("no camera is named {0:?}")]
    NoSuchCamera(String),
    #[error("{0}")]
    Bad(String),
}

/// A checked question. The engine checks later if there is footage and room in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    camera: String,
    id: String,
    text: String,
    range: Range,
    detail: Detail,
    conversation: Option<String>,
    max_new_tokens: Option<usize>,
}

/// The way in which a range is covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Detail {
    /// One pass, or parts if one pass would leave out too much.
    #[default]
    Auto,
    /// One pass.
    Overview,
    /// Parts, each in one pass.
    Parts,
}

/// The time that a question is about. The range of a [`Question`] has a length and lies between
/// [`EARLIEST`] and [`latest`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Range {
    /// The camera's most recent window.
    #[default]
    Recent,
    /// This length of time, up to the newest frame.
    Last(Duration),
    /// An explicit range. If `to` is `None` or in the future, it ends at the newest frame.
    Between { from: SystemTime, to: Option<SystemTime> },
    /// The window of this event in the journal. A `run` of `None` is this run.
    Event { run: Option<u64>, sequence: u64 },
}

impl Question {
    /// Checks a draft. The error names the field and the expected value.
    pub fn new(draft: Draft, limits: &Limits) -> Result<Question, QuestionError> {
        let range = range(&draft).map_err(QuestionError::Bad)?;
        let Draft { camera, id, text, detail, conversation, max_new_tokens, .. } = draft;
        let refuse = |why: String| Err(QuestionError::Bad(why));
        if let Some(known) = &limits.cameras
            && !known.iter().any(|known| **known == *camera)
        {
            return Err(QuestionError::NoSuchCamera(start_of(&camera)));
        }
        if id.len() > NAME_MOST {
            return refuse(format!("an id has at most {NAME_MOST} bytes"));
        }
        if text.len() > limits.text_bytes {
            let (most, is) = (limits.text_bytes, text.len());
            return refuse(format!("a question has at most {most} bytes; this one has {is}"));
        }
        let text = text.trim();
        if text.is_empty() {
            return refuse("the question is empty".into());
        }
        if let Some(name) = &conversation
            && (name.is_empty() || name.len() > NAME_MOST)
        {
            return refuse(format!("a conversation's name has 1 to {NAME_MOST} bytes"));
        }
        let detail = match detail.as_deref() {
            None => Detail::default(),
            Some(name) => Detail::named(name).ok_or_else(|| {
                let wanted = "wanted auto, overview or parts";
                QuestionError::Bad(format!("detail is {:?}; {wanted}", start_of(name)))
            })?,
        };
        if max_new_tokens == Some(0) {
            return refuse("max_new_tokens is 0; wanted at least 1".into());
        }
        // A larger number has the same effect as the daemon's own limit.
        let max_new_tokens = max_new_tokens.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        Ok(Question { camera, id, text: text.into(), range, detail, conversation, max_new_tokens })
    }

    pub fn camera(&self) -> &str {
        &self.camera
    }

    /// Returns the ID given by the interface. The answer's `id` is the same.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn range(&self) -> Range {
        self.range
    }

    pub fn detail(&self) -> Detail {
        self.detail
    }

    /// Returns the conversation of an earlier answer, or the asker's own name for a new one, or
    /// `None` for a new one without a name.
    pub fn conversation(&self) -> Option<&str> {
        self.conversation.as_deref()
    }

    /// Returns the limit on the answer's tokens, at least 1, or `None` for the configured one.
    pub fn max_new_tokens(&self) -> Option<usize> {
        self.max_new_tokens
    }

    /// Replaces a range that is relative to now by one relative to the given time.
    pub fn as_of(mut self, now: SystemTime) -> Question {
        if let Range::Last(length) = self.range {
            self.range = Range::Between { from: earlier(now, length), to: None };
        }
        self
    }
}

impl Detail {
    pub fn name(self) -> &'static str {
        match self {
            Detail::Auto => "auto",
            Detail::Overview => "overview",
            Detail::Parts => "parts",
        }
    }

    fn named(name: &str) -> Option<Detail> {
        [Detail::Auto, Detail::Overview, Detail::Parts].into_iter().find(|one| one.name() == name)
    }
}

/// Returns the time this long before `now`, but not before [`EARLIEST`].
pub fn earlier(now: SystemTime, length: Duration) -> SystemTime {
    now.checked_sub(length).map_or(EARLIEST, clamped)
}

/// Reads the range: at most one of `last`, `from` (with or without `to`) and `event`.
fn range(draft: &Draft) -> Result<Range, String> {
    let named = |field: &str, why: String| format!("{field} is {why}");
    let time = |raw: &Option<RawTime>, field| {
        raw.as_ref().map(time).transpose().map_err(|why| named(field, why))
    };
    if draft.run.is_some() && draft.event.is_none() {
        return Err("a run needs its event, too".into());
    }
    match (&draft.last, &draft.from, &draft.to, draft.event) {
        (None, None, None, None) => Ok(Range::Recent),
        (Some(last), None, None, None) => {
            length(last).map(Range::Last).map_err(|why| named("last", why))
        }
        (None, Some(_), _, None) => {
            let (from, to) = (time(&draft.from, "from")?, time(&draft.to, "to")?);
            let from = from.unwrap_or(EARLIEST);
            let show = rfc3339::format;
            match to {
                Some(to) if from > to => {
                    Err(format!("the range runs backwards, from {} to {}", show(from), show(to)))
                }
                Some(to) if from == to => Err(format!("the range at {} has no length", show(from))),
                to => Ok(Range::Between { from, to }),
            }
        }
        (None, None, None, Some(sequence)) => Ok(Range::Event { run: draft.run, sequence }),
        (None, None, Some(_), None) => Err("a range needs its from, too".into()),
        _ => Err("wanted one range: last, or from and to, or event".into()),
    }
}

/// Reads a length of time. It must be positive, and is limited to the range that lookout uses.
fn length(raw: &RawLength) -> Result<Duration, String> {
    let longest = latest().duration_since(EARLIEST).unwrap_or_default();
    let of_seconds = |seconds: f64| match Duration::try_from_secs_f64(seconds) {
        Ok(length) => Ok(length),
        Err(_) if seconds.is_finite() && seconds > 0.0 => Ok(longest),
        Err(_) => Err(format!("{seconds} seconds; {LENGTHS}")),
    };
    let length = match raw {
        RawLength::Seconds(seconds) => of_seconds(*seconds)?,
        RawLength::Parts { seconds, nanos } => {
            let total = nanoseconds(*seconds, *nanos);
            u128::try_from(total)
                .map(of_nanoseconds)
                .map_err(|_| format!("less than nothing; {LENGTHS}"))?
        }
        RawLength::Text(text) => {
            let text = text.trim();
            let bad = || format!("{:?}; {LENGTHS}", start_of(text));
            match text.parse::<f64>() {
                Ok(seconds) => of_seconds(seconds)?,
                Err(_) if text.contains(':') => {
                    let length: jiff::SignedDuration = text.parse().map_err(|_| bad())?;
                    Duration::try_from(length).map_err(|_| bad())?
                }
                Err(_) => humantime::parse_duration(text).map_err(|_| bad())?,
            }
        }
    };
    match length.min(longest) {
        Duration::ZERO => Err(format!("a range of no length; {LENGTHS}")),
        length => Ok(length),
    }
}

/// Reads a point in time, limited to the range that lookout uses.
fn time(raw: &RawTime) -> Result<SystemTime, String> {
    match raw {
        RawTime::Parts { seconds, nanos } => {
            let since = u128::try_from(nanoseconds(*seconds, *nanos)).unwrap_or(0);
            Ok(EARLIEST.checked_add(of_nanoseconds(since)).map_or(latest(), clamped))
        }
        RawTime::Text(text) => {
            let text = text.trim();
            parse_time(text).ok_or_else(|| format!("{:?}; {TIMES}", start_of(text)))
        }
    }
}

/// Reads RFC 3339 with any offset. A time without an offset is UTC.
fn parse_time(text: &str) -> Option<SystemTime> {
    let pieces = DateTimeParser::new().parse_pieces(text).ok()?;
    // A time zone's name is not an offset. Ignoring it would misread the time.
    if pieces.time_zone_annotation().is_some() {
        return None;
    }
    let civil = pieces.date().to_datetime(pieces.time()?);
    let offset = pieces.to_numeric_offset().unwrap_or(jiff::tz::Offset::UTC);
    Some(match offset.to_timestamp(civil) {
        Ok(timestamp) => clamped(timestamp.into()),
        // The offset moves a time on the last or the first day out of the representable range.
        Err(_) if civil.year() > 0 => latest(),
        Err(_) => EARLIEST,
    })
}

fn nanoseconds(seconds: i64, nanos: i32) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

fn of_nanoseconds(total: u128) -> Duration {
    let seconds = u64::try_from(total / 1_000_000_000).unwrap_or(u64::MAX);
    Duration::new(seconds, (total % 1_000_000_000) as u32)
}

/// Returns the start of a client's input, to be repeated in an error.
pub(crate) fn start_of(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
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
        let told = refused(between("2026-11-25T00:00:00Z", Some("tomorrow")));
        assert!(told.starts_with("to is \"tomorrow\"; wanted RFC 3339"), "{told}");
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
        for (draft, said) in [
            (between(late, Some(early)), "backwards, from 2026-11-26T00:45:30.000Z"),
            (between(early, Some(early)), "no length"),
            (between("1950-01-01T00:00:00Z", Some("1960-01-01T00:00:00Z")), "no length"),
            (Draft { from: None, ..between(early, Some(late)) }, "needs its from"),
            (Draft { event: Some(1), ..between(early, None) }, "wanted one range"),
            (
                Draft { last: Some(RawLength::Seconds(1.0)), ..between(early, None) },
                "wanted one range",
            ),
        ] {
            let told = refused(draft);
            assert!(told.contains(said), "{told}");
        }
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
}
