//! Deletes segments of a folder: those that are too old, and the oldest ones where room is needed.

use std::fs;
use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime};

use super::{Ages, Folder, Segment, Written};
use crate::disk::age::{self, Now};
use crate::disk::segment::{frames_file, index_file};

/// Pause before a segment that could not be deleted is tried again.
const DELETE_AGAIN: Duration = Duration::from_secs(600);

/// Maximum number of failed deletions in each of the two passes that make room for a record.
const TRIED_MOST: usize = 8;

impl Folder {
    /// Deletes segments older than `retention`, but at most one segment of earlier runs per call.
    pub fn expire(&mut self, now: Now) {
        if self.unread > 0 {
            return;
        }
        if self.ages == Ages::Unknown {
            self.settle(None);
            self.ages = Ages::Recorded;
        }
        if self.ages != Ages::Settled && self.wall.is_confirmed(now) {
            let passed = now.uptime.saturating_sub(self.opened);
            let opened_at = now.wall.checked_sub(passed);
            // The cameras' clocks count instead if they are all behind.
            self.settle(opened_at.map(|at| self.opened_at.map_or(at, |theirs| theirs.min(at))));
            self.ages = Ages::Settled;
        }
        let mut at = 0;
        while let Some(segment) = self.segments.get(at) {
            let age = match segment.written {
                Written::Before(age) => age.saturating_add(now.uptime.saturating_sub(self.opened)),
                Written::At(first) => now.uptime.saturating_sub(first),
            };
            // A segment without a frame is about to be written.
            let earlier = matches!(segment.written, Written::Before(_));
            if (segment.bytes == 0 && !earlier) || age <= self.bounds.retention {
                break;
            }
            if segment.stuck.is_some_and(|since| now.uptime < since + DELETE_AGAIN) {
                at += 1;
                continue;
            }
            if let Err(error) = self.delete(at) {
                self.set_aside(at, &error, now.uptime);
                // Its frames are too old to be queried anyway.
                self.withdraw(at);
                at += 1;
            }
            // Segments whose age may depend on the wall clock are deleted slowly.
            if earlier {
                break;
            }
        }
    }

    /// Deletes the oldest segments until `wanted` bytes fit. Segments that recently could not be
    /// deleted are tried again only if the others do not make enough room.
    pub(super) fn make_room(&mut self, wanted: u64, uptime: Duration) -> io::Result<()> {
        let mut failed = None;
        for again in [false, true] {
            let (mut at, mut tried) = (0, 0);
            while self.bytes + wanted > self.bounds.bytes
                && at < self.segments.len()
                && tried < TRIED_MOST
            {
                let stuck = self.segments[at].stuck;
                if !again && stuck.is_some_and(|since| uptime < since + DELETE_AGAIN) {
                    at += 1;
                    continue;
                }
                if let Err(error) = self.delete(at) {
                    if error.kind() == ErrorKind::ReadOnlyFilesystem {
                        return Err(error);
                    }
                    self.set_aside(at, &error, uptime);
                    failed = Some(error);
                    (at, tried) = (at + 1, tried + 1);
                }
            }
        }
        if self.bytes + wanted <= self.bounds.bytes {
            return Ok(());
        }
        let why = failed.map(|error| format!(": {error}")).unwrap_or_default();
        let why = format!("all bytes that may be kept are taken by what cannot be deleted{why}");
        Err(io::Error::new(ErrorKind::StorageFull, why))
    }

    /// Sets the ages of earlier runs' segments. If `opened_at` is known, the wall clock counts.
    pub(super) fn settle(&mut self, opened_at: Option<SystemTime>) {
        let earlier = |segment: &&Segment| matches!(segment.written, Written::Before(_));
        let times: Vec<_> = self.segments.iter().filter(earlier).map(|s| s.times).collect();
        let ages = age::at_start(&times, opened_at);
        let earlier = self.segments.iter_mut().filter(|s| matches!(s.written, Written::Before(_)));
        for (segment, age) in earlier.zip(ages) {
            segment.written = Written::Before(age);
        }
    }

    /// Deletes a segment's files.
    pub(super) fn delete(&mut self, at: usize) -> io::Result<()> {
        let number = self.segments[at].number;
        match fs::remove_file(frames_file(&self.path, number)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let _ = fs::remove_file(index_file(&self.path, number));
        if self.segments[at].unreadable {
            tracing::info!(
                "segment {number}, which could not be read, is deleted for its age or for room"
            );
        }
        self.forget(at);
        Ok(())
    }

    pub(super) fn forget(&mut self, at: usize) {
        if self.open.is_some() && at + 1 == self.segments.len() {
            self.open = None;
        }
        let Some(segment) = self.segments.remove(at) else { return };
        if at < self.unread {
            self.unread -= 1;
        }
        self.bytes -= segment.bytes + segment.index;
        self.frames -= segment.frames;
        self.gone.push(segment.number);
    }

    /// Makes the frames of a segment unavailable for queries.
    pub(super) fn withdraw(&mut self, at: usize) {
        let segment = &mut self.segments[at];
        if segment.frames > 0 {
            self.gone.push(segment.number);
            self.frames -= segment.frames;
            segment.frames = 0;
        }
    }

    pub(super) fn set_aside(&mut self, at: usize, error: &io::Error, uptime: Duration) {
        let segment = &mut self.segments[at];
        if segment.stuck.is_none() {
            let file = frames_file(&self.path, segment.number);
            tracing::warn!("{} is set aside, since it cannot be deleted: {error}", file.display());
        }
        segment.stuck = Some(uptime);
    }
}
