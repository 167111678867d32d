//! Questions to the journal: which events, and what is found.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use crate::event::{Event, EventId, EventKind};
use crate::frame::Span;

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

/// An event whose text was found.
#[derive(Debug, PartialEq)]
pub struct SearchHit {
    pub event: Arc<Event>,
    /// The text around the words, which stand in brackets.
    pub snippet: String,
    /// Quality of the match: greater is better. Comparable within one search.
    pub score: f64,
}

/// A page of what a search found.
#[derive(Debug, Default, PartialEq)]
pub struct SearchPage {
    pub hits: Vec<SearchHit>,
    /// True if more events match.
    pub more: bool,
    /// Span of publication times that was searched. `None` if nothing is stored.
    pub searched: Option<Span>,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QueryError {
    #[error("the search needs a journal on disk: set journal.folder in the config")]
    NoStore,
    #[error("the search has no word")]
    NoWord,
    #[error("the journal cannot be read: {0}")]
    Unreadable(String),
}
