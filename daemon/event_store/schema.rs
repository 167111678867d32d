//! The schema of the SQLite file, and the steps from each version of it to the next.
//!
//! `events` has a row per event, with its columns for filters and the whole event as the protobuf
//! message `lookout.v1.Event`. `texts` is the full-text index over the texts of captions and
//! answers; captions that say "unchanged" are not in it. `jpegs` has each stored frame once,
//! `event_jpegs` says which events need it, and `jpeg_totals` sums the frames up. `clips` has the
//! clip of each alert and the event that it belongs to, `clip_chunks` its bytes. `kept_events` has
//! the events that are exempt from retention. Triggers delete what no event needs any more.
//! `vectors` has the vectors of a text for the search by meaning, and `vectors_pending` the events
//! that have a text and no vector. `recorded` has, per camera and ten minutes, the number of
//! captions whose window ends in them, and the time that they cover. `readers` has the position of
//! each named reader. `clock` has the largest number of milliseconds by which an event was published
//! before an earlier one, because the host's clock was set back: with it, a span of time is a range
//! of rows (`read`).

use rusqlite::Connection;

use super::values::StoreError;

/// The newest version, in SQLite's `user_version`.
const VERSION: i64 = MIGRATIONS.len() as i64;

/// The step from each version to the next, beginning with an empty file (version 0).
pub const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        uuid BLOB NOT NULL,
        published_ms INTEGER NOT NULL,
        camera TEXT NOT NULL,
        kind INTEGER NOT NULL,
        window_from_ms INTEGER,
        window_to_ms INTEGER,
        text TEXT,
        prompt_hash BLOB,
        body BLOB NOT NULL
    );
    CREATE UNIQUE INDEX events_position ON events (run, sequence);
    CREATE INDEX events_published ON events (published_ms);
    CREATE INDEX events_camera ON events (camera);
    CREATE VIRTUAL TABLE texts USING fts5 (
        text, content = 'events', content_rowid = 'id', tokenize = 'porter unicode61'
    );
    CREATE TRIGGER texts_insert AFTER INSERT ON events WHEN new.text IS NOT NULL BEGIN
        INSERT INTO texts (rowid, text) VALUES (new.id, new.text);
    END;
    CREATE TRIGGER texts_delete AFTER DELETE ON events WHEN old.text IS NOT NULL BEGIN
        INSERT INTO texts (texts, rowid, text) VALUES ('delete', old.id, old.text);
    END;
    ",
    // The body gets the field `uuid` (4, a string of 36 bytes): protobuf messages that follow each
    // other are one message.
    "
    UPDATE events SET body = CAST(body || x'2224' || lower(
        substr(hex(uuid), 1, 8) || '-' || substr(hex(uuid), 9, 4) || '-' ||
        substr(hex(uuid), 13, 4) || '-' || substr(hex(uuid), 17, 4) || '-' ||
        substr(hex(uuid), 21)
    ) AS BLOB);
    CREATE TABLE jpegs (
        id INTEGER PRIMARY KEY,
        camera TEXT NOT NULL,
        run INTEGER NOT NULL,
        number INTEGER NOT NULL,
        jpeg BLOB NOT NULL
    );
    CREATE UNIQUE INDEX jpegs_frame ON jpegs (camera, run, number);
    CREATE TABLE event_jpegs (
        event INTEGER NOT NULL,
        jpeg INTEGER NOT NULL,
        PRIMARY KEY (event, jpeg)
    ) WITHOUT ROWID;
    CREATE INDEX event_jpegs_jpeg ON event_jpegs (jpeg);
    CREATE TABLE jpeg_totals (frames INTEGER NOT NULL, bytes INTEGER NOT NULL);
    INSERT INTO jpeg_totals VALUES (0, 0);
    CREATE TRIGGER events_delete_jpegs AFTER DELETE ON events BEGIN
        DELETE FROM event_jpegs WHERE event = old.id;
    END;
    CREATE TRIGGER event_jpegs_delete AFTER DELETE ON event_jpegs
        WHEN NOT EXISTS (SELECT 1 FROM event_jpegs WHERE jpeg = old.jpeg) BEGIN
        DELETE FROM jpegs WHERE id = old.jpeg;
    END;
    CREATE TRIGGER jpegs_insert AFTER INSERT ON jpegs BEGIN
        UPDATE jpeg_totals SET frames = frames + 1, bytes = bytes + length(new.jpeg);
    END;
    CREATE TRIGGER jpegs_delete AFTER DELETE ON jpegs BEGIN
        UPDATE jpeg_totals SET frames = frames - 1, bytes = bytes - length(old.jpeg);
    END;
    ",
    "
    CREATE TABLE embedding_model (id TEXT NOT NULL);
    CREATE TABLE vectors (event INTEGER PRIMARY KEY, vector BLOB NOT NULL);
    CREATE TABLE vectors_pending (event INTEGER PRIMARY KEY);
    INSERT INTO vectors_pending SELECT id FROM events WHERE text IS NOT NULL;
    CREATE TRIGGER vectors_pending_insert AFTER INSERT ON events WHEN new.text IS NOT NULL BEGIN
        INSERT OR IGNORE INTO vectors_pending (event) VALUES (new.id);
    END;
    CREATE TRIGGER vectors_insert AFTER INSERT ON vectors BEGIN
        DELETE FROM vectors_pending WHERE event = new.event;
    END;
    CREATE TRIGGER vectors_delete AFTER DELETE ON events WHEN old.text IS NOT NULL BEGIN
        DELETE FROM vectors WHERE event = old.id;
        DELETE FROM vectors_pending WHERE event = old.id;
    END;
    CREATE TABLE recorded (
        camera TEXT NOT NULL,
        period INTEGER NOT NULL,
        captions INTEGER NOT NULL,
        from_ms INTEGER NOT NULL,
        to_ms INTEGER NOT NULL,
        covered_ms INTEGER NOT NULL,
        PRIMARY KEY (camera, period)
    ) WITHOUT ROWID;
    INSERT INTO recorded
        SELECT camera, window_to_ms / 600000, count(*), min(window_from_ms), max(window_to_ms),
            min(max(window_to_ms) - min(window_from_ms), sum(window_to_ms - window_from_ms))
        FROM events WHERE kind = 1 AND window_to_ms IS NOT NULL GROUP BY 1, 2;
    CREATE TRIGGER recorded_insert AFTER INSERT ON events
    WHEN new.kind = 1 AND new.window_to_ms IS NOT NULL BEGIN
        INSERT OR IGNORE INTO recorded VALUES (
            new.camera, new.window_to_ms / 600000, 0, new.window_from_ms, new.window_from_ms, 0
        );
        UPDATE recorded SET
            captions = captions + 1,
            covered_ms = covered_ms + max(0, new.window_to_ms - max(new.window_from_ms, to_ms)),
            from_ms = min(from_ms, new.window_from_ms),
            to_ms = max(to_ms, new.window_to_ms)
            WHERE camera = new.camera AND period = new.window_to_ms / 600000;
    END;
    CREATE TRIGGER recorded_delete AFTER DELETE ON events
    WHEN old.kind = 1 AND old.window_to_ms IS NOT NULL BEGIN
        UPDATE recorded SET
            covered_ms = covered_ms * (captions - 1) / captions,
            captions = captions - 1
            WHERE camera = old.camera AND period = old.window_to_ms / 600000;
        DELETE FROM recorded
            WHERE camera = old.camera AND period = old.window_to_ms / 600000 AND captions <= 0;
    END;
    ",
    "
    CREATE TABLE readers (
        name TEXT PRIMARY KEY,
        run INTEGER NOT NULL,
        sequence INTEGER NOT NULL
    ) WITHOUT ROWID;
    ",
    "
    CREATE INDEX events_kind ON events (kind);
    CREATE TABLE clock (set_back_ms INTEGER NOT NULL);
    INSERT INTO clock SELECT coalesce(max(latest - published_ms), 0) FROM (
        SELECT published_ms, max(published_ms) OVER (ORDER BY id) AS latest FROM events
    );
    CREATE TRIGGER clock_insert AFTER INSERT ON events
        WHEN new.published_ms < (SELECT max(published_ms) FROM events) BEGIN
        UPDATE clock SET set_back_ms =
            max(set_back_ms, (SELECT max(published_ms) FROM events) - new.published_ms);
    END;
    ",
    "
    CREATE TABLE kept_events (event INTEGER PRIMARY KEY);
    CREATE TRIGGER events_delete_kept AFTER DELETE ON events BEGIN
        DELETE FROM kept_events WHERE event = old.id;
    END;
    CREATE INDEX events_window ON events (window_to_ms, window_from_ms);
    ",
    "
    CREATE TABLE clips (id INTEGER PRIMARY KEY, alert_id TEXT NOT NULL, event INTEGER);
    CREATE INDEX clips_alert ON clips (alert_id);
    CREATE INDEX clips_event ON clips (event);
    CREATE TABLE clip_chunks (
        id INTEGER PRIMARY KEY,
        clip INTEGER NOT NULL,
        number INTEGER NOT NULL,
        data BLOB NOT NULL
    );
    CREATE UNIQUE INDEX clip_chunks_number ON clip_chunks (clip, number);
    CREATE TRIGGER events_delete_clip AFTER DELETE ON events BEGIN
        DELETE FROM clips WHERE event = old.id;
    END;
    CREATE TRIGGER clips_delete_chunks AFTER DELETE ON clips BEGIN
        DELETE FROM clip_chunks WHERE clip = old.id;
    END;
    ",
    // The kind and the camera let captions be counted over time from the index alone.
    "
    DROP INDEX events_window;
    CREATE INDEX events_window ON events (window_to_ms, window_from_ms, kind, camera);
    ",
];

/// Brings a database to the newest version.
pub fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > VERSION {
        return Err(StoreError::Failed(format!(
            "the journal has version {version} of a newer lookout; this one reads version \
             {VERSION}: update lookout, or configure another journal.folder"
        )));
    }
    let done = usize::try_from(version).unwrap_or(0);
    for (step, to) in MIGRATIONS.iter().zip(1..).skip(done) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", to)?;
        transaction.commit()?;
    }
    Ok(())
}
