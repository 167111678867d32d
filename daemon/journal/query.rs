//! Requests to the journal for events, and their results.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::event::{Event, EventId, EventKind};
use crate::frame::{Span, rfc3339};

/// A result that may have to be read from the disk.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, QueryError>> + Send + 'a>>;

/// Conditions on events. An event must meet all of them.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Names of cameras; empty means all.
    pub cameras: Vec<String>,
    /// Kinds of events; empty means all.
    pub kinds: Vec<EventKind>,
    /// Earliest time of publication.
    pub since: Option<SystemTime>,
    /// Time before which the event was published.
    pub until: Option<SystemTime>,
}

impl EventFilter {
    pub fn wants(&self, event: &Event) -> bool {
        let camera = self.cameras.is_empty() || self.cameras.iter().any(|c| **c == *event.camera);
        let kind = self.kinds.is_empty() || self.kinds.contains(&event.body.kind());
        let since = self.since.is_none_or(|since| event.published_at >= since);
        let until = self.until.is_none_or(|until| event.published_at < until);
        camera && kind && since && until
    }
}

/// A request for a page of events.
#[derive(Clone, Debug)]
pub struct Query {
    pub filter: EventFilter,
    /// The events before this one, or `None` for the newest.
    pub before: Option<EventId>,
    pub limit: usize,
}

/// A page of events.
#[derive(Debug, Default, PartialEq)]
pub struct EventPage {
    pub events: Vec<Arc<Event>>,
    /// True if older events match too.
    pub more: bool,
}

/// A search for captions and answers.
#[derive(Clone, Debug)]
pub struct SearchQuery {
    /// Words, or a description of what is searched for.
    pub text: String,
    /// `None` selects [`SearchMode::Fused`] if there is a model for it, otherwise
    /// [`SearchMode::Words`].
    pub mode: Option<SearchMode>,
    pub filter: EventFilter,
    /// Number of best results to leave out.
    pub offset: usize,
    pub limit: usize,
}

/// The way in which a text is compared with those of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SearchMode {
    /// Both of the others, with their results merged.
    Fused,
    /// The text contains all words.
    #[default]
    Words,
    /// The texts have a similar meaning.
    Meaning,
}

/// An event whose text was found.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct SearchHit {
    #[serde(flatten)]
    pub event: Arc<Event>,
    /// The text around the words, which stand in brackets. The beginning of the text if it was found
    /// by meaning only.
    pub snippet: String,
    /// Quality of the match: greater is better. Comparable within one search.
    pub score: f64,
    /// Place in the order of the search for words, from 1. `None` if it did not find the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words_rank: Option<u32>,
    /// Place in the order of the search by meaning, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning_rank: Option<u32>,
    /// Cosine of the two vectors: 1 for the same meaning, about 0 for unrelated ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity: Option<f64>,
}

/// A page of what a search found.
#[derive(Debug, Default, PartialEq)]
pub struct SearchPage {
    pub hits: Vec<SearchHit>,
    /// True if more events match.
    pub more: bool,
    pub mode: SearchMode,
    pub coverage: SearchCoverage,
}

/// The part of the time and of the events that a search covers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct SearchCoverage {
    /// The span that the search asked about. `None` if nothing is stored.
    pub asked: Option<Span>,
    /// Every camera that has captions in the span, or that the filter names.
    pub cameras: Vec<CameraCoverage>,
    /// `None` if the config has no model for the search by meaning.
    pub meaning: Option<MeaningCoverage>,
}

/// The part of the time for which the journal has captions of a camera.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CameraCoverage {
    pub camera: String,
    /// Time that the windows of the camera's captions cover within the span. At its ends an estimate
    /// within ten minutes.
    #[serde(rename = "recorded_seconds", serialize_with = "seconds")]
    #[schemars(with = "f64")]
    pub recorded: Duration,
}

/// The events that the search by meaning cannot find.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct MeaningCoverage {
    /// Number of events of the filter that have no vector yet.
    #[serde(rename = "events_without_vector")]
    pub without_vector: u64,
    /// True if there may be more events without a vector.
    pub is_lower_bound: bool,
    /// True while vectors are being loaded from disk.
    pub is_loading: bool,
    /// Publication time of the newest event whose vector has no room in memory. Only later events
    /// are found for certain.
    #[serde(with = "rfc3339::option")]
    #[schemars(with = "Option<rfc3339::Text>")]
    pub since: Option<SystemTime>,
}

fn seconds<S: Serializer>(length: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(length.as_secs_f64())
}

/// A request to delete the events about a span of time.
#[derive(Clone, Debug)]
pub struct Deletion {
    pub span: Span,
    /// Names of cameras; empty means all.
    pub cameras: Vec<String>,
    /// True to delete kept events, too.
    pub include_kept: bool,
}

impl Deletion {
    /// Returns true for an event that is to be deleted: its window overlaps the span or, if it has
    /// none, it was published within the span.
    pub fn includes(&self, event: &Event) -> bool {
        let camera = self.cameras.is_empty() || self.cameras.iter().any(|c| **c == *event.camera);
        let time = match event.body.window() {
            Some(window) => window.to > self.span.from && window.from < self.span.to,
            None => self.span.contains(event.published_at),
        };
        camera && time && (self.include_kept || !event.kept)
    }
}

/// The result of a deletion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Deleted {
    pub events: u64,
    pub jpegs: u64,
    /// Number of events that were not deleted because they are kept.
    pub kept_events: u64,
    /// True if further events are left to delete.
    pub more: bool,
    /// Number of frames that were deleted from the buffer, in memory or on disk.
    pub buffer_frames: u64,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QueryError {
    #[error("this needs a journal on disk: set journal.folder in the config")]
    NoStore,
    #[error("the journal has no event {} of run {}", .0.sequence, .0.run)]
    NoEvent(EventId),
    #[error(
        "the kept events would take {bytes} bytes of at most {most}, half of journal.bytes: \
         remove the mark from others, or raise journal.bytes"
    )]
    TooMuchKept { bytes: u64, most: u64 },
    #[error("the journal cannot be written: {0}")]
    Unwritable(String),
    #[error("the search has no word")]
    NoWord,
    #[error("the search by meaning needs a model: set search.model in the config")]
    NoModel,
    #[error("{0} searches are waiting already; search again")]
    QueueFull(usize),
    #[error("the text cannot be searched for by meaning: {0}")]
    NoVector(String),
    #[error("the journal cannot be read: {0}")]
    Unreadable(String),
    #[error("{0}")]
    FramesNotDeleted(String),
}
