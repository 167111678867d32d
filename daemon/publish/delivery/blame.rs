//! Decides whether a target fails because of one event.
//!
//! A target that answers an event with a status 5xx may be broken, or unable to take this event.
//! After [`ANSWERS`] such answers the next event is sent. If the target accepts that one, the first
//! is tried once more, and if it fails again, it is dropped. Otherwise the target is broken, and all
//! events wait.

use std::sync::Arc;
use std::time::Duration;

use super::{Delivery, Picture};
use crate::event::{Alert, Body, Event, EventId};
use crate::journal::Read;

/// Number of answers 5xx in a row after which the next event is sent.
const ANSWERS: u32 = 20;

/// Longest time in which the next event is looked for.
const LOOKUP: Duration = Duration::from_secs(10);

/// The answers of a target to one event.
#[derive(Default)]
pub struct Blame {
    /// Number of answers 5xx in a row.
    answers: u32,
    next_was_accepted: bool,
}

impl Blame {
    /// Counts a failure. Returns true if the next event is to be sent.
    pub fn failed(&mut self, is_server_error: bool) -> bool {
        self.answers = if is_server_error { self.answers + 1 } else { 0 };
        self.answers > 0 && self.answers.is_multiple_of(ANSWERS)
    }

    /// Records that the target has accepted the next event.
    pub fn next_was_accepted(&mut self) {
        self.next_was_accepted = true;
    }

    /// Returns true if the event is to blame for a failure, which is the first one since the target
    /// accepted the next event.
    pub fn is_to_blame(&mut self, is_server_error: bool) -> bool {
        std::mem::take(&mut self.next_was_accepted) && is_server_error
    }
}

impl Delivery {
    /// Sends the next event that the target wants, before its turn. Returns true if the target
    /// accepts it.
    pub(super) async fn accepts_event_after(&self, id: EventId) -> bool {
        let next = tokio::time::timeout(LOOKUP, self.next_wanted(id)).await;
        let Some((event, alert)) =
            next.as_ref().ok().and_then(|event| Some((event, alert_of(event)?)))
        else {
            return false;
        };
        let picture = if self.target.wants_picture() {
            Picture::of(&*self.service, event, alert).await
        } else {
            None
        };
        self.target.attempt((event, alert), picture.as_ref()).await.is_ok()
    }

    /// Waits for the next event that the target wants.
    async fn next_wanted(&self, id: EventId) -> Arc<Event> {
        let mut cursor = self.service.journal().read_from(Some(id.run), id.sequence + 1);
        loop {
            if let Read::Event(event) = cursor.next().await
                && alert_of(&event).is_some_and(|alert| self.wants(alert))
            {
                return event;
            }
        }
    }
}

fn alert_of(event: &Event) -> Option<&Alert> {
    match &event.body {
        Body::Alert(alert) => Some(alert),
        _ => None,
    }
}
