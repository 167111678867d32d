//! A server that speaks the protocol of the Hugging Face Hub, and misbehaves as a test wants it.
//! Large files are on a second server, to which it redirects.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub const TOKEN: &str = "hf_aTokenOfTheTests";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const NAME: &str = "yard/llava";

/// The hub's only repository, and what is wrong with it.
#[derive(Clone, Default)]
pub struct Repository {
    pub files: BTreeMap<String, Vec<u8>>,
    pub licence: Option<&'static str>,
    /// True if only a client with the token may read it.
    pub gated: bool,
    /// Files that are listed and missing, or whose content differs from the listing.
    pub missing: HashSet<&'static str>,
    pub damaged: HashSet<&'static str>,
    /// Number of bytes after which the connection is cut, or nothing more is sent, once for each
    /// file.
    pub cut: HashMap<&'static str, usize>,
    pub hang: HashMap<&'static str, usize>,
    /// Number of requests for a file that are answered 503.
    pub unavailable: HashMap<&'static str, usize>,
    /// A text that is sent in place of the list of files.
    pub instead_of_listing: Option<&'static str>,
    /// Address to which the server of large files redirects.
    pub redirect: Option<&'static str>,
    /// True if the server of large files ignores `Range`.
    pub without_ranges: bool,
}

/// A request for a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Requested {
    pub file: String,
    pub range: Option<String>,
    /// The value of `Authorization`.
    pub authorization: Option<String>,
    /// True if it came to the server of large files.
    pub of_large_files: bool,
}

pub struct Hub {
    pub url: String,
    state: Arc<Mutex<State>>,
}

struct State {
    repository: Repository,
    requested: Vec<Requested>,
    /// Address of the server of large files.
    large_files: String,
}

struct Answer {
    bytes: Vec<u8>,
    /// True if the connection stays open until the client closes it.
    hangs: bool,
}

struct Request {
    path: String,
    headers: HashMap<String, String>,
}

impl Hub {
    pub fn start(repository: Repository) -> Hub {
        let [hub, large] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
        let url = format!("http://127.0.0.1:{}", port(&hub));
        let large_files = format!("http://localhost:{}", port(&large));
        let state = State { repository, requested: Vec::new(), large_files };
        let state = Arc::new(Mutex::new(state));
        for (listener, is_large) in [(hub, false), (large, true)] {
            let state = state.clone();
            thread::spawn(move || {
                for connection in listener.incoming().map_while(Result::ok) {
                    // A client that is gone is normal.
                    let _ = serve(connection, &state, is_large);
                }
            });
        }
        Hub { url, state }
    }

    /// Changes the repository.
    pub fn change(&self, change: impl FnOnce(&mut Repository)) {
        change(&mut self.state.lock().unwrap().repository);
    }

    /// Returns the requests for files, and forgets them.
    pub fn requested(&self) -> Vec<Requested> {
        std::mem::take(&mut self.state.lock().unwrap().requested)
    }
}

fn serve(mut connection: TcpStream, state: &Mutex<State>, is_large: bool) -> std::io::Result<()> {
    let request = read(&connection)?;
    let Answer { bytes, hangs } = answer(request, &mut state.lock().unwrap(), is_large);
    connection.write_all(&bytes)?;
    if hangs {
        std::io::copy(&mut connection, &mut std::io::sink())?;
    }
    Ok(())
}

fn answer(request: Request, state: &mut State, is_large: bool) -> Answer {
    let Request { path, headers } = request;
    let authorization = headers.get("authorization").cloned();
    if !is_large && let Some(description) = path.strip_prefix("/api/models/") {
        let (name, revision) = description.split_once("/revision/").expect("a revision");
        let revision = revision.strip_suffix("?blobs=true").expect("sizes and hashes");
        if let Some(why) = refusal(&state.repository, name, revision, &authorization) {
            return refused(why);
        }
        let listing = listing(&state.repository).to_string();
        let listing = state.repository.instead_of_listing.unwrap_or(&listing);
        return whole("200 OK", &[], listing.as_bytes());
    }
    let (name, file) = path.trim_start_matches('/').split_once("/resolve/").expect("a file");
    let (revision, file) = file.split_once('/').expect("a file");
    state.requested.push(Requested {
        file: file.into(),
        range: headers.get("range").cloned(),
        authorization: authorization.clone(),
        of_large_files: is_large,
    });
    if !is_large && let Some(why) = refusal(&state.repository, name, revision, &authorization) {
        return refused(why);
    }
    let repository = &mut state.repository;
    if let Some(left) = repository.unavailable.get_mut(file).filter(|left| **left > 0) {
        *left -= 1;
        return whole("503 Service Unavailable", &[("Retry-After", "0")], b"");
    }
    if repository.missing.contains(file) {
        return refused((404, "EntryNotFound"));
    }
    if !is_large && is_lfs(file) {
        let to = format!("{}{path}", state.large_files);
        return whole("302 Found", &[("Location", &to)], b"");
    }
    if let Some(to) = repository.redirect {
        return whole("302 Found", &[("Location", to)], b"");
    }
    content(repository, file, headers.get("range"))
}

/// Returns the status and the code with which the hub refuses a request.
fn refusal(
    repository: &Repository,
    name: &str,
    revision: &str,
    authorization: &Option<String>,
) -> Option<(u16, &'static str)> {
    if name != NAME {
        return Some((404, "RepoNotFound"));
    }
    let is_open = authorization.as_deref() == Some(&format!("Bearer {TOKEN}"));
    if repository.gated && !is_open {
        return Some((if authorization.is_some() { 403 } else { 401 }, "GatedRepo"));
    }
    if !["main", COMMIT].contains(&revision) {
        return Some((404, "RevisionNotFound"));
    }
    None
}

/// Graphs and their weights are stored with Git LFS, by their SHA-256.
fn is_lfs(file: &str) -> bool {
    file.starts_with("onnx/")
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn listing(repository: &Repository) -> Value {
    let file = |(name, data): (&String, &Vec<u8>)| {
        let git = Sha1::new_with_prefix(format!("blob {}\0", data.len()));
        let git = hex(git.chain_update(data).finalize());
        let mut listed = json!({"rfilename": name, "size": data.len(), "blobId": git});
        if is_lfs(name) {
            let hash = hex(Sha256::digest(data));
            listed["lfs"] = json!({"sha256": hash, "size": data.len(), "pointerSize": 134});
        }
        listed
    };
    let files: Vec<Value> = repository.files.iter().map(file).collect();
    let card = repository.licence.map(|licence| json!({"license": licence}));
    json!({"id": NAME, "sha": COMMIT, "siblings": files, "cardData": card, "tags": []})
}

fn content(repository: &mut Repository, file: &str, range: Option<&String>) -> Answer {
    let mut data = repository.files[file].clone();
    if repository.damaged.contains(file) {
        data[0] ^= 1;
    }
    let range = range.filter(|_| !repository.without_ranges);
    let first = range.map(|range| {
        let first = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
        first.and_then(|first| first.parse::<usize>().ok()).expect("a range")
    });
    let of_file = format!("bytes {}-{}/{}", first.unwrap_or(0), data.len() - 1, data.len());
    let mut answer = match first {
        Some(first) => whole("206 Partial Content", &[("Content-Range", &of_file)], &data[first..]),
        None => whole("200 OK", &[], &data),
    };
    let sent = data.len() - first.unwrap_or(0);
    let head = answer.bytes.len() - sent;
    if let Some(cut) = repository.cut.remove(file) {
        answer.bytes.truncate(head + cut);
    } else if let Some(hang) = repository.hang.remove(file) {
        answer.bytes.truncate(head + hang);
        answer.hangs = true;
    }
    answer
}

fn refused((status, code): (u16, &str)) -> Answer {
    whole(&format!("{status} Refused"), &[("X-Error-Code", code)], b"{}")
}

fn whole(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let bytes = [head.as_bytes(), b"Connection: close\r\n\r\n", body].concat();
    Answer { bytes, hangs: false }
}

fn read(connection: &TcpStream) -> std::io::Result<Request> {
    let mut lines = BufReader::new(connection).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(": ") {
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
    }
    Ok(Request { path, headers })
}
