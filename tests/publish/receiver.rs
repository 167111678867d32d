//! A real HTTP server that receives alerts, and misbehaves as a test wants it.

use std::collections::{HashMap, HashSet, VecDeque};

use super::*;

/// A request as it was received.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub path: String,
    /// Headers by their names in lower case.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    pub reaction: Reaction,
    pub at: std::time::Instant,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}: {self:?}"))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Returns the sequence of the event, which the header names after its run.
    pub fn sequence(&self) -> u64 {
        self.header("x-lookout-event").rsplit_once('-').unwrap().1.parse().unwrap()
    }
}

/// The reaction to a connection.
#[derive(Clone, Debug)]
pub enum Reaction {
    /// A response with this status and further headers.
    Answer(u16, &'static str),
    /// The connection is closed after the request was read, without a response.
    Close,
    /// The connection is closed before the request was read.
    Reset,
    /// Nothing is answered.
    Hang,
}

/// A server that answers 200, or as the next one of its reactions wants it.
pub struct Receiver {
    pub port: u16,
    received: mpsc::Receiver<Received>,
    reactions: Arc<Mutex<VecDeque<Reaction>>>,
    /// Sequences of the events that are answered 500.
    failing: Arc<Mutex<HashSet<u64>>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    pub async fn start() -> Receiver {
        Receiver::start_on(0).await
    }

    pub async fn start_on(port: u16) -> Receiver {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (to, received) = mpsc::channel(10_000);
        let reactions = Arc::<Mutex<VecDeque<Reaction>>>::default();
        let failing = Arc::<Mutex<HashSet<u64>>>::default();
        let (next, fails) = (reactions.clone(), failing.clone());
        let serving = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let reaction = next.lock().unwrap().pop_front();
                let reaction = reaction.unwrap_or(Reaction::Answer(200, ""));
                tokio::spawn(serve(connection, reaction, fails.clone(), to.clone()));
            }
        });
        Receiver { port, received, reactions, failing, serving }
    }

    /// Sets the reactions to the next connections.
    pub fn reacts(&self, reactions: impl IntoIterator<Item = Reaction>) {
        self.reactions.lock().unwrap().extend(reactions);
    }

    /// Answers 500 to an event whenever it comes.
    pub fn fails_at(&self, sequence: u64) {
        self.failing.lock().unwrap().insert(sequence);
    }

    pub async fn next(&mut self) -> Received {
        timeout(SOON, self.received.recv()).await.expect("no request").unwrap()
    }

    /// Collects the requests until that of an event has arrived.
    pub async fn until(&mut self, sequence: u64) -> Vec<Received> {
        let mut received = vec![self.next().await];
        while received.last().is_some_and(|last| last.sequence() != sequence) {
            received.push(self.next().await);
        }
        received
    }

    /// Returns a request that has arrived, if there is one.
    pub fn try_next(&mut self) -> Option<Received> {
        self.received.try_recv().ok()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    mut connection: TcpStream,
    mut reaction: Reaction,
    failing: Arc<Mutex<HashSet<u64>>>,
    to: mpsc::Sender<Received>,
) {
    if matches!(reaction, Reaction::Reset) {
        // The system resets a connection that is closed with unread bytes.
        let _ = connection.readable().await;
        return;
    }
    let Some(received) = read(&mut connection).await else { return };
    let is_event = received.headers.contains_key("x-lookout-event");
    if is_event && failing.lock().unwrap().contains(&received.sequence()) {
        reaction = Reaction::Answer(500, "");
    }
    let _ = to.try_send(Received { reaction: reaction.clone(), ..received });
    match reaction {
        Reaction::Answer(status, headers) => {
            let response = format!("HTTP/1.1 {status} Said\r\n{headers}Content-Length: 0\r\n\r\n");
            let _ = connection.write_all(response.as_bytes()).await;
        }
        Reaction::Hang => {
            let _ = to_its_end(connection).await;
        }
        Reaction::Close | Reaction::Reset => {}
    }
}

async fn read(connection: &mut TcpStream) -> Option<Received> {
    let mut bytes = Vec::new();
    loop {
        if let Some(received) = parse(&bytes) {
            return Some(received);
        }
        if connection.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// Returns the request, or `None` if it is not complete yet.
pub fn parse(bytes: &[u8]) -> Option<Received> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&bytes[..head]).unwrap();
    let mut lines = text.split("\r\n");
    let mut request = lines.next().unwrap().split(' ');
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    };
    let (method, path) = (request.next().unwrap().to_owned(), request.next().unwrap().to_owned());
    let headers: HashMap<String, String> = lines.map(header).collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let body = bytes.get(head + 4..head + 4 + length)?.to_vec();
    let at = std::time::Instant::now();
    Some(Received { method, path, headers, body, reaction: Reaction::Answer(200, ""), at })
}
