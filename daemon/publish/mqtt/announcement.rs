//! Publishes what does not come from a new event: which cameras and rules there are, their present
//! state, and the frames of the last captions. Deletes what is retained for cameras and rules that
//! no longer exist.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::CameraRule;
use super::connection::Connection;
use super::discovery::AnnouncedRules;
use super::message::Message;
use super::pictures::Picture;
use super::topics::ONLINE;
use crate::event::{Body, Event};
use crate::service::RuleInfo;

/// Maximum number of cameras of earlier runs whose messages are deleted at a time.
const EARLIER_CAMERAS: usize = 256;

/// The same for rules.
const EARLIER_RULES: usize = 1024;

impl Connection<'_> {
    /// Publishes all retained messages again with their current contents. The broker may hold those
    /// of an earlier run, or may have restarted and hold none. Unacknowledged events follow from
    /// the journal; they show what happened, but not how a camera is.
    pub fn greet(&mut self) {
        self.cameras_available();
        self.publish_rule_states();
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

    /// Publishes the state and the newest alert of each rule and camera.
    pub fn publish_rule_states(&mut self) {
        for rule in self.publisher.service.rules() {
            self.state_of(&rule).into_iter().for_each(|message| self.post(message));
        }
    }

    /// Returns the present state of the rule that an alert is of. The event may describe the past.
    pub fn rule_state(&self, event: &Event) -> Option<[Message; 2]> {
        let Body::Alert(alert) = &event.body else { return None };
        let rules = self.publisher.service.rules();
        let rule = rules.iter().find(|r| r.camera == event.camera && r.name == alert.rule)?;
        Some(self.state_of(rule))
    }

    fn state_of(&self, rule: &RuleInfo) -> [Message; 2] {
        let alert = self.publisher.service.newest_alert(&rule.camera, &rule.name);
        self.publisher.topics.rule_state(rule, alert.as_ref())
    }

    /// Describes the daemon and its cameras to Home Assistant, and deletes what the broker retains
    /// for cameras and rules that were announced before and no longer exist.
    pub fn announce(&mut self) {
        let cameras = self.camera_names();
        let rules = self.camera_rules();
        let publisher = &mut *self.publisher;
        let mut messages = Vec::new();
        publisher.removed_rules.extend(publisher.announced_rules.difference(&rules).cloned());
        publisher.removed_rules.retain(|rule| !rules.contains(rule));
        while publisher.removed_rules.len() > EARLIER_RULES {
            publisher.removed_rules.pop_first();
        }
        publisher.removed.extend(publisher.announced.difference(&cameras).cloned());
        publisher.removed.retain(|camera| !cameras.contains(camera));
        while publisher.removed.len() > EARLIER_CAMERAS {
            publisher.removed.pop_first();
        }
        // Home Assistant warns about a removal that it receives twice.
        self.said_removed.retain(|camera| publisher.removed.contains(camera));
        for camera in &publisher.removed {
            if !self.said_removed.insert(camera.clone()) {
                continue;
            }
            messages.extend(publisher.discovery.as_ref().map(|d| d.removal(camera)));
            messages.extend(publisher.topics.removals(camera));
        }
        if let Some(discovery) = &publisher.discovery {
            messages.push(discovery.daemon_device(&publisher.topics));
            let removed_rules = &publisher.removed_rules;
            let of = |rules: &BTreeSet<CameraRule>, camera: &Arc<str>| -> Vec<Arc<str>> {
                let rules = rules.iter().filter(|(of, _)| of == camera);
                rules.map(|(_, rule)| rule.clone()).collect()
            };
            let device = |camera: &Arc<str>| {
                let rules = AnnouncedRules {
                    present: of(&rules, camera),
                    removed: of(removed_rules, camera),
                };
                discovery.camera_device(&publisher.topics, camera, &rules)
            };
            messages.extend(cameras.iter().map(device));
        }
        // Home Assistant removes an entity before its topic is empty, which would be no valid state.
        for (camera, rule) in &publisher.removed_rules {
            messages.extend(publisher.topics.rule_removals(camera, rule));
        }
        publisher.announced = cameras;
        publisher.announced_rules = rules;
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

    /// Takes note of a rule whose state an earlier run published, so that it is removed if it is
    /// gone. Returns true if the topic is that of a rule.
    pub fn found_rule(&mut self, topic: &str, payload: &[u8], retain: bool) -> bool {
        let publisher = &mut *self.publisher;
        let Some((camera, rule)) = publisher.topics.camera_and_rule(topic) else { return false };
        // What is not retained are the messages of this connection.
        if retain && !payload.is_empty() && publisher.announced_rules.len() < EARLIER_RULES {
            let is_new = publisher.announced_rules.insert((camera.into(), rule.into()));
            self.must_announce |= is_new;
        }
        true
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

    fn camera_rules(&self) -> BTreeSet<CameraRule> {
        let rules = self.publisher.service.rules().into_iter();
        rules.map(|rule| (rule.camera, rule.name)).collect()
    }
}
