//! Rules: yes-or-no questions about every window of a camera, whose scores raise alerts.
//!
//! The engine asks which rules are [`due`](Rules::due) when a window closes, and reports their
//! scores, or that there are none. A watcher per rule and camera decides by its state machine.
//! The events go into the journal.
//!
//! Guarantees: an alert has one ID from its first event to its last. After a restart,
//! [`Rules::restore`] continues the alerts that the journal shows as active, and ends those whose
//! rule or camera is gone. No method waits, and all can be called from any thread.
//!
//! Not here: scoring, and the order of the model's work (`engine`).

pub mod calibration;
mod curve;
pub mod machine;
#[cfg(test)]
mod tests;
mod watcher;

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use uuid::Uuid;

use crate::config::{self, Rule};
use crate::event::{
    Acknowledgement, Alert, AlertClip, AlertPhase, AlertUpdate, Body, ClipState, Description,
    EndReason, Event, EventId, EventKind, FrameReference,
};
use crate::frame::Span;
use crate::journal::{EventFilter, EventJpeg, Journal, Query};
use crate::metrics::{self, WindowResult};
use crate::service::{AlertNotFound, AlertQuery, ListedAlert, RuleInfo};
use crate::sync::lock;

pub use watcher::{ScoredWindow, Watcher};
use watcher::{ended, updated};

/// Number of the newest alerts that are kept in memory: they can be acknowledged, and are counted.
const NEWEST: usize = 1_000;

/// Maximum number of events that are read from the journal at the start.
const RESTORED_EVENTS: usize = 10_000;

/// The rules of the config, and their state for each camera.
pub struct Rules {
    journal: Arc<dyn Journal>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The rules, in the order of the config.
    rules: Vec<Arc<Rule>>,
    /// The cameras, in the order in which they were added.
    cameras: Vec<Arc<str>>,
    /// The cameras that are paused. Their rules do not become blind.
    paused: HashSet<Arc<str>>,
    /// One for each rule and camera, in the order of the rules, then of the cameras.
    watchers: Vec<Watcher>,
    /// The newest alerts, active or ended, the newest last.
    newest: VecDeque<NewestAlert>,
}

struct NewestAlert {
    camera: Arc<str>,
    alert: Alert,
    /// The newest event of the alert.
    event: EventId,
    /// The frames of the alert's first event.
    first_frames: Vec<FrameReference>,
}

impl Rules {
    /// Creates the rules with their state for these cameras.
    pub fn new(
        rules: &[Rule],
        cameras: &[config::Camera],
        journal: Arc<dyn Journal>,
    ) -> Arc<Rules> {
        let rules = rules.iter().cloned().map(Arc::new).collect();
        let state = State { rules, ..State::default() };
        let rules = Rules { journal, state: Mutex::new(state) };
        cameras.iter().for_each(|camera| rules.add_camera(&camera.name));
        Arc::new(rules)
    }

    /// Begins to watch a camera, if it is not watched yet.
    pub fn add_camera(&self, camera: &Arc<str>) {
        let mut state = self.state();
        if !state.cameras.contains(camera) {
            state.cameras.push(camera.clone());
            self.watch(&mut state);
        }
    }

    /// Takes other rules. A rule that judges as before keeps its state, and its alert stays active.
    /// A rule that judges differently starts again; its alert stays active as after a restart. The
    /// alerts of rules that are gone end.
    pub fn replace(&self, rules: &[Rule]) {
        let mut state = self.state();
        state.rules = rules.iter().cloned().map(Arc::new).collect();
        self.watch(&mut state);
    }

    /// Makes the watchers of the present rules and cameras, in the order of the rules, then of the
    /// cameras. Those that exist are kept.
    fn watch(&self, state: &mut State) {
        let mut known = std::mem::take(&mut state.watchers);
        for rule in &state.rules {
            for camera in state.cameras.iter().filter(|camera| rule.applies_to(camera)) {
                let is_same = |w: &Watcher| w.camera == *camera && w.rule.name == rule.name;
                let watcher = match known.iter().position(is_same) {
                    Some(at) => {
                        let mut watcher = known.remove(at);
                        watcher.set_rule(rule.clone());
                        watcher
                    }
                    None => Watcher::new(rule.clone(), camera.clone()),
                };
                state.watchers.push(watcher);
            }
        }
        self.remove(state, known);
    }

    /// Ends the alerts of watchers that are gone.
    fn remove(&self, state: &mut State, gone: Vec<Watcher>) {
        for mut watcher in gone {
            let body = watcher.remove();
            metrics::rule(&watcher.camera, &watcher.rule.name, None, false, false);
            self.publish(state, &watcher.camera, body, &[]);
        }
    }

    /// Takes note that a camera is paused, or not any more. Its alerts stay as they are.
    pub fn set_paused(&self, camera: &Arc<str>, is_paused: bool) {
        let mut state = self.state();
        if is_paused {
            state.paused.insert(camera.clone());
        } else if state.paused.remove(camera) {
            state.watchers.iter_mut().filter(|w| w.camera == *camera).for_each(Watcher::look_again);
        }
    }

    /// Stops watching a camera. Its active alerts end.
    pub fn remove_camera(&self, camera: &str) {
        let mut state = self.state();
        state.cameras.retain(|known| **known != *camera);
        state.paused.remove(camera);
        self.watch(&mut state);
    }

    /// Takes the events that the journal holds of earlier runs: active alerts continue, or end if
    /// their rule or camera is gone.
    pub async fn restore(&self) {
        let filter = EventFilter { kinds: vec![EventKind::Alert], ..EventFilter::default() };
        let query = Query { filter, before: None, limit: RESTORED_EVENTS };
        match self.journal.list(query).await {
            Ok(page) => self.resume(page.events.into_iter().rev()),
            Err(error) => tracing::warn!("rules: the alerts of earlier runs are unknown: {error}"),
        }
    }

    fn resume(&self, events: impl Iterator<Item = Arc<Event>>) {
        let mut state = self.state();
        for event in events {
            if let Body::Alert(alert) = &event.body {
                state.remember(&event.camera, alert, event.id);
            }
        }
        let active = state.newest.iter().rev().filter(|newest| newest.alert.is_active());
        let active: Vec<(Arc<str>, Alert)> =
            active.map(|newest| (newest.camera.clone(), newest.alert.clone())).collect();
        for (camera, alert) in active {
            let watcher = state
                .watchers
                .iter_mut()
                .find(|watcher| watcher.camera == camera && watcher.rule.name == alert.rule);
            match watcher.filter(|watcher| watcher.alert().is_none()) {
                Some(watcher) => {
                    let rule = &*alert.rule;
                    tracing::info!(
                        camera = &*camera,
                        rule,
                        id = &*alert.alert_id,
                        "alert continues"
                    );
                    watcher.resume(alert);
                }
                None => {
                    let at = alert.window.to;
                    let body = Body::Alert(ended(alert, at, EndReason::Removed));
                    self.publish(&mut state, &camera, [body], &[]);
                }
            }
        }
        state.watchers.iter().for_each(measure);
    }

    /// Returns the rules whose questions are to be scored on a window of a camera that closes now.
    /// Ends the alerts of rules whose schedule does not include the window's end.
    pub fn due(&self, camera: &str, window: Span) -> Vec<Arc<Rule>> {
        let mut due = Vec::new();
        self.change(camera, &[], |watcher| {
            let (is_due, body) = watcher.is_due(window.to);
            due.extend(is_due.then(|| watcher.rule.clone()));
            body.into_iter().collect()
        });
        due
    }

    /// Takes the scores of rules that were due on a window. Returns the alerts that begin with it,
    /// as their IDs with their rules.
    pub fn window_scored(
        &self,
        camera: &str,
        window: &ScoredWindow,
        scores: &[(Arc<Rule>, f64)],
    ) -> Vec<(Arc<str>, Arc<Rule>)> {
        let mut begun = Vec::new();
        self.change(camera, &window.jpegs, |watcher| {
            // The score of a question that was replaced in the meantime says nothing.
            let is_same = |rule: &Rule| {
                rule.name == watcher.rule.name && rule.question == watcher.rule.question
            };
            let of_watcher = scores.iter().find(|(rule, _)| is_same(rule));
            let Some((rule, score)) = of_watcher else { return Vec::new() };
            let bodies = watcher.scored(window, *score, new_id);
            let is_scored = watcher.score().is_some_and(|(at, _)| at == window.window.to);
            let result = if is_scored { WindowResult::Scored } else { WindowResult::Unknown };
            metrics::rule_window(camera, &rule.name, result);
            let id = bodies.iter().find_map(|body| match body {
                Body::Alert(alert) if alert.phase == AlertPhase::New => Some(&alert.alert_id),
                _ => None,
            });
            begun.extend(id.map(|id| (id.clone(), rule.clone())));
            bodies
        });
        begun
    }

    /// Adds the description to an alert, active or ended, and publishes it. An alert that is no
    /// longer among the newest ones stays without it.
    pub fn described(&self, alert_id: &str, description: &Description) {
        let mut state = self.state();
        let known = state.newest.iter().rev().find(|newest| *newest.alert.alert_id == *alert_id);
        let Some(NewestAlert { camera, alert, .. }) = known else { return };
        let (camera, mut alert) = (camera.clone(), alert.clone());
        let active = state.watchers.iter_mut().find_map(|w| w.describe(alert_id, description));
        alert.description = Some(description.clone());
        let alert = active.unwrap_or_else(|| updated(alert, AlertUpdate::Description));
        self.publish(&mut state, &camera, [Body::Alert(alert)], &[]);
    }

    /// Records that a window has no scores of rules that were due: it was skipped, has no frames,
    /// or the model failed.
    pub fn window_unknown(&self, camera: &str, window: Span, rules: &[Arc<Rule>]) {
        self.change(camera, &[], |watcher| {
            if !rules.iter().any(|rule| rule.name == watcher.rule.name) {
                return Vec::new();
            }
            metrics::rule_window(camera, &watcher.rule.name, WindowResult::Unknown);
            watcher.unknown(window.to)
        });
    }

    /// Notices rules that are blind because their camera has not sent a frame since the start. To
    /// be called about once per second.
    pub fn tick(&self) {
        let (now, time) = (Instant::now(), SystemTime::now());
        let mut state = self.state();
        for at in 0..state.watchers.len() {
            if state.paused.contains(&state.watchers[at].camera) {
                continue;
            }
            let watcher = &mut state.watchers[at];
            let body = watcher.tick(now, time);
            if body.is_some() {
                measure(watcher);
                let camera = watcher.camera.clone();
                self.publish(&mut state, &camera, body, &[]);
            }
        }
    }

    /// Acknowledges an alert, active or ended. Returns the event of the acknowledgement.
    pub fn acknowledge(
        &self,
        alert_id: &str,
        false_alarm: bool,
    ) -> Result<Arc<Event>, AlertNotFound> {
        let acknowledgement = Acknowledgement { at: SystemTime::now(), false_alarm };
        let mut state = self.state();
        let not_found = || AlertNotFound(alert_id.to_owned());
        let known = state.newest.iter().find(|newest| *newest.alert.alert_id == *alert_id);
        let NewestAlert { camera, alert, .. } = known.ok_or_else(not_found)?;
        let (camera, mut alert) = (camera.clone(), alert.clone());
        let was_false = alert.is_false_alarm();
        let active = state.watchers.iter_mut();
        let active = active.filter_map(|w| w.acknowledge(alert_id, acknowledgement)).next();
        alert.acknowledgement = Some(acknowledgement);
        alert.phase = AlertPhase::Acknowledged;
        alert.update = None;
        let alert = active.unwrap_or(alert);
        if false_alarm && !was_false {
            metrics::false_alarm(&camera, &alert.rule);
        }
        let event = self.journal.append(camera.clone(), Body::Alert(alert.clone()));
        state.remember(&camera, &alert, event.id);
        Ok(event)
    }

    /// Returns the newest alert of a rule on a camera, active or ended, as it is now.
    pub fn newest_alert(&self, camera: &str, rule: &str) -> Option<Alert> {
        let state = self.state();
        let mut active = state.watchers.iter().filter_map(|w| Some((&w.camera, w.alert()?)));
        let of_rule = |(of, alert): &(&Arc<str>, &Alert)| ***of == *camera && *alert.rule == *rule;
        let newest = state.newest.iter().rev().map(|newest| (&newest.camera, &newest.alert));
        let found = active.find(of_rule).or_else(|| newest.into_iter().find(of_rule));
        found.map(|(_, alert)| alert.clone())
    }

    /// Returns alerts among the newest ones as they are now, the one that began last first.
    pub fn alerts(&self, query: &AlertQuery) -> Vec<ListedAlert> {
        let state = self.state();
        let end = match &query.before {
            Some(id) => state.newest.iter().position(|newest| *newest.alert.alert_id == **id),
            None => Some(state.newest.len()),
        };
        let older = state.newest.iter().take(end.unwrap_or(0)).rev();
        let wanted = older.filter(|newest| query.wants(&newest.camera, &newest.alert));
        let active: Vec<&Alert> = state.watchers.iter().filter_map(Watcher::alert).collect();
        let listed = |NewestAlert { camera, alert, event, first_frames }: &NewestAlert| {
            // The scores of an active alert are newer than its newest event.
            let present = active.iter().find(|active| active.alert_id == alert.alert_id);
            let alert = (*present.unwrap_or(&alert)).clone();
            let first_frames = first_frames.clone();
            ListedAlert { event: *event, camera: camera.clone(), first_frames, alert }
        };
        wanted.take(query.limit).map(listed).collect()
    }

    /// Returns the rule of a name.
    pub fn get(&self, name: &str) -> Option<Arc<Rule>> {
        self.state().rules.iter().find(|rule| *rule.name == *name).cloned()
    }

    /// Returns the alerts whose clip is still to be made, with their cameras.
    pub fn alerts_with_pending_clip(&self) -> Vec<(Arc<str>, Alert)> {
        let state = self.state();
        let is_pending = |alert: &Alert| {
            alert.clip.as_ref().is_some_and(|clip| clip.state == ClipState::Pending)
        };
        let pending = state.newest.iter().filter(|newest| is_pending(&newest.alert));
        pending.map(|newest| (newest.camera.clone(), newest.alert.clone())).collect()
    }

    /// Returns the present state of an alert's clip, if the alert is among the newest ones.
    pub fn clip(&self, alert_id: &str) -> Option<AlertClip> {
        let state = self.state();
        let newest = state.newest.iter().find(|newest| *newest.alert.alert_id == *alert_id)?;
        newest.alert.clip.clone()
    }

    /// Takes the clip of an alert, active or ended, and publishes it as an update of the alert.
    pub fn set_clip(&self, alert_id: &str, clip: AlertClip) {
        let mut state = self.state();
        let known = state.newest.iter().find(|newest| *newest.alert.alert_id == *alert_id);
        let Some(NewestAlert { camera, alert, .. }) = known else { return };
        let (camera, alert) = (camera.clone(), alert.clone());
        let active = state.watchers.iter_mut();
        let active = active.filter_map(|watcher| watcher.set_clip(alert_id, &clip)).next();
        let ended = updated(Alert { clip: Some(clip), ..alert }, AlertUpdate::Clip);
        let body = Body::Alert(active.unwrap_or(ended));
        self.publish(&mut state, &camera, [body], &[]);
    }

    /// Returns the state of every rule for each of its cameras, in the order of the config.
    pub fn list(&self) -> Vec<RuleInfo> {
        self.list_at(SystemTime::now())
    }

    fn list_at(&self, now: SystemTime) -> Vec<RuleInfo> {
        let state = self.state();
        let info = |watcher: &Watcher| {
            let Rule { name, question, severity, schedule, .. } = &*watcher.rule;
            let today = schedule.zone().start_of_day(now);
            let alerts = state.newest.iter().filter(|newest| {
                newest.camera == watcher.camera
                    && newest.alert.rule == *name
                    && newest.alert.started_at >= today
            });
            let (mut alerts_today, mut false_alarms_today) = (0, 0);
            for newest in alerts {
                alerts_today += 1;
                false_alarms_today += u32::from(newest.alert.is_false_alarm());
            }
            RuleInfo {
                name: name.clone(),
                camera: watcher.camera.clone(),
                question: question.clone(),
                severity: *severity,
                state: watcher.state(now),
                is_blind: watcher.is_blind(),
                score: watcher.score().map(|(_, score)| score),
                scored_at: watcher.score().map(|(at, _)| at),
                alert_id: watcher.alert().map(|alert| alert.alert_id.clone()),
                alerts_today,
                false_alarms_today,
            }
        };
        state.watchers.iter().map(info).collect()
    }

    /// Changes the watchers of a camera, and publishes the events that this makes.
    fn change(
        &self,
        camera: &str,
        jpegs: &[EventJpeg],
        mut change: impl FnMut(&mut Watcher) -> Vec<Body>,
    ) {
        let mut state = self.state();
        for at in 0..state.watchers.len() {
            let watcher = &mut state.watchers[at];
            if *watcher.camera == *camera {
                let bodies = change(watcher);
                measure(watcher);
                let camera = watcher.camera.clone();
                self.publish(&mut state, &camera, bodies, jpegs);
            }
        }
    }

    fn publish(
        &self,
        state: &mut State,
        camera: &Arc<str>,
        bodies: impl IntoIterator<Item = Body>,
        jpegs: &[EventJpeg],
    ) {
        for body in bodies {
            if !matches!(body, Body::Alert(_)) {
                self.journal.append(camera.clone(), body);
                continue;
            }
            let event = self.journal.append_with_jpegs(camera.clone(), body, jpegs.to_vec());
            if let Body::Alert(alert) = &event.body {
                if alert.phase == AlertPhase::New {
                    metrics::alert(camera, &alert.rule);
                }
                state.remember(camera, alert, event.id);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Keeps an alert as it is now among the newest ones.
    fn remember(&mut self, camera: &Arc<str>, alert: &Alert, event: EventId) {
        let mut newest = self.newest.iter_mut().rev();
        if let Some(known) = newest.find(|newest| newest.alert.alert_id == alert.alert_id) {
            (known.alert, known.event) = (alert.clone(), event);
            return;
        }
        if self.newest.len() >= NEWEST {
            self.newest.pop_front();
        }
        self.newest.push_back(NewestAlert {
            camera: camera.clone(),
            alert: alert.clone(),
            event,
            first_frames: alert.frames.clone(),
        });
    }
}

fn measure(watcher: &Watcher) {
    let (camera, rule) = (&*watcher.camera, &*watcher.rule.name);
    let is_active = watcher.alert().is_some();
    metrics::rule(
        camera,
        rule,
        watcher.score().map(|(_, score)| score),
        is_active,
        watcher.is_blind(),
    );
}

/// Makes the ID of an alert.
pub fn new_id() -> Arc<str> {
    Uuid::now_v7().to_string().into()
}
