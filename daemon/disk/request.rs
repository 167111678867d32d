//! Requests to the disk: a frame to be written, frames to be read back, and frames to be overwritten.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use super::Record;
use super::folder::ErasedSegment;
use crate::frame::{FrameId, Span};
use crate::timeline::DiskAddress;

/// A frame to be written to disk.
pub struct WriteRequest {
    pub record: Record,
    pub jpeg: Arc<[u8]>,
}

/// A frame to be read back.
#[derive(Clone, Debug)]
pub struct FrameToRead {
    pub camera: Arc<str>,
    pub id: FrameId,
    /// The frame's address on disk, or `None` while it waits to be written.
    pub address: Option<DiskAddress>,
}

/// JPEGs in the requested order; `None` for each one that could not be read.
pub type Jpegs = Vec<Option<Arc<[u8]>>>;

/// Receives the requested JPEGs.
pub trait JpegReceiver: Send {
    /// Returns true while the result is still wanted. Otherwise the frames are not read.
    fn wants_jpegs(&self) -> bool;
    fn receive(self: Box<Self>, jpegs: Jpegs);
}

/// A read request: the frames, and the receiver that receives them.
pub struct ReadRequest {
    wanted: VecDeque<FrameToRead>,
    jpegs: Jpegs,
    pub(super) kind: Kind,
    pub(super) receiver: Box<dyn JpegReceiver>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lookup,
    Question,
}

impl ReadRequest {
    /// Creates a request for a single frame.
    pub fn lookup(wanted: FrameToRead, receiver: Box<dyn JpegReceiver>) -> ReadRequest {
        ReadRequest { wanted: [wanted].into(), jpegs: Vec::new(), kind: Kind::Lookup, receiver }
    }

    /// Creates a request for the frames of a question, which holds a place in the queue of
    /// questions.
    pub fn question(wanted: Vec<FrameToRead>, receiver: Box<dyn JpegReceiver>) -> ReadRequest {
        ReadRequest { wanted: wanted.into(), jpegs: Vec::new(), kind: Kind::Question, receiver }
    }

    /// Reads the next JPEG. Returns the request if more frames remain.
    pub fn step(
        mut self,
        read: impl FnOnce(FrameToRead) -> Option<Arc<[u8]>>,
    ) -> Option<ReadRequest> {
        if let Some(wanted) = self.wanted.pop_front() {
            self.jpegs.push(read(wanted));
        }
        if !self.wanted.is_empty() {
            return Some(self);
        }
        self.receiver.receive(self.jpegs);
        None
    }

    /// Ends the request: the remaining frames are delivered as unreadable.
    pub fn give_up(mut self) {
        self.jpegs.resize(self.jpegs.len() + self.wanted.len(), None);
        self.receiver.receive(self.jpegs);
    }
}

/// A request to overwrite the frames of a span of time.
pub struct Erasure {
    pub span: Span,
    /// Names of cameras, also of those that are no longer configured; empty means all.
    pub cameras: Vec<String>,
    /// Segments that are still to be looked at; `None` before the first step.
    pub(super) segments: Option<VecDeque<u64>>,
    /// The segment whose frames are being overwritten.
    pub(super) current: Option<ErasedSegment>,
    /// Number of frames overwritten so far.
    pub(super) erased: u64,
    done: Box<dyn FnOnce(Result<u64, String>) + Send>,
}

impl Erasure {
    /// Creates a request. `done` receives the number of frames on disk that were overwritten, or the
    /// reason why some were not.
    pub fn new(
        span: Span,
        cameras: Vec<String>,
        done: impl FnOnce(Result<u64, String>) + Send + 'static,
    ) -> Erasure {
        let done = Box::new(done);
        Erasure { span, cameras, segments: None, current: None, erased: 0, done }
    }

    /// Returns true for a frame that is to be overwritten.
    pub fn wants(&self, camera: &str, captured_at: SystemTime) -> bool {
        let is_wanted = self.cameras.is_empty() || self.cameras.iter().any(|name| name == camera);
        is_wanted && self.span.contains(captured_at)
    }

    pub(super) fn finish(self, failed: Option<String>) {
        (self.done)(failed.map_or(Ok(self.erased), Err));
    }
}

/// A read request that was refused, by reason.
pub enum ReadRefused {
    Full(ReadRequest),
    Closed(ReadRequest),
}
