//! Reads a daemon's state over one connection, and follows its events. After a failure it connects
//! again.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::client::{ClientError, Daemon, Server, UnexpectedReply};
use crate::event::{Event, EventId, EventKind};
use crate::proto;
use crate::proto::watch_response::Item as WatchItem;
use crate::service::{CameraInfo, RuleInfo};
use crate::wire::{decode, encode};

/// Interval at which the cameras and the rules are read.
const INTERVAL: Duration = Duration::from_secs(1);

/// Pause before the next attempt to connect.
const RETRY: Duration = Duration::from_secs(1);

/// Number of past events that are read at first.
const PAST: i32 = 100;

/// News about the daemon.
#[derive(Debug)]
pub enum Update {
    Cameras(Cameras),
    Rules(Vec<RuleInfo>),
    Event(Box<Event>),
    /// The connection broke, or cannot be made.
    Lost(String),
}

/// The cameras, and the problems of the daemon, a sentence each.
#[derive(Debug)]
pub struct Cameras {
    pub cameras: Vec<CameraInfo>,
    pub troubles: Vec<String>,
}

/// The state of a daemon.
pub struct Snapshot {
    cameras: Cameras,
    rules: Vec<RuleInfo>,
    /// The newest captions and answers, the oldest first.
    events: Vec<Event>,
}

impl Snapshot {
    /// Returns the newest event.
    pub fn newest(&self) -> Option<EventId> {
        self.events.last().map(|event| event.id)
    }
}

/// Returns a snapshot as updates.
pub fn updates_of(Snapshot { cameras, rules, events }: Snapshot) -> Vec<Update> {
    let events = events.into_iter().map(|event| Update::Event(Box::new(event)));
    [Update::Cameras(cameras), Update::Rules(rules)].into_iter().chain(events).collect()
}

/// Reads the daemon's state.
pub async fn read(server: &Server) -> Result<Snapshot, ClientError> {
    let mut daemon = Daemon::reach(server).await?;
    let cameras = cameras(&mut daemon).await?;
    let rules = rules(&mut daemon).await?;
    let kinds = [EventKind::Caption, EventKind::Answer];
    let kinds = kinds.map(|kind| encode::kind(kind).into()).to_vec();
    let request = proto::ListEventsRequest {
        filter: Some(proto::EventFilter { kinds, ..Default::default() }),
        page_size: PAST,
        ..Default::default()
    };
    let reply = daemon.client.list_events(request).await;
    let reply = reply.map_err(|status| daemon.failed(status))?.into_inner();
    let events = reply.events.into_iter().rev().map(decode::event).collect::<Result<_, _>>()?;
    Ok(Snapshot { cameras, rules, events })
}

async fn cameras(daemon: &mut Daemon) -> Result<Cameras, ClientError> {
    let reply = daemon.client.list_cameras(proto::ListCamerasRequest::default()).await;
    let reply = reply.map_err(|status| daemon.failed(status))?.into_inner();
    let cameras = reply.cameras.into_iter().map(decode::camera).collect::<Result<_, _>>()?;
    Ok(Cameras { cameras, troubles: reply.troubles })
}

async fn rules(daemon: &mut Daemon) -> Result<Vec<RuleInfo>, ClientError> {
    let reply = daemon.client.list_rules(proto::ListRulesRequest {}).await;
    let reply = reply.map_err(|status| daemon.failed(status))?.into_inner();
    Ok(reply.rules.into_iter().map(decode::rule).collect::<Result<_, _>>()?)
}

/// Sends updates until the receiver is dropped. The events begin after `newest`.
pub async fn follow(server: Server, mut newest: Option<EventId>, to: mpsc::Sender<Update>) {
    loop {
        let Err(error) = follow_once(&server, &mut newest, &to).await else { return };
        if to.send(Update::Lost(error.to_string())).await.is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Follows the daemon until the connection breaks. Returns without an error if the receiver is
/// dropped.
async fn follow_once(
    server: &Server,
    newest: &mut Option<EventId>,
    to: &mpsc::Sender<Update>,
) -> Result<(), ClientError> {
    let mut daemon = Daemon::reach(server).await?;
    let kinds = [EventKind::Caption, EventKind::Answer];
    let kinds = kinds.map(|kind| encode::kind(kind).into()).to_vec();
    // The run tells a restarted daemon that the sequence number is of another journal.
    let after = |id: EventId| proto::EventId { run: Some(id.run), sequence: id.sequence + 1 };
    // Without an event so far, the oldest one is new.
    let oldest = proto::EventId { run: None, sequence: 0 };
    let from = Some(newest.map_or(oldest, after));
    let request = proto::WatchRequest { kinds, from, ..Default::default() };
    let stream = daemon.client.watch(request).await;
    let mut events = stream.map_err(|status| daemon.failed(status))?.into_inner();
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        let updates = tokio::select! {
            _ = tick.tick() => {
                let cameras = cameras(&mut daemon).await?;
                vec![Update::Cameras(cameras), Update::Rules(rules(&mut daemon).await?)]
            }
            next = events.message() => match next.map_err(|status| daemon.failed(status))? {
                Some(proto::WatchResponse { item: Some(WatchItem::Event(event)) }) => {
                    let event = decode::event(event)?;
                    *newest = Some(event.id);
                    vec![Update::Event(Box::new(event))]
                }
                Some(proto::WatchResponse { item: Some(WatchItem::Missed(_)) }) => Vec::new(),
                Some(proto::WatchResponse { item: None }) => {
                    return Err(UnexpectedReply("item").into());
                }
                None => return Err(daemon.broken("the daemon stopped".into())),
            },
        };
        for update in updates {
            if to.send(update).await.is_err() {
                return Ok(());
            }
        }
    }
}
