//! Tests cameras whose RTP packets are damaged on the way: a proxy in front of a real RTSP server
//! flips bits, cuts packets, breaks parameter sets and lies about lengths. A camera goes on or
//! reports its state, it recovers when the damage ends, and another camera loses nothing.
#![cfg(feature = "demo")]

#[path = "support/gst_server.rs"]
mod gst_server;
mod support;
#[path = "support/watched.rs"]
mod watched;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use gst::prelude::*;
use lookout::config::{Camera, DecodeFrames, Rtsp, RtspTls, Source, Transport};
use lookout::event::CameraState;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::*;
use watched::Watched;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    /// Flips bits of the payload.
    Bits,
    /// Flips bits of the RTP header.
    Header,
    /// Cuts the packet off.
    Cut,
    /// Flips bits of SPS, PPS and VPS.
    ParameterSets,
    /// Sends another length than that of the packet.
    Length,
    /// Leaves out, repeats and swaps packets.
    Order,
}

const DAMAGES: [Damage; 6] = [
    Damage::Bits,
    Damage::Header,
    Damage::Cut,
    Damage::ParameterSets,
    Damage::Length,
    Damage::Order,
];

/// A proxy in front of an RTSP server.
struct Faulty {
    port: u16,
    is_faulty: Arc<AtomicBool>,
    /// Number of packets that were damaged.
    damaged: Arc<AtomicUsize>,
}

impl Faulty {
    fn start(server: u16, damage: Damage, seed: u64) -> Faulty {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (is_faulty, damaged) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (faulty, counter) = (is_faulty.clone(), damaged.clone());
        thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let Ok(client) = client else { return };
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
                let mut forward = Forward {
                    random: StdRng::seed_from_u64(seed + number as u64),
                    damage,
                    is_faulty: faulty.clone(),
                    damaged: counter.clone(),
                    held: None,
                };
                let (from, to) = (server.try_clone(), client.try_clone());
                let (Ok(from), Ok(to)) = (from, to) else { return };
                thread::spawn(move || {
                    let _ = forward.run(from, &to);
                    let _ = to.shutdown(Shutdown::Both);
                });
                thread::spawn(move || {
                    let (mut client, mut server) = (client, server);
                    let _ = io::copy(&mut client, &mut server);
                    let _ = server.shutdown(Shutdown::Both);
                });
            }
        });
        Faulty { port, is_faulty, damaged }
    }
}

/// The way from the server to the client.
struct Forward {
    random: StdRng,
    damage: Damage,
    is_faulty: Arc<AtomicBool>,
    damaged: Arc<AtomicUsize>,
    /// A packet that is sent after the next one.
    held: Option<Vec<u8>>,
}

impl Forward {
    fn run(&mut self, from: TcpStream, mut to: &TcpStream) -> io::Result<()> {
        let mut from = BufReader::new(from);
        loop {
            let mut first = [0];
            from.read_exact(&mut first)?;
            if first[0] != b'$' {
                let mut line = vec![first[0]];
                from.read_until(b'\n', &mut line)?;
                // A body has no `$` at the start of a line.
                to.write_all(&line)?;
                continue;
            }
            let mut head = [0; 3];
            from.read_exact(&mut head)?;
            let mut packet = vec![0; u16::from_be_bytes([head[1], head[2]]).into()];
            from.read_exact(&mut packet)?;
            // Channel 1 is RTCP.
            let is_damaged = head[0] == 0 && self.is_faulty.load(Ordering::Relaxed);
            let sent = if is_damaged { self.damaged(packet) } else { vec![(packet, 0)] };
            for (packet, longer) in sent {
                let length = (packet.len() as i32 + longer).clamp(0, 0xffff) as u16;
                let [high, low] = length.to_be_bytes();
                to.write_all(&[&[b'$', head[0], high, low], &packet[..]].concat())?;
            }
        }
    }

    /// Returns the packets to send instead, each with the error of its length.
    fn damaged(&mut self, mut packet: Vec<u8>) -> Vec<(Vec<u8>, i32)> {
        let is_set = is_parameter_set(&packet);
        let range = match self.damage {
            Damage::Bits => 12.min(packet.len())..packet.len(),
            Damage::Header => 0..12.min(packet.len()),
            Damage::ParameterSets if is_set => 14.min(packet.len())..packet.len(),
            _ => 0..0,
        };
        let counts = self.damage != Damage::ParameterSets || is_set;
        self.damaged.fetch_add(usize::from(counts), Ordering::Relaxed);
        if !range.is_empty() {
            for _ in 0..self.random.random_range(1..=8) {
                let bit: u8 = self.random.random_range(0..8);
                packet[self.random.random_range(range.clone())] ^= 1 << bit;
            }
        }
        match self.damage {
            Damage::Cut => {
                packet.truncate(self.random.random_range(0..=packet.len()));
                vec![(packet, 0)]
            }
            Damage::Length if self.random.random_ratio(1, 4) => {
                let longer = self.random.random_range(-200..200);
                vec![(packet, longer)]
            }
            Damage::Order => match self.random.random_range(0..8) {
                0 => Vec::new(),
                1 => vec![(packet.clone(), 0), (packet, 0)],
                2 => {
                    let held = self.held.replace(packet);
                    held.into_iter().map(|packet| (packet, 0)).collect()
                }
                _ => {
                    [Some(packet), self.held.take()].into_iter().flatten().map(|p| (p, 0)).collect()
                }
            },
            _ => vec![(packet, 0)],
        }
    }
}

/// Returns true for a packet with an SPS, a PPS or a VPS of H.264 or H.265, alone or aggregated.
fn is_parameter_set(packet: &[u8]) -> bool {
    let Some(first) = packet.get(12) else {
        return false;
    };
    let h264 = first & 0x1f;
    let h265 = (first >> 1) & 0x3f;
    matches!(h264, 7 | 8 | 24) || matches!(h265, 32..=34 | 48)
}

fn camera_at(port: u16, name: &str) -> Camera {
    let rtsp = Rtsp {
        url: format!("rtsp://127.0.0.1:{port}/{name}").parse().expect("a URL"),
        username: None,
        password: None,
        transport: Transport::Tcp,
        stream: None,
        tls: RtspTls::System,
    };
    Camera {
        name: name.into(),
        source: Source::Rtsp(rtsp),
        fps: 4.0,
        window: Duration::from_secs(10),
        caption_interval: Duration::from_secs(10),
        max_caption_delay: Duration::from_secs(10),
        unchanged_threshold: 0.0,
        caption_prompt: None,
        decode_frames: DecodeFrames::All,
        masks: Vec::new(),
        stall_timeout: Duration::from_secs(2),
        max_reconnect_delay: Duration::from_secs(1),
        is_paused: false,
    }
}

fn damaged_packets_are_survived(name: &str, video: &Path, seed: u64) {
    let folder = folder();
    let cameras = Cameras::start(folder.path(), 0, &[(name, video)], &[]);
    let patient = Camera { stall_timeout: PATIENCE, ..camera_at(cameras.port, name) };
    let other = Watched::start(patient);
    // Many cameras that connect at once to a busy server may need a second attempt.
    other.frames(2);
    // The first frame may come slightly before the state.
    let states = wait_for(&format!("{name}: live"), PATIENCE, || {
        Some(other.states()).filter(|states| states.last() == Some(&CameraState::Live))
    });
    let proxies = DAMAGES.map(|damage| (damage, Faulty::start(cameras.port, damage, seed)));
    let watched = proxies.each_ref().map(|(_, proxy)| Watched::start(camera_at(proxy.port, name)));
    watched.iter().for_each(|watched| _ = watched.frames(2));
    for (_, proxy) in &proxies {
        proxy.is_faulty.store(true, Ordering::Relaxed);
    }
    for ((damage, proxy), watched) in proxies.iter().zip(&watched) {
        // Parameter sets come with key frames only.
        let wanted = if *damage == Damage::ParameterSets { 2 } else { 60 };
        let (frames, states) = (watched.count(), watched.states().len());
        wait_for(&format!("{name}: {damage:?}: damage"), PATIENCE, || {
            (proxy.damaged.load(Ordering::Relaxed) >= wanted).then_some(())
        });
        // The camera delivers frames, or reports that it does not.
        wait_for(&format!("{name}: {damage:?}: frames or a state"), PATIENCE, || {
            (watched.count() > frames || watched.states().len() > states).then_some(())
        });
    }
    for (_, proxy) in &proxies {
        proxy.is_faulty.store(false, Ordering::Relaxed);
    }
    for ((damage, _), watched) in proxies.iter().zip(&watched) {
        let frames = watched.count();
        wait_for(&format!("{name}: {damage:?}: frames after the damage"), PATIENCE, || {
            let is_live = watched.states().last() == Some(&CameraState::Live);
            (is_live && watched.count() >= frames + 6).then_some(())
        });
    }
    let frames = other.count();
    other.frames(frames + 2);
    assert_eq!(other.states(), states, "{name}");
}

#[test]
fn damaged_h264_is_survived() {
    damaged_packets_are_survived("h264", &clip("gate"), 264);
}

#[test]
fn damaged_h265_is_survived() {
    let video = repository().join("tests/media/open-gop.h265.mp4");
    damaged_packets_are_survived("h265", &video, 265);
}

/// Live H.264 whose size is that of the caps of `control`.
const LIVE: &str = "videotestsrc is-live=true \
    ! capsfilter name=control caps=video/x-raw,framerate=15/1,width=320,height=240 \
    ! openh264enc gop-size=8 ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1";

/// Sets the size of every stream that has another one.
fn resize(controls: &Mutex<Vec<gst::Element>>, width: i32, height: i32) {
    let caps = gst::Caps::builder("video/x-raw")
        .field("framerate", gst::Fraction::new(15, 1))
        .field("width", width)
        .field("height", height)
        .build();
    for control in controls.lock().unwrap().iter() {
        if control.property::<gst::Caps>("caps") != caps {
            control.set_property("caps", &caps);
        }
    }
}

#[test]
fn a_change_of_the_resolution_is_survived_also_with_damaged_packets() {
    let controls = Arc::<Mutex<Vec<gst::Element>>>::default();
    let port = gst_server::serve(&[("live", LIVE)], &controls);
    let patient = Camera { stall_timeout: PATIENCE, ..camera_at(port, "live") };
    let undamaged = Watched::start(patient);
    undamaged.frames(2);
    let proxies = [Damage::Bits, Damage::Order].map(|damage| Faulty::start(port, damage, 480));
    let damaged = proxies.each_ref().map(|proxy| Watched::start(camera_at(proxy.port, "live")));
    damaged.iter().for_each(|watched| _ = watched.frames(2));
    proxies.iter().for_each(|proxy| proxy.is_faulty.store(true, Ordering::Relaxed));
    let size = |watched: &Watched| {
        let frames = watched.frames(1);
        frames.last().map(|frame| (frame.width, frame.height))
    };
    for (width, height) in [(640, 480), (320, 240), (160, 120)] {
        let before = damaged.each_ref().map(|watched| (watched.count(), watched.states().len()));
        resize(&controls, width, height);
        wait_for(&format!("frames of {width}x{height}"), PATIENCE, || {
            (size(&undamaged) == Some((width as u32, height as u32))).then_some(())
        });
        for (watched, (frames, states)) in damaged.iter().zip(before) {
            wait_for("frames or a state", PATIENCE, || {
                (watched.count() > frames || watched.states().len() > states).then_some(())
            });
        }
    }
    proxies.iter().for_each(|proxy| proxy.is_faulty.store(false, Ordering::Relaxed));
    for watched in &damaged {
        wait_for("frames of the last size after the damage", PATIENCE, || {
            // A camera that connects again gets a stream of its own, of the first size.
            resize(&controls, 160, 120);
            let is_live = watched.states().last() == Some(&CameraState::Live);
            (is_live && size(watched) == Some((160, 120))).then_some(())
        });
    }
    assert_eq!(undamaged.states(), [CameraState::Connecting, CameraState::Live]);
}
