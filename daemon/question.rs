//! A checked question. Every interface fills a [`Draft`] with the values it read, and only
//! [`Question::new`] makes a [`Question`] of it.
//!
//! Guarantees: no number that a client can send causes a panic. A value out of range is refused;
//! times and lengths are limited to the range that lookout uses.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::fmt::temporal::DateTimeParser;

use crate::frame::{EARLIEST, clamped, latest, rfc3339};
use crate::trace_parent::TraceParent;

/// Maximum number of bytes in a question's ID and in a conversation's name.
const NAME_MOST: usize = 256;

/// Maximum number of bytes in the text of a schema.
pub const SCHEMA_MOST: usize = 16 << 10;

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
    /// True if the answer is to be the score of yes.
    pub score_yes_no: bool,
    /// The text of the JSON Schema that the answer must follow.
    pub schema: Option<String>,
    /// The client's span, which the answer's trace continues.
    pub trace_parent: Option<TraceParent>,
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
    CameraNotFound(String),
    /// A field of the request is not valid.
    #[error("{why}")]
    InvalidField { field: &'static str, why: String },
}

/// A checked question. The engine checks later if there are frames and room in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    camera: String,
    id: String,
    text: String,
    range: Range,
    detail: Detail,
    conversation: Option<String>,
    max_new_tokens: Option<usize>,
    is_scored: bool,
    schema: Option<String>,
    trace_parent: Option<TraceParent>,
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
        let range = range(&draft)?;
        let Draft { camera, id, text, detail, conversation, max_new_tokens, schema, .. } = draft;
        let is_scored = draft.score_yes_no;
        let trace_parent = draft.trace_parent;
        let refuse = |field, why| Err(invalid(field, why));
        if let Some(known) = &limits.cameras
            && !known.iter().any(|known| **known == *camera)
        {
            return Err(QuestionError::CameraNotFound(start_of(&camera)));
        }
        if id.len() > NAME_MOST {
            return refuse("question_id", format!("an id has at most {NAME_MOST} bytes"));
        }
        if text.len() > limits.text_bytes {
            let (most, is) = (limits.text_bytes, text.len());
            return refuse(
                "question",
                format!("a question has at most {most} bytes; this one has {is}"),
            );
        }
        let text = text.trim();
        if text.is_empty() {
            return refuse("question", "the question is empty".into());
        }
        if let Some(name) = &conversation
            && (name.is_empty() || name.len() > NAME_MOST)
        {
            return refuse(
                "conversation",
                format!("a conversation's name has 1 to {NAME_MOST} bytes"),
            );
        }
        let detail = match detail.as_deref() {
            None => Detail::default(),
            Some(name) => Detail::named(name).ok_or_else(|| {
                let wanted = "wanted auto, overview or parts";
                invalid("detail", format!("detail is {:?}; {wanted}", start_of(name)))
            })?,
        };
        if is_scored && conversation.is_some() {
            return refuse("conversation", "a scored question continues no conversation".into());
        }
        let detail = match detail {
            Detail::Parts if is_scored => {
                let why = "detail is \"parts\"; wanted auto or overview for a scored question";
                return refuse("detail", why.into());
            }
            Detail::Auto if is_scored => Detail::Overview,
            detail => detail,
        };
        if let Some(schema) = &schema {
            if is_scored {
                return refuse("schema", "a scored question has no text for a schema".into());
            }
            if !(1..=SCHEMA_MOST).contains(&schema.len()) {
                let is = schema.len();
                let why = format!("a schema has 1 to {SCHEMA_MOST} bytes; this one has {is}");
                return refuse("schema", why);
            }
        }
        if max_new_tokens == Some(0) {
            return refuse("max_new_tokens", "max_new_tokens is 0; wanted at least 1".into());
        }
        // A larger number has the same effect as the daemon's own limit.
        let max_new_tokens = max_new_tokens.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        Ok(Question {
            camera,
            id,
            text: text.into(),
            range,
            detail,
            conversation,
            max_new_tokens,
            is_scored,
            schema,
            trace_parent,
        })
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

    /// Returns true if the answer is to be the score of yes, in one pass over the range.
    pub fn is_scored(&self) -> bool {
        self.is_scored
    }

    /// Returns the client's span.
    pub fn trace_parent(&self) -> Option<TraceParent> {
        self.trace_parent
    }

    /// Returns the text of the JSON Schema that the answer must follow. It is not checked yet.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
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

fn invalid(field: &'static str, why: String) -> QuestionError {
    QuestionError::InvalidField { field, why }
}

/// Reads the range of a draft: at most one of `last`, `from` (with or without `to`) and `event`.
pub fn range(draft: &Draft) -> Result<Range, QuestionError> {
    let named = |field, why: String| invalid(field, format!("{field} is {why}"));
    let time = |raw: &Option<RawTime>, field| {
        raw.as_ref().map(time).transpose().map_err(|why| named(field, why))
    };
    if draft.run.is_some() && draft.event.is_none() {
        return Err(invalid("run", "a run needs its event, too".into()));
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
                    let (from, to) = (show(from), show(to));
                    Err(invalid("to", format!("the range runs backwards, from {from} to {to}")))
                }
                Some(to) if from == to => {
                    Err(invalid("to", format!("the range at {} has no length", show(from))))
                }
                to => Ok(Range::Between { from, to }),
            }
        }
        (None, None, None, Some(sequence)) => Ok(Range::Event { run: draft.run, sequence }),
        (None, None, Some(_), None) => Err(invalid("from", "a range needs its from, too".into())),
        _ => {
            let why = "wanted one range: last, or from and to, or event";
            Err(invalid("range", why.into()))
        }
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
pub fn parse_time(text: &str) -> Option<SystemTime> {
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
mod tests;
