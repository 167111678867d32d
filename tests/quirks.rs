//! Tests cameras with the known quirks of real ones, and how lookout handles them: the table in
//! docs/cameras.md.
#![cfg(feature = "demo")]

#[path = "support/gst_server.rs"]
mod gst_server;
#[path = "support/quirky.rs"]
mod quirky;
#[path = "support/watched.rs"]
mod watched;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use gst_server::serve;
use lookout::camera::{self, CameraError};
use lookout::config::{Camera, DecodeFrames, Rtsp, RtspTls, Secret, Source, Transport};
use lookout::event::CameraState;
use quirky::{PASSWORD, Quirks, Quirky, USER};
use watched::{PATIENCE, Watched};

#[test]
fn a_session_is_kept_alive_while_frames_arrive() {
    for counts in [None, Some("OPTIONS")] {
        let camera =
            Quirky::start(Quirks { session_timeout: Some(2), counts, ..Quirks::default() });
        let watched = Watched::start(camera_of(rtsp(&camera, "live")));
        watched.frames(20);
        assert_eq!(watched.states(), [CameraState::Connecting, CameraState::Live], "{counts:?}");
        assert!(camera.count("OPTIONS") >= 3);
    }
}

#[test]
fn a_camera_with_another_keep_alive_method_is_lost_once() {
    let quirks = |counts, dies_at, says_get_parameter| Quirks {
        session_timeout: Some(2),
        counts: Some(counts),
        dies_at,
        says_get_parameter,
        ..Quirks::default()
    };
    let silent = Quirky::start(quirks("GET_PARAMETER", None, false));
    let deadly = Quirky::start(quirks("OPTIONS", Some("GET_PARAMETER"), true));
    let watched = [&silent, &deadly].map(|camera| Watched::start(camera_of(rtsp(camera, "live"))));
    for watched in watched {
        watched.frames(40);
        let states = watched.states();
        assert_eq!(
            states,
            [CameraState::Connecting, CameraState::Live, CameraState::Lost, CameraState::Live]
        );
    }
}

#[test]
fn a_refused_or_ignored_keep_alive_does_not_end_the_stream() {
    let quirks = Quirks { session_timeout: Some(4), says_get_parameter: true, ..Quirks::default() };
    let refusing = Quirky::start(Quirks { status: Some(("GET_PARAMETER", 501)), ..quirks.clone() });
    let ignoring = Quirky::start(Quirks { ignores: Some("GET_PARAMETER"), ..quirks });
    let watched =
        [&refusing, &ignoring].map(|camera| Watched::start(camera_of(rtsp(camera, "live"))));
    for watched in watched {
        watched.frames(30);
        assert_eq!(watched.states(), [CameraState::Connecting, CameraState::Live]);
    }
}

#[test]
fn new_ssrcs_garbage_and_early_packets_do_not_end_the_stream() {
    let ssrcs = Quirky::start(Quirks { new_ssrc_each_key_frame: true, ..Quirks::default() });
    let garbage = Quirky::start(Quirks { garbage: true, ..Quirks::default() });
    let early = Quirky::start(Quirks { early: true, ..Quirks::default() });
    let watched =
        [&ssrcs, &garbage, &early].map(|camera| Watched::start(camera_of(rtsp(camera, "live"))));
    for watched in watched {
        watched.frames(20);
        assert_eq!(watched.states(), [CameraState::Connecting, CameraState::Live]);
    }
}

#[test]
fn sha_256_digests_work_and_a_wrong_password_is_tried_once() {
    let camera = Quirky::start(Quirks { password: true, ..Quirks::default() });
    let right = Watched::start(camera_of(with_password(&camera, PASSWORD)));
    right.frames(2);
    let proofs = camera.proofs("DESCRIBE");
    assert_eq!(proofs, 1);

    let wrong = Watched::start(camera_of(with_password(&camera, "wr0ng")));
    assert_eq!(wrong.state(CameraState::Refused).reason, "wrong user or password");
    // No pause between attempts is this short.
    thread::sleep(Duration::from_secs(3));
    assert_eq!(camera.proofs("DESCRIBE"), proofs + 1);
    let nobody = camera::probe(&camera_of(rtsp(&camera, "live")), PATIENCE);
    assert_eq!(nobody, Err(CameraError::PasswordWanted));
}

#[test]
fn a_password_that_worked_before_is_not_reported_as_wrong() {
    let quirks =
        Quirks { password: true, closes_after: Some(Duration::from_secs(1)), ..Quirks::default() };
    let camera = Quirky::start(quirks);
    let watched = Watched::start(camera_of(with_password(&camera, PASSWORD)));
    watched.frames(1);
    camera.change(|quirks| quirks.full = true);
    let status = watched.when(|status| status.reason.contains("connections taken"));
    assert_eq!(status.state, CameraState::Lost);
    camera.change(|quirks| quirks.full = false);
    watched.state(CameraState::Live);
}

#[test]
fn the_cameras_reply_is_reported() {
    let no_video = "m=audio 0 RTP/AVP 8\r\na=control:track0\r\n";
    let cases: [(Quirks, &str, CameraState, &str); 7] = [
        (
            Quirks { closes_after: Some(Duration::ZERO), ..Quirks::default() },
            "live",
            CameraState::Lost,
            "the connection was closed",
        ),
        (
            Quirks { status: Some(("DESCRIBE", 453)), ..Quirks::default() },
            "live",
            CameraState::Lost,
            "the camera serves no further viewer (453 No): close one, or wait",
        ),
        (
            Quirks { status: Some(("PLAY", 454)), ..Quirks::default() },
            "live",
            CameraState::Lost,
            "the camera rejected PLAY (454 No)",
        ),
        (
            Quirks { status: Some(("DESCRIBE", 404)), ..Quirks::default() },
            "live",
            CameraState::Refused,
            "no such stream",
        ),
        (
            Quirks { more_media: no_video, codec: Some("none"), ..Quirks::default() },
            "live",
            CameraState::Refused,
            "the camera describes no video stream",
        ),
        (
            Quirks { codec: Some("AV1"), ..Quirks::default() },
            "live",
            CameraState::Refused,
            "the camera sends AV1; lookout decodes H.264, H.265, MJPEG, MPEG-4, VP8 and VP9",
        ),
        (
            Quirks { redirects: true, ..Quirks::default() },
            "circle",
            CameraState::Refused,
            "the camera redirects in a circle",
        ),
    ];
    for (quirks, path, state, reason) in cases {
        let camera = Quirky::start(quirks);
        let error = camera::probe(&camera_of(rtsp(&camera, path)), PATIENCE).unwrap_err();
        assert_eq!((error.state(), error.to_string().as_str()), (state, reason));
    }
}

#[test]
fn redirects_queries_and_other_media_are_followed() {
    let before = "m=audio 0 RTP/AVP 8\r\na=control:track0\r\n\
                  m=video 0 RTP/AVP 97\r\na=rtpmap:97 AV1/90000\r\na=control:track2\r\n";
    let query = "cam/realmonitor?channel=1&subtype=0";
    for (quirks, path) in [
        (Quirks { redirects: true, ..Quirks::default() }, "moved"),
        (Quirks { needs_query: Some(404), ..Quirks::default() }, query),
        (Quirks { needs_query: Some(454), ..Quirks::default() }, query),
        (Quirks { more_media: before, ..Quirks::default() }, "live"),
    ] {
        let camera = Quirky::start(quirks);
        let probed = camera::probe(&camera_of(rtsp(&camera, path)), PATIENCE);
        assert_eq!(probed.map(|probed| (probed.width, probed.height)), Ok((160, 128)), "{path}");
    }
    // The second of the video streams is the one that plays.
    let camera = Quirky::start(Quirks { more_media: before, ..Quirks::default() });
    for (stream, reason) in [(0, "stream = 0 is AV1"), (2, "there is no stream = 2")] {
        let rtsp = Rtsp { stream: Some(stream), ..rtsp(&camera, "live") };
        let error = camera::probe(&camera_of(rtsp), PATIENCE).unwrap_err();
        assert!(error.to_string().starts_with(reason), "{error}");
    }
    let rtsp = Rtsp { stream: Some(1), ..rtsp(&camera, "live") };
    camera::probe(&camera_of(rtsp), PATIENCE).unwrap();
}

#[test]
fn a_session_is_ended_before_the_next_begins() {
    let camera = Quirky::start(Quirks::default());
    for _ in 0..2 {
        camera::probe(&camera_of(rtsp(&camera, "live")), PATIENCE).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    while camera.count("TEARDOWN") < 2 {
        assert!(Instant::now() < deadline, "{} TEARDOWN", camera.count("TEARDOWN"));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn udp_only_cameras_and_rare_codecs_play() {
    let small = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=160,height=128,framerate=10/1";
    let jpeg = "jpegenc ! rtpjpegpay name=pay0 pt=26";
    let vp8 = "vp8enc deadline=1 keyframe-max-dist=10 ! rtpvp8pay name=pay0";
    let (jpeg, vp8) = (format!("{small} ! {jpeg}"), format!("{small} ! {vp8}"));
    let port = serve(&[("mjpeg", &jpeg), ("vp8", &vp8), ("udp", &jpeg)], &Arc::default());
    for (mount, codec) in [("mjpeg", "MJPEG"), ("vp8", "VP8"), ("udp", "MJPEG")] {
        let probed = camera::probe(&camera_of(rtsp_at(port, mount)), PATIENCE);
        let seen = probed.map(|probed| (probed.codec, probed.width, probed.height));
        assert_eq!(seen, Ok((codec.to_string(), 160, 128)), "{mount}");
    }
    let mpeg4 = Quirky::start(Quirks { codec: Some("MP4V-ES"), ..Quirks::default() });
    let probed = camera::probe(&camera_of(rtsp(&mpeg4, "live")), PATIENCE);
    assert_eq!(probed.map(|probed| probed.codec), Ok("MPEG-4".to_string()));
    let over_tcp = Rtsp { transport: Transport::Tcp, ..rtsp_at(port, "udp") };
    let error = camera::probe(&camera_of(over_tcp), PATIENCE).unwrap_err();
    assert!(error.to_string().contains("transport = \"udp\""), "{error}");
}

fn rtsp(camera: &Quirky, path: &str) -> Rtsp {
    rtsp_at(camera.port, path)
}

fn rtsp_at(port: u16, path: &str) -> Rtsp {
    Rtsp {
        url: format!("rtsp://127.0.0.1:{port}/{path}").parse().unwrap(),
        username: None,
        password: None,
        transport: Transport::Auto,
        stream: None,
        tls: RtspTls::System,
    }
}

fn with_password(camera: &Quirky, password: &str) -> Rtsp {
    Rtsp {
        username: Some(USER.to_string()),
        password: Some(Secret::Inline(password.to_string())),
        ..rtsp(camera, "live")
    }
}

fn camera_of(rtsp: Rtsp) -> Camera {
    camera::init().unwrap();
    Camera {
        name: "gate".into(),
        source: Source::Rtsp(rtsp),
        fps: 5.0,
        window: Duration::from_secs(10),
        caption_interval: Duration::from_secs(10),
        max_caption_delay: Duration::from_secs(10),
        unchanged_threshold: 0.0,
        caption_prompt: None,
        decode_frames: DecodeFrames::All,
        masks: Vec::new(),
        stall_timeout: Duration::from_secs(5),
        max_reconnect_delay: Duration::from_secs(1),
        is_paused: false,
    }
}
