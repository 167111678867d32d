//! Makes the clips of alerts: follows the alerts in the journal, waits for the last picture of each
//! clip, writes the file and stores it, and reports it as an event of the alert.
//!
//! Guarantees: every alert of a rule with clips gets a clip, or the reason why not. A clip delays
//! neither an alert nor another reader of the journal.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

use super::plan::Plan;
use super::{Cut, Stream, Streams};
use crate::camera;
use crate::config::RuleClip;
use crate::event::{Alert, AlertClip, Body, ClipState};
use crate::journal::{Cursor, Journal, Read};
use crate::metrics::{self, ClipResult};
use crate::rules::Rules;

/// Interval at which clips are checked for being complete.
const TICK: Duration = Duration::from_millis(200);

/// Number of clips that are written at a time.
const WRITERS: usize = 1;

pub struct ClipMaker {
    streams: Arc<Streams>,
    rules: Arc<Rules>,
    journal: Arc<dyn Journal>,
    cursor: Box<dyn Cursor>,
    /// The clips that are not published yet, by the alerts' IDs.
    waiting: HashMap<Arc<str>, Waiting>,
    writers: Arc<Semaphore>,
}

struct Waiting {
    camera: Arc<str>,
    plan: Plan,
    /// True if the alert began in an earlier run of the daemon.
    is_resumed: bool,
    /// True if the last picture has arrived and the file is being written.
    is_writing: bool,
}

impl ClipMaker {
    /// Creates the maker. It makes the clips of all alerts that are published from now on, and of
    /// those of earlier runs that have none yet.
    pub fn new(streams: Arc<Streams>, rules: Arc<Rules>, journal: Arc<dyn Journal>) -> ClipMaker {
        let cursor = journal.read_new();
        let mut maker = ClipMaker {
            streams,
            rules,
            journal,
            cursor,
            waiting: HashMap::new(),
            writers: Arc::new(Semaphore::new(WRITERS)),
        };
        for (camera, alert) in maker.rules.alerts_with_pending_clip() {
            maker.follow(&camera, &alert, true);
        }
        maker
    }

    /// Makes clips until the future is dropped.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                read = self.cursor.next() => {
                    if let Read::Event(event) = read && let Body::Alert(alert) = &event.body {
                        self.follow(&event.camera, alert, false);
                    }
                }
                _ = tick.tick() => self.make_due(),
            }
        }
    }

    /// Takes an event of an alert.
    fn follow(&mut self, camera: &Arc<str>, alert: &Alert, is_resumed: bool) {
        let is_pending = alert.clip.as_ref().is_some_and(|clip| clip.state == ClipState::Pending);
        if !is_pending {
            self.waiting.remove(&alert.alert_id);
            return;
        }
        if !self.waiting.contains_key(&alert.alert_id) {
            let Some(settings) = self.settings(&alert.rule) else {
                let clip = AlertClip::missing("the rule no longer makes clips");
                self.rules.set_clip(&alert.alert_id, clip);
                return;
            };
            let plan = Plan::new(alert, settings);
            let new = Waiting { camera: camera.clone(), plan, is_resumed, is_writing: false };
            self.waiting.insert(alert.alert_id.clone(), new);
        }
        if let Some(waiting) = self.waiting.get_mut(&alert.alert_id) {
            waiting.plan.follow(alert);
        }
        self.need(camera);
    }

    /// Returns the length of a rule's clips, or `None` if the rule makes none or is gone.
    fn settings(&self, rule: &str) -> Option<RuleClip> {
        self.rules.get(rule)?.clip
    }

    /// Holds the units of a camera that its waiting clips need.
    fn need(&self, camera: &str) {
        let is_needed = |waiting: &&Waiting| *waiting.camera == *camera && !waiting.is_writing;
        let of_camera = self.waiting.values().filter(is_needed);
        let from = of_camera.map(|waiting| waiting.plan.from()).min();
        if let Some(stream) = self.streams.get(camera) {
            stream.need(from);
        }
    }

    /// Makes the clips whose last picture has arrived.
    fn make_due(&mut self) {
        metrics::encoded_bytes(self.streams.bytes());
        let now = SystemTime::now();
        let is_due = |waiting: &Waiting| {
            let stream = self.streams.get(&waiting.camera);
            let newest = stream.as_ref().and_then(|stream| stream.newest());
            let silent = stream.as_ref().and_then(|stream| self.streams.silent_for(stream));
            waiting.plan.is_due(now, newest, silent)
        };
        let due: Vec<Arc<str>> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| !waiting.is_writing && is_due(waiting))
            .map(|(id, _)| id.clone())
            .collect();
        for alert_id in due {
            // While something is deleted, clips wait until it is.
            let Ok(in_work) = self.streams.clips_in_work.clone().try_read_owned() else { return };
            let Some(waiting) = self.waiting.get_mut(&alert_id) else { continue };
            waiting.is_writing = true;
            let camera = waiting.camera.clone();
            let stream = self.streams.get(&camera);
            // The units are taken now: the ring may drop them as soon as they are not needed.
            let cut = cut(stream.as_deref(), waiting);
            self.need(&camera);
            let (rules, journal) = (self.rules.clone(), self.journal.clone());
            let writers = self.writers.clone();
            tokio::spawn(async move {
                let Ok(_permit) = writers.acquire().await else { return };
                let clip = match cut {
                    Ok(cut) => write(&*journal, &alert_id, cut).await,
                    Err(reason) => AlertClip::missing(reason),
                };
                if clip.state == ClipState::Missing {
                    tracing::warn!(
                        camera = &*camera,
                        id = &*alert_id,
                        "an alert has no clip: {}",
                        clip.reason
                    );
                }
                let is_ready = clip.state == ClipState::Ready;
                let result = if is_ready { ClipResult::Ready } else { ClipResult::Missing };
                metrics::clip(&camera, result);
                rules.set_clip(&alert_id, clip);
                drop(in_work);
            });
        }
    }
}

/// Cuts a clip, and names what it lacks. An error is the reason why there is none.
fn cut(stream: Option<&Stream>, waiting: &Waiting) -> Result<(Cut, String), String> {
    let (span, is_cut) = waiting.plan.span();
    let units = stream.map(|stream| stream.units(span)).unwrap_or_default();
    let stopped = "the daemon was stopped before the clip was complete";
    // A clip that begins after the alert shows nothing of it.
    let shows_alert = |cut: &Cut| waiting.plan.ended_at().is_none_or(|end| cut.span.from < end);
    let cut = Cut::of(units, span, waiting.plan.started_at()).filter(shows_alert);
    let Some(cut) = cut else {
        let unsupported = stream.and_then(Stream::unsupported_reason);
        let reason = unsupported.unwrap_or_else(|| match waiting.is_resumed {
            true => stopped.to_owned(),
            false => "no part of the camera's stream from that time is held that begins with a \
                      key frame"
                .to_owned(),
        });
        return Err(reason);
    };
    let mut reasons: Vec<String> = cut.flaws.iter().map(ToString::to_string).collect();
    reasons.extend(waiting.is_resumed.then(|| stopped.to_owned()));
    reasons.extend(is_cut.then(|| "the alert is longer than the rule's clip_max".to_owned()));
    Ok((cut, reasons.join("; ")))
}

/// Writes a clip into a file and stores it.
async fn write(
    journal: &dyn Journal,
    alert_id: &Arc<str>,
    (cut, reason): (Cut, String),
) -> AlertClip {
    let (codec, span) = (cut.codec, cut.span);
    let written = tokio::task::spawn_blocking(move || camera::mp4(cut.codec, &cut.units)).await;
    let file = match written {
        Ok(Ok(file)) => Bytes::from(file),
        Ok(Err(error)) => return AlertClip::missing(error.to_string()),
        Err(error) => return AlertClip::missing(error.to_string()),
    };
    let bytes = file.len() as u64;
    if let Err(error) = journal.store_clip(alert_id.clone(), file).await {
        return AlertClip::missing(error.to_string());
    }
    let state = ClipState::Ready;
    AlertClip { state, span: Some(span), codec: codec.name().into(), bytes, reason }
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::super::plan::tests::plan;
    use super::*;
    use crate::journal::MemoryJournal;
    use crate::run_clock::RunClock;

    #[tokio::test]
    async fn one_clip_is_written_at_a_time() {
        let limits = Limits { age: Duration::ZERO, bytes: 0 };
        let streams = Arc::new(Streams::new(limits, &[], Arc::new(RunClock::start())));
        let journal = MemoryJournal::shared(1, 10);
        let rules = Rules::new(&[], &[], journal.clone());
        let mut maker = ClipMaker::new(streams.clone(), rules, journal);
        for id in ["a", "b"] {
            let camera = "gate".into();
            let new = Waiting { camera, plan: plan(120), is_resumed: false, is_writing: false };
            maker.waiting.insert(id.into(), new);
        }
        let writer = maker.writers.clone().acquire_many_owned(WRITERS as u32).await;
        maker.make_due();
        assert!(maker.waiting.values().all(|waiting| waiting.is_writing));
        let are_done = || streams.clips_in_work.clone().try_write_owned().is_ok();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!are_done(), "a clip did not wait for the writer");
        drop(writer);
        while !are_done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
