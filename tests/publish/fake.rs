//! A fake daemon with a journal and a few answers, and its gRPC server.

use lookout::access::{Audit, Gate, Tokens};

use super::*;

pub type TryRule = Box<dyn Fn(TrialRequest) -> Result<TrialStream, TrialError> + Send>;
pub type ChangeConfig = Box<dyn Fn(ConfigChange) -> Result<Reloaded, ReloadError> + Send>;
pub type Ask = Box<dyn Fn(Question) -> Result<AnswerStream, AskError> + Send>;

pub struct Fake {
    pub journal: Arc<dyn Journal>,
    pub ready: AtomicBool,
    /// The state of the camera `yard`, or `None` if it was removed.
    pub yard: Mutex<Option<CameraState>>,
    /// Set to make the next query of the cameras panic.
    pub panics: AtomicBool,
    pub ask: Mutex<Ask>,
    /// Names of cameras besides `gate` and `yard`.
    pub more_cameras: Mutex<Vec<String>>,
    /// The JPEG of every frame. Empty: some frames have a text as JPEG.
    pub jpeg: Mutex<Arc<[u8]>>,
    pub rules: Mutex<Vec<RuleInfo>>,
    /// The live video of the camera `gate`.
    pub live: Mutex<Option<LiveStream>>,
    /// Alerts, the one that began last first.
    pub alerts: Mutex<Vec<ListedAlert>>,
    pub try_rule: Mutex<TryRule>,
    pub change_config: Mutex<ChangeConfig>,
    /// Number of lookups of frame 9 in work, which do not end.
    pub endless_lookups: Arc<AtomicUsize>,
}

/// Counts work until it is dropped.
struct InWork(Arc<AtomicUsize>);

impl InWork {
    fn new(count: &Arc<AtomicUsize>) -> InWork {
        count.fetch_add(1, Ordering::Relaxed);
        InWork(count.clone())
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Fake {
    pub fn answers_with(
        &self,
        ask: impl Fn(Question) -> Result<AnswerStream, AskError> + Send + 'static,
    ) {
        *self.ask.lock().unwrap() = Box::new(ask);
    }
}

impl Service for Fake {
    fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    fn cameras(&self) -> Vec<CameraInfo> {
        assert!(!self.panics.swap(false, Ordering::Relaxed), "wanted by a test");
        let yard = *self.yard.lock().unwrap();
        let more = self.more_cameras.lock().unwrap();
        let more = more.iter().map(|name| (name.as_str(), Some(CameraState::Live)));
        [("gate", Some(CameraState::Live)), ("yard", yard)]
            .into_iter()
            .chain(more)
            .filter_map(|(name, state)| Some((name, state?)))
            .map(|(name, state)| CameraInfo {
                name: name.into(),
                source: "rtsp://camera.example/1".into(),
                status: status(state),
                buffer_frames: 3,
                buffer_bytes: 4096,
                disk_bytes: 0,
                oldest_frame_at: None,
            })
            .collect()
    }

    fn frame_jpeg(&self, camera: &str, run: Option<u64>, number: u64) -> FrameLookup {
        let jpeg = self.jpeg.lock().unwrap().clone();
        let found = match number {
            _ if !jpeg.is_empty() => Ok(FrameJpeg { jpeg, captured_at: SystemTime::now() }),
            7 if run.is_none() => {
                Ok(FrameJpeg { jpeg: b"a jpeg"[..].into(), captured_at: SystemTime::now() })
            }
            4 if run == Some(1) => {
                Ok(FrameJpeg { jpeg: b"jpeg 4"[..].into(), captured_at: SystemTime::now() })
            }
            8 => Err(FrameError::Busy),
            // The lookup does not end.
            9 => {
                let in_work = InWork::new(&self.endless_lookups);
                return Box::pin(async move {
                    let _in_work = in_work;
                    std::future::pending().await
                });
            }
            _ => Err(FrameError::FrameNotFound { camera: camera.into(), number }),
        };
        Box::pin(std::future::ready(found))
    }

    fn delete_frames(&self, _: Span, _: &[String]) -> FrameDeletion {
        Box::pin(std::future::ready(Ok(7)))
    }

    /// Returns the first of the frames that `frame_jpeg` has of the run 1.
    fn sample_frames(
        &self,
        camera: &str,
        range: Range,
        most: usize,
    ) -> Result<FrameSample, AskError> {
        if camera != "gate" {
            return Err(AskError::CameraNotFound(camera.into()));
        }
        if let Range::Last(length) = range
            && length > Duration::from_secs(3600)
        {
            let why = "no frames from then to now; there are some from now to now".into();
            return Err(AskError::NoFrames { camera: camera.into(), why });
        }
        let Inference { window, coverage, frames, .. } = inference("");
        let frames = frames.iter().map(|frame| (frame.id, frame.captured_at));
        Ok(FrameSample { window, frames: frames.take(most).collect(), coverage })
    }

    fn limits(&self) -> Limits {
        let more = self.more_cameras.lock().unwrap();
        let more = more.iter().map(|name| name.as_str().into());
        let cameras = ["gate".into(), "yard".into()].into_iter().chain(more).collect();
        Limits { text_bytes: 8192, cameras: Some(cameras) }
    }

    fn ask(&self, question: Question) -> Result<AnswerStream, AskError> {
        self.ask.lock().unwrap()(question)
    }

    fn rules(&self) -> Vec<RuleInfo> {
        self.rules.lock().unwrap().clone()
    }

    /// Returns an active alert of a rule whose list entry has one.
    fn newest_alert(&self, camera: &str, rule: &str) -> Option<Alert> {
        let rules = self.rules();
        let rule = rules.iter().find(|info| *info.camera == *camera && *info.name == *rule)?;
        let Body::Alert(alert) = alert(&rule.name, rule.alert_id.as_ref()?) else { return None };
        Some(alert)
    }

    fn live_video(&self, camera: &str) -> Option<LiveStream> {
        if camera == "gate" { self.live.lock().unwrap().take() } else { None }
    }

    fn alerts(&self, query: &AlertQuery) -> Vec<ListedAlert> {
        let alerts = self.alerts.lock().unwrap();
        let is_before =
            |listed: &&ListedAlert| Some(&*listed.alert.alert_id) != query.before.as_deref();
        let skipped = if query.before.is_some() {
            alerts.iter().take_while(is_before).count() + 1
        } else {
            0
        };
        let older = alerts.iter().skip(skipped);
        let wanted = older.filter(|listed| query.wants(&listed.camera, &listed.alert));
        wanted.take(query.limit).cloned().collect()
    }

    fn acknowledge(&self, alert_id: &str, false_alarm: bool) -> Result<Arc<Event>, AlertNotFound> {
        let not_found = || AlertNotFound(alert_id.to_owned());
        let rules = self.rules();
        let rule = rules.iter().find(|rule| rule.alert_id.as_deref() == Some(alert_id));
        let rule = rule.ok_or_else(not_found)?;
        let mut alert = self.newest_alert(&rule.camera, &rule.name).ok_or_else(not_found)?;
        alert.phase = AlertPhase::Acknowledged;
        alert.acknowledgement = Some(Acknowledgement { at: SystemTime::now(), false_alarm });
        Ok(self.journal.append(rule.camera.clone(), Body::Alert(alert)))
    }

    fn try_rule(&self, request: TrialRequest) -> Result<TrialStream, TrialError> {
        (self.try_rule.lock().unwrap())(request)
    }

    fn change_config(&self, change: ConfigChange) -> Reloading {
        Box::pin(std::future::ready(self.change_config.lock().unwrap()(change)))
    }

    fn configured_cameras(&self) -> ConfiguredCameras {
        let cameras =
            vec![configured("gate", Some("lookout.toml, line 4")), configured("yard", None)];
        Box::pin(std::future::ready(Ok(cameras)))
    }

    fn troubles(&self) -> Vec<String> {
        vec!["the disk is full".into()]
    }

    fn readiness(&self) -> Readiness {
        match self.ready.load(Ordering::Relaxed) {
            true => Readiness::Ready,
            false => Readiness::NotYet("the model is loading".into()),
        }
    }
}

pub struct Daemon {
    pub service: Arc<Fake>,
    pub grpc: String,
    pub stop: CancellationToken,
    /// The tokens and the audit log, if the interfaces have access control.
    pub access: Option<(Arc<Tokens>, Audit)>,
    pub serving: Option<JoinHandle<Result<(), PublishError>>>,
}

impl Daemon {
    /// Starts a daemon that keeps its newest events in memory, and its gRPC server.
    pub async fn start(journal: usize) -> Daemon {
        let mut daemon = Daemon::with_journal(MemoryJournal::shared(RUN, journal));
        daemon.serve_again().await;
        daemon
    }

    /// Returns a daemon without a server.
    pub fn with_journal(journal: Arc<dyn Journal>) -> Daemon {
        let service = Arc::new(Fake {
            journal,
            ready: AtomicBool::new(true),
            yard: Mutex::new(Some(CameraState::Lost)),
            panics: AtomicBool::new(false),
            ask: Mutex::new(Box::new(|_| Err(AskError::Stopping))),
            more_cameras: Mutex::default(),
            jpeg: Mutex::new([].into()),
            rules: Mutex::default(),
            live: Mutex::default(),
            alerts: Mutex::default(),
            try_rule: Mutex::new(Box::new(|_| Err(TrialError::TooManyTrials))),
            change_config: Mutex::new(Box::new(|_| Ok(Reloaded::default()))),
            endless_lookups: Arc::default(),
        });
        let grpc = format!("127.0.0.1:{}", free_port());
        let stop = CancellationToken::new();
        Daemon { service, grpc, stop, access: None, serving: None }
    }

    pub async fn serve_again(&mut self) {
        let listener = listener(Interface::Grpc, self.grpc.parse().unwrap()).await.unwrap();
        self.stop = CancellationToken::new();
        let gate = self.gate(&self.stop);
        let serving = publish::grpc::serve(listener, gate, self.stop.clone());
        self.serving = Some(tokio::spawn(serving));
    }

    /// Returns the way to the service for an interface that `stop` ends.
    pub fn gate(&self, stop: &CancellationToken) -> Gate {
        let service = self.service.clone();
        match &self.access {
            Some((tokens, audit)) => {
                Gate::guarded(service, stop.clone(), tokens.clone(), audit.clone())
            }
            None => Gate::open(service, stop.clone()),
        }
    }

    pub fn yard_is(&self, state: CameraState) {
        *self.service.yard.lock().unwrap() = Some(state);
        self.service.journal.append("yard".into(), Body::CameraStatus(status(state)));
    }

    pub fn caption(&self, text: &str) -> Arc<Event> {
        self.service.journal.append("gate".into(), caption(text))
    }

    /// Publishes that the scene has not changed since an event.
    pub fn unchanged_since(&self, event: EventId) {
        let Body::Caption(mut same) = caption("unchanged") else { unreachable!() };
        same.unchanged = Some(Unchanged { since: SystemTime::now(), event });
        self.service.journal.append("gate".into(), Body::Caption(same));
    }

    /// Removes the camera `yard` as the daemon does.
    pub fn remove_yard(&self) {
        *self.service.yard.lock().unwrap() = None;
        let removed = status(CameraState::Lost);
        self.service.journal.append("yard".into(), Body::CameraStatus(removed));
    }

    pub async fn channel(&self) -> Channel {
        let uri = format!("http://{}", self.grpc);
        Channel::from_shared(uri).unwrap().connect().await.unwrap()
    }

    pub async fn client(&self) -> LookoutServiceClient<Channel> {
        LookoutServiceClient::new(self.channel().await)
    }

    pub async fn ask(
        &self,
        camera: &str,
    ) -> Result<tonic::Streaming<proto::AskResponse>, tonic::Status> {
        let question = "Is it open?".into();
        let request =
            proto::AskRequest { cameras: vec![camera.into()], question, ..Default::default() };
        Ok(self.client().await.ask(request).await?.into_inner())
    }
}

/// Returns the recorder of metrics, which all tests of the program share.
pub fn metrics() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| lookout::metrics::install().unwrap()).clone()
}

/// Binds a listener with enough connections for a test and short timeouts.
pub async fn listener(interface: Interface, addr: SocketAddr) -> Result<Listener, PublishError> {
    let second = Duration::from_secs(1);
    let timeouts = Timeouts { greeting: 3 * second, stalled: 5 * second, idle: 4 * second };
    Ok(Listener::bind(interface, addr, CONNECTIONS).await?.with_timeouts(timeouts))
}

pub fn caption(text: &str) -> Body {
    Body::Caption(Caption { inference: inference(text), skipped_windows: 0, unchanged: None })
}

/// Returns a rule of the camera `gate`, and its active alert.
pub fn rule(name: &str, alert_id: Option<&str>) -> RuleInfo {
    RuleInfo {
        name: name.into(),
        camera: "gate".into(),
        question: "Is it there?".into(),
        severity: Severity::Warning,
        state: if alert_id.is_some() { RuleState::Active } else { RuleState::Idle },
        is_blind: false,
        score: None,
        scored_at: None,
        alert_id: alert_id.map(Into::into),
        alerts_today: 0,
        false_alarms_today: 0,
    }
}

/// Returns the first event of an alert.
pub fn alert(rule: &str, alert_id: &str) -> Body {
    let Inference { window, coverage, frames, .. } = inference("");
    Body::Alert(Alert {
        alert_id: alert_id.into(),
        rule: rule.into(),
        severity: Severity::Warning,
        phase: AlertPhase::New,
        question: "Is it there?".into(),
        score: 0.9,
        peak_score: 0.9,
        window,
        coverage,
        frames,
        started_at: window.to,
        ended_at: None,
        end_reason: None,
        scored_windows: 1,
        unknown_windows: 0,
        curve: vec![ScorePoint { at: window.to, score: Some(0.9) }],
        acknowledgement: None,
        update: None,
        description: None,
        clip: None,
    })
}

pub fn answer(question_id: &str, text: &str) -> Answer {
    Answer {
        inference: inference(text),
        question_id: question_id.into(),
        conversation: "c1".into(),
        earlier_turns: 0,
        parts: Vec::new(),
        summary_method: None,
        yes_score: None,
        schema_sha256: None,
        trace_parent: None,
    }
}

/// Returns a camera as the config has it.
pub fn configured(name: &str, config_place: Option<&str>) -> ConfiguredCamera {
    let url = Value::String("rtsp://camera.example/1".into());
    ConfiguredCamera {
        name: name.into(),
        config_place: config_place.map(str::to_owned),
        settings: [("url".to_owned(), url)].into_iter().collect(),
        hides_credentials: false,
    }
}

/// Returns an answer as an event that is in no journal.
pub fn finished(answer: Answer) -> AnswerItem {
    let id = EventId { run: RUN, sequence: 1 };
    let event = Event::new(id, SystemTime::now(), "gate".into(), Body::Answer(answer));
    AnswerItem::Finished(Arc::new(event))
}

pub fn part(text: &str) -> AnswerPart {
    let Inference { window, coverage, .. } = inference("");
    AnswerPart { window, text: text.into(), coverage }
}

fn inference(text: &str) -> Inference {
    let at = |s: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(1_760_000_000_123 + s * 1000);
    let gap = Span { from: at(0), to: at(2) };
    let frame = |number, captured_at, slow| FrameReference {
        id: FrameId { run: 1, number },
        captured_at,
        slow,
    };
    let cpu = Placement { device: "cpu".into(), reason: "auto: libcuda.so.1 is missing".into() };
    Inference {
        prompt: "What happens?".into(),
        text: text.into(),
        window: Span { from: at(0), to: at(8) },
        coverage: Coverage {
            frames_expected: 4,
            frames_used: 2,
            covered_span: Some(Span { from: at(2), to: at(6) }),
            gaps: vec![Gap { span: gap, cause: GapCause::CameraDown }],
            clock_source: Clock::Camera,
        },
        frames: vec![frame(4, at(2), true), frame(6, at(6), false)],
        model: "tiny".into(),
        devices: Devices { vision: cpu.clone(), language: cpu },
        finish_reason: FinishReason::Stop,
        usage: Usage { video_tokens: 320, text_tokens: 20, new_tokens: 9, cached_tokens: 300 },
        timing: Timing { total_seconds: 0.21, prefill_seconds: 0.1, ..Timing::default() },
    }
}

pub fn status(state: CameraState) -> CameraStatus {
    CameraStatus {
        state,
        since: SystemTime::UNIX_EPOCH + Duration::from_secs(1_760_000_000),
        reason: if state == CameraState::Live { String::new() } else { "no route".into() },
        last_frame_at: None,
        reconnects: 2,
        decoder: "avdec_h264".into(),
    }
}

/// A reader that takes this number of lines and then closes, as `| head -n` does.
pub struct Lines {
    pub wanted: usize,
    pub text: String,
}

impl Lines {
    pub fn until(wanted: usize) -> Lines {
        Lines { wanted, text: String::new() }
    }

    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text += std::str::from_utf8(bytes).unwrap();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.text.matches('\n').count() >= self.wanted {
            true => Err(ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }
}

/// Returns a free port below the system's range for outgoing connections (from 32768 on), so that
/// no other test's connection takes the port while its server is being restarted.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Reads a connection to its end. Returns what was received until then.
pub async fn to_its_end(mut stream: TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    // A reset connection has ended, too.
    let _ = timeout(SOON, stream.read_to_end(&mut heard)).await.expect("still open");
    heard
}
