//! Requests to the disk: a frame to be written, and frames to be read back.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Record;
use crate::frame::FrameId;
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

/// A read request that was refused, by reason.
pub enum ReadRefused {
    Full(ReadRequest),
    Closed(ReadRequest),
}
