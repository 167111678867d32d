//! gRPC: `lookout.v1.Lookout`, with health and reflection.
//!
//! Promises: a stream buffers at most `STREAM_BUFFER` messages, whoever reads it; a watcher that
//! falls behind is told how many events it lost; an Ask whose client is gone is cancelled; when
//! the daemon stops, every stream ends with UNAVAILABLE. A client that connects and is silent, or
//! leaves a request half said, is not waited for.

mod ask;
mod connections;
pub(crate) mod convert;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::{Code, Listener, PublishError, retry_after_seconds};
use crate::event::{Event, Kind};
use crate::journal::{Cursor, Read};
use crate::proto;
use crate::proto::lookout_server::{Lookout, LookoutServer};
use crate::proto::watch_response::Item as WatchItem;
use crate::service::{AskError, EvidenceError, Readiness, Service};
use crate::telemetry::{self, Wire};

/// Messages that wait for one client's window to open; behind them the journal's ring waits.
const STREAM_BUFFER: usize = 16;

/// Watch and Ask streams at once, of all clients; one more is refused with RESOURCE_EXHAUSTED.
const STREAMS: usize = 256;

const STREAMS_PER_CONNECTION: u32 = 64;

/// The largest request: far more than the longest question to as many cameras as can be asked.
const LARGEST_REQUEST: usize = 1 << 20;

/// The time in which a request must be whole and its reply begin.
const REQUEST: Duration = Duration::from_secs(30);

/// HTTP/2's limit on the size of a request's headers.
const LARGEST_HEADERS: u32 = 16 * 1024;

/// A client that does not answer a ping within the timeout is gone, and its streams end.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long connections may outlive the stop: a client that does not read cannot hold it up.
const DRAIN: Duration = Duration::from_secs(2);

pub async fn serve(
    listener: Listener,
    service: Arc<dyn Service>,
    stop: CancellationToken,
) -> Result<(), PublishError> {
    let failed = |why: String| PublishError::Serve { wire: "gRPC", why };
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Older clients know the first only by the name that it had before.
    let reflection_v1 = reflection().build_v1().map_err(|e| failed(e.to_string()))?;
    let reflection_v1alpha = reflection().build_v1alpha().map_err(|e| failed(e.to_string()))?;
    let (reporter, health) = tonic_health::server::health_reporter();
    let first = service.readiness();
    report_health(&reporter, &first).await;
    let lookout = Server {
        service: service.clone(),
        stop: stop.clone(),
        streams: Arc::new(Semaphore::new(STREAMS)),
    };
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .concurrency_limit_per_connection(STREAMS_PER_CONNECTION as usize)
        .http2_max_header_list_size(LARGEST_HEADERS)
        .timeout(REQUEST)
        .layer(connections::CountCalls)
        .add_service(LookoutServer::new(lookout).max_decoding_message_size(LARGEST_REQUEST))
        .add_service(health)
        .add_service(reflection_v1)
        .add_service(reflection_v1alpha)
        .serve_with_incoming_shutdown(
            connections::Incoming::new(listener),
            stop.clone().cancelled_owned(),
        );
    let drained = async {
        stop.cancelled().await;
        report_health(&reporter, &Readiness::NotYet(String::new())).await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = server => served.map_err(|e| failed(e.to_string())),
        () = drained => Ok(()),
        () = follow_readiness(first, &reporter, &*service, &stop) => Ok(()),
    }
}

/// Never returns: when the daemon stops it leaves the last word to the drain.
async fn follow_readiness(
    mut told: Readiness,
    reporter: &HealthReporter,
    service: &dyn Service,
    stop: &CancellationToken,
) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    while !stop.is_cancelled() {
        tick.tick().await;
        let readiness = service.readiness();
        if told != readiness && !stop.is_cancelled() {
            report_health(reporter, &readiness).await;
            told = readiness;
        }
    }
    std::future::pending().await
}

async fn report_health(reporter: &HealthReporter, readiness: &Readiness) {
    let status = match readiness {
        Readiness::Ready => ServingStatus::Serving,
        Readiness::NotYet(_) => ServingStatus::NotServing,
    };
    reporter.set_service_status("", status).await;
    reporter
        .set_service_status(<LookoutServer<Server> as tonic::server::NamedService>::NAME, status)
        .await;
}

struct Server {
    service: Arc<dyn Service>,
    stop: CancellationToken,
    streams: Arc<Semaphore>,
}

type Reply<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Lookout for Server {
    async fn list_cameras(
        &self,
        _request: Request<proto::ListCamerasRequest>,
    ) -> Result<Response<proto::ListCamerasResponse>, Status> {
        let cameras = self.service.cameras().iter().map(convert::camera).collect();
        Ok(Response::new(proto::ListCamerasResponse { cameras }))
    }

    type WatchStream = Reply<proto::WatchResponse>;

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let filter = self.filter(&request)?;
        let cursor = match request.from_sequence {
            0 => self.service.journal().live(),
            sequence => {
                let run = (request.from_run > 0).then_some(request.from_run);
                self.service.journal().from(run, sequence)
            }
        };
        self.stream(|to| watch(cursor, filter, to))
    }

    type AskStream = Reply<proto::AskResponse>;

    async fn ask(
        &self,
        request: Request<proto::AskRequest>,
    ) -> Result<Response<Self::AskStream>, Status> {
        let asked = ask::read(&*self.service, request.into_inner())?;
        ask::begin(self.service.clone(), asked).map(|asking| self.stream(|to| asking.run(to)))?
    }

    async fn get_frame(
        &self,
        request: Request<proto::GetFrameRequest>,
    ) -> Result<Response<proto::GetFrameResponse>, Status> {
        let proto::GetFrameRequest { camera, number, run } = request.into_inner();
        let evidence = self.service.evidence(&camera, (run > 0).then_some(run), number).await;
        let evidence = evidence.map_err(|e| match e {
            EvidenceError::NoSuchCamera(_) | EvidenceError::NoSuchFrame { .. } => {
                Status::not_found(e.to_string())
            }
            EvidenceError::Unreadable { .. } => Status::unavailable(e.to_string()),
            EvidenceError::Busy => Status::resource_exhausted(e.to_string()),
        })?;
        Ok(Response::new(proto::GetFrameResponse {
            jpeg: evidence.jpeg.to_vec(),
            captured_at: convert::time(evidence.captured_at),
        }))
    }
}

impl Server {
    /// Runs `work` beside its reader until either of them ends or the daemon stops.
    fn stream<T, F>(
        &self,
        work: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F,
    ) -> Result<Response<Reply<T>>, Status>
    where
        T: Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{STREAMS} streams are open already"))
        })?;
        let (to, from) = mpsc::channel(STREAM_BUFFER);
        let work = work(to.clone());
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = work => {}
                // The client is gone. What `work` holds goes with it, an Answer's receiver too.
                () = to.closed() => {}
                () = stop.cancelled() => {
                    // A reader that lets the channel be full learns it from the connection's end.
                    let _ = to.try_send(Err(refusal(&AskError::Stopping)));
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }

    fn filter(&self, request: &proto::WatchRequest) -> Result<Filter, Status> {
        let known = self.service.cameras();
        // A misspelt name would watch nothing, for ever and silently.
        for name in &request.cameras {
            if !known.iter().any(|camera| *camera.name == **name) {
                return Err(refusal(&AskError::NoSuchCamera(name.clone())));
            }
        }
        let kinds = request.kinds.iter().map(|kind| match proto::Kind::try_from(*kind) {
            Ok(proto::Kind::Caption) => Ok(Kind::Caption),
            Ok(proto::Kind::Answer) => Ok(Kind::Answer),
            Ok(proto::Kind::Camera) => Ok(Kind::Camera),
            Ok(proto::Kind::Unspecified) | Err(_) => {
                Err(Status::invalid_argument(format!("{kind} is no kind of event")))
            }
        });
        Ok(Filter { cameras: request.cameras.clone(), kinds: kinds.collect::<Result<_, _>>()? })
    }
}

struct Filter {
    /// Empty: all.
    cameras: Vec<String>,
    /// Empty: all.
    kinds: Vec<Kind>,
}

impl Filter {
    fn wants(&self, event: &Event) -> bool {
        let camera = self.cameras.is_empty() || self.cameras.iter().any(|c| **c == *event.camera);
        let kind = self.kinds.is_empty() || self.kinds.contains(&event.body.kind());
        camera && kind
    }
}

async fn watch(
    mut cursor: Cursor,
    filter: Filter,
    to: mpsc::Sender<Result<proto::WatchResponse, Status>>,
) {
    let begun = SystemTime::now();
    loop {
        let (item, event) = match cursor.next().await {
            Read::Event(event) if filter.wants(&event) => {
                (WatchItem::Event(convert::event(&event)), Some(event))
            }
            Read::Event(_) => continue,
            // What was in the lost events nobody knows any more, so no filter applies.
            Read::Lost(events) => (WatchItem::Lost(proto::Lost { events }), None),
        };
        if to.send(Ok(proto::WatchResponse { item: Some(item) })).await.is_err() {
            return;
        }
        // What is replayed was published long ago, and says nothing of this wire's speed.
        if let Some(event) = event.filter(|event| event.published_at >= begun) {
            let took = SystemTime::now().duration_since(event.published_at).unwrap_or_default();
            telemetry::published(&event.camera, Wire::Grpc, took);
        }
    }
}

/// The one place where a refusal becomes a status.
fn refusal(error: &AskError) -> Status {
    let code = match Code::from(error) {
        Code::NotFound => tonic::Code::NotFound,
        Code::OutOfRange => tonic::Code::OutOfRange,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::Internal => tonic::Code::Internal,
    };
    let mut status = Status::new(code, error.to_string());
    if let Some(seconds) = retry_after_seconds(error) {
        status.metadata_mut().insert("retry-after", MetadataValue::from(seconds));
    }
    status
}
