//! The live video of a camera, as a service yields it.

use bytes::Bytes;
use tokio::sync::mpsc;

/// The stream of a camera's video: `Started`, then fragments, then `Ended`; or only `Unavailable`.
/// It begins when the camera sends a key frame. Dropping the receiver ends it.
pub type LiveStream = mpsc::Receiver<LiveItem>;

#[derive(Clone, Debug, PartialEq)]
pub enum LiveItem {
    Started {
        /// The type of the video with its codec, as browsers know it.
        mime_type: String,
        /// The head of the MP4 file.
        head: Bytes,
    },
    /// The next picture, as a fragment of the MP4 file.
    Fragment(Bytes),
    /// The reason for the end. The video can be requested again.
    Ended(String),
    /// The reason why the camera has no live video.
    Unavailable(String),
}
