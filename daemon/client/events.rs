//! Lists the events that the daemon's journal holds.

use std::io::Write;

use super::{Daemon, Done, Output, Server, json_line, quietly, text};
use crate::event::Event;
use crate::journal::EventFilter;
use crate::proto;
use crate::wire::{decode, encode};

/// Number of events that are requested at a time.
pub(super) const PAGE: usize = 200;

/// Prints the newest events, at most `limit`, from the oldest of them to the newest.
pub async fn list_events(
    server: impl Into<Server>,
    filter: &EventFilter,
    limit: usize,
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let mut daemon = Daemon::reach(&server.into()).await?;
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

pub fn message(filter: &EventFilter) -> proto::EventFilter {
    proto::EventFilter {
        cameras: filter.cameras.clone(),
        kinds: filter.kinds.iter().map(|kind| encode::kind(*kind).into()).collect(),
        since: filter.since.and_then(encode::time),
        until: filter.until.and_then(encode::time),
    }
}

pub fn page_size(events: usize) -> i32 {
    i32::try_from(events.min(PAGE)).unwrap_or(i32::MAX)
}
