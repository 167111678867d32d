//! Exports events with their frames into one ZIP file.
//!
//! `events.jsonl` has an event per line, the newest first, in the JSON of MQTT. `frames/` has the
//! JPEGs, each once, `clips/` the clips of alerts, and `SHA256SUMS` the sums of all files as `sha256sum -c` reads them. The file
//! appears under its name only when it is complete.

use std::collections::HashSet;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::{ClientError, Daemon, Done, Server, events};
use crate::event::{Body, ClipState, Event, EventId};
use crate::frame::FrameId;
use crate::journal::EventFilter;
use crate::proto;
use crate::wire::{decode, encode};

/// Interval of the progress on a terminal.
const PROGRESS: Duration = Duration::from_millis(500);

/// Exports the events of a filter to `path`. `stop` ends the export early, without a file.
pub async fn export(
    server: impl Into<Server>,
    filter: &EventFilter,
    path: &Path,
    stop: impl Future<Output = ()>,
    out: &mut dyn Write,
) -> Done {
    let mut daemon = Daemon::reach(&server.into()).await?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let wrong = |why: std::io::Error| ClientError::Write { to: path.display().to_string(), why };
    // A file that is not persisted is deleted.
    let file = NamedTempFile::with_prefix_in(".lookout-export-", folder).map_err(wrong)?;
    let mut archive = Archive::new(&file, path);
    tokio::select! {
        written = archive.write(&mut daemon, filter) => written?,
        () = stop => return Err(ClientError::Stopped),
    }
    let Contents { events, frames, clips, missing } = archive.finish()?;
    file.as_file().sync_all().map_err(wrong)?;
    file.persist(path).map_err(|error| wrong(error.error))?;
    let shown = path.display();
    let clips = if clips == 0 { String::new() } else { format!(", {clips} clips") };
    let missing = match missing {
        0 => String::new(),
        missing => format!("; {missing} frames are neither stored nor in the buffer"),
    };
    super::quietly(writeln!(out, "{shown}: {events} events, {frames} frames{clips}{missing}"))
        .map(drop)
}

/// Numbers of events, frames and clips in an archive.
#[derive(Clone, Copy, Default)]
struct Contents {
    events: u64,
    frames: u64,
    clips: u64,
    /// Number of frames that do not exist any more.
    missing: u64,
}

/// An archive in progress.
struct Archive<'a> {
    zip: ZipWriter<BufWriter<&'a std::fs::File>>,
    path: &'a Path,
    /// The lines of `SHA256SUMS`.
    sums: String,
    contents: Contents,
    /// The clips to write: a camera, an event of the alert and its ID.
    clips: Vec<(Arc<str>, EventId, Arc<str>)>,
    progress: Option<Instant>,
}

impl<'a> Archive<'a> {
    fn new(file: &'a NamedTempFile, path: &'a Path) -> Archive<'a> {
        let progress = std::io::stderr().is_terminal().then(Instant::now);
        let zip = ZipWriter::new(BufWriter::new(file.as_file()));
        Archive {
            zip,
            path,
            sums: String::new(),
            contents: Contents::default(),
            clips: Vec::new(),
            progress,
        }
    }

    async fn write(&mut self, daemon: &mut Daemon, filter: &EventFilter) -> Done {
        let with_frames = self.write_events(daemon, filter).await?;
        for (camera, id, alert_id) in std::mem::take(&mut self.clips) {
            self.write_clip(daemon, &camera, id, &alert_id).await?;
        }
        let mut known = HashSet::new();
        for (camera, id) in with_frames {
            self.write_frames(daemon, &camera, id, &mut known).await?;
        }
        let sums = std::mem::take(&mut self.sums);
        self.start("SHA256SUMS", CompressionMethod::Deflated)?;
        self.put(sums.as_bytes())?;
        if self.progress.is_some() {
            eprintln!();
        }
        Ok(())
    }

    /// Writes `events.jsonl`. Returns the events that have frames.
    async fn write_events(
        &mut self,
        daemon: &mut Daemon,
        filter: &EventFilter,
    ) -> Result<Vec<(Arc<str>, EventId)>, ClientError> {
        self.start("events.jsonl", CompressionMethod::Deflated)?;
        let mut sum = Sha256::new();
        let mut with_frames = Vec::new();
        let mut clips = HashSet::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListEventsRequest {
                filter: Some(events::message(filter)),
                page_size: events::page_size(events::PAGE),
                page_token,
            };
            let reply = daemon.client.list_events(request).await;
            let reply = reply.map_err(|status| daemon.failed(status))?.into_inner();
            for event in reply.events {
                let event: Event = decode::event(event)?;
                let mut line =
                    serde_json::to_vec(&event).map_err(|error| self.wrong(error.into()))?;
                line.push(b'\n');
                sum.update(&line);
                self.put(&line)?;
                self.contents.events += 1;
                if let Body::Alert(alert) = &event.body
                    && alert.clip.as_ref().is_some_and(|clip| clip.state == ClipState::Ready)
                    && clips.insert(alert.alert_id.clone())
                {
                    self.clips.push((event.camera.clone(), event.id, alert.alert_id.clone()));
                }
                if !event.body.frames().is_empty() {
                    with_frames.push((event.camera, event.id));
                }
            }
            self.show_progress();
            page_token = reply.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        self.add_sum(sum, "events.jsonl");
        Ok(with_frames)
    }

    /// Writes the clip of an alert. One that was deleted after its event is left out.
    async fn write_clip(
        &mut self,
        daemon: &mut Daemon,
        camera: &str,
        event: EventId,
        alert_id: &str,
    ) -> Done {
        let mut stream = match daemon.clip(encode::event_id(event)).await {
            Err(ClientError::Refused { code: tonic::Code::NotFound, .. }) => return Ok(()),
            stream => stream?,
        };
        let name = format!("clips/{camera}/{alert_id}.mp4");
        // The pictures are compressed already.
        self.start(&name, CompressionMethod::Stored)?;
        let mut sum = Sha256::new();
        while let Some(part) = stream.message().await.map_err(|status| daemon.failed(status))? {
            sum.update(&part.data);
            self.put(&part.data)?;
        }
        self.add_sum(sum, &name);
        self.contents.clips += 1;
        Ok(())
    }

    /// Writes the frames of an event that no event before it has.
    async fn write_frames(
        &mut self,
        daemon: &mut Daemon,
        camera: &Arc<str>,
        event: EventId,
        known: &mut HashSet<(Arc<str>, FrameId)>,
    ) -> Done {
        let mut frames = match daemon.frames(event).await {
            // The event was deleted after it was listed.
            Err(ClientError::Refused { code: tonic::Code::NotFound, .. }) => return Ok(()),
            frames => frames?,
        };
        while let Some((frame, jpeg)) = daemon.next_frame(&mut frames).await? {
            if !known.insert((camera.clone(), frame.id)) {
                continue;
            }
            let Some(jpeg) = jpeg else {
                self.contents.missing += 1;
                continue;
            };
            let name = format!("frames/{camera}/{}-{}.jpg", frame.id.run, frame.id.number);
            // JPEGs are compressed already.
            self.start(&name, CompressionMethod::Stored)?;
            self.put(&jpeg)?;
            self.add_sum(Sha256::new_with_prefix(&jpeg), &name);
            self.contents.frames += 1;
            self.show_progress();
        }
        Ok(())
    }

    fn start(&mut self, name: &str, method: CompressionMethod) -> Done {
        let options = SimpleFileOptions::default().compression_method(method).large_file(true);
        let started = self.zip.start_file(name, options);
        started.map_err(|error| self.wrong(error.into()))
    }

    fn put(&mut self, bytes: &[u8]) -> Done {
        let written = self.zip.write_all(bytes);
        written.map_err(|error| self.wrong(error))
    }

    fn add_sum(&mut self, sum: Sha256, name: &str) {
        let hex: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        self.sums += &format!("{hex}  {name}\n");
    }

    fn show_progress(&mut self) {
        let Some(shown) = &mut self.progress else { return };
        if shown.elapsed() >= PROGRESS {
            *shown = Instant::now();
            eprint!("\r{} events, {} frames", self.contents.events, self.contents.frames);
        }
    }

    /// Writes the directory of the ZIP file.
    fn finish(self) -> Result<Contents, ClientError> {
        let Archive { zip, path, contents, .. } = self;
        let written = zip.finish().map_err(std::io::Error::from).and_then(|mut file| file.flush());
        let to = path.display().to_string();
        written.map(|()| contents).map_err(|why| ClientError::Write { to, why })
    }

    fn wrong(&self, why: std::io::Error) -> ClientError {
        ClientError::Write { to: self.path.display().to_string(), why }
    }
}
