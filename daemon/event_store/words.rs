//! Finds the texts that contain given words, and ranks them.
//!
//! A word such as "car" can be in most texts of a journal, and ranking them all would take a second.
//! Therefore the newest 500 matches are ranked, then the 500 before them, and so on.

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::read::{Condition, Rows};
use super::values::{StoreError, integer};
use crate::journal::EventFilter;

/// Number of matches that are ranked together.
const BLOCK: usize = 500;

/// The constants of BM25: the weight of repeated words, and of the text's length.
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// A character that no text contains, in front of each word that was found.
const MARK: char = '\u{1}';

/// A text that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// The row of its event.
    pub id: i64,
    /// Quality of the match: greater is better. It is at most 1 among the newest 500 matches, and
    /// halved for every further 500.
    pub score: f64,
}

/// Returns the first `limit` texts that contain all words, the best match first.
pub fn find(
    connection: &Connection,
    matching: &str,
    filter: &EventFilter,
    limit: usize,
) -> Result<Vec<Match>, StoreError> {
    let rows = Rows::of(connection, filter)?;
    let Condition { sql, values } = Condition::of(filter);
    let mut all: Vec<Value> = vec![MARK.to_string().into(), matching.to_owned().into()];
    all.extend([rows.after, rows.before].map(Value::from));
    all.extend(values);
    all.push(integer(limit.div_ceil(BLOCK).saturating_mul(BLOCK) as u64).into());
    let mut select = connection.prepare_cached(&format!(
        "SELECT texts.rowid, highlight(texts, 0, ?, '') \
         FROM texts CROSS JOIN events ON events.id = texts.rowid \
         WHERE texts MATCH ? AND texts.rowid > ? AND texts.rowid < ? AND {sql} \
         ORDER BY texts.rowid DESC LIMIT ?"
    ))?;
    let mut rows = select.query(params_from_iter(all))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let marked = row.get_ref(1)?.as_str().unwrap_or_default();
        found.push(Found {
            id: row.get(0)?,
            hits: marked.matches(MARK).count() as f64,
            words: marked.split_whitespace().count() as f64,
        });
    }
    let mut ranked = Vec::new();
    for (block, found) in found.chunks_mut(BLOCK).enumerate() {
        rank(found, 0.5_f64.powi(i32::try_from(block).unwrap_or(i32::MAX)), &mut ranked);
    }
    ranked.truncate(limit);
    Ok(ranked)
}

struct Found {
    id: i64,
    /// Number of places at which the words are.
    hits: f64,
    /// Number of words of the text.
    words: f64,
}

/// Adds the matches of a block in their order: by BM25, and of equal ones the newer first. All of
/// them contain all words, so how rare a word is makes no difference.
fn rank(block: &[Found], highest: f64, to: &mut Vec<Match>) {
    let mean = block.iter().map(|found| found.words).sum::<f64>() / block.len().max(1) as f64;
    let ranked = block.iter().map(|found| {
        let length = found.words / mean.max(1.0);
        let quality = found.hits / (found.hits + K1 * (1.0 - B + B * length));
        Match { id: found.id, score: highest * (1.0 + quality) / 2.0 }
    });
    let begin = to.len();
    to.extend(ranked);
    to[begin..].sort_by(|a, b| b.score.total_cmp(&a.score).then(b.id.cmp(&a.id)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked(found: &[(i64, f64, f64)]) -> Vec<Match> {
        let block: Vec<Found> = found
            .iter()
            .map(|(id, hits, words)| Found { id: *id, hits: *hits, words: *words })
            .collect();
        let mut to = Vec::new();
        rank(&block, 1.0, &mut to);
        to
    }

    #[test]
    fn more_hits_in_a_shorter_text_are_better() {
        let order = |found| ranked(found).iter().map(|found| found.id).collect::<Vec<_>>();
        assert_eq!(order(&[(1, 1.0, 8.0), (2, 2.0, 8.0), (3, 1.0, 4.0)]), [2, 3, 1]);
        assert_eq!(order(&[(1, 1.0, 8.0), (2, 1.0, 8.0)]), [2, 1], "the newer of equals is first");
        assert!(ranked(&[]).is_empty());
        let scores = ranked(&[(1, 1.0, 900.0), (2, 90.0, 1.0)]);
        assert!(scores.iter().all(|found| (0.5..=1.0).contains(&found.score)), "{scores:?}");
    }
}
