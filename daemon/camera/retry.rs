//! Retries a camera: decides when to retry and which status to report. Not here: RTSP.
//!
//! ```text
//!               ┌───────────── first frame ─────────────┐
//!  Connecting ──┤                                       ▼
//!      │        │        ┌───── first frame ────────► Live
//!      │ error  │        │                              │ error
//!      ▼        │        │                              │
//!   Lost, Stalled, Refused ◄────────────────────────────┘
//! ```
//!
//! `Connecting` is reported at the start, and while a camera that answers has not delivered a
//! frame. After a failure, its state and reason remain until then or until the camera fails in
//! another way. A user wants to read "lost: connection refused", not a flicker of attempts.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::backoff::{self, Backoff};
use super::delivery::Delivery;
use super::error::CameraError;
use crate::event::{CameraState, CameraStatus};
use crate::sync::lock;

pub trait Attempt {
    /// Connects and plays until it fails. Returns `Ok` only after a stop was requested. The same
    /// state may be reported several times.
    fn run_once(
        &mut self,
        stop: &Stop,
        report: &mut dyn FnMut(Report<'_>),
    ) -> Result<(), CameraError>;

    /// Returns true if the credentials have changed since the last attempt, which makes an
    /// immediate retry worthwhile.
    fn has_new_credentials(&self) -> bool;
}

/// A report from a running attempt.
#[derive(Clone, Copy, Debug)]
pub enum Report<'n> {
    /// The first frame has come. The value is the decoder's name.
    Live(&'n str),
    /// The camera is connected but has delivered no frame yet, for this reason.
    Waiting(&'static str),
}

/// Interval at which credentials are checked for a change.
const LOOK: Duration = Duration::from_secs(1);

pub fn run(
    attempt: &mut impl Attempt,
    max_reconnect_delay: Duration,
    stop: &Stop,
    reporter: &mut Reporter,
) {
    let mut backoff = Backoff::new(max_reconnect_delay);
    let mut refusals = 0;
    loop {
        let mut live_since = None;
        let outcome = attempt.run_once(stop, &mut |report| match report {
            Report::Live(decoder) => {
                live_since.get_or_insert_with(Instant::now);
                reporter.live(decoder);
            }
            Report::Waiting(reason) => reporter.waiting(reason),
        });
        let Err(error) = outcome else { return };
        reporter.down(&error);
        if live_since.is_some() {
            refusals = 0;
        }
        if live_since.is_some_and(|since| since.elapsed() >= backoff::SETTLED) {
            backoff.reset();
        }
        let pause = if error.is_about_credentials() {
            refusals += 1;
            backoff::after_wrong_password(refusals - 1, rand::random())
        } else if error.is_lasting() {
            backoff::jittered(backoff::AFTER_REFUSAL, rand::random())
        } else {
            backoff.pause(rand::random())
        };
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if stop.wait(left.min(LOOK)) {
                return;
            }
            if error.is_about_credentials() && attempt.has_new_credentials() {
                refusals = 0;
                break;
            }
            if left.is_zero() {
                break;
            }
        }
    }
}

/// A stop request that a thread can wait for.
#[derive(Default)]
pub struct Stop {
    asked: Mutex<bool>,
    changed: Condvar,
    deadline: Option<Instant>,
}

impl Stop {
    /// Creates a stop that counts as requested after `timeout`.
    pub fn after(timeout: Duration) -> Stop {
        Stop { deadline: Some(Instant::now() + timeout), ..Stop::default() }
    }

    pub fn ask(&self) {
        *lock(&self.asked) = true;
        self.changed.notify_all();
    }

    pub fn is_asked(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Waits at most `timeout`. Returns true if a stop is requested.
    pub fn wait(&self, timeout: Duration) -> bool {
        let asked = lock(&self.asked);
        let (asked, _) = self
            .changed
            .wait_timeout_while(asked, timeout, |asked| !*asked)
            .unwrap_or_else(PoisonError::into_inner);
        *asked || self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// Keeps a camera's status and reports each change of it.
pub struct Reporter {
    delivery: Arc<Delivery>,
    status: CameraStatus,
}

impl Reporter {
    pub fn new(delivery: Arc<Delivery>) -> Reporter {
        let status = CameraStatus::connecting(SystemTime::now());
        let reporter = Reporter { delivery, status };
        reporter.report();
        reporter
    }

    fn live(&mut self, decoder: &str) {
        if self.status.state == CameraState::Live && self.status.decoder == decoder {
            return;
        }
        self.status.decoder = decoder.to_string();
        self.change(CameraState::Live, String::new());
        tracing::info!(camera = %self.delivery.camera(), decoder, "live");
    }

    fn waiting(&mut self, reason: &'static str) {
        if (self.status.state, self.status.reason.as_str()) == (CameraState::Connecting, reason) {
            return;
        }
        tracing::info!(camera = %self.delivery.camera(), "{reason}");
        self.change(CameraState::Connecting, reason.to_string());
    }

    fn down(&mut self, error: &CameraError) {
        let (state, reason) = (error.state(), error.to_string());
        if (self.status.state, &self.status.reason) == (state, &reason) {
            return;
        }
        if self.status.state == CameraState::Live {
            self.status.reconnects += 1;
        }
        tracing::warn!(camera = %self.delivery.camera(), "{}: {reason}", state.name());
        self.change(state, reason);
    }

    fn change(&mut self, state: CameraState, reason: String) {
        if self.status.state != state {
            self.status.since = SystemTime::now();
        }
        self.status.state = state;
        self.status.reason = reason;
        self.report();
    }

    fn report(&self) {
        let last_frame_at = self.delivery.last_frame();
        self.delivery.tell(CameraStatus { last_frame_at, ..self.status.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::Sink;
    use crate::frame::Frame;

    #[derive(Default)]
    struct Reports(Mutex<Vec<(CameraState, String, u64)>>);

    impl Sink for Reports {
        fn frame(&self, _: Frame) {}
        fn status(&self, _: &Arc<str>, status: CameraStatus) {
            self.0.lock().unwrap().push((status.state, status.reason, status.reconnects));
        }
    }

    struct Script(Vec<(bool, Option<CameraError>)>);

    impl Attempt for Script {
        fn run_once(
            &mut self,
            _: &Stop,
            report: &mut dyn FnMut(Report<'_>),
        ) -> Result<(), CameraError> {
            let (live, end) = self.0.remove(0);
            if live {
                report(Report::Waiting("waiting for a key frame"));
                report(Report::Waiting("waiting for a key frame"));
                report(Report::Live("avdec_h264"));
                report(Report::Live("avdec_h264"));
            }
            end.map_or(Ok(()), Err)
        }

        fn has_new_credentials(&self) -> bool {
            true
        }
    }

    fn delivery(sink: Arc<Reports>) -> Delivery {
        Delivery::new("gate".into(), sink, Arc::new(crate::run_clock::RunClock::start()))
    }

    #[test]
    fn each_state_change_is_reported_once() {
        let lost = || Some(CameraError::Failed("connection refused".into()));
        let mut script = Script(vec![
            (true, Some(CameraError::Stalled(Duration::from_secs(5)))),
            (false, lost()),
            (false, lost()),
            (false, Some(CameraError::WrongPassword)),
            (true, None),
        ]);
        let reports = Arc::new(Reports::default());
        let mut reporter = Reporter::new(Arc::new(delivery(reports.clone())));
        let began = Instant::now();
        let longest = Duration::from_millis(10);
        run(&mut script, longest, &Stop::default(), &mut reporter);
        assert!(began.elapsed() < Duration::from_secs(5), "new credentials are tried at once");
        let reports = reports.0.lock().unwrap().clone();
        let reports: Vec<_> = reports.iter().map(|(p, r, n)| (*p, r.as_str(), *n)).collect();
        assert_eq!(
            reports,
            [
                (CameraState::Connecting, "", 0),
                (CameraState::Connecting, "waiting for a key frame", 0),
                (CameraState::Live, "", 0),
                (CameraState::Stalled, "no frame for 5 s", 1),
                (CameraState::Lost, "connection refused", 1),
                (CameraState::Refused, "wrong user or password", 1),
                (CameraState::Connecting, "waiting for a key frame", 1),
                (CameraState::Live, "", 1),
            ]
        );
    }

    #[test]
    fn a_stop_ends_a_long_pause() {
        let reports = Arc::new(Reports::default());
        let mut reporter = Reporter::new(Arc::new(delivery(reports)));
        let stop = Stop::after(Duration::from_millis(50));
        let mut script = Script(vec![(false, Some(CameraError::Failed("off".into())))]);
        let began = Instant::now();
        // The pause of 0.25 s or more is one wait, and the deadline is checked at its end.
        run(&mut script, Duration::from_secs(60), &stop, &mut reporter);
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}
