//! The positions of named readers: the event up to which each has acknowledged all events. They are
//! in memory, and the writer stores those that changed in the table `readers`.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::values::{StoreError, integer};
use crate::event::EventId;

#[derive(Debug, Default)]
pub struct Positions {
    known: HashMap<String, Position>,
}

#[derive(Debug)]
struct Position {
    up_to: EventId,
    is_stored: bool,
}

impl Positions {
    pub fn get(&self, reader: &str) -> Option<EventId> {
        self.known.get(reader).map(|position| position.up_to)
    }

    /// Moves a reader forward, or adds it. Returns true if there is something to store.
    pub fn advance(&mut self, reader: &str, up_to: EventId) -> bool {
        match self.known.get_mut(reader) {
            Some(position) if up_to <= position.up_to => return false,
            Some(position) => *position = Position { up_to, is_stored: false },
            None => {
                self.known.insert(reader.into(), Position { up_to, is_stored: false });
            }
        }
        true
    }

    /// Takes over the positions of a database. Those that are newer in memory are stored again.
    pub fn load(&mut self, stored: &[(String, EventId)]) {
        self.forget_stored();
        for (reader, up_to) in stored {
            if self.advance(reader, *up_to)
                && let Some(position) = self.known.get_mut(reader)
            {
                position.is_stored = true;
            }
        }
    }

    /// Returns the positions that changed since the last call. From then on they count as stored.
    pub fn take_changed(&mut self) -> Vec<(String, EventId)> {
        let changed = self.known.iter_mut().filter(|(_, position)| !position.is_stored);
        changed
            .map(|(reader, position)| {
                position.is_stored = true;
                (reader.clone(), position.up_to)
            })
            .collect()
    }

    /// Has every position stored again, because the database is a new one or could not be written.
    pub fn forget_stored(&mut self) {
        self.known.values_mut().for_each(|position| position.is_stored = false);
    }
}

/// Reads the positions in the database.
pub fn stored(connection: &Connection) -> Result<Vec<(String, EventId)>, StoreError> {
    let mut select = connection.prepare("SELECT name, run, sequence FROM readers")?;
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let rows = select.query_map([], |row| {
        let id = EventId { run: number(row.get(1)?), sequence: number(row.get(2)?) };
        Ok((row.get(0)?, id))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Writes positions to the database.
pub fn store(connection: &Connection, positions: &[(String, EventId)]) -> Result<(), StoreError> {
    let mut insert = connection
        .prepare_cached("INSERT OR REPLACE INTO readers (name, run, sequence) VALUES (?, ?, ?)")?;
    for (reader, up_to) in positions {
        insert.execute(params![reader, integer(up_to.run), integer(up_to.sequence)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(run: u64, sequence: u64) -> EventId {
        EventId { run, sequence }
    }

    #[test]
    fn a_position_only_moves_forward_and_is_stored_when_it_moved() {
        let mut positions = Positions::default();
        assert!(positions.advance("mqtt", id(1, 5)));
        assert!(!positions.advance("mqtt", id(1, 5)) && !positions.advance("mqtt", id(1, 4)));
        assert_eq!(positions.take_changed(), [("mqtt".to_owned(), id(1, 5))]);
        assert!(positions.take_changed().is_empty());
        assert!(positions.advance("mqtt", id(2, 1)));
        assert_eq!(positions.take_changed(), [("mqtt".to_owned(), id(2, 1))]);
        positions.forget_stored();
        assert_eq!(positions.take_changed(), [("mqtt".to_owned(), id(2, 1))]);
    }

    #[test]
    fn the_newer_of_two_positions_counts() {
        let mut positions = Positions::default();
        positions.advance("ahead", id(2, 1));
        positions.advance("behind", id(1, 1));
        positions.take_changed();
        let stored = ["ahead", "behind", "other"].map(|reader| (reader.to_owned(), id(1, 9)));
        positions.load(&stored);
        assert_eq!(positions.get("ahead"), Some(id(2, 1)));
        assert_eq!(positions.get("behind"), Some(id(1, 9)));
        assert_eq!(positions.get("other"), Some(id(1, 9)));
        assert_eq!(positions.take_changed(), [("ahead".to_owned(), id(2, 1))]);
    }
}
