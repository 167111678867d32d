//! Keeps and deletes events, and saves their frames.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use tonic::Streaming;

use super::{
    ClientError, Daemon, Done, Output, Position, Server, UnexpectedReply, json_line, quietly, text,
};
use crate::event::{Event, EventId, FrameReference};
use crate::frame::Span;
use crate::journal::Deleted;
use crate::proto;
use crate::wire::{decode, encode};

/// Events to delete: those about a span of time.
#[derive(Clone, Debug)]
pub struct Deletion {
    pub span: Span,
    /// Names of cameras; empty means all.
    pub cameras: Vec<String>,
    /// True to delete kept events, too.
    pub include_kept: bool,
}

/// Marks an event as kept, or removes the mark, and prints the event.
pub async fn keep(
    server: impl Into<Server>,
    event: Position,
    kept: bool,
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let mut daemon = Daemon::reach(&server.into()).await?;
    let request = proto::KeepEventRequest { event: Some(event.into()), clear: !kept };
    let reply = daemon.client.keep_event(request).await;
    let reply = reply.map_err(|status| daemon.failed(status))?.into_inner();
    let event = decode::event(reply.event.ok_or(UnexpectedReply("event"))?)?;
    quietly(match output {
        Output::Text => {
            let done = if event.kept { "kept" } else { "no longer kept" };
            writeln!(out, "{done}: {}", text::dated_event_line(&event))
        }
        Output::Json => json_line(out, &event),
    })
    .map(drop)
}

/// Deletes events and prints their number.
pub async fn delete(
    server: impl Into<Server>,
    Deletion { span, cameras, include_kept }: Deletion,
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let mut daemon = Daemon::reach(&server.into()).await?;
    let span = Some(encode::span(span));
    let request = proto::DeleteEventsRequest { span, cameras, include_kept };
    let mut deleted = Deleted::default();
    loop {
        let reply = daemon.client.delete_events(request.clone()).await;
        let reply = reply.map_err(|status| daemon.failed(status))?.into_inner();
        deleted.events += reply.events;
        deleted.jpegs += reply.jpegs;
        deleted.buffer_frames += reply.buffer_frames;
        deleted.kept_events = reply.kept_events;
        if !reply.more {
            break;
        }
    }
    quietly(match output {
        Output::Text => {
            let Deleted { events, jpegs, buffer_frames, .. } = deleted;
            let left = match deleted.kept_events {
                0 => String::new(),
                kept => format!("; {kept} kept events stay (--include-kept deletes them)"),
            };
            writeln!(
                out,
                "deleted {events} events with {jpegs} frames, and {buffer_frames} frames of the \
                 buffer{left}"
            )
        }
        Output::Json => json_line(out, &deleted),
    })
    .map(drop)
}

/// Writes the JPEGs of an event's frames into a folder, and prints their paths.
pub async fn frames(
    server: impl Into<Server>,
    event: Position,
    into: &Path,
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let mut daemon = Daemon::reach(&server.into()).await?;
    let event = daemon.event(event).await?;
    let mut frames = daemon.frames(event.id).await?;
    let wrong = |why| ClientError::Write { to: into.display().to_string(), why };
    tokio::fs::create_dir_all(into).await.map_err(wrong)?;
    let (mut saved, mut missing) = (0, 0);
    while let Some((frame, jpeg)) = daemon.next_frame(&mut frames).await? {
        let Some(jpeg) = jpeg else {
            missing += 1;
            continue;
        };
        let path = into.join(file_name(&event, &frame));
        let wrong = |why| ClientError::Write { to: path.display().to_string(), why };
        tokio::fs::write(&path, jpeg).await.map_err(wrong)?;
        saved += 1;
        let file = path.display().to_string();
        quietly(match output {
            Output::Text => writeln!(out, "{file}"),
            Output::Json => json_line(out, &SavedJson { file, frame }),
        })?;
    }
    match (saved, missing) {
        (_, 0) => Ok(()),
        (0, _) => Err(ClientError::NoFrames { frames: missing }),
        (_, _) => {
            eprintln!("lookout: {missing} frames are neither stored nor in the buffer");
            Ok(())
        }
    }
}

/// Returns the name of a frame's file.
fn file_name(event: &Event, FrameReference { id, .. }: &FrameReference) -> String {
    format!("{}-{}-{}.jpg", event.camera, id.run, id.number)
}

/// The JSON line of a saved frame.
#[derive(Serialize)]
struct SavedJson {
    file: String,
    #[serde(flatten)]
    frame: FrameReference,
}

impl From<Position> for proto::EventId {
    fn from(Position { run, sequence }: Position) -> proto::EventId {
        proto::EventId { run, sequence }
    }
}

impl Daemon {
    async fn event(&mut self, event: Position) -> Result<Event, ClientError> {
        let request = proto::GetEventRequest { event: Some(event.into()) };
        let reply = self.client.get_event(request).await;
        let reply = reply.map_err(|status| self.failed(status))?.into_inner();
        Ok(decode::event(reply.event.ok_or(UnexpectedReply("event"))?)?)
    }

    /// Starts reading the frames of an event.
    pub(super) async fn frames(
        &mut self,
        event: EventId,
    ) -> Result<Streaming<proto::GetEventFramesResponse>, ClientError> {
        let event = Some(encode::event_id(event));
        let reply = self.client.get_event_frames(proto::GetEventFramesRequest { event }).await;
        Ok(reply.map_err(|status| self.failed(status))?.into_inner())
    }

    /// Returns the next frame of an event, with its JPEG if that still exists.
    pub(super) async fn next_frame(
        &self,
        frames: &mut Streaming<proto::GetEventFramesResponse>,
    ) -> Result<Option<(FrameReference, Option<Vec<u8>>)>, ClientError> {
        let next = frames.message().await.map_err(|status| self.failed(status))?;
        let Some(proto::GetEventFramesResponse { frame, jpeg }) = next else { return Ok(None) };
        let frame = frame.ok_or(UnexpectedReply("frame"))?;
        Ok(Some((decode::frame_reference(frame)?, jpeg)))
    }
}
