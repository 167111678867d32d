//! Decides when a session needs a keep-alive request, and which one. Not here: sockets.
//!
//! Cameras end a session without requests after the time-out that they report (60 s if they report
//! none); some end it sooner. Which request counts differs: some cameras accept only GET_PARAMETER,
//! others close the connection when they receive it. The method that works is remembered over all
//! connections of a camera.

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Options,
    GetParameter,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Method::Options => "OPTIONS",
            Method::GetParameter => "GET_PARAMETER",
        }
    }

    fn other(self) -> Method {
        match self {
            Method::Options => Method::GetParameter,
            Method::GetParameter => Method::Options,
        }
    }
}

/// Maximum pause between requests. Some cameras end a session after 30 s without reporting that
/// time-out.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Maximum time for an answer. A later one counts as missing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Number of session time-outs after which a working method counts as proven.
const PROOF: u32 = 4;

/// The keep-alive method of one camera, kept over all its connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownMethod {
    method: Option<Method>,
    proven: bool,
}

/// The keep-alive state of one connection.
#[derive(Debug)]
pub struct KeepAlive {
    known_method: KnownMethod,
    advertised: bool,
    timeout: Duration,
    playing_since: Option<Instant>,
    last_request: Instant,
    unanswered: Option<Instant>,
    sent: u32,
}

impl KeepAlive {
    pub fn new(known_method: KnownMethod, now: Instant) -> KeepAlive {
        KeepAlive {
            known_method,
            advertised: false,
            timeout: Duration::from_secs(60),
            playing_since: None,
            last_request: now,
            unanswered: None,
            sent: 0,
        }
    }

    pub fn known_method(&self) -> KnownMethod {
        self.known_method
    }

    /// Records whether the camera's list of methods contains GET_PARAMETER.
    pub fn public(&mut self, methods: &str) {
        self.advertised = methods.split(',').any(|method| method.trim() == "GET_PARAMETER");
    }

    /// Records the session time-out that the camera reports.
    pub fn timeout(&mut self, timeout: Duration) {
        if !timeout.is_zero() {
            self.timeout = timeout;
        }
    }

    pub fn playing(&mut self, now: Instant) {
        self.playing_since.get_or_insert(now);
    }

    /// Records that another request was sent.
    pub fn requested(&mut self, now: Instant) {
        self.last_request = now;
    }

    /// Returns the method of the request that is due now, if one is, and records it as sent.
    pub fn due(&mut self, now: Instant) -> Option<Method> {
        self.playing_since?;
        let pause = (self.timeout / 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        if now.duration_since(self.last_request) < pause {
            return None;
        }
        if self.unanswered.is_some_and(|at| now.duration_since(at) >= ANSWER_TIMEOUT.min(pause)) {
            self.use_other();
        }
        self.last_request = now;
        self.unanswered = Some(now);
        self.sent += 1;
        Some(self.method())
    }

    pub fn answered(&mut self, code: u16, now: Instant) {
        self.unanswered = None;
        if !(200..300).contains(&code) {
            self.use_other();
        } else if self
            .playing_since
            .is_some_and(|since| self.sent > 1 && now.duration_since(since) > self.timeout * PROOF)
        {
            self.known_method = KnownMethod { method: Some(self.method()), proven: true };
        }
    }

    /// Records that the camera has closed the connection.
    pub fn ended(&mut self) {
        if self.sent > 0 {
            self.use_other();
        }
    }

    fn method(&self) -> Method {
        let usual = if self.advertised { Method::GetParameter } else { Method::Options };
        self.known_method.method.unwrap_or(usual)
    }

    fn use_other(&mut self) {
        self.unanswered = None;
        if !self.known_method.proven {
            self.known_method.method = Some(self.method().other());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn playing(known_method: KnownMethod, public: &str, timeout: u64) -> (KeepAlive, Instant) {
        let begun = Instant::now();
        let mut alive = KeepAlive::new(known_method, begun);
        alive.public(public);
        alive.timeout(SECOND * timeout as u32);
        alive.playing(begun);
        (alive, begun)
    }

    #[test]
    fn keep_alive_is_sent_at_half_the_timeout_and_at_least_every_fifteen_seconds() {
        for (timeout, pause) in [(1, 1), (10, 5), (30, 15), (60, 15), (600, 15)] {
            let (mut alive, begun) = playing(KnownMethod::default(), "", timeout);
            assert_eq!(alive.due(begun + SECOND * pause - SECOND / 10), None);
            assert_eq!(alive.due(begun + SECOND * pause), Some(Method::Options));
            assert_eq!(alive.due(begun + SECOND * pause), None);
        }
    }

    #[test]
    fn no_keep_alive_is_sent_before_play() {
        let now = Instant::now();
        assert_eq!(KeepAlive::new(KnownMethod::default(), now).due(now + SECOND * 100), None);
    }

    #[test]
    fn the_keep_alive_method_changes_after_a_refusal_silence_or_disconnect() {
        let (mut alive, begun) = playing(KnownMethod::default(), "OPTIONS, GET_PARAMETER", 30);
        assert_eq!(alive.due(begun + SECOND * 15), Some(Method::GetParameter));
        alive.answered(501, begun + SECOND * 16);
        assert_eq!(alive.due(begun + SECOND * 30), Some(Method::Options));
        // The last request got no answer.
        assert_eq!(alive.due(begun + SECOND * 45), Some(Method::GetParameter));
        alive.ended();
        let (mut alive, begun) = playing(alive.known_method(), "OPTIONS, GET_PARAMETER", 30);
        assert_eq!(alive.due(begun + SECOND * 15), Some(Method::Options));
    }

    #[test]
    fn a_keep_alive_method_that_has_long_worked_is_kept() {
        let (mut alive, begun) = playing(KnownMethod::default(), "", 10);
        for at in 1..=9 {
            assert_eq!(alive.due(begun + SECOND * 5 * at), Some(Method::Options));
            alive.answered(200, begun + SECOND * 5 * at);
        }
        alive.ended();
        assert_eq!(playing(alive.known_method(), "GET_PARAMETER", 10).0.method(), Method::Options);
    }
}
