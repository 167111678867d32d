//! Creates GStreamer elements and finds their pads, with errors that name the element.

use gst::prelude::*;

use super::error::CameraError;

/// Creates an element. An error names it, because a plugin may be missing.
pub fn make(element: &'static str, name: &str) -> Result<gst::Element, CameraError> {
    gst::ElementFactory::make(element)
        .name(name)
        .build()
        .map_err(|_| CameraError::Failed(format!("GStreamer lacks the element {element}")))
}

pub fn source_pad(element: &gst::Element) -> Result<gst::Pad, CameraError> {
    element.static_pad("src").ok_or_else(|| missing_pad(element))
}

pub fn missing_pad(element: &gst::Element) -> CameraError {
    CameraError::internal(format!("{} lacks a pad", element.name()))
}
