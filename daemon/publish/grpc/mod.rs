//! Serves gRPC: `lookout.v1.LookoutService`, with health and reflection.
//!
//! Guarantees: a stream buffers at most `STREAM_BUFFER` messages. A watcher that falls behind
//! receives the number of events it missed. An Ask is cancelled when its client disconnects. When
//! the daemon stops, every stream ends with UNAVAILABLE. A client that connects and stays silent,
//! or does not finish a request, is disconnected.

mod ask;
mod changes;
mod clips;
mod connections;
mod errors;
mod events;
mod frames;
mod trial;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::asking::Asking;
use super::clip::Clip;
use super::{Listener, PublishError};
use crate::access::{self, Entry, Gate, Role};
use crate::interface::Interface;
use crate::journal::{Cursor, EventFilter, Read};
use crate::metrics;
use crate::proto;
use crate::proto::lookout_service_server::{LookoutService, LookoutServiceServer};
use crate::proto::watch_response::Item as WatchItem;
use crate::service::{
    AskError, CameraEdit, CameraInfo, Code, ConfigChange, Readiness, Reloaded, Service,
};
use crate::trace_parent::{self, TraceParent};
use crate::wire::encode;
use connections::Peer;

/// Number of messages buffered per stream while the client's flow-control window is closed. Further
/// events wait in the journal.
const STREAM_BUFFER: usize = 16;

/// Maximum number of open streams of all clients. A further one is refused with RESOURCE_EXHAUSTED.
const STREAMS: usize = 256;

const STREAMS_PER_CONNECTION: u32 = 64;

/// Maximum size of a request in bytes, far more than the longest question to the maximum number of
/// cameras needs.
const LARGEST_REQUEST: usize = 1 << 20;

/// Maximum time for receiving a request and starting its reply.
const REQUEST: Duration = Duration::from_secs(30);

/// Maximum size of a request's headers in bytes (HTTP/2 `SETTINGS_MAX_HEADER_LIST_SIZE`).
const LARGEST_HEADERS: u32 = 16 * 1024;

/// Interval of pings. A client that does not answer one within the timeout counts as gone, and its
/// streams end.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for which connections may continue after the stop, so that a client that does not read
/// cannot delay it.
const DRAIN: Duration = Duration::from_secs(2);

pub async fn serve(
    listener: Listener,
    gate: Gate,
    stop: CancellationToken,
) -> Result<(), PublishError> {
    let failed = |why: String| PublishError::Serve { interface: Interface::Grpc, why };
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Older clients know only `v1alpha`, the former name of the service.
    let reflection_v1 = reflection().build_v1().map_err(|e| failed(e.to_string()))?;
    let reflection_v1alpha = reflection().build_v1alpha().map_err(|e| failed(e.to_string()))?;
    let (reporter, health) = tonic_health::server::health_reporter();
    let first = gate.readiness();
    report_health(&reporter, &first).await;
    let lookout = Server { gate: gate.clone(), streams: Arc::new(Semaphore::new(STREAMS)) };
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .concurrency_limit_per_connection(STREAMS_PER_CONNECTION as usize)
        .http2_max_header_list_size(LARGEST_HEADERS)
        .timeout(REQUEST)
        .layer(connections::CountCalls)
        .add_service(LookoutServiceServer::new(lookout).max_decoding_message_size(LARGEST_REQUEST))
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
        () = follow_readiness(first, &reporter, &gate, &stop) => Ok(()),
    }
}

/// Reports changes of readiness to the health service. It never returns: on a stop the drain sends
/// the last report.
async fn follow_readiness(
    mut told: Readiness,
    reporter: &HealthReporter,
    gate: &Gate,
    stop: &CancellationToken,
) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    while !stop.is_cancelled() {
        tick.tick().await;
        let readiness = gate.readiness();
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
        .set_service_status(
            <LookoutServiceServer<Server> as tonic::server::NamedService>::NAME,
            status,
        )
        .await;
}

struct Server {
    gate: Gate,
    streams: Arc<Semaphore>,
}

type Reply<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl LookoutService for Server {
    async fn list_cameras(
        &self,
        request: Request<proto::ListCamerasRequest>,
    ) -> Result<Response<proto::ListCamerasResponse>, Status> {
        let entry = self.enter(&request, Role::View)?;
        let cameras = entry.service.cameras();
        let reply = page(&cameras, &request.into_inner())?;
        let troubles = entry.service.troubles();
        Ok(Response::new(proto::ListCamerasResponse { troubles, ..reply }))
    }

    type WatchStream = Reply<proto::WatchResponse>;

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let entry = self.enter(&request, Role::View)?;
        let request = request.into_inner();
        let filter = filter(&*entry.service, &request)?;
        let journal = entry.service.journal();
        let since = request.since.map(|since| events::time("since", since)).transpose()?;
        let cursor = match (request.from, since) {
            (None, None) => journal.read_new(),
            (Some(proto::EventId { run, sequence }), None) => journal.read_from(run, sequence),
            (None, Some(since)) => journal.read_since(since),
            (Some(_), Some(_)) => {
                return Err(errors::invalid("since", "from and since are both set: set one"));
            }
        };
        self.stream(&entry, |to| watch(cursor, filter, to))
    }

    async fn list_events(
        &self,
        request: Request<proto::ListEventsRequest>,
    ) -> Result<Response<proto::ListEventsResponse>, Status> {
        let entry = self.enter(&request, Role::View)?;
        events::list(&**entry.service.journal(), request.into_inner()).await.map(Response::new)
    }

    async fn search_events(
        &self,
        request: Request<proto::SearchEventsRequest>,
    ) -> Result<Response<proto::SearchEventsResponse>, Status> {
        let entry = self.enter(&request, Role::View)?;
        events::search(&**entry.service.journal(), request.into_inner()).await.map(Response::new)
    }

    async fn get_event(
        &self,
        request: Request<proto::GetEventRequest>,
    ) -> Result<Response<proto::GetEventResponse>, Status> {
        let entry = self.enter(&request, Role::View)?;
        let event = events::get(entry.service.journal(), request.into_inner().event).await?;
        Ok(Response::new(proto::GetEventResponse { event: Some(encode::event(&event)) }))
    }

    type GetEventFramesStream = Reply<proto::GetEventFramesResponse>;

    async fn get_event_frames(
        &self,
        request: Request<proto::GetEventFramesRequest>,
    ) -> Result<Response<Self::GetEventFramesStream>, Status> {
        let entry = self.enter(&request, Role::View)?;
        let event = events::get(entry.service.journal(), request.into_inner().event).await?;
        let service = entry.service.clone();
        self.stream(&entry, |to| frames::send(service, event, to))
    }

    async fn keep_event(
        &self,
        request: Request<proto::KeepEventRequest>,
    ) -> Result<Response<proto::KeepEventResponse>, Status> {
        let entry = self.enter(&request, Role::Ask)?;
        events::keep(&**entry.service.journal(), request.into_inner()).await.map(Response::new)
    }

    async fn delete_events(
        &self,
        request: Request<proto::DeleteEventsRequest>,
    ) -> Result<Response<proto::DeleteEventsResponse>, Status> {
        let entry = self.enter(&request, Role::Admin)?;
        events::delete(&*entry.service, request.into_inner()).await.map(Response::new)
    }

    type AskStream = Reply<proto::AskResponse>;

    async fn ask(
        &self,
        request: Request<proto::AskRequest>,
    ) -> Result<Response<Self::AskStream>, Status> {
        let entry = self.enter(&request, Role::Ask)?;
        let header = request.metadata().get(trace_parent::HEADER);
        let parent = header.and_then(|value| TraceParent::parse(value.to_str().ok()?));
        let questions = ask::read(&*entry.service, request.into_inner(), parent)?;
        let asking = Asking::begin(entry.service.clone(), questions);
        let asking = asking.map_err(|error| errors::of_question(&error))?;
        self.stream(&entry, |to| ask::run(asking, to))
    }

    async fn get_frame(
        &self,
        request: Request<proto::GetFrameRequest>,
    ) -> Result<Response<proto::GetFrameResponse>, Status> {
        let entry = self.enter(&request, Role::View)?;
        let proto::GetFrameRequest { camera, frame } = request.into_inner();
        let Some(proto::FrameId { run, number }) = frame else {
            return Err(errors::invalid("frame", "frame is not set"));
        };
        let frame = entry.service.frame_jpeg(&camera, run, number).await;
        let frame = frame.map_err(|error| errors::of_frame(&error))?;
        Ok(Response::new(proto::GetFrameResponse {
            jpeg: frame.jpeg.to_vec(),
            captured_at: encode::time(frame.captured_at),
        }))
    }

    async fn list_rules(
        &self,
        request: Request<proto::ListRulesRequest>,
    ) -> Result<Response<proto::ListRulesResponse>, Status> {
        let entry = self.enter(&request, Role::View)?;
        let rules = entry.service.rules().iter().map(encode::rule).collect();
        Ok(Response::new(proto::ListRulesResponse { rules }))
    }

    type TryRuleStream = Reply<proto::TryRuleResponse>;

    async fn try_rule(
        &self,
        request: Request<proto::TryRuleRequest>,
    ) -> Result<Response<Self::TryRuleStream>, Status> {
        let entry = self.enter(&request, Role::Ask)?;
        let items = trial::begin(&*entry.service, request.into_inner())?;
        self.stream(&entry, |to| trial::forward(items, to))
    }

    type GetClipStream = Reply<proto::GetClipResponse>;

    async fn get_clip(
        &self,
        request: Request<proto::GetClipRequest>,
    ) -> Result<Response<Self::GetClipStream>, Status> {
        let entry = self.enter(&request, Role::View)?;
        let event = events::get(entry.service.journal(), request.into_inner().event).await?;
        let clip = Clip::open(entry.service.clone(), &event).await;
        let clip = clip.map_err(|error| errors::of_query(&error))?;
        let clip = clip.map_err(|error| errors::of_clip(&error))?;
        self.stream(&entry, |to| clips::send(clip, to))
    }

    async fn reload(
        &self,
        request: Request<proto::ReloadRequest>,
    ) -> Result<Response<proto::ReloadResponse>, Status> {
        let entry = self.enter(&request, Role::Admin)?;
        let Reloaded { changes, needs_restart } =
            changes::apply(&entry, ConfigChange::Reload).await?;
        Ok(Response::new(proto::ReloadResponse { changes, needs_restart }))
    }

    async fn add_camera(
        &self,
        request: Request<proto::AddCameraRequest>,
    ) -> Result<Response<proto::AddCameraResponse>, Status> {
        let entry = self.enter(&request, Role::Admin)?;
        let proto::AddCameraRequest { name, settings, force } = request.into_inner();
        let changes = changes::edit(&entry, name, CameraEdit::Add { settings, force }).await?;
        Ok(Response::new(proto::AddCameraResponse { changes }))
    }

    async fn update_camera(
        &self,
        request: Request<proto::UpdateCameraRequest>,
    ) -> Result<Response<proto::UpdateCameraResponse>, Status> {
        let entry = self.enter(&request, Role::Admin)?;
        let proto::UpdateCameraRequest { name, settings, reset } = request.into_inner();
        let changes = changes::edit(&entry, name, CameraEdit::Update { settings, reset }).await?;
        Ok(Response::new(proto::UpdateCameraResponse { changes }))
    }

    async fn pause_camera(
        &self,
        request: Request<proto::PauseCameraRequest>,
    ) -> Result<Response<proto::PauseCameraResponse>, Status> {
        let entry = self.enter(&request, Role::Admin)?;
        let changes = changes::edit(&entry, request.into_inner().name, CameraEdit::Pause).await?;
        Ok(Response::new(proto::PauseCameraResponse { changes }))
    }

    async fn resume_camera(
        &self,
        request: Request<proto::ResumeCameraRequest>,
    ) -> Result<Response<proto::ResumeCameraResponse>, Status> {
        let entry = self.enter(&request, Role::Admin)?;
        let changes = changes::edit(&entry, request.into_inner().name, CameraEdit::Resume).await?;
        Ok(Response::new(proto::ResumeCameraResponse { changes }))
    }

    async fn remove_camera(
        &self,
        request: Request<proto::RemoveCameraRequest>,
    ) -> Result<Response<proto::RemoveCameraResponse>, Status> {
        let entry = self.enter(&request, Role::Admin)?;
        let changes = changes::edit(&entry, request.into_inner().name, CameraEdit::Remove).await?;
        Ok(Response::new(proto::RemoveCameraResponse { changes }))
    }

    async fn ack_alert(
        &self,
        request: Request<proto::AckAlertRequest>,
    ) -> Result<Response<proto::AckAlertResponse>, Status> {
        let entry = self.enter(&request, Role::Ask)?;
        let proto::AckAlertRequest { alert_id, false_alarm } = request.into_inner();
        let event = entry.service.acknowledge(&alert_id, false_alarm);
        let event = event.map_err(|error| errors::of_alert(&error))?;
        Ok(Response::new(proto::AckAlertResponse { event: Some(encode::event(&event)) }))
    }
}

impl Server {
    /// Runs `work` in a task of its own until it ends, its reader leaves or the daemon stops.
    fn stream<T, F>(
        &self,
        entry: &Entry,
        work: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F,
    ) -> Result<Response<Reply<T>>, Status>
    where
        T: Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| {
            errors::status(
                Code::ResourceExhausted,
                "TOO_MANY_STREAMS",
                format!("all {STREAMS} streams are open; close one, or ask again later"),
            )
        })?;
        let of_token = entry.stream().map_err(|denied| errors::of_access(&denied))?;
        let (to, from) = mpsc::channel(STREAM_BUFFER);
        let work = work(to.clone());
        let entry = entry.clone();
        tokio::spawn(async move {
            let _permits = (permit, of_token);
            tokio::select! {
                () = work => {}
                // The client is gone. Everything `work` holds is dropped, including the receiver of
                // an answer.
                () = to.closed() => {}
                () = entry.stop.cancelled() => {
                    let status = match entry.denied() {
                        Some(denied) => errors::of_access(&denied),
                        None => errors::of_question(&AskError::Stopping),
                    };
                    // A reader with a full channel sees the stop as the end of the connection.
                    let _ = to.try_send(Err(status));
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }

    /// Returns what the sender of a request may reach.
    fn enter<T>(&self, request: &Request<T>, needed: Role) -> Result<Entry, Status> {
        let header = request.metadata().get("authorization");
        let token = header.and_then(|value| value.to_str().ok()).and_then(access::bearer);
        let address = request.extensions().get::<Peer>().and_then(|peer| peer.address);
        let entry = self
            .gate
            .identify(token, address, Interface::Grpc)
            .and_then(|caller| caller.enter(needed));
        entry.map_err(|denied| errors::of_access(&denied))
    }
}

fn filter(service: &dyn Service, request: &proto::WatchRequest) -> Result<EventFilter, Status> {
    // A misspelt name would silently match no event.
    service.require_cameras(&request.cameras).map_err(|error| errors::of_question(&error))?;
    let kinds = events::kinds("kinds", &request.kinds)?;
    Ok(EventFilter { cameras: request.cameras.clone(), kinds, ..EventFilter::default() })
}

async fn watch(
    mut cursor: Box<dyn Cursor>,
    filter: EventFilter,
    to: mpsc::Sender<Result<proto::WatchResponse, Status>>,
) {
    let begun = SystemTime::now();
    loop {
        let (item, event) = match cursor.next().await {
            Read::Event(event) if filter.wants(&event) => {
                (WatchItem::Event(encode::event(&event)), Some(event))
            }
            Read::Event(_) => continue,
            // The contents of the lost events are unknown, so no filter applies.
            Read::Missed(events) => {
                (WatchItem::Missed(proto::MissedEvents { count: events }), None)
            }
        };
        if to.send(Ok(proto::WatchResponse { item: Some(item) })).await.is_err() {
            return;
        }
        // Replayed events were published long ago and say nothing about this interface's latency.
        if let Some(event) = event.filter(|event| event.published_at >= begun) {
            let took = SystemTime::now().duration_since(event.published_at).unwrap_or_default();
            metrics::published(&event.camera, Interface::Grpc, took);
        }
    }
}

/// Returns the page of the cameras that a request names.
fn page(
    cameras: &[CameraInfo],
    request: &proto::ListCamerasRequest,
) -> Result<proto::ListCamerasResponse, Status> {
    let size = match usize::try_from(request.page_size) {
        Ok(0) => usize::MAX,
        Ok(size) => size,
        Err(_) => return Err(errors::invalid("page_size", "page_size is negative")),
    };
    // A token is the name of the page's first camera, so that it stays valid if cameras are added.
    let named = |camera: &CameraInfo| *camera.name == *request.page_token;
    let start = match request.page_token.as_str() {
        "" => 0,
        _ => cameras.iter().position(named).ok_or_else(|| {
            errors::invalid("page_token", "page_token is not one that ListCameras returned")
        })?,
    };
    let rest = cameras.get(start..).unwrap_or_default();
    let (page, next) = rest.split_at(size.min(rest.len()));
    Ok(proto::ListCamerasResponse {
        cameras: page.iter().map(encode::camera).collect(),
        next_page_token: next.first().map_or_else(String::new, |camera| camera.name.to_string()),
        troubles: Vec::new(),
    })
}
