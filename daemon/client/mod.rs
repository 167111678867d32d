//! The daemon's gRPC client, used by the subcommands that talk to a running daemon.
//!
//! Prints text for people, or with [`Output::Json`] one line of JSON per event: the same JSON as on
//! MQTT. A reader that goes away (`| head`) ends the command without an error. `main` maps errors
//! to exit codes.

mod ask;
mod changes;
mod clip;
mod events;
mod export;
mod merged;
mod reload;
mod replay;
mod rules;
mod search;
mod server;
mod text;
pub mod token;
mod top;
mod trial;

use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

pub use self::token::AddToken;
use crate::wire::decode::UnexpectedReply;
pub use ask::ask;
pub use changes::{Deletion, delete, frames, keep};
pub use clip::clip;
pub use events::list_events;
pub use export::export;
pub use merged::watch_all;
pub use reload::{edit_camera, reload};
pub use replay::{Replayed, replay};
pub use rules::{acknowledge, rules};
pub use search::search_events;
pub use server::Server;
pub use top::top;
pub use trial::{TrialFiles, try_rule};

use crate::evaluation::labels::LabelsError;
use crate::event::{EventId, EventKind};
use crate::proto;
use crate::proto::lookout_service_client::LookoutServiceClient;
use crate::proto::watch_response::Item as WatchItem;

use crate::service::CameraInfo;
use crate::wire::{decode, encode};
use server::cause;
use text::MissedEventsJson;

/// Time between two attempts of a watch to reconnect to the daemon.
const RETRY: Duration = Duration::from_secs(1);

/// Size limit of a reply; larger than any frame's JPEG and any event with many frames.
const LARGEST_REPLY: usize = 64 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Text,
    Json,
}

/// Behaviour of a watch when the daemon goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEnd {
    Reconnect,
    Return,
}

#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Cameras to include; empty: all.
    pub cameras: Vec<String>,
    /// Kinds to include; empty: all.
    pub kinds: Vec<EventKind>,
    /// First event to print. If neither this nor `since` is set: new events only.
    pub from: Option<Position>,
    /// Time of publication of the first event to print, until `from` is known.
    pub since: Option<SystemTime>,
}

/// A position in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The run of the daemon, or `None` for the run that replies.
    pub run: Option<u64>,
    pub sequence: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{0:?} is not the address of a daemon; wanted HOST:PORT or https://HOST:PORT")]
    Endpoint(String),
    /// The certificates of the client cannot be used.
    #[error("{0}")]
    Tls(String),
    /// The token cannot be read.
    #[error("{0}")]
    Token(String),
    #[error("the daemon is not reachable at {address}: {why}; is the daemon running?")]
    Unreachable { address: String, why: String },
    /// The daemon refused the request. `retry_after` is set if waiting helps.
    #[error("{message}")]
    Refused { code: Code, message: String, retry_after: Option<Duration> },
    #[error("the connection to the daemon at {address} broke: {why}")]
    Broken { address: String, why: String },
    #[error(transparent)]
    UnexpectedReply(#[from] UnexpectedReply),
    #[error(transparent)]
    Labels(#[from] LabelsError),
    #[error("none of the event's {frames} frames is stored or in the buffer")]
    NoFrames { frames: usize },
    #[error("stopped; no file was written")]
    Stopped,
    #[error("cannot write {to}: {why}")]
    Write { to: String, why: io::Error },
}

impl ClientError {
    /// Returns true if the daemon's question queue is full.
    pub fn is_queue_full(&self) -> bool {
        matches!(self, ClientError::Refused { code: Code::ResourceExhausted, .. })
    }
}

type Done = Result<(), ClientError>;

pub async fn cameras(server: impl Into<Server>, output: Output, out: &mut dyn Write) -> Done {
    let mut daemon = Daemon::reach(&server.into()).await?;
    let reply = daemon.client.list_cameras(proto::ListCamerasRequest::default()).await;
    let reply = reply.map_err(|status| daemon.failed(status))?.into_inner();
    let cameras: Vec<CameraInfo> =
        reply.cameras.into_iter().map(decode::camera).collect::<Result<_, _>>()?;
    quietly(match output {
        Output::Text => out.write_all(text::camera_table(&cameras, SystemTime::now()).as_bytes()),
        Output::Json => cameras.iter().try_for_each(|camera| json_line(out, camera)),
    })
    .map(drop)
}

/// Prints events until the reader goes away or, unless `on_end` is `Reconnect`, the daemon does.
pub async fn watch(
    server: impl Into<Server>,
    mut filter: Filter,
    output: Output,
    on_end: OnEnd,
    out: &mut dyn Write,
) -> Done {
    // A missing daemon is reported at once. Only a daemon that was reachable before is waited for.
    let server = server.into();
    let mut daemon = Daemon::reach(&server).await?;
    loop {
        let ended = watch_once(&mut daemon, &mut filter, output, out).await;
        match (ended, on_end) {
            (Ok(Watched::ReaderLeft), _) => return Ok(()),
            (Ok(Watched::DaemonStopped), OnEnd::Return) => return Ok(()),
            (Ok(Watched::DaemonStopped), OnEnd::Reconnect) => {
                let address = &daemon.address;
                eprintln!("lookout: the daemon at {address} stopped; waiting for it to come back");
            }
            (Err(ClientError::Broken { address, why }), OnEnd::Reconnect) => {
                eprintln!("lookout: lost the daemon at {address} ({why}); waiting for it");
            }
            (Err(error), _) => return Err(error),
        }
        daemon = loop {
            tokio::time::sleep(RETRY).await;
            if let Ok(daemon) = Daemon::reach(&server).await {
                break daemon;
            }
        };
        eprintln!("lookout: the daemon at {} is back", daemon.address);
    }
}

enum Watched {
    ReaderLeft,
    DaemonStopped,
}

async fn watch_once(
    daemon: &mut Daemon,
    filter: &mut Filter,
    output: Output,
    out: &mut dyn Write,
) -> Result<Watched, ClientError> {
    let request = proto::WatchRequest {
        cameras: filter.cameras.clone(),
        kinds: filter.kinds.iter().map(|k| encode::kind(*k).into()).collect(),
        from: filter.from.map(|Position { run, sequence }| proto::EventId { run, sequence }),
        since: filter.since.filter(|_| filter.from.is_none()).and_then(encode::time),
    };
    let stream = daemon.client.watch(request).await;
    let mut stream = match stream {
        Ok(reply) => reply.into_inner(),
        Err(status) => return daemon.ended(status),
    };
    loop {
        let item = match stream.message().await {
            Ok(Some(proto::WatchResponse { item })) => item.ok_or(UnexpectedReply("item"))?,
            Ok(None) => return Ok(Watched::DaemonStopped),
            Err(status) => return daemon.ended(status),
        };
        let written = match item {
            WatchItem::Event(event) => {
                let event = decode::event(event)?;
                // The run tells a restarted daemon that the sequence number is of another journal.
                let EventId { run, sequence } = event.id;
                filter.from = Some(Position { run: Some(run), sequence: sequence + 1 });
                match output {
                    Output::Text => writeln!(out, "{}", text::event_line(&event)),
                    Output::Json => json_line(out, &event),
                }
            }
            WatchItem::Missed(proto::MissedEvents { count }) => match output {
                Output::Text => writeln!(out, "--:--:--  {}", text::missed_events(count)),
                Output::Json => json_line(out, &MissedEventsJson { kind: "missed_events", count }),
            },
        };
        if quietly(written.and_then(|()| out.flush()))? == Reader::Left {
            return Ok(Watched::ReaderLeft);
        }
    }
}

/// Writes the JPEG of a frame to a file; `-` is `out`. A run of `None` is the daemon's current one. Returns the time
/// of the frame's capture.
pub async fn frame(
    server: impl Into<Server>,
    camera: &str,
    (run, number): (Option<u64>, u64),
    path: &Path,
    out: &mut dyn Write,
) -> Result<SystemTime, ClientError> {
    let mut daemon = Daemon::reach(&server.into()).await?;
    let request = proto::GetFrameRequest {
        camera: camera.to_owned(),
        frame: Some(proto::FrameId { run, number }),
    };
    let reply = daemon.client.get_frame(request).await;
    let reply = reply.map_err(|status| daemon.failed(status))?.into_inner();
    if path == Path::new("-") {
        quietly(out.write_all(&reply.jpeg).and_then(|()| out.flush()))?;
    } else {
        tokio::fs::write(path, &reply.jpeg)
            .await
            .map_err(|why| ClientError::Write { to: path.display().to_string(), why })?;
    }
    Ok(decode::time(reply.captured_at, "captured_at")?)
}

struct Daemon {
    client: LookoutServiceClient<InterceptedService<Channel, AddToken>>,
    address: String,
}

impl Daemon {
    async fn reach(server: &Server) -> Result<Daemon, ClientError> {
        let channel = server.connect().await?;
        let token = token::read(server.token_file.as_deref());
        let token = token.and_then(|token| AddToken::new(token.as_deref()));
        let token = token.map_err(ClientError::Token)?;
        let client = LookoutServiceClient::with_interceptor(channel, token);
        let client = client.max_decoding_message_size(LARGEST_REPLY);
        Ok(Daemon { client, address: server.shown() })
    }

    /// Converts a status to an error: the daemon's own refusal, or a broken connection.
    fn failed(&self, status: Status) -> ClientError {
        // A status that tonic made from a broken connection has a source; one received from the
        // daemon has none.
        if let Some(source) = std::error::Error::source(&status) {
            return self.broken(cause(source));
        }
        let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
        ClientError::Refused {
            code: status.code(),
            message: status.message().to_owned(),
            retry_after: retry,
        }
    }

    /// Converts the end of a watch: a daemon that stops returns UNAVAILABLE.
    fn ended(&self, status: Status) -> Result<Watched, ClientError> {
        match self.failed(status) {
            ClientError::Refused { code: Code::Unavailable, .. } => Ok(Watched::DaemonStopped),
            error => Err(error),
        }
    }

    fn broken(&self, why: String) -> ClientError {
        ClientError::Broken { address: self.address.clone(), why }
    }
}

#[derive(PartialEq)]
enum Reader {
    There,
    Left,
}

fn quietly(written: io::Result<()>) -> Result<Reader, ClientError> {
    match written {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Left),
        Err(why) => Err(ClientError::Write { to: "the output".into(), why }),
    }
}

fn json_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    out.write_all(&line)
}

/// Removes control characters that could affect a terminal; a token's line ends and spaces stay.
fn printable(token: &str) -> String {
    token.chars().filter(|c| !c.is_control() || *c == '\n' || *c == '\t').collect()
}
