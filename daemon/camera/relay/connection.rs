//! Forwards the messages of one connection between `rtspsrc` and a camera: numbers and signs the
//! requests, sends keep-alive requests, and reads the answers.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http_auth::digest::Algorithm;
use http_auth::{PasswordClient, PasswordParams};

use super::shared::{AGENT, RelayError, Shared};
use crate::camera::keepalive::{KeepAlive, Method};
use crate::camera::reader::Reader;
use crate::camera::wire::{Head, Piece};
use crate::sync;

const REDIRECTS_MAX: u32 = 5;

/// Maximum number of bytes of packets kept before the answer to PLAY. Further packets are dropped.
const EARLY_MAX: usize = 4 << 20;

/// One connection between `rtspsrc` and the camera.
pub(super) struct Connection {
    shared: Arc<Shared>,
    camera_ip: IpAddr,
    /// True while a PLAY request waits for its answer.
    play_asked: AtomicBool,
    /// True once `rtspsrc` has ended the connection. The camera did not close it then.
    client_left: AtomicBool,
    session: Mutex<Session>,
}

/// The requests to the camera that wait for an answer, and the state of the session.
struct Session {
    camera: TcpStream,
    alive: KeepAlive,
    pending: VecDeque<Pending>,
    next_cseq: u32,
    credentials: Option<PasswordClient>,
    /// The session id that the camera assigned.
    id: Option<String>,
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
    authenticated: bool,
}

enum Origin {
    /// A request of `rtspsrc`, with its own CSeq.
    Client(String),
    Own,
}

impl Connection {
    pub fn new(shared: Arc<Shared>, camera: &TcpStream) -> io::Result<Connection> {
        let known_method = shared.lock().known_method;
        Ok(Connection {
            shared,
            camera_ip: camera.peer_addr()?.ip(),
            play_asked: AtomicBool::new(false),
            client_left: AtomicBool::new(false),
            session: Mutex::new(Session {
                camera: camera.try_clone()?,
                alive: KeepAlive::new(known_method, Instant::now()),
                pending: VecDeque::new(),
                next_cseq: 1,
                credentials: None,
                id: None,
                uri: String::new(),
                channels: Vec::new(),
            }),
        })
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        sync::lock(&self.session)
    }

    /// Records that `rtspsrc` ends the connection.
    pub fn client_leaves(&self) {
        self.client_left.store(true, Ordering::Relaxed);
    }

    /// Forwards messages from `rtspsrc` to the camera.
    pub fn forward_from_client(
        &self,
        mut client: Reader,
        first: Head,
        body: Vec<u8>,
    ) -> io::Result<()> {
        self.request(first, body)?;
        loop {
            match client.piece(&[]) {
                Ok(Piece::Packet(all)) => {
                    self.session().camera.write_all(client.take(all))?;
                }
                Ok(Piece::Message { head: length, all }) => {
                    let bytes = client.take(all);
                    let head = Head::parse(&bytes[..length]);
                    match head.status() {
                        // This is a response to a request of the camera.
                        Some(_) => self.session().camera.write_all(bytes)?,
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
        let mut session = self.session();
        if head.method() == "PLAY" {
            session.uri = head.uri().to_string();
            self.play_asked.store(true, Ordering::Relaxed);
        }
        session.alive.requested(Instant::now());
        self.send(&mut session, Origin::Client(cseq), head, body, false)
    }

    fn keep_alive(&self) -> io::Result<()> {
        let mut session = self.session();
        let Some(method) = session.alive.due(Instant::now()) else { return Ok(()) };
        // Older keep-alive requests will not be answered any more.
        session.pending.retain(|pending| !matches!(pending.origin, Origin::Own));
        let head = session.keep_alive_request(method);
        self.send(&mut session, Origin::Own, head, Vec::new(), false)
    }

    fn send(
        &self,
        session: &mut Session,
        origin: Origin,
        mut head: Head,
        body: Vec<u8>,
        authenticated: bool,
    ) -> io::Result<()> {
        let cseq = session.next_cseq;
        session.next_cseq += 1;
        head.set("CSeq", &cseq.to_string());
        if let (Some(credentials), Some(login)) = (&mut session.credentials, &self.shared.login) {
            let params = PasswordParams {
                username: &login.username,
                password: &login.password,
                uri: head.uri(),
                method: head.method(),
                body: Some(&body),
            };
            if let Ok(mut value) = credentials.respond(&params) {
                // A camera that also offers MD5 takes a digest without an algorithm name for MD5.
                if let (PasswordClient::Digest(digest), false) =
                    (&*credentials, value.contains("algorithm="))
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
        session.camera.write_all(&bytes)?;
        session.pending.push_back(Pending { cseq, origin, head, body, authenticated });
        Ok(())
    }

    /// Forwards messages from the camera to `rtspsrc`.
    pub fn forward_from_camera(
        &self,
        camera: &TcpStream,
        mut client: &TcpStream,
    ) -> io::Result<()> {
        let mut reader = Reader::new(camera.try_clone()?);
        let mut channels = Vec::new();
        // rtspsrc stops if packets come before the answer to PLAY.
        let mut early = Vec::new();
        loop {
            let piece = match reader.piece(&channels) {
                // The camera has closed the connection, although it had not read everything.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Piece::Unfinished,
                piece => piece?,
            };
            match piece {
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
                            channels.clone_from(&self.session().channels);
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
                    let mut session = self.session();
                    session.alive.ended();
                    let mut state = self.shared.lock();
                    state.known_method = session.alive.known_method();
                    // After a redirect, rtspsrc connects again.
                    if state.redirects == 0 && !self.client_left.load(Ordering::Relaxed) {
                        state.error.get_or_insert(RelayError::Closed);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Returns the answer to forward to `rtspsrc`, or `None` if there is nothing to forward.
    fn answered(&self, mut head: Head, code: u16, reason: &str) -> io::Result<Option<Head>> {
        let mut session = self.session();
        let cseq = head.value("CSeq").and_then(|cseq| cseq.parse::<u32>().ok());
        let at = match cseq {
            Some(cseq) => session.pending.iter().position(|pending| pending.cseq == cseq),
            // A camera that omits the number answers in order.
            None => Some(0),
        };
        let Some(pending) = at.and_then(|at| session.pending.remove(at)) else { return Ok(None) };
        if code == 401 && self.can_authenticate(&mut session, &head, &pending) {
            let Pending { origin, head, body, .. } = pending;
            self.send(&mut session, origin, head, body, true)?;
            return Ok(None);
        }
        let Origin::Client(number) = &pending.origin else {
            session.alive.answered(code, Instant::now());
            self.shared.lock().known_method = session.alive.known_method();
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
                self.succeeded(&mut session, &method, &mut head);
            }
            300..400 => self.redirected(&head),
            _ => self.failed(&session, &method, code, reason, &mut head),
        }
        Ok(Some(head))
    }

    /// Returns true if the request is worth sending again with credentials.
    fn can_authenticate(&self, session: &mut Session, answer: &Head, pending: &Pending) -> bool {
        if self.shared.login.is_none() {
            self.shared.lock().error = Some(RelayError::PasswordWanted);
            return false;
        }
        let mut builder = PasswordClient::builder();
        for challenge in answer.values("WWW-Authenticate") {
            builder = builder.challenges(challenge);
        }
        let elsewhere = self.shared.lock().elsewhere;
        let credentials = match builder.build() {
            Ok(PasswordClient::Basic(_)) if elsewhere => None,
            credentials => credentials.ok(),
        };
        let Some(credentials) = credentials else {
            self.shared.lock().error = Some(RelayError::UnknownScheme);
            return false;
        };
        session.credentials = Some(credentials);
        if pending.authenticated {
            self.shared.lock().error = Some(RelayError::WrongPassword);
        }
        !pending.authenticated
    }

    fn succeeded(&self, session: &mut Session, method: &str, head: &mut Head) {
        if let Some(value) = head.value("Session") {
            let (id, more) = value.split_once(';').unwrap_or((value, ""));
            session.id = Some(id.trim().to_string());
            let timeout = more.trim().strip_prefix("timeout=").and_then(|s| s.trim().parse().ok());
            if let Some(seconds) = timeout {
                session.alive.timeout(Duration::from_secs(seconds));
            }
        }
        match method {
            "OPTIONS" => session.alive.public(head.value("Public").unwrap_or_default()),
            "PLAY" => session.alive.playing(Instant::now()),
            "SETUP" => {
                let Some(transport) = head.value("Transport") else { return };
                match transport.split("interleaved=").nth(1) {
                    Some(channels) => {
                        let numbers = channels.split(';').next().unwrap_or_default().split('-');
                        session.channels.extend(numbers.filter_map(|n| n.parse::<u8>().ok()));
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

    fn failed(&self, session: &Session, method: &str, code: u16, reason: &str, head: &mut Head) {
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
        if !known && (session.id.is_none() || matches!(method, "SETUP" | "PLAY")) {
            let (method, reason) = (method.to_string(), reason.to_string());
            state.error = Some(RelayError::Status { method, code, reason });
        }
    }
}

impl Session {
    fn keep_alive_request(&self, method: Method) -> Head {
        let mut head = Head::request(method.name(), &self.uri);
        head.set("CSeq", "0");
        if let Some(id) = &self.id {
            head.set("Session", id);
        }
        head.set("User-Agent", AGENT);
        head
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
