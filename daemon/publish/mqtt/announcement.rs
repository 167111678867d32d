//! Publishes what does not come from a new event: which cameras there are, their present state, and
//! the frames of their last captions. Deletes what is retained for cameras that no longer exist.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::connection::Connection;
use super::pictures::Picture;
use super::topics::ONLINE;
use crate::event::Event;

/// Maximum number of cameras of earlier runs whose messages are deleted at a time.
const EARLIER_CAMERAS: usize = 256;

impl Connection<'_> {
    /// Publishes all retained messages again with their current contents. The broker may hold those
    /// of an earlier run, or may have restarted and hold none. Unacknowledged events follow from
    /// the journal; they show what happened, but not how a camera is.
    pub fn greet(&mut self) {
        self.cameras_available();
        let events = self.publish_last_events();
        self.post(self.publisher.topics.daemon_available(ONLINE));
        if self.publisher.discovery.is_some() {
            for event in events {
                self.pictures.look_up(&self.publisher.service, &event);
            }
        }
    }

    /// Publishes the last caption and the status of each camera again. Returns their events.
    pub fn publish_last_events(&mut self) -> Vec<Arc<Event>> {
        let events = self.publisher.service.journal().newest();
        for event in &events {
            // Everything is shown again, also what this connection has shown before.
            let shown = (event.camera.clone(), event.body.kind());
            self.shown.remove(&shown);
            let messages = self.messages(event);
            messages.into_iter().filter(|message| message.retain).for_each(|m| self.post(m));
            self.shown.insert(shown, event.id);
        }
        events
    }

    pub fn cameras_available(&mut self) {
        for camera in self.publisher.service.cameras() {
            self.post(self.publisher.topics.camera_available(&camera.name, camera.status.state));
        }
    }

    /// Describes the daemon and its cameras to Home Assistant, and deletes what the broker retains
    /// for cameras that were announced before and no longer exist.
    pub fn announce(&mut self) {
        let cameras = self.camera_names();
        let publisher = &mut *self.publisher;
        let mut messages = Vec::new();
        publisher.removed.extend(publisher.announced.difference(&cameras).cloned());
        publisher.removed.retain(|camera| !cameras.contains(camera));
        while publisher.removed.len() > EARLIER_CAMERAS {
            publisher.removed.pop_first();
        }
        // They are removed again each time: Home Assistant may have been away.
        for camera in &publisher.removed {
            messages.extend(publisher.discovery.as_ref().map(|d| d.removal(camera)));
            messages.extend(publisher.topics.removals(camera));
        }
        if let Some(discovery) = &publisher.discovery {
            messages.push(discovery.daemon_device(&publisher.topics));
            let device = |camera: &Arc<str>| discovery.camera_device(&publisher.topics, camera);
            messages.extend(cameras.iter().map(device));
        }
        publisher.announced = cameras;
        messages.into_iter().for_each(|message| self.post(message));
    }

    /// Returns true if cameras were added or removed since the last announcement.
    pub fn cameras_changed(&self) -> bool {
        self.camera_names() != self.publisher.announced
    }

    /// Takes note of a camera whose device an earlier run described. Returns true if it is to be
    /// removed.
    pub fn found_device(&mut self, camera: &str) -> bool {
        let announced = &mut self.publisher.announced;
        announced.len() < EARLIER_CAMERAS && announced.insert(camera.into())
    }

    pub fn publish_picture(&mut self, picture: &Picture) {
        let message =
            self.publisher.topics.last_frame(&picture.camera, &picture.jpeg, picture.event);
        if self.camera_names().contains(&picture.camera)
            && self.will_be_taken(&message, None)
            && !self.outbox.note(message)
        {
            tracing::debug!(camera = &*picture.camera, "MQTT: too many messages for a frame");
        }
    }

    fn camera_names(&self) -> BTreeSet<Arc<str>> {
        self.publisher.service.cameras().into_iter().map(|camera| camera.name).collect()
    }
}
