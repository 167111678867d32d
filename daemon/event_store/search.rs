//! Searches the texts of events for words, by the full-text index.

use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::read::Condition;
use super::values::{StoreError, integer};
use crate::frame::Span;
use crate::journal::{EventFilter, QueryError, SearchHit, SearchPage};
use crate::wire::decode;

/// Number of words around the found ones in a snippet.
const SNIPPET_WORDS: i64 = 24;

/// Finds the texts that contain all words.
pub fn search(
    connection: &Connection,
    matching: &str,
    filter: &EventFilter,
    offset: usize,
    limit: usize,
) -> Result<SearchPage, StoreError> {
    let Condition { sql, values } = Condition::of(filter, "events");
    let mut all: Vec<Value> = vec![SNIPPET_WORDS.into(), matching.to_owned().into()];
    all.extend(values);
    all.extend([integer(limit as u64 + 1).into(), integer(offset as u64).into()]);
    let mut select = connection.prepare_cached(&format!(
        "SELECT events.body, snippet(texts, 0, '[', ']', '…', ?), texts.rank \
         FROM texts CROSS JOIN events ON events.id = texts.rowid \
         WHERE texts MATCH ? AND {sql} ORDER BY texts.rank LIMIT ? OFFSET ?"
    ))?;
    let mut rows = select.query(params_from_iter(all))?;
    let mut page = SearchPage { searched: searched(connection, filter)?, ..SearchPage::default() };
    while let Some(row) = rows.next()? {
        if page.hits.len() == limit {
            page.more = true;
            break;
        }
        let Ok(event) = decode::event_bytes(row.get_ref(0)?.as_blob().unwrap_or_default()) else {
            continue;
        };
        let rank: f64 = row.get(2)?;
        page.hits.push(SearchHit { event: Arc::new(event), snippet: row.get(1)?, score: -rank });
    }
    Ok(page)
}

/// Returns the span that a search with this filter covers: no longer than the journal reaches back.
fn searched(connection: &Connection, filter: &EventFilter) -> Result<Option<Span>, StoreError> {
    let (oldest, newest): (Option<i64>, Option<i64>) = connection.query_row(
        "SELECT (SELECT min(published_ms) FROM events), (SELECT max(published_ms) FROM events)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let (Some(oldest), Some(newest)) = (oldest, newest) else { return Ok(None) };
    let time = |ms: i64| crate::frame::shift(SystemTime::UNIX_EPOCH, i128::from(ms) * 1_000_000);
    let from = filter.since.map_or(time(oldest), |since| since.max(time(oldest)));
    let end = SystemTime::now().max(time(newest));
    let to = filter.until.map_or(end, |until| until.min(end));
    Ok((from < to).then_some(Span { from, to }))
}

/// Converts words and "phrases in quotes" to a query of FTS5 in which none of them is an operator.
pub fn matching(words: &str) -> Result<String, QueryError> {
    let mut terms = Vec::new();
    for (at, piece) in words.split('"').enumerate() {
        let is_phrase = at % 2 == 1;
        let of_piece: Vec<&str> =
            if is_phrase { vec![piece.trim()] } else { piece.split_whitespace().collect() };
        // A term without a letter or a digit would match nothing.
        let said = of_piece.into_iter().filter(|term| term.chars().any(char::is_alphanumeric));
        terms.extend(said.map(|term| format!("\"{term}\"")));
    }
    if terms.is_empty() { Err(QueryError::NoWord) } else { Ok(terms.join(" ")) }
}
