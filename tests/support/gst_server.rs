//! An RTSP server of GStreamer, whose streams are pipelines in the test's process.

use std::sync::{Arc, Mutex};
use std::thread;

use gst_rtsp_server::prelude::*;

/// Starts a server with these mounts and their pipelines. The mount `udp` sends over UDP only.
/// Elements named `control` of the pipelines that play are put into `controls`. Returns the port.
pub fn serve(mounts: &[(&str, &str)], controls: &Arc<Mutex<Vec<gst::Element>>>) -> u16 {
    gst::init().unwrap();
    let context = gst::glib::MainContext::new();
    let server = gst_rtsp_server::RTSPServer::new();
    server.set_address("127.0.0.1");
    server.set_service("0");
    let points = server.mount_points().unwrap();
    for (name, launch) in mounts {
        let factory = gst_rtsp_server::RTSPMediaFactory::new();
        factory.set_launch(&format!("( {launch} )"));
        factory.set_shared(true);
        if *name == "udp" {
            factory.set_protocols(gst_rtsp_server::gst_rtsp::RTSPLowerTrans::UDP);
        }
        let controls = controls.clone();
        factory.connect_media_configure(move |_, media| {
            let bin = media.element().downcast::<gst::Bin>();
            let control = bin.ok().and_then(|bin| bin.by_name("control"));
            controls.lock().unwrap().extend(control);
        });
        points.add_factory(&format!("/{name}"), factory);
    }
    server.attach(Some(&context)).unwrap();
    let port = server.bound_port() as u16;
    thread::spawn(move || {
        let _server = server;
        let _ =
            context.with_thread_default(|| gst::glib::MainLoop::new(Some(&context), false).run());
    });
    port
}
