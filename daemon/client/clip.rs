//! Saves the clip of an alert.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::{
    ClientError, Daemon, Done, Output, Position, Server, UnexpectedReply, json_line, quietly,
};
use crate::event::AlertClip;
use crate::proto;
use crate::wire::decode;

/// Writes the clip of the alert that an event is of into a file, and prints its description.
pub async fn clip(
    server: impl Into<Server>,
    event: Position,
    path: &Path,
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let mut daemon = Daemon::reach(&server.into()).await?;
    let wrong = |why| ClientError::Write { to: path.display().to_string(), why };
    let mut stream = daemon.clip(event.into()).await?;
    let (clip, mut data) = daemon.first_part(&mut stream).await?;
    let mut file = File::create(path).await.map_err(wrong)?;
    let mut bytes = 0;
    loop {
        bytes += data.len() as u64;
        file.write_all(&data).await.map_err(wrong)?;
        let next = stream.message().await.map_err(|status| daemon.failed(status))?;
        let Some(proto::GetClipResponse { data: part, .. }) = next else { break };
        data = part;
    }
    file.flush().await.map_err(wrong)?;
    if bytes != clip.bytes {
        // The clip was deleted while it was read.
        return Err(UnexpectedReply("data").into());
    }
    let shown = path.display().to_string();
    quietly(match output {
        Output::Text => writeln!(out, "{shown}: {}", describe(&clip)),
        Output::Json => json_line(out, &ClipJson { file: shown, clip }),
    })
    .map(drop)
}

fn describe(AlertClip { span, codec, bytes, reason, .. }: &AlertClip) -> String {
    let span = span.map_or_else(String::new, |span| {
        format!("{} UTC, {:.1} s, ", span.clock(true), span.length().as_secs_f64())
    });
    let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    format!("{span}{codec}, {bytes} bytes{reason}")
}

/// The JSON line of a saved clip.
#[derive(Serialize)]
struct ClipJson {
    file: String,
    #[serde(flatten)]
    clip: AlertClip,
}

impl Daemon {
    /// Starts reading the clip of the alert that an event is of.
    pub(super) async fn clip(
        &mut self,
        event: proto::EventId,
    ) -> Result<tonic::Streaming<proto::GetClipResponse>, ClientError> {
        let request = proto::GetClipRequest { event: Some(event) };
        let reply = self.client.get_clip(request).await;
        Ok(reply.map_err(|status| self.failed(status))?.into_inner())
    }

    /// Returns the description of a clip, and its first bytes.
    pub(super) async fn first_part(
        &self,
        stream: &mut tonic::Streaming<proto::GetClipResponse>,
    ) -> Result<(AlertClip, Vec<u8>), ClientError> {
        let first = stream.message().await.map_err(|status| self.failed(status))?;
        let proto::GetClipResponse { clip, data } = first.ok_or(UnexpectedReply("clip"))?;
        Ok((decode::clip(clip.ok_or(UnexpectedReply("clip"))?)?, data))
    }
}
