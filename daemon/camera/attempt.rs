//! Runs one attempt at a camera: builds a pipeline, plays it and watches it until it fails.
//!
//! The end of a stream is also a failure, because over TCP a killed server looks like one. Files
//! are the exception: they start again. GStreamer notices neither a camera that has stopped sending
//! nor a server that hangs, so this module watches the time since the last frame.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use gst::prelude::*;

use super::delivery::Delivery;
use super::error::{CameraError, is_rtsp};
use super::keepalive::KnownMethod;
use super::packets::RtpClock;
use super::patience::{Patience, Verdict};
use super::pipeline;
use super::progress::{Opened, Progress};
use super::reach;
use super::relay::{Login, Relay, RelayError};
use super::retry::{Attempt, Report, Stop};
use super::rtsp::{self, Approach, Carrier};
use crate::config::{Camera, Rtsp, Source, Transport};

/// Interval at which the attempt checks for a stop and for a stall.
const TICK: Duration = Duration::from_millis(250);

/// Initial and maximum time for a camera's answer. The time doubles after each attempt without an
/// answer. Otherwise many cameras that start together on a slow machine would never connect.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(40);

/// Maximum time to connect, in answer time-outs: the last resort.
const CONNECT_ANSWERS: u32 = 4;

/// Interval of the keep-alive requests that rtspsrc sends when there is no relay.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Maximum number of consecutive refusals of a password that worked before. Some cameras report a
/// wrong password when all their connections are taken.
const DOUBTS_MAX: u32 = 3;

/// Maximum wait for a pipeline to end. A slower one is left to its own thread.
const TEARDOWN_TIMEOUT: Duration = Duration::from_millis(1000);

/// Number of hanging pipelines at which no further one is started.
const ENDING_MAX: usize = 3;

pub struct CameraAttempt {
    config: Camera,
    delivery: Arc<Delivery>,
    clock: Arc<RtpClock>,
    patience: Patience,
    /// True after the hardware decoder has failed. The camera is then decoded in software.
    software_only: bool,
    /// The password of the last attempt, kept to notice a change.
    password: Option<String>,
    opened: Opened,
    /// The transport in use. `carrier_works` is true once an attempt has received a frame.
    carrier: Carrier,
    carrier_works: bool,
    answer_timeout: Duration,
    known_method: KnownMethod,
    /// The password that the camera last accepted, and the number of refusals since then.
    accepted: Option<String>,
    doubts: u32,
    /// Number of pipelines that have not ended yet.
    ending: Arc<AtomicUsize>,
}

enum End {
    Stopped,
    EndOfFile,
}

impl Attempt for CameraAttempt {
    fn run_once(
        &mut self,
        stop: &Stop,
        report: &mut dyn FnMut(Report<'_>),
    ) -> Result<(), CameraError> {
        let mut carriers = 1;
        loop {
            let error = match self.play(stop, report) {
                Ok(End::Stopped) => return Ok(()),
                Ok(End::EndOfFile) => continue,
                Err(error) => error,
            };
            match error {
                CameraError::Decoder { name, why } if !self.software_only => {
                    tracing::warn!(
                        camera = %self.config.name,
                        "decoder {name} failed ({why}): decoding in software"
                    );
                    self.software_only = true;
                }
                CameraError::Transport { .. } if self.may_change_carrier() => {
                    self.carrier = self.carrier.other();
                    if carriers == 2 {
                        return Err(CameraError::Refused(
                            "the camera sends neither over TCP nor over UDP".into(),
                        ));
                    }
                    carriers += 1;
                }
                error => return Err(error),
            }
        }
    }

    fn has_new_credentials(&self) -> bool {
        // An unreadable file is possibly being written at this moment.
        self.rtsp().is_some_and(|rtsp| match read_password(rtsp) {
            Ok(password) => password != self.password,
            Err(_) => false,
        })
    }
}

impl CameraAttempt {
    pub fn new(config: Camera, delivery: Arc<Delivery>) -> CameraAttempt {
        let patience = Patience::new(config.stall_timeout);
        let carrier = match &config.source {
            Source::Rtsp(Rtsp { transport: Transport::Udp, .. }) => Carrier::Udp,
            _ => Carrier::Tcp,
        };
        CameraAttempt {
            config,
            delivery,
            clock: Arc::default(),
            patience,
            software_only: false,
            password: None,
            opened: Opened::default(),
            carrier,
            carrier_works: false,
            answer_timeout: ANSWER_TIMEOUT,
            known_method: KnownMethod::default(),
            accepted: None,
            doubts: 0,
            ending: Arc::default(),
        }
    }

    /// Returns what the last attempt found.
    pub fn opened(&self) -> Opened {
        self.opened.clone()
    }

    fn rtsp(&self) -> Option<&Rtsp> {
        match &self.config.source {
            Source::Rtsp(rtsp) => Some(rtsp),
            Source::File(_) => None,
        }
    }

    fn play(
        &mut self,
        stop: &Stop,
        report: &mut dyn FnMut(Report<'_>),
    ) -> Result<End, CameraError> {
        if self.ending.load(Ordering::Relaxed) >= ENDING_MAX {
            return Err(CameraError::Failed(format!(
                "{ENDING_MAX} old connections do not end, because a driver or a decoder hangs; \
                 restart lookout if this persists"
            )));
        }
        self.password = match self.rtsp() {
            Some(rtsp) => read_password(rtsp)?,
            None => None,
        };
        let relay = self.relay()?.map(Arc::new);
        let progress = Arc::new(Progress::default());
        let approach = Approach {
            password: self.password.as_deref(),
            carrier: self.carrier,
            patience: self.answer_timeout,
            relay: relay.as_deref(),
        };
        let pipeline = pipeline::build(
            &self.config,
            &approach,
            self.software_only,
            &self.delivery,
            &progress,
            &self.clock,
        )?;
        let playing = Playing {
            pipeline,
            progress,
            relay,
            camera: self.config.name.clone(),
            ending: self.ending.clone(),
        };
        let end = self.watch(&playing, stop, report);
        self.opened = playing.progress.opened();
        let relay = playing.relay.clone();
        let seen = playing.progress.has_shown();
        let stalled = matches!(end, Err(CameraError::Stalled(_)));
        self.patience.learn(&playing.progress.activity(), stalled);
        drop(playing);
        if let Some(relay) = relay {
            self.known_method = relay.known_method();
        }
        end.map_err(|error| self.learn(error, seen))
    }

    /// Starts the relay for an `rtsp://` camera. With TLS there is none: rtspsrc connects to the
    /// camera directly.
    fn relay(&self) -> Result<Option<Relay>, CameraError> {
        let Some(rtsp) = self.rtsp().filter(|rtsp| rtsp.url.scheme() == "rtsp") else {
            return Ok(None);
        };
        let host = rtsp.url.host_str().ok_or_else(|| CameraError::internal("no host"))?;
        let login = rtsp.username.clone().map(|username| Login {
            username,
            password: self.password.clone().unwrap_or_default(),
        });
        let target = (host, rtsp.url.port().unwrap_or(554));
        Relay::start(target, login, self.known_method, self.answer_timeout)
            .map(Some)
            .map_err(CameraError::internal)
    }

    fn may_change_carrier(&self) -> bool {
        self.rtsp().is_some_and(|rtsp| rtsp.transport == Transport::Auto)
    }

    /// Adapts the next attempt to the error of this one. Returns the error to report.
    fn learn(&mut self, error: CameraError, seen: bool) -> CameraError {
        if seen {
            self.carrier_works = true;
            self.accepted.clone_from(&self.password);
            self.doubts = 0;
        }
        match &error {
            CameraError::NoAnswer => {
                self.answer_timeout = (self.answer_timeout * 2).min(ANSWER_TIMEOUT_MAX);
            }
            // Some cameras accept a transport and then send nothing over it.
            CameraError::Stalled(_)
                if !seen && !self.carrier_works && self.may_change_carrier() =>
            {
                self.carrier = self.carrier.other();
            }
            CameraError::WrongPassword
                if self.accepted.is_some()
                    && self.accepted == self.password
                    && self.doubts < DOUBTS_MAX =>
            {
                self.doubts += 1;
                return CameraError::PasswordDoubted;
            }
            _ => {}
        }
        error
    }

    fn watch(
        &self,
        playing: &Playing,
        stop: &Stop,
        report: &mut dyn FnMut(Report<'_>),
    ) -> Result<End, CameraError> {
        let Playing { pipeline, progress, relay, .. } = playing;
        let source =
            pipeline.by_name("source").filter(|_| relay.is_none() && self.rtsp().is_some());
        let mut kept_alive = Instant::now();
        let bus = pipeline.bus().ok_or_else(|| CameraError::internal("a pipeline without bus"))?;
        // The bus reports the failure with more detail.
        let _ = pipeline.set_state(gst::State::Playing);
        let started = Instant::now();
        loop {
            if stop.is_asked() {
                return Ok(End::Stopped);
            }
            let message = bus.timed_pop_filtered(
                gst::ClockTime::try_from(TICK).unwrap_or(gst::ClockTime::ZERO),
                &[gst::MessageType::Error, gst::MessageType::Eos, gst::MessageType::Application],
            );
            match message.as_ref().map(|message| message.view()) {
                Some(gst::MessageView::Error(error)) => return Err(self.explain(error, playing)),
                Some(gst::MessageView::Eos(_)) => return self.ended(playing),
                // `Progress` posts these messages.
                Some(gst::MessageView::Application(_)) => match progress.failure() {
                    Some(error) => return Err(error),
                    None => report(Report::Live(&progress.opened().decoder)),
                },
                _ => {}
            }
            if let Some(source) = &source
                && progress.has_shown()
                && kept_alive.elapsed() >= KEEP_ALIVE
            {
                rtsp::keep_alive(source);
                kept_alive = Instant::now();
            }
            // rtspsrc does not report a closed connection before it has a stream.
            if !progress.is_connected()
                && relay.as_ref().is_some_and(|relay| relay.error() == Some(RelayError::Closed))
            {
                return Err(RelayError::Closed.into());
            }
            self.check_stall(started, progress, report)?;
        }
    }

    fn check_stall(
        &self,
        started: Instant,
        progress: &Progress,
        report: &mut dyn FnMut(Report<'_>),
    ) -> Result<(), CameraError> {
        if !progress.is_connected() {
            let is_late = started.elapsed() > self.answer_timeout * CONNECT_ANSWERS;
            return if is_late { Err(CameraError::NoAnswer) } else { Ok(()) };
        }
        match self.patience.judge(&progress.activity()) {
            Verdict::Well => {}
            Verdict::WaitsForKeyFrame => report(Report::Waiting("waiting for a key frame")),
            Verdict::Stalled(limit) => return Err(CameraError::Stalled(limit)),
        }
        Ok(())
    }

    fn ended(&self, playing: &Playing) -> Result<End, CameraError> {
        match self.config.source {
            Source::Rtsp(_) => Err(CameraError::ConnectionClosed),
            Source::File(_) if playing.progress.has_shown() => Ok(End::EndOfFile),
            Source::File(_) => Err(CameraError::Failed("the file contains no frame".into())),
        }
    }

    fn explain(&self, message: &gst::message::Error, playing: &Playing) -> CameraError {
        let progress = &playing.progress;
        let failed = message.src().map(|source| source.name());
        let opened = progress.opened();
        let at_start = !progress.has_shown();
        if opened.hardware && at_start && failed.as_deref() == Some(pipeline::DECODER) {
            let why = message.error().message().to_string();
            return CameraError::Decoder { name: opened.decoder, why };
        }
        if let Some(error) = progress.failure() {
            return error;
        }
        let Some(rtsp) = self.rtsp().filter(|_| is_rtsp(message)) else {
            return CameraError::of(message, false);
        };
        match playing.relay.as_ref().and_then(|relay| relay.error()) {
            Some(RelayError::Status { code: 461, .. }) => return self.other_transport(),
            Some(error) => return error.into(),
            None => {}
        }
        // rtspsrc also reports these errors for streams that were not selected and for a transport
        // that the camera refused.
        let no_stream = message.error().matches(gst::StreamError::CodecNotFound)
            || message.error().matches(gst::ResourceError::Settings);
        if no_stream && !progress.is_connected() {
            return progress.nothing_chosen(rtsp.stream).unwrap_or_else(|| self.other_transport());
        }
        if message.error().matches(gst::ResourceError::OpenReadWrite)
            && let Some(host) = rtsp.url.host_str()
        {
            let usual = if rtsp.url.scheme() == "rtsps" { 322 } else { 554 };
            if let Some(why) = reach::why_not(host, rtsp.url.port().unwrap_or(usual)) {
                return CameraError::Unreachable(why);
            }
        }
        CameraError::of(message, rtsp.username.is_some())
    }

    fn other_transport(&self) -> CameraError {
        CameraError::Transport { asked: self.carrier.name(), other: self.carrier.other().name() }
    }
}

fn read_password(rtsp: &Rtsp) -> Result<Option<String>, CameraError> {
    rtsp.password.as_ref().map(|secret| secret.read()).transpose().map_err(CameraError::internal)
}

struct Playing {
    pipeline: gst::Pipeline,
    progress: Arc<Progress>,
    relay: Option<Arc<Relay>>,
    camera: Arc<str>,
    ending: Arc<AtomicUsize>,
}

impl Drop for Playing {
    /// Ends the pipeline in a thread of its own, because ending can hang in a driver or a socket.
    fn drop(&mut self) {
        self.progress.close();
        let (ended, wait) = mpsc::sync_channel(1);
        let pipeline = self.pipeline.clone();
        // The relay must outlive the pipeline: it forwards the request that ends the session.
        let (relay, ending) = (self.relay.take(), self.ending.clone());
        ending.fetch_add(1, Ordering::Relaxed);
        let thread = thread::Builder::new().name(format!("{} end", self.camera)).spawn(move || {
            let _ = pipeline.set_state(gst::State::Null);
            drop(relay);
            ending.fetch_sub(1, Ordering::Relaxed);
            let _ = ended.send(());
        });
        match thread {
            Ok(_) if wait.recv_timeout(TEARDOWN_TIMEOUT).is_err() => {
                tracing::warn!(camera = %self.camera, "the old connection is slow to end");
            }
            Ok(_) => {}
            Err(_) => {
                self.ending.fetch_sub(1, Ordering::Relaxed);
                let _ = self.pipeline.set_state(gst::State::Null);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::Sink;
    use crate::config::Config;
    use crate::event::CameraStatus;
    use crate::frame::Frame;
    use crate::run_clock::RunClock;

    struct Nobody;

    impl Sink for Nobody {
        fn frame(&self, _: Frame) {}
        fn status(&self, _: &Arc<str>, _: CameraStatus) {}
    }

    fn attempt(more: &str) -> CameraAttempt {
        let text = format!(
            "[model]\npackage = \"x\"\n[[camera]]\nname = \"gate\"\nurl = \"rtsp://cam/x\"\n{more}"
        );
        let config = Config::parse(&text, std::path::Path::new(".")).unwrap().cameras.remove(0);
        let delivery = Arc::new(Delivery::new(
            config.name.clone(),
            Arc::new(Nobody),
            Arc::new(RunClock::start()),
        ));
        CameraAttempt::new(config, delivery)
    }

    #[test]
    fn a_camera_that_does_not_answer_gets_more_time_each_time() {
        let mut attempt = attempt("");
        let given = [(); 5].map(|()| {
            attempt.learn(CameraError::NoAnswer, false);
            attempt.answer_timeout.as_secs()
        });
        assert_eq!(given, [10, 20, 40, 40, 40]);
    }

    #[test]
    fn a_transport_that_never_worked_is_changed_and_one_that_did_is_kept() {
        let stalled = || CameraError::Stalled(Duration::from_secs(15));
        let mut auto = attempt("");
        auto.learn(stalled(), false);
        assert_eq!(auto.carrier, Carrier::Udp);
        auto.learn(stalled(), true);
        auto.learn(stalled(), false);
        assert_eq!(auto.carrier, Carrier::Udp);
        let mut fixed = attempt("transport = \"tcp\"");
        fixed.learn(stalled(), false);
        assert_eq!(fixed.carrier, Carrier::Tcp);
    }

    #[test]
    fn the_number_of_hanging_pipelines_is_bounded() {
        let mut attempt = attempt("");
        attempt.ending.store(ENDING_MAX, Ordering::Relaxed);
        let error = attempt.run_once(&Stop::default(), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("do not end"), "{error}");
    }
}
