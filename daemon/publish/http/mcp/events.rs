//! The tools that list, search and return events of the journal.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::arguments::{self, RangeText, event_id};
use super::summary::EventSummary;
use super::tool::{Call, Reply, Tool};
use crate::event::{Event, EventId, EventKind};
use crate::journal::{EventFilter, Query, SearchCoverage, SearchMode, SearchQuery};
use crate::publish::http::api;
use crate::publish::http::refusal::Refusal;

/// Number of events in a page, and the maximum that an agent can ask for.
const PAGE: usize = 20;
const LARGEST_PAGE: usize = 100;

pub struct ListEvents;
pub struct SearchEvents;
pub struct GetEvent;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListArguments {
    #[schemars(description = arguments::CAMERAS)]
    cameras: Option<Vec<String>>,
    /// Kinds of events. Default: all kinds.
    kinds: Option<Vec<EventKind>>,
    #[schemars(description = arguments::LAST)]
    last: Option<String>,
    #[schemars(description = arguments::FROM)]
    from: Option<String>,
    #[schemars(description = arguments::TO)]
    to: Option<String>,
    /// Maximum number of events, 20 by default and at most 100.
    limit: Option<usize>,
    /// ID of an event: only events before it. The next page begins with `next_before`.
    before: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub struct Listed {
    /// Events, the newest first.
    events: Vec<EventSummary>,
    /// The value of `before` for the next page, with older events. `null` if this is the last one.
    next_before: Option<String>,
}

impl Tool for ListEvents {
    const NAME: &str = "list_events";
    const TITLE: &str = "List events";
    const DESCRIPTION: &str = "Lists the events of a time, the newest first: captions, answers, \
                               alerts, and changes of cameras and rules.";
    type Arguments = ListArguments;
    type Output = Listed;

    async fn run(call: Call, arguments: ListArguments) -> Result<Reply<Listed>, Refusal> {
        let ListArguments { cameras, kinds, last, from, to, limit, before } = arguments;
        let filter = filter(cameras, kinds, RangeText { last, from, to })?;
        let named = filter.cameras.clone();
        let before = before.as_deref().map(event_id).transpose()?;
        let limit = page_size(limit)?;
        let page = call.service.journal().list(Query { filter, before, limit }).await?;
        let events: Vec<_> = page.events.iter().map(|event| EventSummary::of(event)).collect();
        if events.is_empty() {
            call.service.require_cameras(&named)?;
        }
        let last = events.last().filter(|_| page.more);
        let next_before = last.map(|summary| summary.event.clone());
        let mut lines: Vec<_> = events.iter().map(EventSummary::line).collect();
        match (&next_before, events.is_empty()) {
            (Some(id), _) => lines.push(format!("There are more: before = {id:?}.")),
            (None, true) => lines.push("No event matches.".into()),
            (None, false) => {}
        }
        Ok(Reply::new(Listed { events, next_before }, lines.join("\n")))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchArguments {
    /// Words, such as "red car", or a description of what is searched for.
    query: String,
    /// `words`: texts with all words. `meaning`: texts that say something similar. `fused`: both.
    /// Default: `fused` if the daemon has a model for it, otherwise `words`.
    mode: Option<SearchMode>,
    #[schemars(description = arguments::CAMERAS)]
    cameras: Option<Vec<String>>,
    /// `caption` or `answer`. Default: both.
    kinds: Option<Vec<EventKind>>,
    #[schemars(description = arguments::LAST)]
    last: Option<String>,
    #[schemars(description = arguments::FROM)]
    from: Option<String>,
    #[schemars(description = arguments::TO)]
    to: Option<String>,
    /// Maximum number of results, 20 by default and at most 100.
    limit: Option<usize>,
}

#[derive(Serialize, JsonSchema)]
pub struct Found {
    mode: SearchMode,
    /// Captions and answers whose text matches, the best match first.
    results: Vec<EventSummary>,
    /// True if more events match.
    more: bool,
    /// The part of the time and of the events that was searched.
    coverage: SearchCoverage,
}

impl Tool for SearchEvents {
    const NAME: &str = "search_events";
    const TITLE: &str = "Search captions and answers";
    const DESCRIPTION: &str = "Searches the texts of captions and answers, and returns the best \
                               matches. Nothing found is not proof that nothing happened: a \
                               caption names only what the model noticed, so ask about the time.";
    type Arguments = SearchArguments;
    type Output = Found;

    async fn run(call: Call, arguments: SearchArguments) -> Result<Reply<Found>, Refusal> {
        let SearchArguments { query, mode, cameras, kinds, last, from, to, limit } = arguments;
        let filter = filter(cameras, kinds, RangeText { last, from, to })?;
        let named = filter.cameras.clone();
        let limit = page_size(limit)?;
        let query = SearchQuery { text: query, mode, filter, offset: 0, limit };
        let page = call.service.journal().search(query).await?;
        if page.hits.is_empty() {
            call.service.require_cameras(&named)?;
        }
        let results: Vec<_> = page.hits.iter().map(|hit| EventSummary::of(&hit.event)).collect();
        let mut lines: Vec<_> = results.iter().map(EventSummary::line).collect();
        if results.is_empty() {
            lines.push("Nothing was found.".into());
        }
        lines.push(searched(&page.coverage));
        let output = Found { mode: page.mode, results, more: page.more, coverage: page.coverage };
        Ok(Reply::new(output, lines.join("\n")))
    }
}

/// Says what was searched.
fn searched(coverage: &SearchCoverage) -> String {
    let Some(asked) = coverage.asked else { return "The journal is empty.".into() };
    let hours = |seconds: f64| format!("{:.1} h", seconds / 3600.0);
    let camera = |camera: &crate::journal::CameraCoverage| {
        format!(", {} of {}", hours(camera.recorded.as_secs_f64()), camera.camera)
    };
    let cameras: String = coverage.cameras.iter().map(camera).collect();
    let length = hours(asked.length().as_secs_f64());
    let mut text = format!("Searched: {} UTC ({length}){cameras}.", asked.clock(true));
    if let Some(meaning) = coverage.meaning.as_ref().filter(|meaning| meaning.without_vector > 0) {
        text += &format!(" {} events are found only by their words.", meaning.without_vector);
    }
    text
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetArguments {
    /// ID of the event, `RUN.SEQUENCE`, as other tools return it.
    event: String,
}

#[derive(Serialize, JsonSchema)]
pub struct Got {
    event: Arc<Event>,
}

impl Tool for GetEvent {
    const NAME: &str = "get_event";
    const TITLE: &str = "Get an event";
    const DESCRIPTION: &str = "Returns everything about an event: text, coverage, frames, model, \
                               device, times, and the curve of an alert.";
    type Arguments = GetArguments;
    type Output = Got;

    async fn run(call: Call, arguments: GetArguments) -> Result<Reply<Got>, Refusal> {
        let id: EventId = event_id(&arguments.event)?;
        let event = api::event(call.service.journal(), id).await?;
        let text = EventSummary::of(&event).line();
        Ok(Reply::new(Got { event }, text))
    }
}

fn filter(
    cameras: Option<Vec<String>>,
    kinds: Option<Vec<EventKind>>,
    range: RangeText,
) -> Result<EventFilter, Refusal> {
    let (cameras, kinds) = (cameras.unwrap_or_default(), kinds.unwrap_or_default());
    Ok(EventFilter { cameras, kinds, ..range.filter()? })
}

fn page_size(limit: Option<usize>) -> Result<usize, Refusal> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=LARGEST_PAGE => Ok(limit),
        limit => {
            let why = format!("limit is {limit}; wanted 1 to {LARGEST_PAGE}");
            Err(Refusal::invalid("limit", why))
        }
    }
}
