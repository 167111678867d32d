//! The journal's events: a page of them, one of them, or a stream.

use std::sync::Arc;

use axum::Extension;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Json, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Refusal;
use super::caller::{Admin, Api, Asker, Viewer};
use super::request::{JsonText, Parameters, between, event_id};
use super::stream::Sender;
use crate::event::{Event, EventId, EventKind};
use crate::frame::Span;
use crate::journal::{Cursor, Deleted, Deletion, EventFilter, Journal, Query, QueryError, Read};
use crate::publish::http::guard::Client;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Number of events in a page, and the maximum that a client can ask for.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 200;

/// The parameters of a list or a stream of events.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Name of a camera; may be repeated. Default: all cameras.
    #[serde(default)]
    camera: Vec<String>,
    /// Kind of the events; may be repeated. Default: all kinds.
    #[serde(default)]
    kind: Vec<EventKind>,
    /// Earliest time of publication: RFC 3339, or a duration before now such as `24h`. A stream
    /// without it begins with the next event.
    since: Option<String>,
    /// Time before which the event was published. Not for a stream.
    until: Option<String>,
    /// Maximum number of events, 50 by default and at most 200. Not for a stream.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
    /// ID of an event, `RUN.SEQUENCE`: only events before it. Not for a stream.
    #[schemars(regex(pattern = r"^[0-9]+\.[0-9]+$"))]
    before: Option<String>,
}

/// A page of events.
#[derive(Serialize, JsonSchema)]
pub struct Events {
    /// Events, the newest first.
    events: Vec<Arc<Event>>,
    /// The value of `before` for the next page, with older events. `null` if this is the last one.
    next_before: Option<String>,
}

/// A gap in a stream of events.
#[derive(Serialize, JsonSchema)]
pub struct MissedEvents {
    /// `missed_events`.
    kind: &'static str,
    /// Number of events that left the journal before they were sent; `null` if it is unknown.
    count: Option<u64>,
}

pub async fn list_or_stream(
    Viewer(api): Viewer,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    Parameters(query): Parameters<EventsQuery>,
) -> Result<Response, Refusal> {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if accepts.is_some_and(|accepts| accepts.contains("text/event-stream")) {
        stream(&api, &client, &headers, query)
    } else {
        list(&api, query).await.map(IntoResponse::into_response)
    }
}

async fn list(api: &Api, query: EventsQuery) -> Result<Json<Events>, Refusal> {
    let before = query.before.as_deref().map(|id| event_id("before", id)).transpose()?;
    let limit = page_size(query.limit)?;
    let filter = EventFilter { cameras: query.camera, kinds: query.kind, ..EventFilter::default() };
    let filter = between(filter, query.since.as_deref(), query.until.as_deref())?;
    let page = api.service.journal().list(Query { filter, before, limit }).await?;
    let last = page.events.last().filter(|_| page.more);
    let next_before = last.map(|event| event.id.to_string());
    Ok(Json(Events { events: page.events, next_before }))
}

pub fn page_size(limit: Option<usize>) -> Result<usize, Refusal> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=LARGEST_PAGE => Ok(limit),
        limit => {
            let why = format!("limit is {limit}; wanted 1 to {LARGEST_PAGE}");
            Err(Refusal::invalid("limit", why))
        }
    }
}

fn stream(
    api: &Api,
    client: &Client,
    headers: &HeaderMap,
    query: EventsQuery,
) -> Result<Response, Refusal> {
    for (field, is_set) in [
        ("until", query.until.is_some()),
        ("limit", query.limit.is_some()),
        ("before", query.before.is_some()),
    ] {
        if is_set {
            return Err(Refusal::invalid(field, format!("{field} is not for a stream")));
        }
    }
    // A misspelt name would silently match no event.
    api.service.require_cameras(&query.camera)?;
    let filter = EventFilter { cameras: query.camera, kinds: query.kind, ..EventFilter::default() };
    let since = between(EventFilter::default(), query.since.as_deref(), None)?.since;
    let journal = api.service.journal();
    let last = headers.get(LAST_EVENT_ID).map(|id| id.to_str().unwrap_or_default());
    let cursor = match (last, since) {
        (Some(last), _) => {
            let EventId { run, sequence } = event_id("Last-Event-ID", last)?;
            journal.read_from(Some(run), sequence.saturating_add(1))
        }
        (None, Some(since)) => journal.read_since(since),
        (None, None) => journal.read_new(),
    };
    api.stream(client, |to| send(cursor, filter, to))
}

async fn send(mut cursor: Box<dyn Cursor>, filter: EventFilter, to: Sender) {
    loop {
        let is_open = match cursor.next().await {
            Read::Event(event) if filter.wants(&event) => {
                to.send(&*event, Some(event.id.to_string())).await
            }
            Read::Event(_) => continue,
            // The contents of the lost events are unknown, so no filter applies.
            Read::Missed(count) => {
                to.send(&MissedEvents { kind: "missed_events", count }, None).await
            }
        };
        if !is_open {
            return;
        }
    }
}

pub async fn one(
    Viewer(api): Viewer,
    Path(event): Path<String>,
) -> Result<Json<Arc<Event>>, Refusal> {
    get(api.service.journal(), event_id("event", &event)?).await.map(Json)
}

/// Returns an event of the journal.
pub async fn get(journal: &Arc<dyn Journal>, id: EventId) -> Result<Arc<Event>, Refusal> {
    let from = journal.clone();
    let found = tokio::task::spawn_blocking(move || from.get(Some(id.run), id.sequence)).await;
    found.ok().flatten().ok_or_else(|| QueryError::NoEvent(id).into())
}

/// The body of a request to keep an event.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// True exempts the event from retention, false removes the mark.
    kept: bool,
}

pub async fn keep(
    Asker(api): Asker,
    Path(event): Path<String>,
    body: JsonText,
) -> Result<Json<Arc<Event>>, Refusal> {
    let id = event_id("event", &event)?;
    let Keep { kept } = body.read()?;
    Ok(Json(api.service.journal().keep(id, kept).await?))
}

/// The parameters of a deletion.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteQuery {
    /// Start of the span: RFC 3339, or a duration before now.
    since: String,
    /// End of the span.
    until: String,
    /// Name of a camera; may be repeated. Default: all cameras.
    #[serde(default)]
    camera: Vec<String>,
    /// True to delete kept events, too.
    #[serde(default)]
    include_kept: bool,
}

pub async fn delete(
    Admin(api): Admin,
    Parameters(query): Parameters<DeleteQuery>,
) -> Result<Json<Deleted>, Refusal> {
    let DeleteQuery { since, until, camera: cameras, include_kept } = query;
    let ends = between(EventFilter::default(), Some(&since), Some(&until))?;
    let (Some(from), Some(to)) = (ends.since, ends.until) else {
        return Err(Refusal::invalid("since", "since and until are not set"));
    };
    if from >= to {
        return Err(Refusal::invalid("until", "until is not later than since"));
    }
    let deletion = Deletion { span: Span { from, to }, cameras, include_kept };
    Ok(Json(api.service.delete(deletion).await?))
}
