//! Searches the texts of events: for words by the full-text index, by meaning, or both.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::Shared;
use super::coverage::coverage;
use super::meaning::{Found, Meaning, Vector};
use super::values::{StoreError, integer};
use super::words::{self, Match};
use crate::event::Event;
use crate::journal::{QueryError, SearchHit, SearchMode, SearchPage, SearchQuery};
use crate::wire::decode;

/// Number of words around the found ones in a snippet.
const SNIPPET_WORDS: usize = 24;

/// Number of results of each of the two searches that a fused search ranks.
const FUSED: usize = 1_000;

/// Constant of reciprocal rank fusion: the score of a result is the sum of 1 / (60 + rank), as in
/// Cormack, Clarke and Büttcher (2009).
const FUSION: f64 = 60.0;

/// Runs a search, in the mode that the query names or the usual one.
pub async fn search(shared: &Shared, query: SearchQuery) -> Result<SearchPage, QueryError> {
    let matching = matching(&query.text)?;
    let mode = match (query.mode, &shared.meaning) {
        (Some(mode), Some(_)) => mode,
        (None, Some(_)) => SearchMode::Fused,
        (None | Some(SearchMode::Words), None) => SearchMode::Words,
        (Some(_), None) => return Err(QueryError::NoModel),
    };
    let mut search =
        Search { mode, matching, meaning: shared.meaning.clone(), vector: None, query };
    if let Some(meaning) = shared.meaning.as_ref().filter(|_| mode != SearchMode::Words) {
        search.vector = Some(meaning.embed(search.query.text.clone()).await?);
    }
    let read = shared.readers.read(move |connection| search.run(connection));
    read.await.map_err(|error| shared.unreadable(error))
}

/// A search with everything that it needs.
struct Search {
    mode: SearchMode,
    /// The words, as a query of FTS5.
    matching: String,
    meaning: Option<Arc<Meaning>>,
    /// The vector of the text. `None` if only words are searched for.
    vector: Option<Vector>,
    query: SearchQuery,
}

/// An event that was found, with its place in each of the two searches.
#[derive(Clone, Debug, Default, PartialEq)]
struct Ranked {
    id: i64,
    words: Option<Place>,
    meaning: Option<Place>,
}

/// A place in the order of a search, from 1, and the score there.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    rank: u32,
    score: f64,
}

impl Search {
    fn run(&self, connection: &Connection) -> Result<SearchPage, StoreError> {
        let SearchQuery { filter, offset, limit, .. } = &self.query;
        let end = offset + limit;
        let depth = if self.mode == SearchMode::Fused { FUSED } else { end + 1 };
        let by_words = match self.mode {
            SearchMode::Meaning => Vec::new(),
            _ => words::find(connection, &self.matching, filter, depth)?,
        };
        let by_meaning = match (&self.meaning, &self.vector) {
            (Some(meaning), Some(vector)) => meaning.similar(vector, filter, depth),
            _ => Vec::new(),
        };
        let ranked = fuse(&by_words, &by_meaning);
        let mut hits = Vec::new();
        for ranked in ranked.iter().skip(*offset).take(*limit) {
            hits.extend(self.hit(connection, ranked)?);
        }
        Ok(SearchPage {
            hits,
            more: ranked.len() > end,
            mode: self.mode,
            coverage: coverage(connection, filter, self.meaning.as_deref())?,
        })
    }

    /// Reads the event of a result. Returns `None` if it was deleted in the meantime.
    fn hit(
        &self,
        connection: &Connection,
        ranked: &Ranked,
    ) -> Result<Option<SearchHit>, StoreError> {
        let mut select = connection.prepare_cached("SELECT body FROM events WHERE id = ?")?;
        let body: Option<Vec<u8>> = select.query_row([ranked.id], |row| row.get(0)).optional()?;
        let Some(event) = body.and_then(|body| decode::event_bytes(&body).ok()) else {
            return Ok(None);
        };
        let score = |place: Option<Place>| place.map_or(0.0, |place| place.score);
        Ok(Some(SearchHit {
            snippet: match ranked.words {
                Some(_) => snippet(connection, &self.matching, ranked.id)?,
                None => beginning(&event),
            },
            event: Arc::new(event),
            score: match self.mode {
                SearchMode::Words => score(ranked.words),
                SearchMode::Meaning => score(ranked.meaning),
                SearchMode::Fused => ranked.fused(),
            },
            words_rank: ranked.words.map(|place| place.rank),
            meaning_rank: ranked.meaning.map(|place| place.rank),
            similarity: ranked.meaning.map(|place| place.score),
        }))
    }
}

impl Ranked {
    fn fused(&self) -> f64 {
        let places = self.words.iter().chain(&self.meaning);
        places.map(|place| 1.0 / (FUSION + f64::from(place.rank))).sum()
    }
}

/// Returns the text around the words, which stand in brackets.
fn snippet(connection: &Connection, matching: &str, id: i64) -> Result<String, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT snippet(texts, 0, '[', ']', '…', ?) FROM texts WHERE texts MATCH ? AND rowid = ?",
    )?;
    let words = integer(SNIPPET_WORDS as u64);
    let snippet = select.query_row(params![words, matching, id], |row| row.get(0)).optional()?;
    Ok(snippet.unwrap_or_default())
}

/// Returns the first words of an event's text.
fn beginning(event: &Event) -> String {
    let text = event.body.inference().map_or("", |inference| &inference.text);
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.get(..SNIPPET_WORDS) {
        Some(first) if words.len() > SNIPPET_WORDS => first.join(" ") + "…",
        _ => words.join(" "),
    }
}

/// Merges two orders of results by reciprocal rank fusion. If one is empty, the result has the order
/// of the other.
fn fuse(by_words: &[Match], by_meaning: &[Found]) -> Vec<Ranked> {
    let mut all: HashMap<i64, Ranked> = HashMap::new();
    for (rank, Match { id, score }) in (1..).zip(by_words) {
        let ranked = all.entry(*id).or_insert(Ranked { id: *id, ..Ranked::default() });
        ranked.words = Some(Place { rank, score: *score });
    }
    for (rank, Found { id, similarity }) in (1..).zip(by_meaning) {
        let ranked = all.entry(*id).or_insert(Ranked { id: *id, ..Ranked::default() });
        ranked.meaning = Some(Place { rank, score: f64::from(*similarity) });
    }
    let mut all: Vec<Ranked> = all.into_values().collect();
    // The newer event comes first if two are equal.
    all.sort_by(|a, b| b.fused().total_cmp(&a.fused()).then(b.id.cmp(&a.id)));
    all
}

/// Converts words and "phrases in quotes" to a query of FTS5 in which none of them is an operator.
fn matching(words: &str) -> Result<String, QueryError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_both_searches_come_first() {
        let found = |id| Found { id, similarity: 0.5 };
        let order = |words: &[(i64, f64)], meaning: &[Found]| {
            let words: Vec<Match> =
                words.iter().map(|(id, score)| Match { id: *id, score: *score }).collect();
            fuse(&words, meaning).iter().map(|ranked| ranked.id).collect::<Vec<_>>()
        };
        assert_eq!(order(&[(1, 9.0), (2, 8.0)], &[found(3), found(2)]), [2, 3, 1]);
        assert_eq!(order(&[(1, 9.0), (2, 8.0)], &[]), [1, 2]);
        assert_eq!(order(&[], &[found(3), found(2)]), [3, 2]);
        assert_eq!(order(&[(4, 9.0)], &[found(5)]), [5, 4], "the newer of two equals is first");
        let both = &fuse(&[Match { id: 2, score: 8.0 }], &[found(2)])[0];
        assert_eq!(both.words, Some(Place { rank: 1, score: 8.0 }));
        assert!((both.fused() - 2.0 / 61.0).abs() < 1e-9);
    }
}
