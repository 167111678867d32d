//! The coverage of a search: for which part of the time it asks about the journal has captions, and
//! which events the search by meaning cannot find yet.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::meaning::{COUNTED, Meaning, count_pending};
use super::values::{StoreError, milliseconds};
use crate::frame::Span;
use crate::journal::{CameraCoverage, EventFilter, MeaningCoverage, SearchCoverage};

/// Length of a row of the table, in milliseconds.
const PERIOD_MS: i64 = 600_000;

/// Number of rows after the time that is asked about, whose windows may begin within it.
const PERIODS_AFTER: i64 = 6;

/// Returns the coverage of a search with this filter.
pub fn coverage(
    connection: &Connection,
    filter: &EventFilter,
    meaning: Option<&Meaning>,
) -> Result<SearchCoverage, StoreError> {
    let asked = asked(connection, filter)?;
    let cameras = match asked {
        Some(asked) => cameras(connection, filter, asked)?,
        None => Vec::new(),
    };
    let meaning = match meaning {
        Some(meaning) => {
            let without_vector = count_pending(connection, filter)?;
            Some(MeaningCoverage {
                without_vector,
                is_lower_bound: without_vector >= COUNTED,
                is_loading: meaning.is_loading(),
                since: meaning.left_out_ms().map(time),
            })
        }
        None => None,
    };
    Ok(SearchCoverage { asked, cameras, meaning })
}

/// Returns the span that a filter asks about: without limits, from the oldest event until now.
fn asked(connection: &Connection, filter: &EventFilter) -> Result<Option<Span>, StoreError> {
    let oldest: Option<i64> =
        connection.query_row("SELECT min(published_ms) FROM events", [], |row| row.get(0))?;
    let now = SystemTime::now();
    let from = filter.since.or(oldest.map(time));
    let to = filter.until.map_or(now, |until| until.min(now));
    Ok(from.filter(|from| *from < to).map(|from| Span { from, to }))
}

/// Returns the time for which each camera has captions within a span.
fn cameras(
    connection: &Connection,
    filter: &EventFilter,
    asked: Span,
) -> Result<Vec<CameraCoverage>, StoreError> {
    let mut sql = "SELECT camera, from_ms, to_ms, covered_ms FROM recorded WHERE".to_owned();
    let mut values: Vec<Value> = filter.cameras.iter().map(|name| name.clone().into()).collect();
    if !filter.cameras.is_empty() {
        let places = vec!["?"; filter.cameras.len()].join(", ");
        sql += &format!(" camera IN ({places}) AND");
    }
    let (from, to) = (milliseconds(asked.from), milliseconds(asked.to));
    values.push((from.div_euclid(PERIOD_MS)).into());
    values.push((to.div_euclid(PERIOD_MS) + PERIODS_AFTER).into());
    let mut select =
        connection.prepare_cached(&(sql + " period BETWEEN ? AND ? ORDER BY camera, period"))?;
    let mut rows = select.query(params_from_iter(values))?;
    let mut found: BTreeMap<String, Recorded> =
        filter.cameras.iter().map(|name| (name.clone(), Recorded::default())).collect();
    while let Some(row) = rows.next()? {
        let name = row.get_ref(0)?.as_str().unwrap_or_default();
        let span = (row.get::<_, i64>(1)?.max(from), row.get::<_, i64>(2)?.min(to));
        let covered = row.get(3)?;
        match found.get_mut(name) {
            Some(recorded) => recorded.add(span, covered),
            None => found.entry(name.to_owned()).or_default().add(span, covered),
        }
    }
    let camera = |(camera, recorded): (String, Recorded)| CameraCoverage {
        camera,
        recorded: Duration::from_millis(recorded.total_ms),
    };
    Ok(found.into_iter().map(camera).collect())
}

/// The sum of spans that come in the order of their ends. Where two overlap, it counts once.
#[derive(Debug, Default)]
struct Recorded {
    total_ms: u64,
    end: Option<i64>,
}

impl Recorded {
    /// Adds a span, of which at most `covered` milliseconds count.
    fn add(&mut self, (from, to): (i64, i64), covered: i64) {
        let new = self.end.map_or(from, |end| from.max(end));
        self.total_ms += u64::try_from(covered.min(to - new)).unwrap_or(0);
        self.end = self.end.max(Some(to));
    }
}

pub fn time(ms: i64) -> SystemTime {
    crate::frame::shift(SystemTime::UNIX_EPOCH, i128::from(ms) * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_spans_count_once() {
        let mut recorded = Recorded::default();
        for span in [(0, 10), (5, 15), (15, 20), (30, 40), (45, 41)] {
            recorded.add(span, 10);
        }
        recorded.add((50, 70), 12);
        assert_eq!(recorded.total_ms, 42);
    }
}
