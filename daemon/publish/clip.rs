//! Reads the clip of an alert for an interface, in parts.

use std::sync::Arc;

use bytes::Bytes;

use crate::event::{AlertClip, Body, ClipState, Event};
use crate::journal::QueryError;
use crate::service::{ClipError, Service};

/// A clip that exists, and a reader of its file.
pub struct Clip {
    service: Arc<dyn Service>,
    alert_id: Arc<str>,
    pub description: AlertClip,
    first: Option<Bytes>,
    next: u32,
}

impl Clip {
    /// Opens the clip of the alert that an event is of.
    pub async fn open(
        service: Arc<dyn Service>,
        event: &Event,
    ) -> Result<Result<Clip, ClipError>, QueryError> {
        let Body::Alert(alert) = &event.body else { return Ok(Err(ClipError::NoAlert)) };
        // The event may be older than the clip.
        let present = service.alert_clip(&alert.alert_id).or_else(|| alert.clip.clone());
        let Some(description) = present else { return Ok(Err(ClipError::NotMade)) };
        match description.state {
            ClipState::Ready => {}
            ClipState::Pending => return Ok(Err(ClipError::Pending)),
            ClipState::Missing => return Ok(Err(ClipError::Missing(description.reason))),
        }
        let alert_id = alert.alert_id.clone();
        let first = service.journal().clip_chunk(alert_id.to_string(), 0).await?;
        if first.is_none() {
            return Ok(Err(ClipError::Deleted));
        }
        Ok(Ok(Clip { service, alert_id, description, first, next: 1 }))
    }

    /// Returns the next part of the file, `None` at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, QueryError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let journal = self.service.journal();
        let chunk = journal.clip_chunk(self.alert_id.to_string(), self.next).await?;
        self.next += 1;
        Ok(chunk)
    }
}
