//! The journal as one token may read it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::json;

use super::Access;
use super::audit::CallerAudit;
use crate::event::{Body, Event, EventId};
use crate::frame::FrameId;
use crate::journal::{
    Cursor, Deleted, Deletion, Density, DensityQuery, EventFilter, EventJpeg, EventPage, Journal,
    Pending, Query, QueryError, Read, SearchPage, SearchQuery,
};

pub struct FilteredJournal {
    inner: Arc<dyn Journal>,
    access: Arc<Access>,
    audit: CallerAudit,
}

impl FilteredJournal {
    pub fn shared(
        inner: Arc<dyn Journal>,
        access: Arc<Access>,
        audit: CallerAudit,
    ) -> Arc<dyn Journal> {
        Arc::new(FilteredJournal { inner, access, audit })
    }

    fn cursor(&self, inner: Box<dyn Cursor>) -> Box<dyn Cursor> {
        Box::new(FilteredCursor { inner, access: self.access.clone() })
    }

    /// Limits a filter to the visible cameras. Returns `None` if it then matches nothing.
    fn limit(&self, filter: EventFilter) -> Option<EventFilter> {
        let cameras = self.access.limit(filter.cameras)?;
        Some(EventFilter { cameras, ..filter })
    }
}

fn empty<T: Default + Send + 'static>() -> Pending<'static, T> {
    Box::pin(std::future::ready(Ok(T::default())))
}

impl Journal for FilteredJournal {
    fn run(&self) -> u64 {
        self.inner.run()
    }

    fn append_with_jpegs(&self, camera: Arc<str>, body: Body, jpegs: Vec<EventJpeg>) -> Arc<Event> {
        self.inner.append_with_jpegs(camera, body, jpegs)
    }

    fn jpeg(&self, camera: String, frame: FrameId) -> Pending<'_, Option<Vec<u8>>> {
        if !self.access.sees(&camera) {
            return empty();
        }
        let FrameId { run, number } = frame;
        self.audit.record("frame", json!({ "camera": camera, "run": run, "frame": number }));
        self.inner.jpeg(camera, frame)
    }

    fn store_clip(&self, alert_id: Arc<str>, clip: Bytes) -> Pending<'_, ()> {
        self.inner.store_clip(alert_id, clip)
    }

    // A reader has the ID from an event of the alert, and sees only those of visible cameras.
    fn clip_chunk(&self, alert_id: String, number: u32) -> Pending<'_, Option<Bytes>> {
        if number == 0 {
            self.audit.record("clip", json!({ "alert": alert_id }));
        }
        self.inner.clip_chunk(alert_id, number)
    }

    fn get(&self, run: Option<u64>, sequence: u64) -> Option<Arc<Event>> {
        self.inner.get(run, sequence).filter(|event| self.access.sees(&event.camera))
    }

    fn read_from(&self, run: Option<u64>, sequence: u64) -> Box<dyn Cursor> {
        self.cursor(self.inner.read_from(run, sequence))
    }

    fn read_new(&self) -> Box<dyn Cursor> {
        self.cursor(self.inner.read_new())
    }

    fn newest(&self) -> Vec<Arc<Event>> {
        let mut newest = self.inner.newest();
        newest.retain(|event| self.access.sees(&event.camera));
        newest
    }

    fn read_since(&self, time: SystemTime) -> Box<dyn Cursor> {
        self.cursor(self.inner.read_since(time))
    }

    fn list(&self, query: Query) -> Pending<'_, EventPage> {
        match self.limit(query.filter) {
            Some(filter) => self.inner.list(Query { filter, ..query }),
            None => empty(),
        }
    }

    fn density(&self, query: DensityQuery) -> Pending<'_, Density> {
        match self.access.limit(query.cameras) {
            Some(cameras) => self.inner.density(DensityQuery { cameras, ..query }),
            None => empty(),
        }
    }

    fn search(&self, query: SearchQuery) -> Pending<'_, SearchPage> {
        match self.limit(query.filter) {
            Some(filter) => self.inner.search(SearchQuery { filter, ..query }),
            None => empty(),
        }
    }

    fn visible(&self, sequence: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.inner.visible(sequence)
    }

    fn keep(&self, id: EventId, kept: bool) -> Pending<'_, Arc<Event>> {
        Box::pin(async move {
            let (inner, EventId { run, sequence }) = (self.inner.clone(), id);
            let found = tokio::task::spawn_blocking(move || inner.get(Some(run), sequence)).await;
            let visible = found.ok().flatten().filter(|event| self.access.sees(&event.camera));
            if visible.is_none() {
                return Err(QueryError::NoEvent(id));
            }
            self.audit.record("keep", json!({ "event": id.to_string(), "kept": kept }));
            self.inner.keep(id, kept).await
        })
    }

    fn delete(&self, deletion: Deletion) -> Pending<'_, Deleted> {
        match self.access.limit(deletion.cameras) {
            Some(cameras) => self.inner.delete(Deletion { cameras, ..deletion }),
            None => empty(),
        }
    }

    fn trouble(&self) -> Option<String> {
        self.inner.trouble()
    }
}

/// A cursor that skips the events of other cameras.
struct FilteredCursor {
    inner: Box<dyn Cursor>,
    access: Arc<Access>,
}

impl FilteredCursor {
    fn keep(&self, read: Read) -> Option<Read> {
        match read {
            Read::Event(event) if !self.access.sees(&event.camera) => None,
            // How many of the missing events were visible is not known.
            Read::Missed(_) if self.access.cameras.is_some() => Some(Read::Missed(None)),
            read => Some(read),
        }
    }
}

impl Cursor for FilteredCursor {
    fn position(&self) -> EventId {
        self.inner.position()
    }

    fn is_at_end(&self) -> bool {
        self.inner.is_at_end()
    }

    fn next(&mut self) -> Pin<Box<dyn Future<Output = Read> + Send + '_>> {
        Box::pin(async move {
            loop {
                let read = self.inner.next().await;
                if let Some(read) = self.keep(read) {
                    return read;
                }
            }
        })
    }

    fn try_next(&mut self) -> Option<Read> {
        loop {
            let read = self.inner.try_next()?;
            if let Some(read) = self.keep(read) {
                return Some(read);
            }
        }
    }
}
