//! Searches the texts of events for words, by the full-text index.

use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::{Connection, params};

use super::values::StoreError;
use super::words::{self, Match};
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
    let found = words::find(connection, matching, filter, offset + limit + 1)?;
    let mut page = SearchPage { searched: searched(connection, filter)?, ..SearchPage::default() };
    page.more = found.len() > offset + limit;
    for found in found.iter().skip(offset).take(limit) {
        page.hits.extend(hit(connection, matching, found)?);
    }
    Ok(page)
}

/// Reads the event of a match. Returns `None` if it was deleted in the meantime.
fn hit(
    connection: &Connection,
    matching: &str,
    found: &Match,
) -> Result<Option<SearchHit>, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT events.body, snippet(texts, 0, '[', ']', '…', ?) \
         FROM texts CROSS JOIN events ON events.id = texts.rowid \
         WHERE texts MATCH ? AND texts.rowid = ?",
    )?;
    let mut rows = select.query(params![SNIPPET_WORDS, matching, found.id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let event = decode::event_bytes(row.get_ref(0)?.as_blob().unwrap_or_default());
    let hit =
        |event| Ok(SearchHit { event: Arc::new(event), snippet: row.get(1)?, score: found.score });
    event.ok().map(hit).transpose()
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
