//! The JPEGs of events: those that wait for the disk, and those that are stored.

use std::collections::VecDeque;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::values::{StoreError, integer};
use crate::frame::FrameId;
use crate::journal::EventJpeg;
use crate::metrics::{self, JpegLoss};

/// Maximum bytes of JPEGs that wait to be stored.
pub const QUEUE_BYTES: usize = 64 << 20;

/// The JPEGs of the events that are not stored yet, by the events' sequences. If they take too many
/// bytes, those of the oldest event are dropped and counted.
pub struct JpegQueue {
    waiting: VecDeque<(u64, Vec<EventJpeg>)>,
    bytes: usize,
    capacity: usize,
}

impl JpegQueue {
    pub fn new(capacity: usize) -> JpegQueue {
        JpegQueue { waiting: VecDeque::new(), bytes: 0, capacity }
    }

    /// Adds the JPEGs of the newest event.
    pub fn push(&mut self, sequence: u64, jpegs: Vec<EventJpeg>) {
        if jpegs.is_empty() {
            return;
        }
        self.bytes += bytes_of(&jpegs);
        self.waiting.push_back((sequence, jpegs));
        while self.bytes > self.capacity
            && let Some(dropped) = self.pop()
        {
            metrics::journal_jpegs_not_stored(JpegLoss::Queue, dropped as u64);
        }
    }

    /// Returns the JPEGs of an event.
    pub fn of(&self, sequence: u64) -> Vec<EventJpeg> {
        let found = self.waiting.binary_search_by_key(&sequence, |(sequence, _)| *sequence);
        found.ok().and_then(|at| self.waiting.get(at)).map_or_else(Vec::new, |(_, j)| j.clone())
    }

    /// Removes the JPEGs of the events up to a sequence. Returns their number.
    pub fn remove(&mut self, up_to: u64) -> usize {
        let mut removed = 0;
        while self.waiting.front().is_some_and(|(sequence, _)| *sequence <= up_to) {
            removed += self.pop().unwrap_or(0);
        }
        removed
    }

    /// Removes the JPEGs of one event.
    pub fn forget(&mut self, sequence: u64) {
        let found = self.waiting.binary_search_by_key(&sequence, |(sequence, _)| *sequence);
        if let Some((_, jpegs)) = found.ok().and_then(|at| self.waiting.remove(at)) {
            self.bytes -= bytes_of(&jpegs);
        }
    }

    /// Removes the JPEGs of the oldest event. Returns their number.
    fn pop(&mut self) -> Option<usize> {
        let (_, jpegs) = self.waiting.pop_front()?;
        self.bytes -= bytes_of(&jpegs);
        Some(jpegs.len())
    }
}

fn bytes_of(jpegs: &[EventJpeg]) -> usize {
    jpegs.iter().map(|jpeg| jpeg.jpeg.len()).sum()
}

/// Stores the JPEGs of an event. A frame that another event has stored is stored once. Returns the
/// number of frames that are new.
pub fn insert(
    transaction: &Transaction,
    event: i64,
    camera: &str,
    jpegs: &[EventJpeg],
) -> Result<u64, StoreError> {
    let mut find = transaction
        .prepare_cached("SELECT id FROM jpegs WHERE camera = ? AND run = ? AND number = ?")?;
    let mut insert = transaction
        .prepare_cached("INSERT INTO jpegs (camera, run, number, jpeg) VALUES (?, ?, ?, ?)")?;
    let mut refer = transaction
        .prepare_cached("INSERT OR IGNORE INTO event_jpegs (event, jpeg) VALUES (?, ?)")?;
    let mut new = 0;
    for EventJpeg { frame, jpeg } in jpegs {
        let (run, number) = (integer(frame.run), integer(frame.number));
        let known: Option<i64> =
            find.query_row(params![camera, run, number], |row| row.get(0)).optional()?;
        let id = match known {
            Some(id) => id,
            None => {
                new += 1;
                insert.insert(params![camera, run, number, &**jpeg])?
            }
        };
        refer.execute([event, id])?;
    }
    Ok(new)
}

/// Returns the stored JPEG of a frame.
pub fn get(
    connection: &Connection,
    camera: &str,
    frame: FrameId,
) -> Result<Option<Vec<u8>>, StoreError> {
    let mut select = connection
        .prepare_cached("SELECT jpeg FROM jpegs WHERE camera = ? AND run = ? AND number = ?")?;
    let frame = params![camera, integer(frame.run), integer(frame.number)];
    Ok(select.query_row(frame, |row| row.get(0)).optional()?)
}

/// Returns the number and the bytes of the stored frames.
pub fn totals(connection: &Connection) -> Result<(u64, u64), StoreError> {
    let totals: (i64, i64) =
        connection.query_row("SELECT frames, bytes FROM jpeg_totals", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok((number(totals.0), number(totals.1)))
}
