//! Reads the clip of an alert for an interface, in chunks.

use std::sync::Arc;

use bytes::Bytes;

use crate::event::{AlertClip, Body, ClipState, Event};
use crate::journal::QueryError;
use crate::service::{ClipError, Service};

/// A clip that exists, and a reader of its file.
pub struct Clip {
    service: Arc<dyn Service>,
    pub alert_id: Arc<str>,
    pub description: AlertClip,
    /// The first chunk, until it is read.
    first: Option<Bytes>,
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
        Ok(Ok(Clip { service, alert_id, description, first }))
    }

    /// Returns the chunk of the file with this number, `None` after the last one.
    pub async fn chunk(&mut self, number: u32) -> Result<Option<Bytes>, QueryError> {
        match self.first.take().filter(|_| number == 0) {
            Some(first) => Ok(Some(first)),
            None => self.service.journal().clip_chunk(self.alert_id.to_string(), number).await,
        }
    }
}
