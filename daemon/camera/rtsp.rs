//! Configures the source of an RTSP camera: the settings of `rtspsrc`, TLS, and the choice of a
//! stream.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gio::prelude::*;
use gst::prelude::*;

use super::element::make;
use super::error::CameraError;
use super::progress::Progress;
use super::relay::Relay;
use crate::config::{Rtsp, RtspTls};
use crate::sync::lock;

/// Maximum time for a camera to end a session.
const TEARDOWN: Duration = Duration::from_millis(500);

/// Latency of the jitter buffer, which reorders packets. Captions can wait that long.
const LATENCY: Duration = Duration::from_millis(200);

/// The transport protocol of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Tcp,
    Udp,
}

impl Carrier {
    pub fn other(self) -> Carrier {
        match self {
            Carrier::Tcp => Carrier::Udp,
            Carrier::Udp => Carrier::Tcp,
        }
    }

    /// Returns the name used by `rtspsrc` and by the config's `transport`.
    pub fn name(self) -> &'static str {
        match self {
            Carrier::Tcp => "tcp",
            Carrier::Udp => "udp",
        }
    }
}

/// The parameters of one attempt that are not in the config.
pub struct Approach<'a> {
    pub password: Option<&'a str>,
    pub carrier: Carrier,
    /// Maximum time for the camera's answer.
    pub patience: Duration,
    /// The relay, or `None` if rtspsrc connects to the camera directly.
    pub relay: Option<&'a Relay>,
}

pub fn source(
    rtsp: &Rtsp,
    approach: &Approach,
    progress: &Arc<Progress>,
) -> Result<gst::Element, CameraError> {
    let source = make("rtspsrc", "source")?;
    source.set_property("location", rtsp.url.as_str());
    match approach.relay {
        Some(relay) => {
            source.set_property("proxy", relay.proxy());
            source.set_property("user-agent", relay.secret());
        }
        None => {
            source.set_property("user-id", rtsp.username.as_deref());
            source.set_property("user-pw", approach.password);
        }
    }
    source.set_property_from_str("protocols", approach.carrier.name());
    source.set_property("tcp-timeout", approach.patience.as_micros() as u64);
    // Cameras keep a session that was not ended, and serve only a few sessions.
    source.set_property("teardown-timeout", TEARDOWN.as_nanos() as u64);
    source.set_property("latency", LATENCY.as_millis() as u32);
    source.set_property("add-reference-timestamp-meta", true);
    if rtsp.url.scheme() == "rtsps" {
        set_tls(&source, &rtsp.tls)?;
        let progress = progress.clone();
        // This signal comes only for a rejected certificate. It is the only way to learn the
        // reason.
        source.connect("accept-certificate", false, move |values| {
            let flaws = values.get(3)?.get::<gio::TlsCertificateFlags>().ok()?;
            let why = format!("the camera's certificate {}", untrusted(flaws));
            progress.note(CameraError::Failed(why));
            Some(false.to_value())
        });
    }
    // Each SSRC has its own elements, which would otherwise remain.
    source.connect("new-manager", false, |values| {
        let manager = values.get(1)?.get::<gst::Element>().ok()?;
        if manager.has_property("autoremove") {
            manager.set_property("autoremove", true);
        }
        None
    });
    let progress = progress.clone();
    let wanted = rtsp.stream;
    source.connect("select-stream", false, move |values| {
        let id = values.get(1)?.get::<u32>().ok()?;
        let caps = values.get(2)?.get::<gst::Caps>().ok()?;
        Some(progress.select(id, &caps, wanted).to_value())
    });
    Ok(source)
}

fn set_tls(source: &gst::Element, tls: &RtspTls) -> Result<(), CameraError> {
    if !gio::TlsBackend::default().supports_tls() {
        return Err(CameraError::Failed("rtsps needs glib-networking, which is missing".into()));
    }
    match tls {
        RtspTls::System => {}
        RtspTls::Authority(path) => {
            let authority = gio::TlsFileDatabase::new(path).map_err(|error| {
                CameraError::Failed(format!("authority {}: {error}", path.display()))
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

/// The links from rtspsrc's pads to a funnel. Pads come and go with the camera's SSRCs.
pub struct Entrances {
    funnel: gst::Element,
    linked: Arc<Mutex<Vec<(gst::Pad, gst::Pad)>>>,
}

impl Entrances {
    pub fn new(funnel: &gst::Element, source: &gst::Element) -> Entrances {
        let entrances = Entrances { funnel: funnel.clone(), linked: Arc::default() };
        let (funnel, linked) = (funnel.downgrade(), entrances.linked.clone());
        source.connect_pad_removed(move |_, pad| {
            let gone = {
                let mut linked = lock(&linked);
                let at = linked.iter().position(|(from, _)| from == pad);
                at.map(|at| linked.swap_remove(at))
            };
            if let (Some((_, entrance)), Some(funnel)) = (gone, funnel.upgrade()) {
                funnel.release_request_pad(&entrance);
            }
        });
        entrances
    }

    pub fn link(&self, pad: &gst::Pad) -> Result<(), CameraError> {
        let entrance = self
            .funnel
            .request_pad_simple("sink_%u")
            .ok_or_else(|| CameraError::internal("a funnel without a pad"))?;
        pad.link(&entrance).map_err(CameraError::internal)?;
        let mut linked = lock(&self.linked);
        linked.push((pad.clone(), entrance));
        Ok(())
    }
}

/// Makes rtspsrc send a keep-alive request, for a camera without a relay. rtspsrc sends none by
/// itself while frames come over TCP.
pub fn keep_alive(source: &gst::Element) {
    // The answer is ignored; a camera that refuses keeps playing.
    let promise = gst::Promise::new();
    source.emit_by_name::<bool>("get-parameter", &[&"ping", &None::<&str>, &promise]);
}
