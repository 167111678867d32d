//! One attempt at a camera: a pipeline is built, played and watched until it fails.
//!
//! The end of a stream is a failure too (a server that was killed looks so over TCP), except for
//! files, which begin again. GStreamer notices neither a camera that has stopped sending nor a
//! server that hangs, so the time since the last picture is watched here.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use gst::prelude::*;

use super::delivery::Delivery;
use super::error::CameraError;
use super::packets::RtpClock;
use super::patience::{Patience, Verdict};
use super::pipeline;
use super::progress::{Opened, Progress};
use super::reach;
use super::retry::{Attempt, News, Stop};
use crate::config::{Camera, Rtsp, Source};

/// How often a stop and a stall are looked for.
const TICK: Duration = Duration::from_millis(250);

/// The last resort: rtspsrc has a time-out of its own on each request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// A pipeline that does not end in this time is left to a thread of its own.
const TEARDOWN_TIMEOUT: Duration = Duration::from_millis(800);

pub struct CameraAttempt {
    config: Camera,
    delivery: Arc<Delivery>,
    clock: Arc<RtpClock>,
    patience: Patience,
    /// The hardware decoder has failed: this camera is decoded in software from now on.
    software_only: bool,
    /// The password of the last attempt, to notice a change.
    password: Option<String>,
    opened: Opened,
}

enum End {
    Stopped,
    EndOfFile,
}

impl Attempt for CameraAttempt {
    fn run_once(&mut self, stop: &Stop, tell: &mut dyn FnMut(News<'_>)) -> Result<(), CameraError> {
        loop {
            match self.play(stop, tell) {
                Ok(End::Stopped) => return Ok(()),
                Ok(End::EndOfFile) => {}
                Err(CameraError::Decoder { name, why }) if !self.software_only => {
                    tracing::warn!(
                        camera = %self.config.name,
                        "decoder {name} failed ({why}): decoding in software"
                    );
                    self.software_only = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn has_new_credentials(&self) -> bool {
        // A file that cannot be read just now is being written, perhaps.
        self.rtsp().is_some_and(|rtsp| match read_password(rtsp) {
            Ok(password) => password != self.password,
            Err(_) => false,
        })
    }
}

impl CameraAttempt {
    pub fn new(config: Camera, delivery: Arc<Delivery>) -> CameraAttempt {
        let patience = Patience::new(config.stall_timeout);
        CameraAttempt {
            config,
            delivery,
            clock: Arc::default(),
            patience,
            software_only: false,
            password: None,
            opened: Opened::default(),
        }
    }

    /// What the last attempt found.
    pub fn opened(&self) -> Opened {
        self.opened.clone()
    }

    fn rtsp(&self) -> Option<&Rtsp> {
        match &self.config.source {
            Source::Rtsp(rtsp) => Some(rtsp),
            Source::File(_) => None,
        }
    }

    fn play(&mut self, stop: &Stop, tell: &mut dyn FnMut(News<'_>)) -> Result<End, CameraError> {
        self.password = match self.rtsp() {
            Some(rtsp) => read_password(rtsp)?,
            None => None,
        };
        let progress = Arc::new(Progress::default());
        let pipeline = pipeline::build(
            &self.config,
            self.password.as_deref(),
            self.software_only,
            &self.delivery,
            &progress,
            &self.clock,
        )?;
        let playing = Playing { pipeline, progress, camera: self.config.name.clone() };
        let end = self.watch(&playing, stop, tell);
        self.opened = playing.progress.opened();
        let stalled = matches!(end, Err(CameraError::Stalled(_)));
        self.patience.learn(&playing.progress.signs(), stalled);
        end
    }

    fn watch(
        &self,
        playing: &Playing,
        stop: &Stop,
        tell: &mut dyn FnMut(News<'_>),
    ) -> Result<End, CameraError> {
        let Playing { pipeline, progress, .. } = playing;
        let bus = pipeline.bus().ok_or_else(|| CameraError::internal("a pipeline without bus"))?;
        // What failed is told on the bus, and better.
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
                Some(gst::MessageView::Error(error)) => return Err(self.explain(error, progress)),
                Some(gst::MessageView::Eos(_)) => return self.ended(progress),
                // Posted by `Progress`.
                Some(gst::MessageView::Application(_)) => match progress.failure() {
                    Some(error) => return Err(error),
                    None => tell(News::Live(&progress.opened().decoder)),
                },
                _ => {}
            }
            self.check_stall(started, progress, tell)?;
        }
    }

    fn check_stall(
        &self,
        started: Instant,
        progress: &Progress,
        tell: &mut dyn FnMut(News<'_>),
    ) -> Result<(), CameraError> {
        if !progress.is_connected() {
            let seconds = CONNECT_TIMEOUT.as_secs();
            return match started.elapsed() > CONNECT_TIMEOUT {
                true => Err(CameraError::Lost(format!("no connection within {seconds} s"))),
                false => Ok(()),
            };
        }
        match self.patience.judge(&progress.signs()) {
            Verdict::Well => {}
            Verdict::WaitsForKeyFrame => tell(News::Waiting("waiting for a key frame")),
            Verdict::Stalled(limit) => return Err(CameraError::Stalled(limit)),
        }
        Ok(())
    }

    fn ended(&self, progress: &Progress) -> Result<End, CameraError> {
        match self.config.source {
            Source::Rtsp(_) => Err(CameraError::Lost("the connection was closed".into())),
            Source::File(_) if progress.has_shown() => Ok(End::EndOfFile),
            Source::File(_) => Err(CameraError::Lost("the file holds no picture".into())),
        }
    }

    fn explain(&self, message: &gst::message::Error, progress: &Progress) -> CameraError {
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
        if message.error().matches(gst::ResourceError::OpenReadWrite)
            && let Some(Rtsp { url, .. }) = self.rtsp()
            && let Some(host) = url.host_str()
        {
            let usual = if url.scheme() == "rtsps" { 322 } else { 554 };
            if let Some(why) = reach::why_not(host, url.port().unwrap_or(usual)) {
                return CameraError::Lost(why);
            }
        }
        let with_user = self.rtsp().is_some_and(|rtsp| rtsp.username.is_some());
        CameraError::of(message, with_user)
    }
}

fn read_password(rtsp: &Rtsp) -> Result<Option<String>, CameraError> {
    rtsp.password.as_ref().map(|secret| secret.read()).transpose().map_err(CameraError::internal)
}

struct Playing {
    pipeline: gst::Pipeline,
    progress: Arc<Progress>,
    camera: Arc<str>,
}

impl Drop for Playing {
    /// Ending a pipeline can hang in a driver or a socket: this camera's thread must not.
    fn drop(&mut self) {
        self.progress.close();
        let (ended, wait) = mpsc::sync_channel(1);
        let pipeline = self.pipeline.clone();
        let thread = thread::Builder::new().name(format!("{} end", self.camera)).spawn(move || {
            let _ = pipeline.set_state(gst::State::Null);
            let _ = ended.send(());
        });
        match thread {
            Ok(_) if wait.recv_timeout(TEARDOWN_TIMEOUT).is_err() => {
                tracing::warn!(camera = %self.camera, "the old connection is slow to end");
            }
            Ok(_) => {}
            Err(_) => {
                let _ = self.pipeline.set_state(gst::State::Null);
            }
        }
    }
}
