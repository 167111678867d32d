//! Tests traces with a collector: a gRPC server with OpenTelemetry's own code.

use std::collections::HashMap;

use lookout::config::Traces;
use lookout::publish::traces;
use lookout::trace_parent::TraceParent;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span as Sent;
use tokio::sync::Semaphore;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use super::receiver::Receiver;
use super::*;
use super::{api, delivery};

const LONG: Duration = Duration::from_secs(60);

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A collector.
struct Collector {
    port: u16,
    spans: mpsc::Receiver<Sent>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// Accepts spans. Each request needs a permit, and the header `authorization` if one is set.
struct Receiving {
    spans: mpsc::Sender<Sent>,
    permits: Arc<Semaphore>,
    authorization: Option<&'static str>,
}

#[tonic::async_trait]
impl TraceService for Receiving {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if self.authorization.is_some() && header != self.authorization {
            return Err(tonic::Status::unauthenticated("no token"));
        }
        self.permits.acquire().await.unwrap().forget();
        let request = request.into_inner();
        for resource in request.resource_spans {
            let names = resource.resource.unwrap().attributes;
            assert!(names.iter().any(|attribute| attribute.key == "service.name"));
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let _ = self.spans.send(span).await;
            }
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(port: u16) -> Collector {
        let plenty = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Collector::with(port, plenty, None, None).await
    }

    async fn with(
        port: u16,
        permits: Arc<Semaphore>,
        authorization: Option<&'static str>,
        identity: Option<Identity>,
    ) -> Collector {
        let (sender, spans) = mpsc::channel(100_000);
        let service = TraceServiceServer::new(Receiving { spans: sender, permits, authorization });
        let stop = CancellationToken::new();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let connections = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let mut server = Server::builder();
        if let Some(identity) = identity {
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let end = stop.clone().cancelled_owned();
        let server = server.add_service(service);
        let serving = server.serve_with_incoming_shutdown(connections, end);
        let serving = tokio::spawn(async move { serving.await.unwrap() });
        Collector { port, spans, stop, serving }
    }

    /// Publishes captions until one of their traces arrives. Returns its spans by their names.
    async fn trace(&mut self, journal: &Arc<dyn Journal>, body: &Body) -> HashMap<String, Sent> {
        let name = match body {
            Body::Caption(_) => "caption",
            Body::Answer(_) => "answer",
            _ => "alert",
        };
        let arriving = async {
            let first = loop {
                journal.append("gate".into(), body.clone());
                let next = timeout(Duration::from_secs(2), self.root(name)).await;
                if let Ok(span) = next {
                    break span;
                }
            };
            let id = first.trace_id.clone();
            let mut spans = HashMap::from([(first.name.clone(), first)]);
            while !spans.contains_key("store") {
                let span = self.spans.recv().await.unwrap();
                if span.trace_id == id {
                    spans.insert(span.name.clone(), span);
                }
            }
            spans
        };
        timeout(LONG, arriving).await.expect("no trace arrived")
    }

    /// Returns the next span with the name of a root.
    async fn root(&mut self, name: &str) -> Sent {
        loop {
            let span = self.spans.recv().await.unwrap();
            if span.name == name {
                return span;
            }
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}

fn config(port: u16) -> Traces {
    Traces {
        endpoint: format!("http://localhost:{port}").parse().unwrap(),
        headers: None,
        ca_file: None,
        sample_ratio: 1.0,
        service_name: "attic".into(),
        has_content: false,
    }
}

/// Sends the traces of a journal until `stop`.
struct Sending {
    journal: Arc<dyn Journal>,
    recorder: Arc<traces::Recorder>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), PublishError>>,
}

impl Sending {
    fn start(config: Traces) -> Sending {
        Sending::of(MemoryJournal::shared(RUN, 1000), config)
    }

    fn of(journal: Arc<dyn Journal>, config: Traces) -> Sending {
        let stop = CancellationToken::new();
        let recorder = traces::Recorder::shared(config);
        let running = traces::run(recorder.clone(), journal.clone(), stop.clone());
        Sending { journal, recorder, stop, running: tokio::spawn(running) }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(LONG, self.running).await.expect("it does not stop").unwrap().unwrap();
    }
}

/// Returns a span's attribute as text.
fn attribute(span: &Sent, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        AnyValue::StringValue(text) => Some(text),
        AnyValue::IntValue(number) => Some(number.to_string()),
        AnyValue::BoolValue(value) => Some(value.to_string()),
        AnyValue::DoubleValue(value) => Some(value.to_string()),
        other => Some(format!("{other:?}")),
    }
}

/// Returns the number of spans with this result, of all tests of the program.
fn counted(result: &str) -> u64 {
    let start = format!("lookout_trace_spans_total{{result=\"{result}\"}} ");
    let rendered = metrics().render();
    let line = rendered.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |value| value.parse().unwrap())
}

async fn until(what: &str, is_done: impl Fn() -> bool) {
    let waiting = async {
        while !is_done() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("waited for: {what}"));
}

fn millis_between(span: &Sent) -> u64 {
    (span.end_time_unix_nano - span.start_time_unix_nano) / 1_000_000
}

#[tokio::test]
async fn a_caption_is_a_trace_of_its_stages() {
    let mut collector = Collector::start(free_port()).await;
    let sending = Sending::start(config(collector.port));
    let Body::Caption(mut made) = caption("A secret text.") else { unreachable!() };
    made.inference.timing = Timing {
        wait_seconds: 0.5,
        encode_seconds: 0.2,
        prefill_seconds: 0.3,
        decode_seconds: 0.7,
        total_seconds: 1.6,
    };
    let spans = collector.trace(&sending.journal, &Body::Caption(made)).await;
    let root = &spans["caption"];
    assert!(root.parent_span_id.is_empty());
    let uuid = attribute(root, "lookout.event.uuid").unwrap().replace('-', "");
    let id: String = root.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(id, uuid);
    for (key, value) in [
        ("lookout.camera", "gate"),
        ("lookout.frames.expected", "4"),
        ("lookout.frames.used", "2"),
        ("lookout.gaps", "1"),
        ("lookout.window.from", "2025-10-09T08:53:20.123Z"),
    ] {
        assert_eq!(attribute(root, key).as_deref(), Some(value), "{key}");
    }
    let generate = &spans["generate_content tiny"];
    for (key, value) in [
        ("gen_ai.operation.name", "generate_content"),
        ("gen_ai.provider.name", "lookout"),
        ("gen_ai.request.model", "tiny"),
        ("gen_ai.usage.input_tokens", "340"),
        ("gen_ai.usage.output_tokens", "9"),
        ("gen_ai.usage.cache_read.input_tokens", "300"),
    ] {
        assert_eq!(attribute(generate, key).as_deref(), Some(value), "{key}");
    }
    let parents = [
        ("wait", root, 500),
        ("generate_content tiny", root, 1000),
        ("encode frames", &spans["wait"], 200),
        ("prefill", generate, 300),
        ("decode", generate, 700),
    ];
    for (name, parent, millis) in parents {
        let span = &spans[name];
        assert_eq!(span.parent_span_id, parent.span_id, "{name}");
        assert_eq!(millis_between(span), millis, "{name}");
        assert!(span.start_time_unix_nano >= parent.start_time_unix_nano, "{name}");
        assert!(span.end_time_unix_nano <= parent.end_time_unix_nano, "{name}");
    }
    assert!(millis_between(root) >= 1600);
    assert!(!format!("{spans:?}").contains("secret"), "a trace has a text");
    sending.stop().await;
    collector.stop().await;
}

#[tokio::test]
async fn a_delivery_is_a_span_until_the_receiver_has_accepted_the_event() {
    let broker = Broker::start();
    let mut receiver = Receiver::start().await;
    let daemon = delivery::memory();
    let mut collector = Collector::start(free_port()).await;
    let sending = Sending::of(daemon.service.journal.clone(), config(collector.port));
    let mut heard = Subscriber::connect(broker.port, "lookout/available").await;
    let recorder = || sending.recorder.clone();
    let publisher = Publisher::traced(&daemon, mqtt_config(broker.port), Some(recorder()));
    heard.until("lookout/available", "online").await;
    let folder = tempfile::tempdir().unwrap();
    let hook = delivery::config(&delivery::webhook(receiver.port, ""), folder.path());
    let hook = delivery::Running::traced(&daemon, hook, recorder());

    let mut traces: HashMap<Vec<u8>, Vec<Sent>> = HashMap::new();
    let arriving = async {
        loop {
            // The reader of events may begin after the first one.
            delivery::publish_alert(&daemon, "car", AlertPhase::New);
            while let Ok(span) = timeout(Duration::from_secs(2), collector.spans.recv()).await {
                let span = span.unwrap();
                let trace = traces.entry(span.trace_id.clone()).or_default();
                trace.push(span);
                let count = |name| trace.iter().filter(|span| span.name == name).count();
                if [count("alert"), count("store"), count("publish")] == [1, 1, 2] {
                    return trace.clone();
                }
            }
        }
    };
    let spans = timeout(LONG, arriving).await.expect("no trace has both deliveries");
    let named = |name| spans.iter().find(|span| span.name == name).unwrap();
    let (root, store) = (named("alert"), named("store"));
    let mut interfaces = Vec::new();
    for span in spans.iter().filter(|span| span.name == "publish") {
        assert_eq!(span.parent_span_id, root.span_id);
        assert_eq!(span.start_time_unix_nano, store.start_time_unix_nano);
        assert!(span.end_time_unix_nano > span.start_time_unix_nano);
        interfaces.push(["lookout.interface", "lookout.target"].map(|key| attribute(span, key)));
    }
    interfaces.sort();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(interfaces, [[text("mqtt"), None], [text("webhook"), text("hook")]]);
    assert!(receiver.next().await.sequence() > 0);
    hook.stop().await;
    publisher.stop().await;
    sending.stop().await;
}

#[tokio::test]
async fn the_texts_are_sent_on_request() {
    let mut collector = Collector::start(free_port()).await;
    let sending = Sending::start(Traces { has_content: true, ..config(collector.port) });
    let spans = collector.trace(&sending.journal, &caption("A car \"parks\".")).await;
    let output = attribute(&spans["generate_content tiny"], "gen_ai.output.messages").unwrap();
    let output: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(output[0]["parts"][0]["content"], "A car \"parks\".");
    assert_eq!(output[0]["finish_reason"], "stop");
    let input = attribute(&spans["generate_content tiny"], "gen_ai.input.messages").unwrap();
    let input: Value = serde_json::from_str(&input).unwrap();
    assert_eq!(input[0]["parts"][0]["content"], "What happens?");
    let spans = collector.trace(&sending.journal, &alert("person", "a1")).await;
    let root = spans.get("alert").expect("the alert has no span");
    assert_eq!(attribute(root, "lookout.rule").as_deref(), Some("person"));
    assert_eq!(attribute(root, "lookout.alert.phase").as_deref(), Some("new"));
    sending.stop().await;
}

#[tokio::test]
async fn the_trace_of_a_client_continues() {
    let mut collector = Collector::start(free_port()).await;
    // The client decides whether its question is traced.
    let sending = Sending::start(Traces { sample_ratio: 0.0, ..config(collector.port) });
    let asked = Answer { trace_parent: TraceParent::parse(PARENT), ..answer("q1", "Yes.") };
    let spans = collector.trace(&sending.journal, &Body::Answer(asked)).await;
    let root = &spans["answer"];
    assert_eq!(root.trace_id, 0x0af7651916cd43dd8448eb211c80319c_u128.to_be_bytes());
    assert_eq!(root.parent_span_id, 0xb7ad6b7169203331_u64.to_be_bytes());
    assert_eq!(attribute(root, "lookout.question.id").as_deref(), Some("q1"));
    // Events without a client's trace are not sampled, and neither is one that the client does not
    // record. The last event shows that those before it were not sent.
    let unsampled = TraceParent { is_sampled: false, ..TraceParent::parse(PARENT).unwrap() };
    let unsampled = Answer { trace_parent: Some(unsampled), ..answer("q2", "Yes.") };
    sending.journal.append("gate".into(), caption("A car."));
    sending.journal.append("gate".into(), Body::Answer(unsampled));
    let last = Answer { trace_parent: TraceParent::parse(PARENT), ..answer("q3", "Yes.") };
    sending.journal.append("gate".into(), Body::Answer(last));
    let reading = async {
        loop {
            let span = collector.spans.recv().await.unwrap();
            assert_ne!(span.name, "caption");
            let question = attribute(&span, "lookout.question.id");
            assert_ne!(question.as_deref(), Some("q2"));
            if question.as_deref() == Some("q3") {
                return;
            }
        }
    };
    timeout(LONG, reading).await.expect("the last trace did not arrive");
    sending.stop().await;
}

#[tokio::test]
async fn a_question_has_the_span_of_its_client() {
    let daemon = Daemon::start(10).await;
    let (to, mut asked) = mpsc::channel(16);
    daemon.service.answers_with(move |question: Question| {
        let _ = to.try_send(question.trace_parent());
        Err(AskError::Stopping)
    });
    let mut client = daemon.client().await;
    let question = || proto::AskRequest {
        cameras: vec!["gate".into()],
        question: "Why?".into(),
        ..Default::default()
    };
    for (header, wanted) in [(PARENT, TraceParent::parse(PARENT)), ("nonsense", None)] {
        let mut request = tonic::Request::new(question());
        request.metadata_mut().insert("traceparent", header.parse().unwrap());
        let _ = client.ask(request).await;
        assert_eq!(asked.recv().await.unwrap(), wanted);
        let server = api::Server::start(&daemon).await;
        let body = serde_json::json!({ "cameras": ["gate"], "question": "Why?" });
        let headers = format!("Content-Type: application/json\r\ntraceparent: {header}\r\n");
        server.send("POST /api/v1/ask", &headers, &body.to_string()).await;
        assert_eq!(asked.recv().await.unwrap(), wanted);
    }
}

#[tokio::test]
async fn a_collector_may_be_away_and_return() {
    metrics();
    let port = free_port();
    let failed = counted("export_failed");
    let sending = Sending::start(config(port));
    let appending = sending.journal.clone();
    until("a failed request", || {
        appending.append("gate".into(), caption("A car."));
        counted("export_failed") > failed
    })
    .await;
    let mut collector = Collector::start(port).await;
    collector.trace(&sending.journal, &caption("A car.")).await;
    collector.stop().await;
    // A restarted collector gets spans again.
    let mut collector = Collector::start(port).await;
    collector.trace(&sending.journal, &caption("A car.")).await;
    sending.stop().await;
}

#[tokio::test]
async fn a_slow_collector_delays_nothing() {
    metrics();
    let dropped = counted("queue_full");
    let none = Arc::new(Semaphore::new(0));
    let collector = Collector::with(free_port(), none, None, None).await;
    let sending = Sending::start(config(collector.port));
    let appending = sending.journal.clone();
    until("spans that are dropped", || {
        let began = std::time::Instant::now();
        for _ in 0..100 {
            appending.append("gate".into(), caption("A car."));
        }
        assert!(began.elapsed() < Duration::from_secs(20), "the journal waits for the collector");
        counted("queue_full") > dropped
    })
    .await;
    sending.stop().await;
}

#[tokio::test]
async fn the_headers_are_read_for_each_request() {
    metrics();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("headers");
    std::fs::write(&file, "authorization: Bearer old\n").unwrap();
    let plenty = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let mut collector = Collector::with(free_port(), plenty, Some("Bearer new"), None).await;
    let failed = counted("export_failed");
    let headers = Some(Secret::File(file.clone()));
    let sending = Sending::start(Traces { headers, ..config(collector.port) });
    let appending = sending.journal.clone();
    until("a refused request", || {
        appending.append("gate".into(), caption("A car."));
        counted("export_failed") > failed
    })
    .await;
    assert!(collector.spans.try_recv().is_err());
    std::fs::write(&file, "authorization: Bearer new\n").unwrap();
    collector.trace(&sending.journal, &caption("A car.")).await;
    sending.stop().await;
}

#[tokio::test]
async fn a_collector_may_require_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let file = folder.path().join("collector.pem");
    std::fs::write(&file, made.cert.pem()).unwrap();
    let identity = Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
    let plenty = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let mut collector = Collector::with(free_port(), plenty, None, Some(identity)).await;
    let endpoint = format!("https://localhost:{}", collector.port).parse().unwrap();
    let secure = Traces { endpoint, ca_file: Some(file), ..config(0) };
    let sending = Sending::start(secure);
    collector.trace(&sending.journal, &caption("A car.")).await;
    sending.stop().await;
}
