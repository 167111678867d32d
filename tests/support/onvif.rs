//! An ONVIF device: its device and media services over HTTP, with passwords checked, and its answer
//! to WS-Discovery. Responses follow the WSDL files of ONVIF.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use quick_xml::NsReader;
use quick_xml::escape::escape;
use quick_xml::events::Event;
use quick_xml::name::{Namespace, ResolveResult};
use sha2::Digest as _;

pub const USER: &str = "view<er";
pub const PASSWORD: &str = "Pl&nted-p\"ass";

const DEVICE: &str = "http://www.onvif.org/ver10/device/wsdl";
const MEDIA: &str = "http://www.onvif.org/ver10/media/wsdl";
const MEDIA2: &str = "http://www.onvif.org/ver20/media/wsdl";
const EVENTS: &str = "http://www.onvif.org/ver10/events/wsdl";
const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
const OASIS: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss";

/// A profile: its token, its codec, its size and its rate.
pub type Profile = (&'static str, &'static str, u32, u32, u32);

#[derive(Clone, Default)]
pub struct Settings {
    /// Set to require a password.
    pub password: Password,
    /// Seconds by which the device's clock is ahead.
    pub clock_ahead: i64,
    /// Set for a device without GetServices and without the second media service.
    pub is_old: bool,
    pub profiles: Vec<Profile>,
    /// The URL of every profile's stream, with `TOKEN` in place of its token.
    pub stream: String,
    /// Address that the device names as its own, instead of the real one.
    pub names: Option<String>,
    /// The attack that replaces every response.
    pub hostile: Option<Hostile>,
    pub model: &'static str,
}

#[derive(Clone, Copy, Default, PartialEq)]
pub enum Password {
    #[default]
    None,
    /// WS-UsernameToken with a digest.
    Token,
    /// HTTP digest with SHA-256.
    Http,
    /// HTTP basic.
    Basic,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Hostile {
    /// A response of 64 MiB.
    Oversized,
    /// A response that never ends, a byte at a time.
    Endless,
    /// A web page.
    Html,
    /// Entities that expand to gigabytes.
    Bomb,
    /// A redirect to the address in `names`.
    Redirect,
    /// Bytes that are not HTTP.
    Garbage,
    /// No response.
    Silent,
}

pub struct Onvif {
    pub port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    port: u16,
    /// Operations in the order of the requests, each with true if it proved the password.
    operations: Mutex<Vec<(String, bool)>>,
    nonces: Mutex<HashSet<String>>,
    is_closed: AtomicBool,
}

impl Onvif {
    pub fn start(settings: Settings) -> Onvif {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let inner = Arc::new(Inner {
            settings,
            port,
            operations: Mutex::default(),
            nonces: Mutex::default(),
            is_closed: AtomicBool::new(false),
        });
        let serving = inner.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if serving.is_closed.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), inner) = (client, serving.clone()) else { return };
                thread::spawn(move || inner.serve(client));
            }
        });
        Onvif { port, inner }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the operations that were called.
    pub fn operations(&self) -> Vec<String> {
        let operations = self.inner.operations.lock().expect("a lock");
        operations.iter().map(|(operation, _)| operation.clone()).collect()
    }

    /// Answers WS-Discovery on the loopback interface.
    pub fn announce(&self) {
        let socket = group_socket();
        let inner = self.inner.clone();
        thread::spawn(move || {
            let mut datagram = vec![0; 64 << 10];
            while !inner.is_closed.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut datagram) else { continue };
                let probe = String::from_utf8_lossy(&datagram[..length]).into_owned();
                if let Some(answer) = inner.probe_match(&probe) {
                    let _ = socket.send_to(answer.as_bytes(), from);
                    // UDP may also double a message.
                    let _ = socket.send_to(answer.as_bytes(), from);
                }
            }
        });
    }
}

impl Drop for Onvif {
    fn drop(&mut self) {
        self.inner.is_closed.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Opens a socket for the multicast group, which other tests may open at the same time.
fn group_socket() -> UdpSocket {
    // SAFETY: plain calls of the socket API. The descriptor is new and owned.
    let socket = unsafe {
        let descriptor = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        assert!(descriptor >= 0, "a socket");
        let socket = OwnedFd::from_raw_fd(descriptor);
        let on: libc::c_int = 1;
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        let option = libc::SO_REUSEADDR;
        let set =
            libc::setsockopt(descriptor, libc::SOL_SOCKET, option, (&raw const on).cast(), size);
        assert_eq!(set, 0, "SO_REUSEADDR");
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_port = 3702_u16.to_be();
        let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let bound = libc::bind(descriptor, (&raw const address).cast(), size);
        assert_eq!(bound, 0, "port 3702: {}", std::io::Error::last_os_error());
        UdpSocket::from(socket)
    };
    let group = Ipv4Addr::new(239, 255, 255, 250);
    socket.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).expect("the group");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
    socket
}

/// A SOAP message as its receiver reads it.
#[derive(Default)]
struct Message {
    /// Namespace and name of the first element of the body.
    operation: (String, String),
    /// Texts by namespace and name.
    texts: HashMap<(String, String), String>,
    password_type: String,
}

impl Message {
    fn read(text: &str) -> Option<Message> {
        let mut reader = NsReader::from_str(text);
        let mut message = Message::default();
        let mut path: Vec<(String, String)> = Vec::new();
        loop {
            let (namespace, event) = reader.read_resolved_event().ok()?;
            let namespace = match namespace {
                ResolveResult::Bound(Namespace(name)) => name.to_owned(),
                ResolveResult::Unbound => String::new(),
                ResolveResult::Unknown(_) => return None,
            };
            match event {
                Event::Start(start) => {
                    path.push((namespace, start.local_name().as_ref().to_owned()));
                    message.enter(&path);
                    if let Ok(Some(kind)) = start.try_get_attribute("Type") {
                        message.password_type = kind.value.into_owned();
                    }
                }
                Event::Empty(start) => {
                    path.push((namespace, start.local_name().as_ref().to_owned()));
                    message.enter(&path);
                    path.pop();
                }
                Event::End(_) => {
                    path.pop();
                }
                Event::Text(text) => message.add(&path, &text.xml10_content()),
                Event::GeneralRef(name) => {
                    let name = name.into_inner();
                    message.add(&path, quick_xml::escape::resolve_xml_entity(&name)?);
                }
                Event::Eof => return Some(message),
                _ => {}
            }
        }
    }

    fn enter(&mut self, path: &[(String, String)]) {
        if let [envelope, body, operation] = path
            && *envelope == (SOAP.into(), "Envelope".into())
            && *body == (SOAP.into(), "Body".into())
        {
            self.operation = operation.clone();
        }
    }

    fn add(&mut self, path: &[(String, String)], text: &str) {
        if let Some(element) = path.last() {
            *self.texts.entry(element.clone()).or_default() += text;
        }
    }

    fn text(&self, namespace: &str, name: &str) -> &str {
        self.texts.get(&(namespace.into(), name.into())).map_or("", |text| text.as_str())
    }
}

impl Inner {
    fn serve(&self, mut client: TcpStream) {
        let Some((head, body)) = read_request(&client) else { return };
        if let Some(hostile) = self.settings.hostile {
            let _ = self.attack(hostile, &mut client);
            return;
        }
        let (status, more, content) = match Message::read(&body) {
            Some(message) => self.respond(&head, &message),
            None => (400, String::new(), fault("env:Sender", "ter:WellFormed", "Not well-formed")),
        };
        let _ = write!(
            client,
            "HTTP/1.1 {status} X\r\nContent-Type: application/soap+xml; charset=utf-8\r\n{more}\
             Content-Length: {}\r\nConnection: close\r\n\r\n{content}",
            content.len()
        );
    }

    /// Returns status, further headers and body.
    fn respond(&self, head: &str, message: &Message) -> (u16, String, String) {
        let (namespace, name) = &message.operation;
        // ONVIF Core 5.12: the only operations here that need no password.
        let is_open = ["GetSystemDateAndTime", "GetServices", "GetCapabilities"];
        let is_open = is_open.contains(&name.as_str());
        let proves = match self.settings.password {
            Password::None => true,
            Password::Token => self.proves_by_token(message),
            Password::Http => proves_by_http(head),
            Password::Basic => false,
        };
        let mut operations = self.operations.lock().expect("a lock");
        operations.push((name.clone(), proves));
        drop(operations);
        if !is_open && !proves {
            let challenge = match self.settings.password {
                Password::Http => {
                    "WWW-Authenticate: Digest realm=\"cam\", qop=\"auth\", algorithm=SHA-256, \
                     nonce=\"n0nce\"\r\n"
                }
                Password::Basic => "WWW-Authenticate: Basic realm=\"cam\"\r\n",
                Password::None | Password::Token => "",
            };
            let status = if challenge.is_empty() { 400 } else { 401 };
            let why = "Sender not authorized";
            return (status, challenge.into(), fault("env:Sender", "ter:NotAuthorized", why));
        }
        match self.response(namespace, name, message) {
            Some(body) => (200, String::new(), envelope("", &body)),
            None => {
                let why = "Optional action\u{1b}[31m not implemented";
                (400, String::new(), fault("env:Receiver", "ter:ActionNotSupported", why))
            }
        }
    }

    fn proves_by_token(&self, message: &Message) -> bool {
        let extension = format!("{OASIS}-wssecurity-secext-1.0.xsd");
        let utility = format!("{OASIS}-wssecurity-utility-1.0.xsd");
        let (nonce, created) =
            (message.text(&extension, "Nonce"), message.text(&utility, "Created"));
        let Ok(bytes) = BASE64_STANDARD.decode(nonce) else { return false };
        let hash = sha1::Sha1::new().chain_update(&bytes).chain_update(created);
        let digest = BASE64_STANDARD.encode(hash.chain_update(PASSWORD).finalize());
        let Ok(created) = humantime::parse_rfc3339(created) else { return false };
        let now = self.clock();
        let off = now.duration_since(created).unwrap_or_else(|e| e.duration());
        message.text(&extension, "Username") == USER
            && message.text(&extension, "Password") == digest
            && message.password_type == format!("{OASIS}-username-token-profile-1.0#PasswordDigest")
            && off < Duration::from_secs(30)
            && self.nonces.lock().expect("a lock").insert(nonce.into())
    }

    fn clock(&self) -> SystemTime {
        let by = Duration::from_secs(self.settings.clock_ahead.unsigned_abs());
        if self.settings.clock_ahead < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }

    fn own_url(&self, path: &str) -> String {
        let own = format!("127.0.0.1:{}", self.port);
        format!("http://{}{path}", self.settings.names.as_ref().unwrap_or(&own))
    }

    fn response(&self, namespace: &str, name: &str, message: &Message) -> Option<String> {
        let settings = &self.settings;
        let body = match (namespace, name) {
            (DEVICE, "GetSystemDateAndTime") => self.date(),
            (DEVICE, "GetDeviceInformation") => format!(
                "<s:Manufacturer>Example &amp; Sons</s:Manufacturer><s:Model>{}</s:Model>\
                 <s:FirmwareVersion>1.2\u{9}x</s:FirmwareVersion><s:SerialNumber>1</s:SerialNumber>\
                 <s:HardwareId>1</s:HardwareId>",
                settings.model
            ),
            (DEVICE, "GetServices") if !settings.is_old => {
                let service = |namespace: &str, path: &str| {
                    format!(
                        "<s:Service><s:Namespace>{namespace}</s:Namespace><s:XAddr>{}</s:XAddr>\
                         <s:Version><tt:Major>2</tt:Major><tt:Minor>60</tt:Minor></s:Version>\
                         </s:Service>",
                        self.own_url(path)
                    )
                };
                service(DEVICE, "/onvif/device_service")
                    + &service(EVENTS, "/onvif/events")
                    + &service(MEDIA, "/onvif/media")
                    + &service(MEDIA2, "/onvif/media2")
            }
            (DEVICE, "GetCapabilities") => format!(
                "<s:Capabilities><tt:Media><tt:XAddr>{}</tt:XAddr><tt:StreamingCapabilities>\
                 <tt:RTP_RTSP_TCP>true</tt:RTP_RTSP_TCP></tt:StreamingCapabilities></tt:Media>\
                 </s:Capabilities>",
                self.own_url("/onvif/media")
            ),
            (MEDIA, "GetProfiles") => {
                let of_version_1 = |(_, codec, ..): &&Profile| *codec != "H265";
                settings.profiles.iter().filter(of_version_1).map(profile).collect()
            }
            (MEDIA2, "GetProfiles") if message.text(MEDIA2, "Type") == "VideoEncoder" => {
                settings.profiles.iter().map(profile2).collect()
            }
            (MEDIA, "GetStreamUri") => {
                let types = "http://www.onvif.org/ver10/schema";
                if message.text(types, "Stream") != "RTP-Unicast"
                    || message.text(types, "Protocol") != "RTSP"
                {
                    return None;
                }
                format!(
                    "<s:MediaUri><tt:Uri>{}</tt:Uri><tt:InvalidAfterConnect>false\
                     </tt:InvalidAfterConnect><tt:InvalidAfterReboot>false</tt:InvalidAfterReboot>\
                     <tt:Timeout>PT0S</tt:Timeout></s:MediaUri>",
                    self.stream(message.text(MEDIA, "ProfileToken"))?
                )
            }
            (MEDIA2, "GetStreamUri") if message.text(MEDIA2, "Protocol") == "RTSP" => {
                format!("<s:Uri>{}</s:Uri>", self.stream(message.text(MEDIA2, "ProfileToken"))?)
            }
            _ => return None,
        };
        Some(format!(
            "<s:{name}Response xmlns:s=\"{namespace}\" \
             xmlns:tt=\"http://www.onvif.org/ver10/schema\">{body}</s:{name}Response>"
        ))
    }

    fn stream(&self, token: &str) -> Option<String> {
        let known = self.settings.profiles.iter().any(|(known, ..)| *known == token);
        known.then(|| self.settings.stream.replace("TOKEN", token))
    }

    fn date(&self) -> String {
        let now = humantime::format_rfc3339_seconds(self.clock()).to_string();
        let number = |from: usize, to: usize| now[from..to].parse::<u32>().expect("a number");
        format!(
            "<s:SystemDateAndTime><tt:DateTimeType>Manual</tt:DateTimeType>\
             <tt:DaylightSavings>false</tt:DaylightSavings><tt:TimeZone><tt:TZ>CST-8</tt:TZ>\
             </tt:TimeZone><tt:UTCDateTime><tt:Time><tt:Hour>{}</tt:Hour><tt:Minute>{}</tt:Minute>\
             <tt:Second>{}</tt:Second></tt:Time><tt:Date><tt:Year>{}</tt:Year><tt:Month>{}\
             </tt:Month><tt:Day>{}</tt:Day></tt:Date></tt:UTCDateTime></s:SystemDateAndTime>",
            number(11, 13),
            number(14, 16),
            number(17, 19),
            number(0, 4),
            number(5, 7),
            number(8, 10)
        )
    }

    /// Answers a probe for network video transmitters.
    fn probe_match(&self, probe: &str) -> Option<String> {
        let message = Message::read(probe)?;
        let discovery = "http://schemas.xmlsoap.org/ws/2005/04/discovery";
        let addressing = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
        if message.operation != (discovery.into(), "Probe".into())
            || !message.text(discovery, "Types").ends_with(":NetworkVideoTransmitter")
            || message.text(addressing, "Action") != format!("{discovery}/Probe")
        {
            return None;
        }
        let id = message.text(addressing, "MessageID");
        let header = format!(
            "<a:MessageID>urn:uuid:0-{}</a:MessageID><a:RelatesTo>{id}</a:RelatesTo>\
             <a:To>{addressing}/role/anonymous</a:To>\
             <a:Action>{discovery}/ProbeMatches</a:Action>",
            self.port
        );
        let body = format!(
            "<d:ProbeMatches xmlns:d=\"{discovery}\" \
             xmlns:dn=\"http://www.onvif.org/ver10/network/wsdl\"><d:ProbeMatch>\
             <a:EndpointReference><a:Address>urn:uuid:0-{}</a:Address></a:EndpointReference>\
             <d:Types>dn:NetworkVideoTransmitter</d:Types>\
             <d:Scopes>onvif://www.onvif.org/type/video_encoder \
             onvif://www.onvif.org/name/Front%20Gate</d:Scopes>\
             <d:XAddrs>http://[fe80::1]/x {}</d:XAddrs>\
             <d:MetadataVersion>1</d:MetadataVersion></d:ProbeMatch></d:ProbeMatches>",
            self.port,
            self.own_url("/onvif/device_service")
        );
        Some(envelope(&header, &body).replacen(
            "<env:Envelope ",
            &format!("<env:Envelope xmlns:a=\"{addressing}\" "),
            1,
        ))
    }

    fn attack(&self, hostile: Hostile, client: &mut TcpStream) -> std::io::Result<()> {
        let xml = "HTTP/1.1 200 OK\r\nContent-Type: application/soap+xml\r\n";
        match hostile {
            Hostile::Oversized => {
                write!(client, "{xml}Content-Length: {}\r\n\r\n", 64 << 20)?;
                let block = [b' '; 1 << 16];
                (0..1024).try_for_each(|_| client.write_all(&block))
            }
            Hostile::Endless => {
                write!(client, "{xml}\r\n<a>")?;
                while !self.is_closed.load(Ordering::Relaxed) {
                    client.write_all(b" ")?;
                    thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            }
            Hostile::Html => write!(
                client,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\n<html/>\r\n"
            ),
            Hostile::Bomb => {
                let entities: String = (1..20)
                    .map(|n| format!("<!ENTITY e{n} \"{}\">", format!("&e{};", n - 1).repeat(10)))
                    .collect();
                let bomb = format!("<!DOCTYPE x [<!ENTITY e0 \"boom\">{entities}]><x>&e19;</x>");
                write!(client, "{xml}Content-Length: {}\r\n\r\n{bomb}", bomb.len())
            }
            Hostile::Redirect => {
                let to = self.own_url("/onvif/device_service");
                write!(client, "HTTP/1.1 307 X\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
            }
            Hostile::Garbage => client.write_all(&[0xff; 4096]),
            Hostile::Silent => {
                while !self.is_closed.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            }
        }
    }
}

fn read_request(client: &TcpStream) -> Option<(String, String)> {
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    let mut body = vec![0; length.trim().parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).ok()?))
}

fn proves_by_http(head: &str) -> bool {
    let mut lines = head.lines();
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let header = lines.find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then_some(value)
    });
    let Some(header) = header.and_then(|value| value.strip_prefix("Digest ")) else { return false };
    let field = |name: &str| {
        let fields = header.split(',').filter_map(|field| field.trim().split_once('='));
        let mut found = fields.filter(|(key, _)| *key == name);
        found.next().map_or("", |(_, value)| value.trim_matches('"'))
    };
    let hash = |text: String| -> String {
        sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let who = hash(format!("{USER}:cam:{PASSWORD}"));
    let what = hash(format!("POST:{path}"));
    let (count, client) = (field("nc"), field("cnonce"));
    let proof = hash(format!("{who}:n0nce:{count}:{client}:auth:{what}"));
    field("username") == USER && field("uri") == path && field("response") == proof
}

fn profile((token, codec, width, height, rate): &Profile) -> String {
    let token = escape(*token);
    format!(
        "<s:Profiles token=\"{token}\" fixed=\"true\"><tt:Name>{token} name</tt:Name>\
         <tt:VideoEncoderConfiguration token=\"e\"><tt:Name>e</tt:Name><tt:UseCount>1</tt:UseCount>\
         <tt:Encoding>{codec}</tt:Encoding><tt:Resolution><tt:Width>{width}</tt:Width>\
         <tt:Height>{height}</tt:Height></tt:Resolution><tt:Quality>4</tt:Quality>\
         <tt:RateControl><tt:FrameRateLimit>{rate}</tt:FrameRateLimit>\
         <tt:EncodingInterval>1</tt:EncodingInterval><tt:BitrateLimit>512</tt:BitrateLimit>\
         </tt:RateControl><tt:Multicast><tt:Address><tt:Type>IPv4</tt:Type>\
         <tt:IPv4Address>0.0.0.0</tt:IPv4Address></tt:Address><tt:Port>0</tt:Port><tt:TTL>1</tt:TTL>\
         <tt:AutoStart>false</tt:AutoStart></tt:Multicast><tt:SessionTimeout>PT60S\
         </tt:SessionTimeout></tt:VideoEncoderConfiguration></s:Profiles>"
    )
}

fn profile2((token, codec, width, height, rate): &Profile) -> String {
    let token = escape(*token);
    format!(
        "<s:Profiles token=\"{token}\" fixed=\"true\"><s:Name>{token} name</s:Name>\
         <s:Configurations><s:VideoEncoder token=\"e\" GovLength=\"50\"><tt:Name>e</tt:Name>\
         <tt:UseCount>1</tt:UseCount><tt:Encoding>{codec}</tt:Encoding><tt:Resolution>\
         <tt:Width>{width}</tt:Width><tt:Height>{height}</tt:Height></tt:Resolution>\
         <tt:RateControl ConstantBitRate=\"false\"><tt:FrameRateLimit>{rate}.0</tt:FrameRateLimit>\
         <tt:BitrateLimit>512</tt:BitrateLimit></tt:RateControl><tt:Quality>4</tt:Quality>\
         </s:VideoEncoder></s:Configurations></s:Profiles>"
    )
}

fn envelope(header: &str, body: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<env:Envelope xmlns:env=\"{SOAP}\">\
         <env:Header>{header}</env:Header>\n<env:Body>{body}</env:Body></env:Envelope>\n"
    )
}

fn fault(code: &str, subcode: &str, reason: &str) -> String {
    envelope(
        "",
        &format!(
            "<env:Fault xmlns:ter=\"http://www.onvif.org/ver10/error\"><env:Code>\
             <env:Value>{code}</env:Value><env:Subcode><env:Value>{subcode}</env:Value>\
             </env:Subcode></env:Code><env:Reason><env:Text xml:lang=\"en\">{reason}</env:Text>\
             </env:Reason></env:Fault>"
        ),
    )
}
