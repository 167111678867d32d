//! The source of an RTSP camera: `rtspsrc` with its settings, its TLS, and the choice of a stream.

use std::sync::Arc;
use std::time::Duration;

use gio::prelude::*;
use gst::prelude::*;

use super::decoder::Codec;
use super::error::CameraError;
use super::pipeline::make;
use super::progress::Progress;
use crate::config::{Rtsp, RtspTls, Transport};

/// rtspsrc gives up a connection or an answer after so long.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);

/// Of the jitter buffer. Captions can wait; packets out of order cannot be had otherwise.
const LATENCY: Duration = Duration::from_millis(200);

pub fn source(
    rtsp: &Rtsp,
    password: Option<&str>,
    progress: &Arc<Progress>,
) -> Result<gst::Element, CameraError> {
    let source = make("rtspsrc", "source")?;
    source.set_property("location", rtsp.url.as_str());
    source.set_property("user-id", rtsp.username.as_deref());
    source.set_property("user-pw", password);
    source.set_property_from_str(
        "protocols",
        match rtsp.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        },
    );
    source.set_property("tcp-timeout", TCP_TIMEOUT.as_micros() as u64);
    source.set_property("latency", LATENCY.as_millis() as u32);
    source.set_property("add-reference-timestamp-meta", true);
    if rtsp.url.scheme() == "rtsps" {
        set_tls(&source, &rtsp.tls)?;
        let progress = progress.clone();
        // Asked only when the certificate did not pass: the one chance to learn why.
        source.connect("accept-certificate", false, move |values| {
            let flaws = values.get(3)?.get::<gio::TlsCertificateFlags>().ok()?;
            let why = format!("the camera's certificate {}", untrusted(flaws));
            progress.note(CameraError::Lost(why));
            Some(false.to_value())
        });
    }
    let progress = progress.clone();
    source.connect("select-stream", false, move |values| {
        let caps = values.get(2)?.get::<gst::Caps>().ok()?;
        Some(progress.select(&caps).to_value())
    });
    Ok(source)
}

fn set_tls(source: &gst::Element, tls: &RtspTls) -> Result<(), CameraError> {
    if !gio::TlsBackend::default().supports_tls() {
        return Err(CameraError::Lost("rtsps needs glib-networking, which is missing".into()));
    }
    match tls {
        RtspTls::System => {}
        RtspTls::Authority(path) => {
            let authority = gio::TlsFileDatabase::new(path).map_err(|error| {
                CameraError::Lost(format!("authority {}: {error}", path.display()))
            })?;
            source.set_property("tls-database", &authority);
        }
        RtspTls::Unchecked => {
            source.set_property("tls-validation-flags", gio::TlsCertificateFlags::empty());
        }
    }
    Ok(())
}

fn untrusted(flaws: gio::TlsCertificateFlags) -> &'static str {
    use gio::TlsCertificateFlags as Flaw;
    if flaws.contains(Flaw::UNKNOWN_CA) {
        "is of an authority that is not trusted (`ca_file`)"
    } else if flaws.contains(Flaw::BAD_IDENTITY) {
        "is for another host"
    } else if flaws.contains(Flaw::EXPIRED) {
        "has expired"
    } else if flaws.contains(Flaw::NOT_ACTIVATED) {
        "is not valid yet"
    } else {
        "is not trusted"
    }
}

pub fn codec_of(caps: &gst::CapsRef) -> Option<Codec> {
    let structure = caps.structure(0)?;
    if structure.get::<&str>("media").ok()? != "video" {
        return None;
    }
    Codec::from_encoding_name(structure.get::<&str>("encoding-name").ok()?)
}
