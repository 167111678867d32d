//! Lists and searches the events that the daemon's journal holds.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{ClientError, Daemon, Done, Output, UnexpectedReply, json_line, quietly, text};
use crate::event::Event;
use crate::frame::{Span, rfc3339};
use crate::journal::EventFilter;
use crate::proto;
use crate::wire::{decode, encode};

/// Number of events that are requested at a time.
const PAGE: usize = 200;

/// Prints the newest events, at most `limit`, from the oldest of them to the newest.
pub async fn list_events(
    endpoint: &str,
    filter: &EventFilter,
    limit: usize,
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let mut daemon = Daemon::reach(endpoint).await?;
    let mut events: Vec<Event> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListEventsRequest {
            filter: Some(message(filter)),
            page_size: page_size(limit - events.len()),
            page_token,
        };
        let reply = daemon.client.list_events(request).await;
        let reply = reply.map_err(|status| daemon.failed(status))?.into_inner();
        let page = reply.events.into_iter().map(decode::event);
        events.extend(page.collect::<Result<Vec<_>, _>>()?);
        page_token = reply.next_page_token;
        if page_token.is_empty() || events.len() >= limit {
            break;
        }
    }
    quietly(events.iter().rev().try_for_each(|event| match output {
        Output::Text => writeln!(out, "{}", text::dated_event_line(event)),
        Output::Json => json_line(out, event),
    }))
    .map(drop)
}

/// Prints the events whose text contains all words, at most `limit`, the best match first, and the
/// time that was searched.
pub async fn search_events(
    endpoint: &str,
    query: &str,
    filter: &EventFilter,
    limit: usize,
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let mut daemon = Daemon::reach(endpoint).await?;
    let request = proto::SearchEventsRequest {
        query: query.to_owned(),
        filter: Some(message(filter)),
        page_size: page_size(limit),
        page_token: String::new(),
    };
    let reply = daemon.client.search_events(request).await;
    let reply = reply.map_err(|status| daemon.failed(status))?.into_inner();
    let searched = reply.searched.map(|span| decode::span(Some(span), "searched")).transpose()?;
    let hit = |result: proto::SearchResult| {
        let event = Arc::new(decode::event(result.event.ok_or(UnexpectedReply("event"))?)?);
        Ok(HitJson { event, snippet: result.snippet, score: result.score })
    };
    let hits = reply.results.into_iter().map(hit).collect::<Result<Vec<_>, ClientError>>()?;
    let printed = hits.iter().try_for_each(|hit| match output {
        Output::Text => writeln!(out, "{}", text::hit_line(&hit.event, &hit.snippet)),
        Output::Json => json_line(out, hit),
    });
    quietly(printed.and_then(|()| match output {
        Output::Text => writeln!(out, "{}", coverage(searched, filter)),
        Output::Json => json_line(out, &CoverageJson::from(searched)),
    }))
    .map(drop)
}

fn message(filter: &EventFilter) -> proto::EventFilter {
    proto::EventFilter {
        cameras: filter.cameras.clone(),
        kinds: filter.kinds.iter().map(|kind| encode::kind(*kind).into()).collect(),
        since: filter.since.and_then(encode::time),
        until: filter.until.and_then(encode::time),
    }
}

fn page_size(events: usize) -> i32 {
    i32::try_from(events.min(PAGE)).unwrap_or(i32::MAX)
}

/// Formats the time that was searched, and the time that was asked for.
fn coverage(searched: Option<Span>, filter: &EventFilter) -> String {
    let Some(searched) = searched else {
        return "searched nothing: the journal has no event of this time".into();
    };
    let shown = |length: Duration| {
        let text = humantime::format_duration(Duration::from_secs(length.as_secs())).to_string();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    };
    let length = shown(searched.length());
    match filter.since.and_then(|since| searched.to.duration_since(since).ok()) {
        Some(asked) => format!("searched {length} of {}", shown(asked)),
        None => format!("searched {length}"),
    }
}

/// The JSON line of a result.
#[derive(Serialize)]
struct HitJson {
    #[serde(flatten)]
    event: Arc<Event>,
    snippet: String,
    score: f64,
}

/// The JSON line after the results: the time that was searched.
#[derive(Serialize)]
struct CoverageJson {
    kind: &'static str,
    #[serde(with = "rfc3339::option")]
    from: Option<SystemTime>,
    #[serde(with = "rfc3339::option")]
    to: Option<SystemTime>,
}

impl From<Option<Span>> for CoverageJson {
    fn from(searched: Option<Span>) -> CoverageJson {
        CoverageJson {
            kind: "search_coverage",
            from: searched.map(|span| span.from),
            to: searched.map(|span| span.to),
        }
    }
}
