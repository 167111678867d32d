//! Counts captions over time. The index `events_window` has every column that this reads.

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::coverage::time;
use super::values::{StoreError, milliseconds};
use crate::frame::Span;
use crate::journal::{Bucket, Density, DensityQuery};

/// Counts the captions of a span.
pub fn density(connection: &Connection, query: &DensityQuery) -> Result<Density, StoreError> {
    let length = i64::try_from(query.bucket.as_millis()).unwrap_or(i64::MAX).max(1);
    let (from, to) = (milliseconds(query.span.from), milliseconds(query.span.to));
    let mut values: Vec<Value> = [from, length, from, to].map(Value::from).into();
    let mut sql = "SELECT camera, (window_to_ms - ?) / ?, count(*), min(window_from_ms), \
                   max(window_to_ms) FROM events INDEXED BY events_window \
                   WHERE window_to_ms >= ? AND window_to_ms < ? AND kind = 1"
        .to_owned();
    if !query.cameras.is_empty() {
        sql += &format!(" AND camera IN ({})", vec!["?"; query.cameras.len()].join(", "));
        values.extend(query.cameras.iter().map(|camera| Value::from(camera.clone())));
    }
    let mut select = connection.prepare_cached(&(sql + " GROUP BY 1, 2"))?;
    let mut rows = select.query(params_from_iter(values))?;
    let mut density = Density::default();
    while let Some(row) = rows.next()? {
        let camera = row.get_ref(0)?.as_str().unwrap_or_default();
        let covered = Span { from: time(row.get(3)?), to: time(row.get(4)?) };
        let captions = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
        if let Ok(number) = u32::try_from(row.get::<_, i64>(1)?) {
            density.add(camera, number, Bucket { captions, covered });
        }
    }
    Ok(density)
}
