//! The service as one token may use it: with its cameras only, within its limits, and recorded.

use std::num::NonZeroU32;
use std::sync::Arc;

use serde_json::json;

use super::Access;
use super::audit::CallerAudit;
use super::filtered_journal::FilteredJournal;
use super::known::Known;
use crate::event::{Alert, AlertClip, Event};
use crate::frame::{Span, rfc3339};
use crate::journal::Journal;
use crate::question::{Limits, Question, Range};
use crate::service::{
    AlertNotFound, AlertQuery, AnswerStream, AskError, CameraInfo, ConfigChange, ConfiguredCameras,
    FrameDeletion, FrameError, FrameLookup, FrameSample, ListedAlert, LiveStream, Readiness,
    ReloadError, Reloading, RuleInfo, Service, TrialError, TrialRequest, TrialStream,
};

/// Number of alerts that the daemon lists.
const ALERTS: usize = 1000;

pub struct Filtered {
    inner: Arc<dyn Service>,
    journal: Arc<dyn Journal>,
    known: Arc<Known>,
    questions_per_minute: NonZeroU32,
    audit: CallerAudit,
}

impl Filtered {
    pub fn shared(
        inner: Arc<dyn Service>,
        known: Arc<Known>,
        questions_per_minute: NonZeroU32,
        audit: CallerAudit,
    ) -> Arc<dyn Service> {
        let access = known.access.clone();
        let journal = FilteredJournal::shared(inner.journal().clone(), access, audit.clone());
        Arc::new(Filtered { inner, journal, known, questions_per_minute, audit })
    }

    fn access(&self) -> &Access {
        &self.known.access
    }

    fn sees(&self, camera: &str) -> bool {
        self.access().sees(camera)
    }

    fn sees_all(&self) -> bool {
        self.access().cameras.is_none()
    }

    /// Returns the error of a camera that does not exist, if this one is not visible.
    fn require(&self, camera: &str) -> Result<(), AskError> {
        if self.sees(camera) { Ok(()) } else { Err(AskError::CameraNotFound(camera.into())) }
    }

    /// Returns the error of an event that does not exist, if the range is that of a hidden event.
    fn require_event(&self, camera: &str, range: Range) -> Result<(), AskError> {
        match range {
            Range::Event { run, sequence }
                if !self.sees_all() && self.journal.get(run, sequence).is_none() =>
            {
                let why = format!("event {sequence} is not in the journal");
                Err(AskError::NoFrames { camera: camera.into(), why })
            }
            _ => Ok(()),
        }
    }

    fn count_question(&self) -> Result<(), AskError> {
        let per_minute = self.questions_per_minute.get();
        self.known
            .count_question()
            .map_err(|retry_after| AskError::TooManyQuestions { per_minute, retry_after })
    }

    /// Returns true if an alert is of a visible camera.
    fn sees_alert(&self, alert_id: &str) -> bool {
        let query = AlertQuery { limit: ALERTS, ..AlertQuery::default() };
        self.sees_all()
            || self.alerts(&query).iter().any(|listed| *listed.alert.alert_id == *alert_id)
    }
}

impl Service for Filtered {
    fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    fn cameras(&self) -> Vec<CameraInfo> {
        let mut cameras = self.inner.cameras();
        cameras.retain(|camera| self.sees(&camera.name));
        cameras
    }

    fn frame_jpeg(&self, camera: &str, run: Option<u64>, number: u64) -> FrameLookup {
        if !self.sees(camera) {
            let error = FrameError::CameraNotFound(camera.into());
            return Box::pin(std::future::ready(Err(error)));
        }
        self.audit.record("frame", json!({ "camera": camera, "run": run, "frame": number }));
        self.inner.frame_jpeg(camera, run, number)
    }

    fn delete_frames(&self, span: Span, cameras: &[String]) -> FrameDeletion {
        let Some(cameras) = self.access().limit(cameras.to_vec()) else {
            return Box::pin(std::future::ready(Ok(0)));
        };
        let (from, to) = (rfc3339::format(span.from), rfc3339::format(span.to));
        self.audit.record("delete", json!({ "cameras": cameras, "from": from, "to": to }));
        self.inner.delete_frames(span, &cameras)
    }

    fn sample_frames(
        &self,
        camera: &str,
        range: Range,
        most: usize,
    ) -> Result<FrameSample, AskError> {
        self.require(camera)?;
        self.require_event(camera, range)?;
        self.inner.sample_frames(camera, range, most)
    }

    fn live_video(&self, camera: &str) -> Option<LiveStream> {
        if !self.sees(camera) {
            return None;
        }
        self.audit.record("live_video", json!({ "camera": camera }));
        self.inner.live_video(camera)
    }

    fn limits(&self) -> Limits {
        let limits = self.inner.limits();
        let visible = |cameras: Vec<Arc<str>>| {
            cameras.into_iter().filter(|camera| self.sees(camera)).collect()
        };
        Limits { cameras: limits.cameras.map(visible), ..limits }
    }

    fn ask(&self, question: Question) -> Result<AnswerStream, AskError> {
        self.require(question.camera())?;
        self.require_event(question.camera(), question.range())?;
        self.count_question()?;
        let (camera, text) = (question.camera(), question.text());
        self.audit.record("ask", json!({ "camera": camera, "question": text }));
        self.inner.ask(question)
    }

    fn rules(&self) -> Vec<RuleInfo> {
        let mut rules = self.inner.rules();
        rules.retain(|rule| self.sees(&rule.camera));
        rules
    }

    fn newest_alert(&self, camera: &str, rule: &str) -> Option<Alert> {
        self.sees(camera).then(|| self.inner.newest_alert(camera, rule)).flatten()
    }

    fn alerts(&self, query: &AlertQuery) -> Vec<ListedAlert> {
        match self.access().limit(query.cameras.clone()) {
            Some(cameras) => self.inner.alerts(&AlertQuery { cameras, ..query.clone() }),
            None => Vec::new(),
        }
    }

    fn acknowledge(&self, alert_id: &str, false_alarm: bool) -> Result<Arc<Event>, AlertNotFound> {
        if !self.sees_alert(alert_id) {
            return Err(AlertNotFound(alert_id.into()));
        }
        let acknowledged = self.inner.acknowledge(alert_id, false_alarm)?;
        let detail = json!({
            "camera": acknowledged.camera, "alert": alert_id, "false_alarm": false_alarm,
        });
        self.audit.record("acknowledge", detail);
        Ok(acknowledged)
    }

    fn try_rule(&self, request: TrialRequest) -> Result<TrialStream, TrialError> {
        self.require(&request.camera)?;
        self.require_event(&request.camera, request.range)?;
        if let Some(name) = &request.rule
            && !self.rules().iter().any(|rule| *rule.name == **name)
        {
            return Err(TrialError::RuleNotFound(name.clone()));
        }
        self.count_question()?;
        self.audit.record("try_rule", json!({ "camera": request.camera, "rule": request.rule }));
        self.inner.try_rule(request)
    }

    fn alert_clip(&self, alert_id: &str) -> Option<AlertClip> {
        self.sees_alert(alert_id).then(|| self.inner.alert_clip(alert_id)).flatten()
    }

    fn config_version(&self) -> u64 {
        self.inner.config_version()
    }

    // A reload's result and a new camera concern cameras that the token may not see.
    fn change_config(&self, change: ConfigChange) -> Reloading {
        if !self.sees_all() {
            return Box::pin(std::future::ready(Err(ReloadError::NotAllCameras)));
        }
        let (action, camera) = match &change {
            ConfigChange::Reload => ("reload", None),
            ConfigChange::Camera { name, edit } => (edit.action(), Some(name)),
        };
        self.audit.record(action, json!({ "camera": camera }));
        self.inner.change_config(change)
    }

    fn configured_cameras(&self) -> ConfiguredCameras {
        if !self.sees_all() {
            return Box::pin(std::future::ready(Err(ReloadError::NotAllCameras)));
        }
        self.inner.configured_cameras()
    }

    fn readiness(&self) -> Readiness {
        match self.inner.readiness() {
            // The reason may name cameras.
            Readiness::NotYet(_) if !self.sees_all() => {
                Readiness::NotYet("the daemon is not ready".into())
            }
            readiness => readiness,
        }
    }

    fn troubles(&self) -> Vec<String> {
        if self.sees_all() { self.inner.troubles() } else { Vec::new() }
    }
}
