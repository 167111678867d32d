//! Reads a daemon's journal by `Watch` without printing it.

use super::{ClientError, Daemon, Server};
use crate::proto;
use crate::proto::watch_response::Item;
use crate::wire::decode::UnexpectedReply;

/// An item of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// The sequence of an event.
    Event(u64),
    Missed,
}

/// Reads all events from the oldest on, and the new ones, until `received` returns false.
pub async fn replay(
    server: impl Into<Server>,
    mut received: impl FnMut(Replayed) -> bool,
) -> Result<(), ClientError> {
    let mut daemon = Daemon::reach(&server.into()).await?;
    let from = Some(proto::EventId { run: None, sequence: 0 });
    let request = proto::WatchRequest { from, ..proto::WatchRequest::default() };
    let stream = daemon.client.watch(request).await;
    let mut stream = stream.map_err(|status| daemon.failed(status))?.into_inner();
    loop {
        let message = stream.message().await.map_err(|status| daemon.failed(status))?;
        let Some(proto::WatchResponse { item }) = message else { return Ok(()) };
        let replayed = match item.ok_or(UnexpectedReply("item"))? {
            Item::Event(event) => Replayed::Event(event.id.ok_or(UnexpectedReply("id"))?.sequence),
            Item::Missed(_) => Replayed::Missed,
        };
        if !received(replayed) {
            return Ok(());
        }
    }
}
