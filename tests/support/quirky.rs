//! A small RTSP camera over TCP with the quirks of real ones, each selected by a field of
//! [`Quirks`].

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use gst::prelude::*;
use sha2::{Digest, Sha256};

pub const USER: &str = "viewer";
pub const PASSWORD: &str = "pa@ss:w/rd";

#[derive(Clone, Default)]
pub struct Quirks {
    /// Seconds after the last keep-alive request at which the session ends.
    pub session_timeout: Option<u64>,
    /// The only request that counts as keep-alive, or `None` if all do.
    pub counts: Option<&'static str>,
    /// The request at which the connection is closed.
    pub dies_at: Option<&'static str>,
    /// The request that gets no response.
    pub ignores: Option<&'static str>,
    /// A request and the status of its response.
    pub status: Option<(&'static str, u16)>,
    pub says_get_parameter: bool,
    /// Set to require digest authentication with SHA-256.
    pub password: bool,
    /// Set to accept only the first client; others receive the response for a wrong password.
    pub full: bool,
    pub new_ssrc_each_key_frame: bool,
    pub garbage: bool,
    /// Set to redirect `/moved` to `/live`, and `/circle` to itself.
    pub redirects: bool,
    /// Status of the response to a SETUP without the URL's query.
    pub needs_query: Option<u16>,
    /// SDP lines between the session and the video.
    pub more_media: &'static str,
    /// Name of the video's codec.
    pub codec: Option<&'static str>,
    /// Set to send packets before the response to PLAY.
    pub early: bool,
    /// Time after PLAY at which the connection is closed.
    pub closes_after: Option<Duration>,
}

pub struct Quirky {
    pub port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    quirks: Mutex<Quirks>,
    /// Methods, each with true if the request proved the password.
    requests: Mutex<Vec<(String, bool)>>,
    closed: AtomicBool,
}

impl Quirky {
    pub fn start(quirks: Quirks) -> Quirky {
        LazyLock::force(&CLIP);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Arc::new(Inner {
            quirks: Mutex::new(quirks),
            requests: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let serving = inner.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if serving.closed.load(Ordering::Relaxed) {
                    return;
                }
                let (client, inner) = (client.unwrap(), serving.clone());
                thread::spawn(move || {
                    let session = Session::new(&client, inner, port);
                    let _ = session.serve();
                    let _ = client.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Quirky { port, inner }
    }

    /// Changes the quirks from the next connection on.
    pub fn change(&self, change: impl FnOnce(&mut Quirks)) {
        change(&mut self.inner.quirks.lock().unwrap());
    }

    pub fn count(&self, method: &str) -> usize {
        self.inner.requests.lock().unwrap().iter().filter(|(name, _)| name == method).count()
    }

    /// Counts the requests that proved the password.
    pub fn proofs(&self, method: &str) -> usize {
        let requests = self.inner.requests.lock().unwrap();
        requests.iter().filter(|(name, proof)| name == method && *proof).count()
    }
}

impl Drop for Quirky {
    fn drop(&mut self) {
        self.inner.closed.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

struct Session {
    inner: Arc<Inner>,
    quirks: Quirks,
    port: u16,
    reader: BufReader<TcpStream>,
    writer: Arc<Mutex<TcpStream>>,
    alive: Arc<Mutex<Instant>>,
    described: String,
}

impl Session {
    fn new(client: &TcpStream, inner: Arc<Inner>, port: u16) -> Session {
        let quirks = inner.quirks.lock().unwrap().clone();
        Session {
            inner,
            quirks,
            port,
            reader: BufReader::new(client.try_clone().unwrap()),
            writer: Arc::new(Mutex::new(client.try_clone().unwrap())),
            alive: Arc::new(Mutex::new(Instant::now())),
            described: String::new(),
        }
    }

    fn serve(mut self) -> io::Result<()> {
        loop {
            let mut first = [0];
            self.reader.read_exact(&mut first)?;
            if first[0] == b'$' {
                let mut header = [0; 3];
                self.reader.read_exact(&mut header)?;
                let mut packet = vec![0; u16::from_be_bytes([header[1], header[2]]).into()];
                self.reader.read_exact(&mut packet)?;
                continue;
            }
            let mut line = String::from(char::from(first[0]));
            self.reader.read_line(&mut line)?;
            let mut fields = HashMap::new();
            loop {
                let mut line = String::new();
                self.reader.read_line(&mut line)?;
                let Some((key, value)) = line.trim().split_once(':') else { break };
                fields.insert(key.to_lowercase(), value.trim().to_string());
            }
            let mut words = line.split(' ');
            let (method, url) = (words.next().unwrap(), words.next().unwrap_or_default());
            if !self.answer(method, url, &fields)? {
                return Ok(());
            }
        }
    }

    /// Responds to a request; returns false if the connection is to be closed.
    fn answer(
        &mut self,
        method: &str,
        url: &str,
        fields: &HashMap<String, String>,
    ) -> io::Result<bool> {
        let quirks = self.quirks.clone();
        let proof = fields.get("authorization");
        let first = !self.inner.requests.lock().unwrap().iter().any(|(name, _)| name == "PLAY");
        self.inner.requests.lock().unwrap().push((method.to_string(), proof.is_some()));
        if quirks.counts.is_none_or(|counts| counts == method) || method == "PLAY" {
            *self.alive.lock().unwrap() = Instant::now();
        }
        let cseq = fields.get("cseq").cloned().unwrap_or_default();
        let reply = |status: &str, extra: &str, body: &str| {
            let length = match body {
                "" => String::new(),
                body => format!("Content-Length: {}\r\n", body.len()),
            };
            let text = format!("RTSP/1.0 {status}\r\nCSeq: {cseq}\r\n{extra}{length}\r\n{body}");
            self.writer.lock().unwrap().write_all(text.as_bytes()).map(|()| true)
        };
        if quirks.dies_at == Some(method) {
            return Ok(false);
        }
        if quirks.ignores == Some(method) {
            return Ok(true);
        }
        if let Some((_, code)) = quirks.status.filter(|(refused, _)| *refused == method) {
            return reply(&format!("{code} No"), "", "");
        }
        let base = format!("rtsp://127.0.0.1:{}", self.port);
        if method == "OPTIONS" {
            let more = if quirks.says_get_parameter { ", GET_PARAMETER" } else { "" };
            let public = format!("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN{more}\r\n");
            return reply("200 OK", &public, "");
        }
        if method == "DESCRIBE" && quirks.redirects && !url.ends_with("/live") {
            let to = if url.ends_with("/circle") { "circle" } else { "live" };
            return reply("302 Found", &format!("Location: {base}/{to}\r\n"), "");
        }
        let proven = proof.is_some_and(|proof| is_right(proof, method));
        if quirks.password && (!proven || quirks.full && !first) {
            let ask = "WWW-Authenticate: Digest realm=\"quirky\", nonce=\"n0nce\", \
                       algorithm=SHA-256, qop=\"auth\"\r\n";
            return reply("401 Unauthorized", ask, "");
        }
        match method {
            "DESCRIBE" => {
                self.described = url.to_string();
                let extra = format!("Content-Type: application/sdp\r\nContent-Base: {url}/\r\n");
                reply("200 OK", &extra, &description(&quirks))
            }
            "SETUP" => match quirks.needs_query {
                Some(code) if !url.starts_with(&self.described) => {
                    reply(&format!("{code} No"), "", "")
                }
                _ => {
                    let timeout =
                        quirks.session_timeout.map_or(String::new(), |t| format!(";timeout={t}"));
                    let extra = format!(
                        "Session: 4711{timeout}\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                    );
                    reply("200 OK", &extra, "")
                }
            },
            "PLAY" => {
                let early = quirks.early;
                if !early {
                    reply("200 OK", "Session: 4711\r\n", "")?;
                }
                let (writer, alive) = (self.writer.clone(), self.alive.clone());
                thread::spawn(move || {
                    let _ = play(&quirks, &writer, &alive);
                    let _ = writer.lock().unwrap().shutdown(std::net::Shutdown::Both);
                });
                if early {
                    thread::sleep(Duration::from_millis(300));
                    reply("200 OK", "Session: 4711\r\n", "")?;
                }
                Ok(true)
            }
            "TEARDOWN" => {
                reply("200 OK", "", "")?;
                Ok(false)
            }
            _ => reply("200 OK", "", ""),
        }
    }
}

fn description(quirks: &Quirks) -> String {
    let mut sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=x\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n{}",
        quirks.more_media
    );
    if quirks.codec != Some("none") {
        let codec = quirks.codec.unwrap_or("H264");
        sdp += &format!(
            "m=video 0 RTP/AVP 96\r\na=rtpmap:96 {codec}/90000\r\n\
             a=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
        );
    }
    sdp
}

/// Returns true if a digest proves [`PASSWORD`].
fn is_right(proof: &str, method: &str) -> bool {
    let fields: HashMap<&str, &str> = proof
        .trim_start_matches("Digest ")
        .split(',')
        .filter_map(|field| field.trim().split_once('='))
        .map(|(key, value)| (key, value.trim_matches('"')))
        .collect();
    let field = |name| fields.get(name).copied().unwrap_or_default();
    let hash = |text: String| -> String {
        Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let who = hash(format!("{USER}:quirky:{PASSWORD}"));
    let what = hash(format!("{method}:{}", field("uri")));
    let (nc, cnonce) = (field("nc"), field("cnonce"));
    field("response") == hash(format!("{who}:n0nce:{nc}:{cnonce}:auth:{what}"))
}

const RATE: u64 = 10;

fn play(quirks: &Quirks, writer: &Mutex<TcpStream>, alive: &Mutex<Instant>) -> io::Result<()> {
    let begun = Instant::now();
    let (mut sequence, mut ssrc) = (100u16, 1u32);
    let mpeg4 = quirks.codec == Some("MP4V-ES");
    let clip = if mpeg4 { &*MPEG4 } else { &*CLIP };
    for (number, unit) in clip.iter().cycle().enumerate() {
        let due = begun + Duration::from_millis(1000 / RATE) * number as u32;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if quirks.closes_after.is_some_and(|after| begun.elapsed() > after) {
            return Ok(());
        }
        let silent = alive.lock().unwrap().elapsed();
        if quirks.session_timeout.is_some_and(|timeout| silent > Duration::from_secs(timeout)) {
            return Ok(());
        }
        if quirks.new_ssrc_each_key_frame && (number as u64).is_multiple_of(GOP) {
            ssrc += 1;
        }
        if quirks.garbage && number % 7 == 3 {
            writer.lock().unwrap().write_all(b"\x00\x01garbage$\x05")?;
        }
        let time = (number as u64 * 90_000 / RATE) as u32;
        for (packet, last) in if mpeg4 { pieces(&unit[0]) } else { packets(unit) } {
            sequence = sequence.wrapping_add(1);
            let mut bytes = vec![b'$', 0];
            bytes.extend_from_slice(&(12 + packet.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&[0x80, 96 | if last { 0x80 } else { 0 }]);
            bytes.extend_from_slice(&sequence.to_be_bytes());
            bytes.extend_from_slice(&time.to_be_bytes());
            bytes.extend_from_slice(&ssrc.to_be_bytes());
            bytes.extend_from_slice(&packet);
            writer.lock().unwrap().write_all(&bytes)?;
        }
    }
    Ok(())
}

/// Splits an access unit as in RFC 6184: single NAL units, and fragments of larger ones.
fn packets(unit: &[Vec<u8>]) -> Vec<(Vec<u8>, bool)> {
    let mut packets = Vec::new();
    for nal in unit {
        if nal.len() <= 1400 {
            packets.push(nal.clone());
            continue;
        }
        let pieces: Vec<&[u8]> = nal[1..].chunks(1390).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let (start, end) = (at == 0, at + 1 == pieces.len());
            let flags = nal[0] & 31 | if start { 0x80 } else { 0 } | if end { 0x40 } else { 0 };
            packets.push([&[nal[0] & 0xe0 | 28, flags], *piece].concat());
        }
    }
    let count = packets.len();
    packets.into_iter().enumerate().map(|(at, packet)| (packet, at + 1 == count)).collect()
}

/// Splits a frame as in RFC 6416, at any position.
fn pieces(picture: &[u8]) -> Vec<(Vec<u8>, bool)> {
    let count = picture.len().div_ceil(1400);
    let pieces = picture.chunks(1400).map(<[u8]>::to_vec).enumerate();
    pieces.map(|(at, piece)| (piece, at + 1 == count)).collect()
}

const GOP: u64 = 10;

/// Frames, each with its NAL units.
static CLIP: LazyLock<Vec<Vec<Vec<u8>>>> = LazyLock::new(|| {
    let encode = format!(
        "openh264enc gop-size={GOP} scene-change-detection=false ! h264parse config-interval=-1 \
         ! video/x-h264,stream-format=byte-stream,alignment=au"
    );
    let mut clip = Vec::new();
    for bytes in encoded(&encode) {
        let mut nals = Vec::new();
        let starts: Vec<usize> = (0..bytes.len().saturating_sub(2))
            .filter(|&at| bytes[at..].starts_with(&[0, 0, 1]))
            .collect();
        for (at, start) in starts.iter().enumerate() {
            let end = starts.get(at + 1).copied().unwrap_or(bytes.len());
            let mut nal = bytes[start + 3..end].to_vec();
            while nal.last() == Some(&0) {
                nal.pop();
            }
            nals.push(nal);
        }
        clip.push(nals);
    }
    clip
});

static MPEG4: LazyLock<Vec<Vec<Vec<u8>>>> = LazyLock::new(|| {
    let pictures = encoded(&format!("avenc_mpeg4 gop-size={GOP}"));
    pictures.into_iter().map(|picture| vec![picture]).collect()
});

fn encoded(encode: &str) -> Vec<Vec<u8>> {
    gst::init().unwrap();
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc num-buffers=40 pattern=ball \
         ! video/x-raw,format=I420,width=160,height=128,framerate={RATE}/1 \
         ! {encode} ! appsink name=sink sync=false"
    ))
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut clip = Vec::new();
    while let Ok(sample) = sink.pull_sample() {
        clip.push(sample.buffer().unwrap().map_readable().unwrap().to_vec());
    }
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(clip.len() >= 30, "{} pictures", clip.len());
    clip
}
