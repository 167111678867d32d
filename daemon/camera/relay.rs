//! A proxy between `rtspsrc` and a camera. It adds what `rtspsrc` lacks: keep-alive requests while
//! frames flow, digests with SHA-256, exact statuses for error messages, and the removal of garbage
//! between packets.
//!
//! ```text
//!  rtspsrc ──(its `proxy`)──► 127.0.0.1 ─► Relay ──► camera
//! ```
//!
//! Guarantees: only the `rtspsrc` that sends the relay's secret user agent is connected. Messages
//! that the relay does not understand are forwarded unchanged. Not here: TLS, for which `rtspsrc`
//! connects to the camera directly.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http_auth::digest::Algorithm;
use http_auth::{PasswordClient, PasswordParams};

use super::error::CameraError;
use super::keepalive::{KeepAlive, Learnt, Method};
use super::reach;
use super::reader::Reader;
use super::wire::{Head, Piece};

/// Interval at which the relay checks whether a keep-alive request is due.
const TICK: Duration = Duration::from_millis(250);

/// Maximum time for a write. A peer that accepts nothing for this long counts as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

const REDIRECTS_MAX: u32 = 5;

/// Maximum number of bytes of packets kept before the answer to PLAY. Further packets are dropped.
const EARLY_MAX: usize = 4 << 20;

const AGENT: &str = concat!("lookout/", env!("CARGO_PKG_VERSION"));

pub struct Login {
    pub username: String,
    pub password: String,
}

/// A camera's answer that is not a success, or the lack of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayError {
    /// There is no connection.
    Unreachable(String),
    WrongPassword,
    PasswordWanted,
    /// The camera requests an unknown authentication scheme.
    UnknownScheme,
    Redirects,
    Status {
        method: String,
        code: u16,
        reason: String,
    },
    /// The camera closed the connection.
    Closed,
}

impl RelayError {
    pub fn error(self) -> CameraError {
        match self {
            RelayError::Unreachable(why) => CameraError::Lost(why),
            RelayError::WrongPassword => CameraError::WrongPassword,
            RelayError::PasswordWanted => CameraError::PasswordWanted,
            RelayError::UnknownScheme => CameraError::Refused(
                "the camera asks for a password in a way that lookout does not know: allow digest \
                 (MD5 or SHA-256) or basic authentication in its settings"
                    .into(),
            ),
            RelayError::Redirects => {
                CameraError::Refused("the camera redirects in a circle".into())
            }
            RelayError::Status { method, code, reason } => {
                CameraError::of_status(&method, code, &reason)
            }
            RelayError::Closed => CameraError::Lost("the connection was closed".into()),
        }
    }
}

pub struct Relay {
    address: SocketAddr,
    word: String,
    shared: Arc<Shared>,
}

struct Shared {
    word: String,
    login: Option<Login>,
    patience: Duration,
    state: Mutex<State>,
}

struct State {
    target: (String, u16),
    /// Number of redirects. `elsewhere` is true if one led to another host, which never receives a
    /// password in clear text.
    redirects: u32,
    elsewhere: bool,
    closed: bool,
    /// Both ends of the open connection.
    open: Vec<TcpStream>,
    learnt: Learnt,
    error: Option<RelayError>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay {
    /// Starts a relay. `patience` is the maximum time for the camera to accept a connection.
    pub fn start(
        (host, port): (&str, u16),
        login: Option<Login>,
        learnt: Learnt,
        patience: Duration,
    ) -> io::Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let word = format!("{AGENT} {:032x}", rand::random::<u128>());
        let shared = Arc::new(Shared {
            word: word.clone(),
            login,
            patience,
            state: Mutex::new(State {
                target: (host.to_string(), port),
                redirects: 0,
                elsewhere: false,
                closed: false,
                open: Vec::new(),
                learnt,
                error: None,
            }),
        });
        let accepting = shared.clone();
        thread::Builder::new().name("relay".into()).spawn(move || accept(&listener, &accepting))?;
        Ok(Relay { address, word, shared })
    }

    /// Returns the value for `rtspsrc`'s property `proxy`.
    pub fn proxy(&self) -> String {
        self.address.to_string()
    }

    /// Returns the value for `rtspsrc`'s property `user-agent`. A client that does not send it is
    /// rejected.
    pub fn word(&self) -> &str {
        &self.word
    }

    pub fn error(&self) -> Option<RelayError> {
        self.shared.lock().error.clone()
    }

    /// Returns the request that keeps this camera's sessions alive.
    pub fn learnt(&self) -> Learnt {
        self.shared.lock().learnt
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        for end in &state.open {
            let _ = end.shutdown(Shutdown::Both);
        }
        drop(state);
        // This connection wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.lock().closed {
            return;
        }
        let Ok(client) = client else { return };
        if let Err(error) = pass(client, shared) {
            tracing::debug!("relay: {error}");
        }
    }
}

/// Forwards the messages of one connection of `rtspsrc` until one end closes.
fn pass(client: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    prepare(&client)?;
    let mut from_client = Reader::new(client.try_clone()?);
    client.set_read_timeout(Some(WRITE_TIMEOUT))?;
    let (first, body) = from_client.message()?;
    if first.value("User-Agent") != Some(&shared.word) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    client.set_read_timeout(Some(TICK))?;

    let (host, port) = shared.lock().target.clone();
    let camera = match reach::connect(&host, port, shared.patience) {
        Ok(camera) => camera,
        Err(why) => {
            shared.lock().error = Some(RelayError::Unreachable(why));
            let _ = client.shutdown(Shutdown::Both);
            return Ok(());
        }
    };
    prepare(&camera)?;
    {
        let mut state = shared.lock();
        if state.closed {
            return Ok(());
        }
        state.open = vec![client.try_clone()?, camera.try_clone()?];
    }
    let learnt = shared.lock().learnt;
    let line = Arc::new(Line {
        shared: shared.clone(),
        camera_ip: camera.peer_addr()?.ip(),
        play_asked: AtomicBool::new(false),
        talk: Mutex::new(Talk {
            camera: camera.try_clone()?,
            alive: KeepAlive::new(learnt, Instant::now()),
            pending: VecDeque::new(),
            next_cseq: 1,
            proof: None,
            session: None,
            uri: String::new(),
            channels: Vec::new(),
        }),
    });
    let down = {
        let (line, client, camera) = (line.clone(), client.try_clone()?, camera.try_clone()?);
        thread::Builder::new().name("relay".into()).spawn(move || {
            if let Err(error) = line.down(&camera, &client) {
                tracing::debug!("from a camera: {error}");
            }
            let _ = client.shutdown(Shutdown::Both);
            let _ = camera.shutdown(Shutdown::Both);
        })?
    };
    let up = line.up(from_client, first, body);
    let _ = camera.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
    let _ = down.join();
    shared.lock().open.clear();
    up
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))
}

/// One connection between `rtspsrc` and the camera.
struct Line {
    shared: Arc<Shared>,
    camera_ip: IpAddr,
    /// True while a PLAY request waits for its answer.
    play_asked: AtomicBool,
    talk: Mutex<Talk>,
}

/// The requests to the camera that wait for an answer, and the state of the session.
struct Talk {
    camera: TcpStream,
    alive: KeepAlive,
    pending: VecDeque<Pending>,
    next_cseq: u32,
    proof: Option<PasswordClient>,
    session: Option<String>,
    /// URI of the last PLAY request.
    uri: String,
    channels: Vec<u8>,
}

struct Pending {
    cseq: u32,
    origin: Origin,
    head: Head,
    body: Vec<u8>,
    /// True if the request carries credentials made for the camera's challenge to this same
    /// request.
    proven: bool,
}

enum Origin {
    /// A request of `rtspsrc`, with its own CSeq.
    Client(String),
    Own,
}

impl Line {
    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forwards messages from `rtspsrc` to the camera.
    fn up(&self, mut client: Reader, first: Head, body: Vec<u8>) -> io::Result<()> {
        self.request(first, body)?;
        loop {
            match client.piece(&[]) {
                Ok(Piece::Packet(all)) => {
                    self.talk().camera.write_all(client.take(all))?;
                }
                Ok(Piece::Message { head: length, all }) => {
                    let bytes = client.take(all);
                    let head = Head::parse(&bytes[..length]);
                    match head.status() {
                        // This is a response to a request of the camera.
                        Some(_) => self.talk().camera.write_all(bytes)?,
                        None => {
                            let body = bytes[length..].to_vec();
                            self.request(head, body)?;
                        }
                    }
                }
                Ok(Piece::Junk(all)) => {
                    client.take(all);
                }
                Ok(Piece::Unfinished) => return Ok(()),
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
            self.keep_alive()?;
        }
    }

    fn request(&self, mut head: Head, body: Vec<u8>) -> io::Result<()> {
        head.set("User-Agent", AGENT);
        let cseq = head.value("CSeq").unwrap_or("0").to_string();
        let mut talk = self.talk();
        if head.method() == "PLAY" {
            talk.uri = head.uri().to_string();
            self.play_asked.store(true, Ordering::Relaxed);
        }
        talk.alive.requested(Instant::now());
        self.send(&mut talk, Origin::Client(cseq), head, body, false)
    }

    fn keep_alive(&self) -> io::Result<()> {
        let mut talk = self.talk();
        let Some(method) = talk.alive.due(Instant::now()) else { return Ok(()) };
        // Older keep-alive requests will not be answered any more.
        talk.pending.retain(|pending| !matches!(pending.origin, Origin::Own));
        let head = talk.sign_of_life(method);
        self.send(&mut talk, Origin::Own, head, Vec::new(), false)
    }

    fn send(
        &self,
        talk: &mut Talk,
        origin: Origin,
        mut head: Head,
        body: Vec<u8>,
        proven: bool,
    ) -> io::Result<()> {
        let cseq = talk.next_cseq;
        talk.next_cseq += 1;
        head.set("CSeq", &cseq.to_string());
        if let (Some(proof), Some(login)) = (&mut talk.proof, &self.shared.login) {
            let params = PasswordParams {
                username: &login.username,
                password: &login.password,
                uri: head.uri(),
                method: head.method(),
                body: Some(&body),
            };
            if let Ok(mut value) = proof.respond(&params) {
                // A camera that also offers MD5 takes a digest without an algorithm name for MD5.
                if let (PasswordClient::Digest(digest), false) =
                    (&*proof, value.contains("algorithm="))
                {
                    match digest.algorithm() {
                        Algorithm::Sha256 => value.push_str(", algorithm=SHA-256"),
                        Algorithm::Sha512Trunc256 => value.push_str(", algorithm=SHA-512-256"),
                        _ => {}
                    }
                }
                head.set("Authorization", &value);
            }
        }
        let mut bytes = head.bytes();
        bytes.extend_from_slice(&body);
        talk.camera.write_all(&bytes)?;
        talk.pending.push_back(Pending { cseq, origin, head, body, proven });
        Ok(())
    }

    /// Forwards messages from the camera to `rtspsrc`.
    fn down(&self, camera: &TcpStream, mut client: &TcpStream) -> io::Result<()> {
        let mut reader = Reader::new(camera.try_clone()?);
        let mut channels = Vec::new();
        // rtspsrc stops if packets come before the answer to PLAY.
        let mut early = Vec::new();
        loop {
            match reader.piece(&channels)? {
                Piece::Packet(_) => {
                    let packets = reader.take_packets();
                    if !self.play_asked.load(Ordering::Relaxed) {
                        client.write_all(packets)?;
                    } else if early.len() + packets.len() <= EARLY_MAX {
                        early.extend_from_slice(packets);
                    }
                }
                Piece::Message { head: length, all } => {
                    let bytes = reader.take(all);
                    let head = Head::parse(&bytes[..length]);
                    match head.status() {
                        Some((code, reason)) => {
                            let reason = reason.to_string();
                            let body = &bytes[length..];
                            if let Some(answer) = self.answered(head, code, &reason)? {
                                client.write_all(&answer.bytes())?;
                                client.write_all(body)?;
                            }
                            channels.clone_from(&self.talk().channels);
                            if !self.play_asked.load(Ordering::Relaxed) {
                                client.write_all(&std::mem::take(&mut early))?;
                            }
                        }
                        // This is a request of the camera.
                        None => client.write_all(bytes)?,
                    }
                }
                Piece::Junk(all) => {
                    reader.take(all);
                }
                Piece::Unfinished => {
                    let mut talk = self.talk();
                    talk.alive.ended();
                    let mut state = self.shared.lock();
                    state.learnt = talk.alive.learnt();
                    // After a redirect, rtspsrc connects again.
                    if state.redirects == 0 {
                        state.error.get_or_insert(RelayError::Closed);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Returns the answer to forward to `rtspsrc`, or `None` if there is nothing to forward.
    fn answered(&self, mut head: Head, code: u16, reason: &str) -> io::Result<Option<Head>> {
        let mut talk = self.talk();
        let cseq = head.value("CSeq").and_then(|cseq| cseq.parse::<u32>().ok());
        let at = match cseq {
            Some(cseq) => talk.pending.iter().position(|pending| pending.cseq == cseq),
            // A camera that omits the number answers in order.
            None => Some(0),
        };
        let Some(pending) = at.and_then(|at| talk.pending.remove(at)) else { return Ok(None) };
        if code == 401 && self.may_prove(&mut talk, &head, &pending) {
            let Pending { origin, head, body, .. } = pending;
            self.send(&mut talk, origin, head, body, true)?;
            return Ok(None);
        }
        let Origin::Client(number) = &pending.origin else {
            talk.alive.answered(code, Instant::now());
            self.shared.lock().learnt = talk.alive.learnt();
            return Ok(None);
        };
        head.set("CSeq", number);
        let method = pending.head.method().to_string();
        if method == "PLAY" {
            self.play_asked.store(false, Ordering::Relaxed);
        }
        match code {
            200..300 => {
                self.shared.lock().error = None;
                self.succeeded(&mut talk, &method, &mut head);
            }
            300..400 => self.redirected(&head),
            _ => self.failed(&talk, &method, code, reason, &mut head),
        }
        Ok(Some(head))
    }

    /// Returns true if the request is worth sending again with credentials.
    fn may_prove(&self, talk: &mut Talk, answer: &Head, pending: &Pending) -> bool {
        if self.shared.login.is_none() {
            self.shared.lock().error = Some(RelayError::PasswordWanted);
            return false;
        }
        let mut builder = PasswordClient::builder();
        for challenge in answer.values("WWW-Authenticate") {
            builder = builder.challenges(challenge);
        }
        let elsewhere = self.shared.lock().elsewhere;
        let proof = match builder.build() {
            Ok(PasswordClient::Basic(_)) if elsewhere => None,
            proof => proof.ok(),
        };
        let Some(proof) = proof else {
            self.shared.lock().error = Some(RelayError::UnknownScheme);
            return false;
        };
        talk.proof = Some(proof);
        if pending.proven {
            self.shared.lock().error = Some(RelayError::WrongPassword);
        }
        !pending.proven
    }

    fn succeeded(&self, talk: &mut Talk, method: &str, head: &mut Head) {
        if let Some(session) = head.value("Session") {
            let (id, more) = session.split_once(';').unwrap_or((session, ""));
            talk.session = Some(id.trim().to_string());
            let timeout = more.trim().strip_prefix("timeout=").and_then(|s| s.trim().parse().ok());
            if let Some(seconds) = timeout {
                talk.alive.timeout(Duration::from_secs(seconds));
            }
        }
        match method {
            "OPTIONS" => talk.alive.public(head.value("Public").unwrap_or_default()),
            "PLAY" => talk.alive.playing(Instant::now()),
            "SETUP" => {
                let Some(transport) = head.value("Transport") else { return };
                match transport.split("interleaved=").nth(1) {
                    Some(channels) => {
                        let numbers = channels.split(';').next().unwrap_or_default().split('-');
                        talk.channels.extend(numbers.filter_map(|n| n.parse::<u8>().ok()));
                    }
                    // rtspsrc sees the relay's address instead of the camera's.
                    None if !transport.contains("source=") && !transport.contains("multicast") => {
                        let transport = format!("{transport};source={}", self.camera_ip);
                        head.set("Transport", &transport);
                    }
                    None => {}
                }
            }
            _ => {}
        }
    }

    fn redirected(&self, head: &Head) {
        let target = head.value("Location").and_then(|location| url::Url::parse(location).ok());
        let mut state = self.shared.lock();
        state.redirects += 1;
        if state.redirects > REDIRECTS_MAX {
            state.error = Some(RelayError::Redirects);
            // No further connection is accepted.
            state.closed = true;
        } else if let Some(host) = target.as_ref().and_then(url::Url::host_str) {
            let port = target.as_ref().and_then(url::Url::port).unwrap_or(554);
            state.elsewhere |= host != state.target.0;
            state.target = (host.to_string(), port);
        }
    }

    fn failed(&self, talk: &Talk, method: &str, code: u16, reason: &str, head: &mut Head) {
        // Only after a 404 does rtspsrc retry with the URL's query.
        if method == "SETUP" && !matches!(code, 400 | 401 | 404 | 453 | 461) {
            head.set_status(404, reason);
        }
        let mut state = self.shared.lock();
        let known = matches!(
            state.error,
            Some(
                RelayError::WrongPassword | RelayError::PasswordWanted | RelayError::UnknownScheme
            )
        );
        // A request refused while the stream is ending does not explain why it ended.
        if !known && (talk.session.is_none() || matches!(method, "SETUP" | "PLAY")) {
            let (method, reason) = (method.to_string(), reason.to_string());
            state.error = Some(RelayError::Status { method, code, reason });
        }
    }
}

impl Talk {
    fn sign_of_life(&self, method: Method) -> Head {
        let mut head = Head::request(method.name(), &self.uri);
        head.set("CSeq", "0");
        if let Some(session) = &self.session {
            head.set("Session", session);
        }
        head.set("User-Agent", AGENT);
        head
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn relay_to(camera: &TcpListener, login: Option<Login>) -> Relay {
        let port = camera.local_addr().unwrap().port();
        Relay::start(("127.0.0.1", port), login, Learnt::default(), PATIENCE).unwrap()
    }

    fn ask(relay: &Relay, word: &str) -> TcpStream {
        let mut client = TcpStream::connect(relay.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let text =
            format!("OPTIONS rtsp://cam/x RTSP/1.0\r\nCSeq: 7\r\nUser-Agent: {word}\r\n\r\n");
        client.write_all(text.as_bytes()).unwrap();
        client
    }

    #[test]
    fn a_connection_without_the_secret_is_refused() {
        let camera = TcpListener::bind("127.0.0.1:0").unwrap();
        camera.set_nonblocking(true).unwrap();
        let relay = relay_to(&camera, None);
        for word in ["", "lookout", AGENT] {
            let mut answer = Vec::new();
            // The connection was closed or reset.
            let read = ask(&relay, word).read_to_end(&mut answer);
            assert!(read.is_err() || answer.is_empty());
        }
        assert_eq!(camera.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn replies_keep_their_cseq_and_the_camera_never_sees_the_secret() {
        let camera = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = relay_to(&camera, None);
        let client = ask(&relay, relay.word());
        let (served, _) = camera.accept().unwrap();
        let (head, _) = Reader::new(served.try_clone().unwrap()).message().unwrap();
        assert_eq!(head.value("User-Agent"), Some(AGENT));
        assert!(!String::from_utf8(head.bytes()).unwrap().contains(relay.word()));
        let cseq = head.value("CSeq").unwrap();
        let answer = format!("RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\nX-Odd\r\n\r\n");
        (&served).write_all(answer.as_bytes()).unwrap();
        let (answer, _) = Reader::new(client).message().unwrap();
        assert_eq!(answer.bytes(), b"RTSP/1.0 200 OK\r\nCSeq: 7\r\nX-Odd\r\n\r\n");
    }

    #[test]
    fn an_unknown_authentication_scheme_is_reported() {
        let camera = TcpListener::bind("127.0.0.1:0").unwrap();
        let login = Login { username: "me".into(), password: "Planted".into() };
        let relay = relay_to(&camera, Some(login));
        let client = ask(&relay, relay.word());
        let (served, _) = camera.accept().unwrap();
        Reader::new(served.try_clone().unwrap()).message().unwrap();
        let answer = "RTSP/1.0 401 No\r\nCSeq: 1\r\nWWW-Authenticate: Negotiate\r\n\r\n";
        (&served).write_all(answer.as_bytes()).unwrap();
        Reader::new(client).message().unwrap();
        let error = relay.error().unwrap().error().to_string();
        assert!(error.contains("digest (MD5 or SHA-256) or basic"), "{error}");
    }
}
