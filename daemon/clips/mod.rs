//! The clips of alerts: the camera's encoded stream around an alert, as an MP4 file. No picture is
//! decoded or encoded for it.
//!
//! ```text
//!  camera/ ─► Ring (per camera) ─► Cut ─► camera/mux ─► MP4
//! ```
//!
//! Not here: the reading of the stream, and the container format (`camera`).

mod cut;
mod ring;

pub use cut::{Cut, Flaw};
pub use ring::{Limits, Ring};
