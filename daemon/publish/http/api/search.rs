//! The search for captions and answers.

use axum::response::Json;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Refusal;
use super::caller::Viewer;
use super::events::page_size;
use super::request::{Parameters, between};
use crate::event::EventKind;
use crate::journal::{EventFilter, SearchCoverage, SearchHit, SearchMode, SearchQuery};

/// Maximum number of results that a client can page through.
const RESULTS: usize = 10_000;

/// The parameters of a search.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchParameters {
    /// Words, or a description of what is searched for.
    q: String,
    /// `fused`, `words` or `meaning`. Default: `fused` if the config has `search.model`, otherwise
    /// `words`.
    mode: Option<SearchMode>,
    /// Name of a camera; may be repeated. Default: all cameras.
    #[serde(default)]
    camera: Vec<String>,
    /// `caption` or `answer`; may be repeated. Default: both.
    #[serde(default)]
    kind: Vec<EventKind>,
    /// Earliest time of publication: RFC 3339, or a duration before now such as `24h`.
    since: Option<String>,
    /// Time before which the event was published.
    until: Option<String>,
    /// Maximum number of results, 50 by default and at most 200.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
    /// Number of best results to leave out.
    #[serde(default)]
    #[schemars(range(max = 9_999))]
    offset: usize,
}

/// A page of results.
#[derive(Serialize, JsonSchema)]
pub struct Found {
    mode: SearchMode,
    /// Events whose text matches, the best match first.
    results: Vec<SearchHit>,
    /// The value of `offset` for the next page. `null` if this is the last one.
    next_offset: Option<usize>,
    coverage: SearchCoverage,
}

pub async fn search(
    Viewer(api): Viewer,
    Parameters(asked): Parameters<SearchParameters>,
) -> Result<Json<Found>, Refusal> {
    let limit = page_size(asked.limit)?;
    let offset = asked.offset;
    if offset >= RESULTS {
        let why = format!("offset is {offset}; wanted less than {RESULTS}");
        return Err(Refusal::invalid("offset", why));
    }
    let filter = EventFilter { cameras: asked.camera, kinds: asked.kind, ..EventFilter::default() };
    let filter = between(filter, asked.since.as_deref(), asked.until.as_deref())?;
    let query = SearchQuery { text: asked.q, mode: asked.mode, filter, offset, limit };
    let page = api.service.journal().search(query).await?;
    let next = offset + page.hits.len();
    Ok(Json(Found {
        mode: page.mode,
        results: page.hits,
        next_offset: (page.more && next < RESULTS).then_some(next),
        coverage: page.coverage,
    }))
}
