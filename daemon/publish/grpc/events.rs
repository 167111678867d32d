//! Lists and searches the journal's events, in pages. Keeps and deletes them.

use std::sync::Arc;
use std::time::SystemTime;

use tonic::Status;

use super::errors;
use crate::event::{Event, EventId, EventKind};
use crate::frame::Span;
use crate::journal::{
    Deleted, Deletion, EventFilter, Journal, Query, QueryError, SearchHit, SearchQuery,
};
use crate::proto;
use crate::service::Service;
use crate::wire::{decode, encode, search};

const PAGE: usize = 50;

/// Maximum number of events in a reply, which keeps it below the usual limit of 4 MiB.
const LARGEST_PAGE: usize = 200;

/// Maximum number of results of a search that a client can page through.
const RESULTS: usize = 10_000;

pub async fn list(
    journal: &dyn Journal,
    request: proto::ListEventsRequest,
) -> Result<proto::ListEventsResponse, Status> {
    let limit = page_size(request.page_size)?;
    let before = match request.page_token.as_str() {
        "" => None,
        token => Some(position(token).ok_or_else(wrong_token)?),
    };
    let query = Query { filter: filter(request.filter)?, before, limit };
    let page = journal.list(query).await.map_err(|error| errors::of_query(&error))?;
    let last = page.events.last().filter(|_| page.more);
    Ok(proto::ListEventsResponse {
        next_page_token: last
            .map_or_else(String::new, |event| format!("{}.{}", event.id.run, event.id.sequence)),
        events: page.events.iter().map(|event| encode::event(event)).collect(),
    })
}

pub async fn search(
    journal: &dyn Journal,
    request: proto::SearchEventsRequest,
) -> Result<proto::SearchEventsResponse, Status> {
    let limit = page_size(request.page_size)?;
    let offset = match request.page_token.as_str() {
        "" => 0,
        token => token.parse().ok().filter(|offset| *offset < RESULTS).ok_or_else(wrong_token)?,
    };
    let mode = search::decode_mode(request.mode).map_err(|_| {
        let why = format!("{} is not a mode: wanted 1, 2 or 3", request.mode);
        errors::invalid("mode", &why)
    })?;
    let filter = filter(request.filter)?;
    let query = SearchQuery { text: request.query, mode, filter, offset, limit };
    let page = journal.search(query).await.map_err(|error| errors::of_query(&error))?;
    let next = offset + page.hits.len();
    let result = |hit: SearchHit| proto::SearchResult {
        event: Some(encode::event(&hit.event)),
        snippet: hit.snippet,
        score: hit.score,
        words_rank: hit.words_rank,
        meaning_rank: hit.meaning_rank,
        similarity: hit.similarity,
    };
    Ok(proto::SearchEventsResponse {
        results: page.hits.into_iter().map(result).collect(),
        mode: search::encode_mode(page.mode).into(),
        coverage: Some(search::encode_coverage(page.coverage)),
        next_page_token: if page.more && next < RESULTS { next.to_string() } else { String::new() },
    })
}

/// Returns the event that a request names.
pub async fn get(
    journal: &Arc<dyn Journal>,
    event: Option<proto::EventId>,
) -> Result<Arc<Event>, Status> {
    let EventId { run, sequence } = id(&**journal, event)?;
    let from = journal.clone();
    let found = tokio::task::spawn_blocking(move || from.get(Some(run), sequence)).await;
    let missing = QueryError::NoEvent(EventId { run, sequence });
    found.ok().flatten().ok_or_else(|| errors::of_query(&missing))
}

pub async fn keep(
    journal: &dyn Journal,
    request: proto::KeepEventRequest,
) -> Result<proto::KeepEventResponse, Status> {
    let kept = journal.keep(id(journal, request.event)?, !request.clear).await;
    let event = kept.map_err(|error| errors::of_query(&error))?;
    Ok(proto::KeepEventResponse { event: Some(encode::event(&event)) })
}

pub async fn delete(
    service: &dyn Service,
    request: proto::DeleteEventsRequest,
) -> Result<proto::DeleteEventsResponse, Status> {
    let proto::DeleteEventsRequest { span, cameras, include_kept } = request;
    let proto::Span { from, to } = span.unwrap_or_default();
    let end = |field, end: Option<prost_types::Timestamp>| match end {
        Some(end) => time(field, end),
        None => Err(errors::invalid(field, &format!("{field} is not set"))),
    };
    let span = Span { from: end("span.from", from)?, to: end("span.to", to)? };
    if span.from >= span.to {
        return Err(errors::invalid("span.to", "span.to is not later than span.from"));
    }
    let deleted = service.delete(Deletion { span, cameras, include_kept }).await;
    let Deleted { events, jpegs, kept_events, more, buffer_frames } =
        deleted.map_err(|error| errors::of_query(&error))?;
    Ok(proto::DeleteEventsResponse { events, jpegs, kept_events, more, buffer_frames })
}

/// Reads the event that a request names.
fn id(journal: &dyn Journal, event: Option<proto::EventId>) -> Result<EventId, Status> {
    let Some(proto::EventId { run, sequence }) = event else {
        return Err(errors::invalid("event", "event is not set"));
    };
    Ok(EventId { run: run.unwrap_or(journal.run()), sequence })
}

/// Reads the kinds of a request's field.
pub fn kinds(field: &str, from: &[i32]) -> Result<Vec<EventKind>, Status> {
    let kinds = from.iter().map(|kind| match proto::EventKind::try_from(*kind) {
        Ok(proto::EventKind::Caption) => Ok(EventKind::Caption),
        Ok(proto::EventKind::Answer) => Ok(EventKind::Answer),
        Ok(proto::EventKind::CameraStatus) => Ok(EventKind::CameraStatus),
        Ok(proto::EventKind::Alert) => Ok(EventKind::Alert),
        Ok(proto::EventKind::RuleStatus) => Ok(EventKind::RuleStatus),
        Ok(proto::EventKind::Unspecified) | Err(_) => {
            let why = format!("{kind} is not a kind of event: wanted 1 to 5");
            Err(errors::invalid(field, &why))
        }
    });
    kinds.collect()
}

/// Reads the time of a request's field.
pub fn time(field: &'static str, from: prost_types::Timestamp) -> Result<SystemTime, Status> {
    decode::time(Some(from), field)
        .map_err(|_| errors::invalid(field, &format!("{field} is not a time")))
}

fn filter(from: Option<proto::EventFilter>) -> Result<EventFilter, Status> {
    let proto::EventFilter { cameras, kinds: wanted, since, until } = from.unwrap_or_default();
    Ok(EventFilter {
        cameras,
        kinds: kinds("filter.kinds", &wanted)?,
        since: since.map(|since| time("filter.since", since)).transpose()?,
        until: until.map(|until| time("filter.until", until)).transpose()?,
    })
}

fn page_size(from: i32) -> Result<usize, Status> {
    match usize::try_from(from) {
        Ok(0) => Ok(PAGE),
        Ok(size) => Ok(size.min(LARGEST_PAGE)),
        Err(_) => Err(errors::invalid("page_size", "page_size is negative")),
    }
}

fn position(token: &str) -> Option<EventId> {
    let (run, sequence) = token.split_once('.')?;
    Some(EventId { run: run.parse().ok()?, sequence: sequence.parse().ok()? })
}

fn wrong_token() -> Status {
    errors::invalid("page_token", "page_token is not one that the daemon returned")
}
