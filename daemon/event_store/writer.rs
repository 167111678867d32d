//! The thread that writes events and the positions of readers to the database, in batches, and
//! deletes old events.
//!
//! Events wait in the memory journal, which holds them back from readers until they are stored. If
//! storing fails, events are published at once from memory, and writing is tried again every
//! [`RETRY`]: what the memory journal still holds is then stored late.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::database::{Appended, Database};
use super::file::Change;
use super::meaning;
use super::open::{self, Opened};
use super::positions;
use super::values::StoreError;
use super::{Settings, Shared};
use crate::event::EventId;
use crate::frame::difference;
use crate::journal::{Batch, Journal};
use crate::metrics::{self, JpegLoss};
use crate::sync::lock;

/// Maximum number of events in one transaction.
const BATCH: usize = 512;

const RETRY: Duration = Duration::from_secs(5);

/// Time between two steps of the retention, and within which a file that somebody removed is
/// noticed.
const UPKEEP: Duration = Duration::from_secs(1);

/// Time for which the host's clock must have kept step before it deletes events for their age.
const CLOCK_PROVEN: Duration = Duration::from_secs(15 * 60);

/// Difference between the host's clock and elapsed time above which the clock was set.
const CLOCK_SET: Duration = Duration::from_secs(2);

pub struct Writer {
    shared: Arc<Shared>,
    opened: Option<Opened>,
    /// Sequence up to which every event is stored or given up.
    written: u64,
    next_try: Instant,
    next_upkeep: Instant,
    /// The reason why the database is corrupt, until it is set aside.
    corrupt: Option<String>,
    /// Says that the database was removed, which lost the events that memory did not hold.
    removed: Option<String>,
    /// Times of both clocks since which they have kept step.
    in_step_since: (Instant, SystemTime),
}

impl Writer {
    pub fn new(shared: Arc<Shared>, opened: Result<Opened, StoreError>) -> Writer {
        let now = Instant::now();
        let mut writer = Writer {
            shared,
            opened: None,
            written: 0,
            next_try: now + RETRY,
            next_upkeep: now,
            corrupt: None,
            removed: None,
            in_step_since: (now, SystemTime::now()),
        };
        match opened.and_then(|opened| writer.prepared(opened)) {
            Ok(opened) => {
                writer.shared.memory.hold_back(true);
                writer.take_over(opened);
                writer.report();
            }
            Err(error) => writer.fail(&error),
        }
        writer
    }

    /// Prepares a database for the search by meaning.
    fn prepared(&self, mut opened: Opened) -> Result<Opened, StoreError> {
        if let Some(meaning) = &self.shared.meaning {
            opened.database.write(|connection| meaning.prepare(connection))?;
            let watching = meaning.clone();
            opened.database.watch("vectors", move |change| watching.changed(change))?;
            meaning.reload();
        }
        Ok(opened)
    }

    /// Writes until the journal is dropped and nothing waits.
    pub fn run(mut self) {
        loop {
            let stop = self.shared.wait(UPKEEP);
            self.open_if_due();
            self.write_waiting();
            self.write_positions();
            self.write_vectors();
            self.change();
            if Instant::now() >= self.next_upkeep {
                self.next_upkeep = Instant::now() + UPKEEP;
                self.keep_up();
            }
            if stop {
                return;
            }
        }
    }

    fn open_if_due(&mut self) {
        if self.shared.take_corrupt()
            && let Some(opened) = self.opened.take()
        {
            self.shared.readers.forget();
            drop(opened);
            self.set_aside("a reader found a damaged page");
        }
        if self.opened.is_some() || Instant::now() < self.next_try {
            return;
        }
        self.next_try = Instant::now() + RETRY;
        // What memory holds is stored again, in order, behind what a corrupt file still has.
        let memory = &self.shared.memory;
        let from_memory = EventId { run: memory.run(), sequence: memory.oldest() };
        let (folder, corrupt) = (&self.shared.settings.folder, self.corrupt.as_deref());
        let opened = self.shared.readers.replace(|| open::open(folder, corrupt, from_memory));
        let writable = opened.and_then(|mut opened| {
            opened.database.try_write()?;
            self.prepared(opened)
        });
        match writable {
            Ok(mut opened) => {
                if opened.earlier.newest.is_some_and(|newest| newest > self.shared.memory.run()) {
                    let why = "the journal has events of a later run; restart lookout".to_owned();
                    return self.fail(&StoreError::Failed(why));
                }
                opened.notice = opened.notice.or(self.removed.clone());
                self.corrupt = None;
                // What memory still holds is stored late, or again in a new file.
                self.written = self.written.min(self.shared.memory.oldest() - 1);
                self.shared.stored.store(self.written, Ordering::Relaxed);
                self.take_over(opened);
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Uses a database, and takes over what it holds of earlier runs.
    fn take_over(&mut self, mut opened: Opened) {
        self.shared.know_earlier_runs(std::mem::take(&mut opened.earlier));
        self.opened = Some(opened);
    }

    fn write_positions(&mut self) {
        let Some(opened) = &mut self.opened else { return };
        let changed = lock(&self.shared.positions).take_changed();
        if changed.is_empty() {
            return;
        }
        if let Err(error) =
            opened.database.write(|connection| positions::store(connection, &changed))
        {
            lock(&self.shared.positions).forget_stored();
            self.fail(&error);
        }
    }

    fn write_waiting(&mut self) {
        while let Some(opened) = &mut self.opened {
            let Batch { events, dropped, up_to } = self.shared.memory.after(self.written, BATCH);
            if dropped > 0 {
                metrics::journal_events_not_stored(dropped);
                self.written += dropped;
                let jpegs = lock(&self.shared.jpegs).remove(self.written) as u64;
                metrics::journal_jpegs_not_stored(JpegLoss::Event, jpegs);
            }
            if up_to == self.written {
                break;
            }
            let with_jpegs = events.iter().map(|event| {
                let jpegs = lock(&self.shared.jpegs).of(event.id.sequence);
                (&**event, jpegs)
            });
            match opened.database.append(with_jpegs) {
                Ok(appended) => self.stored(appended, up_to),
                Err(error) => {
                    self.opened = None;
                    self.fail(&error);
                    let StoreError::Corrupt(why) = error else { break };
                    self.set_aside(&why);
                    self.open_if_due();
                }
            }
        }
        let newest = self.shared.memory.newest_sequence();
        if self.opened.is_none() {
            self.shared.memory.release(newest);
            self.shared.set_written(newest);
        }
    }

    /// Makes a step of the oldest change that was requested.
    fn change(&mut self) {
        let Some(change) = self.shared.state.lock().changes.pop_front() else { return };
        let Some(opened) = &mut self.opened else {
            let why = lock(&self.shared.problem).clone();
            return change.refuse(&why);
        };
        match change.step(&self.shared, &mut opened.database, self.written) {
            Ok(next) => {
                let mut state = self.shared.state.lock();
                next.into_iter().for_each(|change| state.changes.push_front(change));
                state.has_work |= !state.changes.is_empty();
            }
            Err(error) => self.fail(&error),
        }
    }

    fn stored(&mut self, appended: Appended, last: u64) {
        metrics::journal_events_stored(appended.events);
        metrics::journal_jpegs_stored(appended.frames);
        self.written = last;
        self.shared.stored.store(last, Ordering::Relaxed);
        lock(&self.shared.jpegs).remove(last);
        self.shared.memory.hold_back_after(last);
        self.shared.set_written(last);
        // Events that were there already do not show that the database can be written.
        if appended.events > 0 || last == self.shared.memory.newest_sequence() {
            self.report();
        }
        if let Some(meaning) = &self.shared.meaning {
            meaning.events_stored();
        }
    }

    /// Stores the vectors of events.
    fn write_vectors(&mut self) {
        let (Some(opened), Some(meaning)) = (&mut self.opened, &self.shared.meaning) else {
            return;
        };
        let vectors = meaning.take_vectors();
        if vectors.is_empty() {
            return;
        }
        let stored = opened.database.write(|connection| meaning::store(connection, &vectors));
        meaning.vectors_stored();
        if let Err(error) = stored {
            self.fail(&error);
        }
    }

    /// Reports the state: what was set aside, or no problem.
    fn report(&self) {
        let notice = self.opened.as_ref().and_then(|opened| opened.notice.clone());
        if self.shared.set_problem(notice.unwrap_or_default()) {
            tracing::info!("journal: events are stored on disk");
        }
        metrics::journal_failing(false);
    }

    fn fail(&mut self, error: &StoreError) {
        self.opened = None;
        if let StoreError::Corrupt(why) = error {
            self.corrupt = Some(why.clone());
        }
        self.shared.memory.hold_back(false);
        metrics::journal_failing(true);
        let folder = self.shared.settings.folder.display();
        let why = format!("{folder}: events are not stored: {error}");
        if self.shared.set_problem(why.clone()) {
            tracing::error!("journal: {why}; retrying every {RETRY:?}, events stay in memory");
        }
    }

    fn keep_up(&mut self) {
        let is_proven = self.clock_is_proven();
        let Some(opened) = &mut self.opened else { return };
        match opened.file.change() {
            Ok(None) => {
                if let Err(error) = retain(&opened.database, &self.shared.settings, is_proven) {
                    self.fail(&error);
                }
            }
            Ok(Some(Change::Removed)) => self.removed(),
            Ok(Some(Change::WalRemoved)) => self.reopen("the database's log was removed"),
            Ok(Some(Change::CutShort { bytes, expected })) => {
                self.set_aside(&format!("the file has {bytes} bytes instead of {expected}"));
            }
            Err(error) => self.fail(&StoreError::Failed(error.to_string())),
        }
    }

    /// Begins a new database, or uses the one that took the place of ours.
    fn removed(&mut self) {
        self.removed = Some("the database was removed while it was in use".into());
        self.shared.readers.forget();
        if let Some(Opened { database, file, .. }) = self.opened.take() {
            drop(database);
            if let Err(error) = file.remove_log() {
                tracing::warn!("journal: the log of the removed database: {error}");
            }
        }
        self.reopen("the database was removed");
    }

    /// Opens the database again, at once.
    fn reopen(&mut self, why: &str) {
        // The last connection that is closed moves the log into the database.
        self.shared.readers.forget();
        self.fail(&StoreError::Failed(why.into()));
        self.next_try = Instant::now();
    }

    /// Sets the database aside, at once.
    fn set_aside(&mut self, why: &str) {
        self.fail(&StoreError::Corrupt(why.into()));
        self.next_try = Instant::now();
    }

    /// Returns true if the host's clock has kept step long enough to delete by it.
    fn clock_is_proven(&mut self) -> bool {
        let (since, then) = self.in_step_since;
        let now = SystemTime::now();
        let difference = difference(then + since.elapsed(), now).unsigned_abs();
        if difference > CLOCK_SET.as_nanos() {
            self.in_step_since = (Instant::now(), now);
        }
        difference <= CLOCK_SET.as_nanos() && since.elapsed() >= CLOCK_PROVEN
    }
}

/// Deletes what is too old or too much, one step at a time.
fn retain(
    database: &Database,
    settings: &Settings,
    clock_is_proven: bool,
) -> Result<(), StoreError> {
    let limit = SystemTime::now().checked_sub(settings.retention);
    if let Some(limit) = limit.filter(|_| clock_is_proven) {
        database.delete_before(limit)?;
    }
    database.delete_over(settings.bytes)?;
    metrics::journal_bytes(database.bytes()?);
    let (frames, bytes) = database.jpeg_totals()?;
    metrics::journal_jpegs(frames, bytes);
    Ok(())
}
