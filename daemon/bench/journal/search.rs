//! Times searches for words in the journal.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use serde::Serialize;

use crate::bench::times::Times;
use crate::journal::{EventFilter, Journal, SearchMode, SearchQuery};

/// Number of searches for each query.
const ROUNDS: usize = 20;

/// Number of results of a page, that of the gRPC API.
const PAGE: usize = 50;

/// Words, and the filter that they are searched with.
pub const QUERIES: &[(&str, Filter)] = &[
    ("car", Filter::None),
    ("red car", Filter::None),
    ("person in a blue jacket", Filter::None),
    ("\"from left to right\"", Filter::None),
    ("yard empty", Filter::None),
    ("dog", Filter::Camera),
    ("green car", Filter::LastDay),
    ("umbrella", Filter::None),
    ("umbrella red", Filter::None),
    ("bicycle", Filter::Camera),
    ("giraffe", Filter::None),
];

#[derive(Clone, Copy)]
pub enum Filter {
    None,
    /// One camera of eight.
    Camera,
    LastDay,
}

#[derive(Serialize)]
pub struct Searched {
    pub all: Times,
    pub queries: Vec<OfQuery>,
}

#[derive(Serialize)]
pub struct OfQuery {
    pub query: String,
    /// Number of results on the first page.
    pub hits: usize,
    pub times: Times,
}

pub async fn measure(journal: &dyn Journal) -> anyhow::Result<Searched> {
    let mut queries = Vec::new();
    let mut all = Vec::new();
    for (words, wanted) in QUERIES {
        let shown = match wanted {
            Filter::None => (*words).to_owned(),
            Filter::Camera => format!("{words}, one camera"),
            Filter::LastDay => format!("{words}, last day"),
        };
        let query = query(words, filter(*wanted), SearchMode::Words);
        let (mut seconds, mut hits) = (Vec::new(), 0);
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let page = journal.search(query.clone()).await?;
            seconds.push(begun.elapsed().as_secs_f64());
            hits = page.hits.len();
        }
        all.extend(&seconds);
        queries.push(OfQuery {
            query: shown,
            hits,
            times: Times::of(seconds).context("no search")?,
        });
    }
    Ok(Searched { all: Times::of(all).context("no search")?, queries })
}

/// Returns a search for the first page.
pub fn query(words: &str, filter: EventFilter, mode: SearchMode) -> SearchQuery {
    SearchQuery { text: words.into(), mode: Some(mode), filter, offset: 0, limit: PAGE }
}

pub fn filter(wanted: Filter) -> EventFilter {
    match wanted {
        Filter::None => EventFilter::default(),
        Filter::Camera => {
            EventFilter { cameras: vec!["camera-3".into()], ..EventFilter::default() }
        }
        Filter::LastDay => {
            let since = Some(SystemTime::now() - Duration::from_secs(86_400));
            EventFilter { since, ..EventFilter::default() }
        }
    }
}
