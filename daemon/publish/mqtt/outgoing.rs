//! Turns the journal's events into messages, and decides which of them the broker gets.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::blame::Origin;
use super::connection::Connection;
use super::message::Message;
use crate::event::{Body, CameraState, Event, EventId, EventKind};
use crate::journal::{Cursor, Read};
use crate::metrics;

/// Minimum time for which the broker may deliver a message.
const SOON: Duration = Duration::from_secs(1);

impl Connection<'_> {
    /// Returns the messages of an event, or none if making them panicked before. Nothing is retained
    /// for a camera that was removed, nor for an event that is not the newest.
    pub fn messages(&mut self, event: &Event) -> Vec<Message> {
        let publisher = &mut *self.publisher;
        if publisher.unsayable.contains(&event.id) {
            return Vec::new();
        }
        // If this panics, the next run leaves the event out.
        publisher.saying = Some(event.id);
        let mut cameras = publisher.service.cameras().into_iter();
        let state = cameras.find(|c| c.name == event.camera).map(|c| c.status.state);
        let mut messages = publisher.topics.messages(event, state.unwrap_or(CameraState::Lost));
        messages.extend(self.rule_state(event).into_iter().flatten());
        // What is not retained comes last. If the daemon is killed before the broker has it, nobody
        // receives it twice; a retained message may be repeated.
        messages.sort_by_key(|message| !message.retain);
        if state.is_none() || self.is_past(event) {
            messages.retain(|message| !message.retain);
        }
        let age = SystemTime::now().duration_since(event.published_at).unwrap_or_default();
        let left = self.publisher.config.catch_up.saturating_sub(age).max(SOON);
        for message in messages.iter_mut().filter(|message| !message.retain) {
            message.expiry = Some(left);
        }
        self.publisher.saying = None;
        messages
    }

    /// Returns true for an event that does not show how its camera is now: a newer one was shown,
    /// or it is a state of an earlier run.
    fn is_past(&self, event: &Event) -> bool {
        let kind = event.body.kind();
        let newest = self.shown.get(&(event.camera.clone(), kind));
        let run = self.publisher.service.journal().run();
        newest.is_some_and(|newest| event.id <= *newest)
            || (kind == EventKind::CameraStatus && event.id.run != run)
    }

    pub fn take(&mut self, read: Read, cursor: &dyn Cursor) {
        match read {
            Read::Event(event) if self.is_too_old(&event) => {
                self.too_old += 1;
                metrics::mqtt_events_missed(1);
                self.outbox.enter(event.id, None, Vec::new());
                self.publisher.advance(self.outbox.done());
            }
            Read::Event(event) => {
                let too_old = std::mem::take(&mut self.too_old);
                if too_old > 0 {
                    tracing::warn!("MQTT: {too_old} events are older than mqtt.catch_up: not sent");
                }
                self.enter(event);
            }
            Read::Missed(events) => {
                match events {
                    Some(events) => tracing::warn!(
                        "MQTT: {events} events left the journal before the broker took them"
                    ),
                    None => tracing::warn!(
                        "MQTT: the journal no longer holds the run that the broker was sent last; \
                         events may be missing"
                    ),
                }
                metrics::mqtt_events_missed(events.unwrap_or(0));
                // The events are counted once, even if the connection breaks again.
                let EventId { run, sequence } = cursor.position();
                let before = EventId { run, sequence: sequence.saturating_sub(1) };
                self.outbox.enter(before.max(self.outbox.done()), None, Vec::new());
                self.publisher.advance(self.outbox.done());
                // A camera's last change, its addition or its removal may be among them.
                self.cameras_available();
                self.must_announce = true;
            }
        }
    }

    /// Returns true for an event that is older than `catch_up`. The host's clock may have been set
    /// since, so an event of this run is not older than the publisher.
    fn is_too_old(&self, event: &Event) -> bool {
        let publisher = &self.publisher;
        let age = SystemTime::now().duration_since(event.published_at).unwrap_or_default();
        let is_of_this_run = event.id.run == publisher.service.journal().run();
        let limit = publisher.config.catch_up;
        age > limit && !(is_of_this_run && publisher.since.elapsed() <= limit)
    }

    fn enter(&mut self, event: Arc<Event>) {
        let id = event.id;
        let mut messages = self.messages(&event);
        let is_shown = messages.iter().any(|message| message.retain);
        if is_shown && self.publisher.discovery.is_some() {
            self.pictures.look_up(&self.publisher.service, &event);
        }
        let shows_camera = matches!(event.body, Body::CameraStatus(_));
        messages.retain(|message| self.will_be_taken(message, Some(id)));
        self.outbox.enter(id, Some(event), messages);
        self.publisher.advance(self.outbox.done());
        self.must_announce |= shows_camera && self.cameras_changed();
    }

    pub fn post(&mut self, message: Message) {
        if self.will_be_taken(&message, None) {
            self.outbox.post(message);
        }
    }

    /// Returns false for a message that the broker is known not to take.
    pub fn will_be_taken(&mut self, message: &Message, event: Option<EventId>) -> bool {
        let (topic, size) = (message.topic.clone(), message.payload.len());
        let origin = Origin { event, topic, size };
        if self.publisher.blame.leaves_out(&origin) {
            return false;
        }
        let size = message.packet_size();
        match self.largest.filter(|largest| size > *largest) {
            Some(largest) => {
                let why = format!("it has {size} bytes, and the broker takes {largest}");
                self.publisher.left_out(&origin, &why);
                false
            }
            None => true,
        }
    }
}
