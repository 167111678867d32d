//! Tests gRPC and HTTP over TLS with real clients: certificates of both sides, renewed and broken
//! ones, connections that do not finish their handshake or break.

use lookout::access::Gate;
use std::net::Shutdown;
use std::path::PathBuf;

use lookout::client::{self, Server};
use lookout::config::Tls;
use lookout::tls::ServerTls;
use rustls::pki_types::ServerName;

use super::*;

/// gRPC and HTTP of a fake daemon, with TLS.
struct Encrypted {
    daemon: Daemon,
    tls: Arc<ServerTls>,
    files: Tls,
    grpc: SocketAddr,
    http: SocketAddr,
    stop: CancellationToken,
}

impl Encrypted {
    /// Serves with the certificate `localhost` of an authority.
    async fn start(authority: &Authority, client_ca_file: Option<PathBuf>) -> Encrypted {
        Encrypted::with_connections(authority, client_ca_file, 256).await
    }

    async fn with_connections(
        authority: &Authority,
        client_ca_file: Option<PathBuf>,
        connections: usize,
    ) -> Encrypted {
        let ClientCertificate { cert_file, key_file } = authority.sign("localhost");
        let files = Tls { cert_file, key_file, client_ca_file };
        let tls = Arc::new(ServerTls::load(&files).unwrap());
        let daemon = Daemon::with_journal(MemoryJournal::shared(RUN, 100));
        let (grpc, http) = (
            listening(Interface::Grpc, connections, &tls).await,
            listening(Interface::Http, connections, &tls).await,
        );
        let addresses = [&grpc, &http].map(|listener| listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let service: Arc<dyn Service> = daemon.service.clone();
        tokio::spawn(publish::grpc::serve(
            grpc,
            Gate::open(service.clone(), stop.clone()),
            stop.clone(),
        ));
        tokio::spawn(publish::http::serve(
            http,
            Gate::open(service, stop.clone()),
            metrics(),
            stop.clone(),
        ));
        Encrypted { daemon, tls, files, grpc: addresses[0], http: addresses[1], stop }
    }

    fn server(&self, authority: &Authority) -> Server {
        Server {
            address: format!("https://localhost:{}", self.grpc.port()),
            ca_file: Some(authority.file("ca.pem")),
            identity: None,
            token_file: None,
        }
    }

    async fn get(&self, path: &str, config: rustls::ClientConfig) -> io::Result<String> {
        self.send(&format!("GET {path}"), config).await
    }

    /// Sends a request over TLS. Returns the whole reply, or the error.
    async fn send(&self, request: &str, config: rustls::ClientConfig) -> io::Result<String> {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let tcp = TcpStream::connect(self.http).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, tcp).await?;
        let request = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut reply = String::new();
        timeout(SOON, stream.read_to_string(&mut reply)).await.expect("a reply")?;
        Ok(reply)
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn listening(interface: Interface, connections: usize, tls: &Arc<ServerTls>) -> Listener {
    let any = "127.0.0.1:0".parse().unwrap();
    let second = Duration::from_secs(1);
    let timeouts = Timeouts { greeting: 5 * second, stalled: 20 * second, idle: 20 * second };
    let listener = Listener::bind(interface, any, connections).await.unwrap();
    listener.with_timeouts(timeouts).with_tls(tls.clone())
}

fn client_config(authority: &Authority, protocols: &[&str]) -> rustls::ClientConfig {
    let ca_file = authority.file("ca.pem");
    let roots = lookout::tls::authorities("--ca", Some(&ca_file)).unwrap();
    let mut config = lookout::tls::client(roots, None).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

async fn cameras(server: impl Into<Server>) -> Result<String, String> {
    let mut out = Vec::new();
    let listing = client::cameras(server, Output::Json, &mut out);
    let listed = timeout(SOON, listing).await.expect("no end");
    listed.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

async fn refusal(server: impl Into<Server>) -> String {
    cameras(server).await.expect_err("a refusal")
}

#[tokio::test]
async fn grpc_and_http_are_encrypted() {
    let authority = Authority::new();
    let served = Encrypted::start(&authority, None).await;
    let server = served.server(&authority);
    assert!(cameras(server.clone()).await.unwrap().contains("\"gate\""));
    for protocols in [&[][..], &["http/1.1"], &["h2", "http/1.1"]] {
        let health = served.get("/healthz", client_config(&authority, protocols)).await.unwrap();
        assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    }
    // HTTP/2 is not served on this port.
    assert!(served.get("/healthz", client_config(&authority, &["h2"])).await.is_err());

    let stranger = Authority::new();
    let unknown = Server { ca_file: Some(stranger.file("ca.pem")), ..server.clone() };
    let why = refusal(unknown).await;
    assert!(why.contains("is not signed by a known authority; name the authority's"), "{why}");
    let address = format!("https://{}", served.grpc);
    let why = refusal(Server { address, ..server.clone() }).await;
    assert!(why.contains("its certificate has another name: "), "{why}");
    assert!(why.contains("localhost"), "{why}");
    let missing = Server { ca_file: Some("/no/ca.pem".into()), ..server };
    assert!(refusal(missing).await.starts_with("--ca /no/ca.pem: cannot be read: No such file"));
}

#[tokio::test]
async fn a_session_that_begins_over_tls_is_sent_over_tls_only() {
    let authority = Authority::new();
    let served = Encrypted::start(&authority, None).await;
    let config = client_config(&authority, &["http/1.1"]);
    let reply = served.send("DELETE /api/v1/session", config).await.unwrap().to_lowercase();
    let cookie = reply.lines().find(|line| line.starts_with("set-cookie: ")).expect("a cookie");
    assert!(cookie.contains("; secure"), "{cookie}");
}

#[tokio::test]
async fn a_client_without_tls_is_told_to_use_it() {
    let authority = Authority::new();
    let served = Encrypted::start(&authority, None).await;
    let why = refusal(&served.grpc.to_string()).await;
    assert!(why.contains("this port uses TLS: begin with https://"), "{why}");
    let mut plain = TcpStream::connect(served.http).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let reply = String::from_utf8(to_its_end(plain).await).unwrap();
    assert!(reply.starts_with("HTTP/1.1 400"), "{reply}");
    assert!(reply.ends_with("\r\n\r\nthis port uses TLS: begin with https://"), "{reply}");
    // The other way round.
    let daemon = Daemon::start(10).await;
    let address = format!("https://{}", daemon.grpc);
    let why = refusal(Server { address, ..served.server(&authority) }).await;
    assert!(why.contains("it does not use TLS on this port; use http://"), "{why}");
}

#[tokio::test]
async fn mcp_is_encrypted() {
    let authority = Authority::new();
    let served = Encrypted::start(&authority, None).await;
    let ask = async |address: &str, ca: &std::path::Path| {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_lookout"));
        program.args(["mcp", "--http", address, "--ca"]).arg(ca).kill_on_drop(true);
        let mut proxy = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = proxy.stdin.take().unwrap();
        let list = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}\n";
        input.write_all(list).await.unwrap();
        drop(input);
        let output = timeout(SOON, proxy.wait_with_output()).await.expect("an end").unwrap();
        serde_json::from_slice::<Value>(&output.stdout).expect("a reply")
    };
    let address = format!("https://localhost:{}", served.http.port());
    let ca = authority.file("ca.pem");
    let tools = ask(&address, &ca).await;
    assert!(tools["result"]["tools"].is_array(), "{tools}");
    let unknown = ask(&address, &Authority::new().file("ca.pem")).await;
    assert_eq!(unknown["error"]["code"], -32000, "{unknown}");
    let plain = ask(&served.http.to_string(), &ca).await;
    let why = plain["error"]["message"].as_str().unwrap();
    assert!(why.contains("this port uses TLS: begin with https://"), "{why}");
}

#[tokio::test]
async fn clients_may_need_a_certificate() {
    let authority = Authority::new();
    let clients = Authority::new();
    let served = Encrypted::start(&authority, Some(clients.file("ca.pem"))).await;
    let server = served.server(&authority);
    let with = |ClientCertificate { cert_file, key_file }: ClientCertificate| Server {
        identity: Some([cert_file, key_file]),
        token_file: None,
        ..server.clone()
    };
    assert!(cameras(with(clients.sign("phone"))).await.unwrap().contains("\"gate\""));

    let why = refusal(server.clone()).await;
    assert!(why.contains("it requires a client certificate (--cert and --key"), "{why}");
    let config = client_config(&authority, &[]);
    assert!(served.get("/healthz", config).await.is_err(), "no certificate was needed");
    for wrong in [authority.sign("phone"), clients.sign_until("old", 2001)] {
        let why = refusal(with(wrong)).await;
        assert!(why.contains("it does not accept the client certificate: "), "{why}");
    }
    let (good, other) = (clients.sign("phone"), clients.sign("tablet"));
    let mixed = ClientCertificate { key_file: other.key_file, ..good };
    let why = refusal(with(mixed)).await;
    assert!(why.starts_with("--key ") && why.contains("is not the key of the cert"), "{why}");
}

/// Receives events until one has the text.
async fn receive(watching: &mut tonic::Streaming<proto::WatchResponse>, text: &str) {
    loop {
        let item = timeout(SOON, watching.message()).await.expect(text).unwrap().expect(text);
        if format!("{item:?}").contains(text) {
            return;
        }
    }
}

/// Begins a watch over TLS that trusts an authority.
async fn watch(address: &str, authority: &Authority) -> tonic::Streaming<proto::WatchResponse> {
    let ca = std::fs::read(authority.file("ca.pem")).unwrap();
    let tls = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(ca));
    let endpoint = Channel::from_shared(address.to_owned()).unwrap().tls_config(tls).unwrap();
    let mut client = LookoutServiceClient::new(endpoint.connect().await.unwrap());
    client.watch(proto::WatchRequest::default()).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_renewed_certificate_is_used_and_a_stream_goes_on() {
    let old = Authority::new();
    let served = Encrypted::start(&old, None).await;
    let address = format!("https://localhost:{}", served.grpc.port());
    let mut watching = watch(&address, &old).await;
    served.daemon.caption("before");
    receive(&mut watching, "before").await;

    // A renewal that is half written is not used.
    let new = Authority::new();
    let renewed = new.sign("localhost");
    std::fs::copy(&renewed.cert_file, &served.files.cert_file).unwrap();
    let why = served.tls.reload(&served.files).unwrap_err();
    assert!(why.contains("is not the key of the certificate"), "{why}");
    assert!(served.tls.trouble().unwrap().contains(&why));
    cameras(served.server(&old)).await.unwrap();

    std::fs::copy(&renewed.key_file, &served.files.key_file).unwrap();
    served.tls.reload(&served.files).unwrap();
    assert_eq!(served.tls.trouble(), None);
    cameras(served.server(&new)).await.unwrap();
    served.get("/healthz", client_config(&new, &[])).await.unwrap();
    let why = refusal(served.server(&old)).await;
    assert!(why.contains("not signed by a known authority"), "{why}");
    served.daemon.caption("afterwards");
    receive(&mut watching, "afterwards").await;
}

#[tokio::test]
async fn an_expired_certificate_is_reported_by_both_sides() {
    let authority = Authority::new();
    let served = Encrypted::start(&authority, None).await;
    // A start accepts it, a renewal does not.
    let ClientCertificate { cert_file, key_file } = authority.sign_until("localhost", 2001);
    let files = Tls { cert_file, key_file, client_ca_file: None };
    assert!(served.tls.reload(&files).unwrap_err().contains("expired at 2001-01-01"));
    let expired = Arc::new(ServerTls::load(&files).unwrap());
    assert!(expired.trouble().unwrap().contains("expired at 2001-01-01T00:00:00Z; renew it"));
    let listener = listening(Interface::Grpc, 4, &expired).await;
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let service = served.daemon.service.clone();
    tokio::spawn(publish::grpc::serve(
        listener,
        Gate::open(service, served.stop.clone()),
        served.stop.clone(),
    ));
    let why = refusal(Server { address, ..served.server(&authority) }).await;
    assert!(why.contains("its certificate has expired: "), "{why}");
}

#[tokio::test]
async fn the_certificate_of_an_authority_is_not_one_of_a_server() {
    let authority = Authority::new();
    let served = Encrypted::start(&authority, None).await;
    let [cert_file, key_file] = ["ca.pem", "ca.key"].map(|name| authority.file(name));
    served.tls.reload(&Tls { cert_file, key_file, client_ca_file: None }).unwrap();
    let why = refusal(served.server(&authority)).await;
    assert!(why.contains("its certificate is that of an authority; let the"), "{why}");
}

/// The first bytes of a ClientHello, whose end does not come.
const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

#[tokio::test]
async fn half_open_handshakes_delay_nobody_and_are_closed() {
    let authority = Authority::new();
    let served = Encrypted::start(&authority, None).await;
    let mut half_open = Vec::new();
    for n in 0..200 {
        let address = if n % 2 == 0 { served.grpc } else { served.http };
        let mut stream = TcpStream::connect(address).await.unwrap();
        if n % 4 < 2 {
            stream.write_all(HALF_A_HELLO).await.unwrap();
        }
        half_open.push(stream);
    }
    for _ in 0..5 {
        cameras(served.server(&authority)).await.unwrap();
        served.get("/healthz", client_config(&authority, &[])).await.unwrap();
    }
    for stream in half_open {
        assert!(to_its_end(stream).await.is_empty());
    }
}

/// A ClientHello of TLS 1.1, which is the newest version that its client knows.
fn old_hello() -> Vec<u8> {
    let ciphers = [0xc0, 0x13, 0xc0, 0x14, 0x00, 0x2f, 0x00, 0x35];
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend([0, ciphers.len() as u8]);
    hello.extend(ciphers);
    hello.extend([1, 0]);
    let handshake = [&[1, 0, 0, hello.len() as u8], &hello[..]].concat();
    [&[0x16, 3, 1, 0, handshake.len() as u8], &handshake[..]].concat()
}

#[tokio::test]
async fn a_client_of_an_old_version_gets_an_alert_and_others_go_on() {
    let authority = Authority::new();
    let served = Encrypted::start(&authority, None).await;
    let address = format!("https://localhost:{}", served.grpc.port());
    let mut watching = watch(&address, &authority).await;
    for address in [served.grpc, served.http] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&old_hello()).await.unwrap();
        let reply = to_its_end(stream).await;
        // A fatal alert: handshake_failure or protocol_version (RFC 8446, 6.2).
        let [0x15, _, _, 0, 2, 2, 40 | 70] = reply[..] else { panic!("{reply:?}") };
    }
    let failed = metrics().render();
    for interface in ["grpc", "http"] {
        let line = format!("lookout_tls_handshakes_failed_total{{interface=\"{interface}\"}}");
        assert!(failed.contains(&line), "{failed}");
    }
    served.daemon.caption("afterwards");
    receive(&mut watching, "afterwards").await;
}

#[tokio::test]
async fn a_handshake_that_is_cut_frees_its_place() {
    let authority = Authority::new();
    let served = Encrypted::with_connections(&authority, None, 1).await;
    for length in [1, 5, 40] {
        // The first bytes of a ClientHello, with a reply to it awaited or not.
        let mut stream = TcpStream::connect(served.http).await.unwrap();
        stream.write_all(&old_hello()[..length]).await.unwrap();
        // The server may have ended the connection already.
        let _ = stream.into_std().unwrap().shutdown(Shutdown::Both);
    }
    let reply = async {
        loop {
            match served.get("/healthz", client_config(&authority, &[])).await {
                Ok(reply) if reply.starts_with("HTTP/1.1 200") => return,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    timeout(SOON, reply).await.expect("the place is not free");
    // A connection that the client cuts after its own hello, before it reads the certificate.
    let cut = CancellationToken::new();
    let port = wire(served.http, cut.clone()).await.port();
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(&authority, &[])));
    let connecting = connector.connect(ServerName::try_from("localhost").unwrap(), tcp);
    cut.cancel();
    assert!(timeout(SOON, connecting).await.expect("an end").is_err());
    let health = served.get("/healthz", client_config(&authority, &[]));
    let served_again = async {
        let mut health = health.await;
        while !health.as_ref().is_ok_and(|reply| reply.starts_with("HTTP/1.1 200")) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            health = served.get("/healthz", client_config(&authority, &[])).await;
        }
    };
    timeout(SOON, served_again).await.expect("the place is not free");
}

/// Passes the bytes of one connection in both directions until it is told to cut it.
async fn wire(to: SocketAddr, cut: CancellationToken) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut near, _) = socket.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            () = cut.cancelled() => {}
        }
        for stream in [near, far] {
            // Without TLS's close_notify, as when a cable is pulled and plugged in again.
            let _ = stream.into_std().unwrap().shutdown(Shutdown::Both);
        }
    });
    address
}

#[tokio::test]
async fn a_connection_that_is_cut_frees_its_place() {
    let authority = Authority::new();
    let served = Encrypted::with_connections(&authority, None, 1).await;
    let cut = CancellationToken::new();
    let port = wire(served.grpc, cut.clone()).await.port();
    let mut watching = watch(&format!("https://localhost:{port}"), &authority).await;
    served.daemon.caption("before");
    receive(&mut watching, "before").await;
    assert!(cameras(served.server(&authority)).await.is_err(), "there is one connection only");
    cut.cancel();
    let broken = timeout(SOON, watching.message()).await.expect("an end");
    assert!(broken.is_err(), "{broken:?}");
    let served_again = async {
        while cameras(served.server(&authority)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, served_again).await.expect("the place is not free");
}

/// Runs the commands of docs/security.md that make a certificate.
#[tokio::test]
async fn the_commands_of_the_document_make_a_certificate() {
    let document = include_str!("../../docs/security.md");
    let (_, rest) = document.split_once("<!-- tested: makes").expect("the mark");
    let commands = rest.split("```\n").nth(1).expect("a block");
    let folder = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    let output = shell.args(["-ec", commands]).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = |name: &str| folder.path().join(name);
    let (cert_file, key_file) = (file("lookout.pem"), file("lookout.key"));
    let files = Tls { cert_file, key_file, client_ca_file: None };
    let tls = Arc::new(ServerTls::load(&files).unwrap());
    assert!(tls.describe().starts_with("for cam.example, 192.168.1.7, valid until "));
    let listener = listening(Interface::Grpc, 4, &tls).await;
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        let mut connection = listener.accept(1).await;
        connection.read_u8().await
    });
    let roots = lookout::tls::authorities("--ca", Some(&file("ca.pem"))).unwrap();
    let config = lookout::tls::client(roots, None).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("cam.example").unwrap();
    let mut stream = connector.connect(name, tcp).await.expect("a handshake");
    stream.write_u8(7).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(timeout(SOON, accepting).await.expect("a byte").unwrap().unwrap(), 7);
}
