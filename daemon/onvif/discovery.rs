//! WS-Discovery: asks all devices of the local networks for ONVIF cameras, by IPv4 multicast.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout_at};
use url::Url;
use uuid::Uuid;

use super::http::Endpoint;
use super::{plain, xml};

const GROUP: (Ipv4Addr, u16) = (Ipv4Addr::new(239, 255, 255, 250), 3702);

/// Pause before the probe is sent again: UDP loses packets.
const REPEAT: Duration = Duration::from_millis(500);

/// Maximum number of devices.
const DEVICES: usize = 256;

const DATAGRAM: usize = 64 << 10;

/// A device that answered, or that the user named.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its device service.
    pub service: Endpoint,
    /// The host as the user named it, otherwise its address.
    pub host: String,
    /// The name that it announces.
    pub name: Option<String>,
}

impl Found {
    /// Makes a device of an address at which the user expects one.
    pub fn at(host: &str, address: SocketAddr) -> Found {
        let service = Endpoint { address, path: DEVICE_SERVICE.into() };
        Found { service, host: host.into(), name: None }
    }
}

/// Path of the device service that ONVIF prescribes.
const DEVICE_SERVICE: &str = "/onvif/device_service";

/// Returns the IPv4 addresses of this machine's interfaces that are up.
pub fn interfaces() -> io::Result<Vec<Ipv4Addr>> {
    let found = if_addrs::get_if_addrs()?;
    let addresses = found.into_iter().filter_map(|interface| match interface.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    Ok(addresses.collect())
}

/// Asks on each of these interfaces, and collects the answers for a time. Devices are in the order
/// of their addresses. An interface that fails is skipped, unless all fail.
pub async fn discover(interfaces: &[Ipv4Addr], wait: Duration) -> io::Result<Vec<Found>> {
    let mut tasks = tokio::task::JoinSet::new();
    for address in interfaces {
        tasks.spawn(probe(*address, wait));
    }
    let mut devices = BTreeMap::new();
    let mut error = None;
    let mut works = false;
    for found in tasks.join_all().await {
        match found {
            Ok(found) => {
                works = true;
                devices.extend(found.into_iter().map(|found| (found.service.address, found)));
            }
            Err(why) => error = Some(why),
        }
    }
    match error.filter(|_| !works) {
        Some(error) => Err(error),
        None => Ok(devices.into_values().take(DEVICES).collect()),
    }
}

/// Asks on one interface.
async fn probe(interface: Ipv4Addr, wait: Duration) -> io::Result<Vec<Found>> {
    // Linux sends a multicast out of the interface that has the socket's address.
    let socket = UdpSocket::bind((interface, 0)).await?;
    let id = Uuid::now_v7().to_string();
    let message = message(&id);
    socket.send_to(message.as_bytes(), GROUP).await?;
    let started = Instant::now();
    let end = started + wait;
    let repeat = async {
        sleep_until(started + REPEAT.min(wait)).await;
        let _ = socket.send_to(message.as_bytes(), GROUP).await;
        sleep_until(end).await;
    };
    let collect = async {
        let mut found: Vec<Found> = Vec::new();
        let mut datagram = vec![0; DATAGRAM];
        while let Ok(received) = timeout_at(end, socket.recv_from(&mut datagram)).await {
            let Ok((length, from)) = received else { continue };
            let answer = std::str::from_utf8(&datagram[..length]).unwrap_or_default();
            if let Some(device) = read(answer, &id, from.ip())
                && found.len() < DEVICES
                && !found.iter().any(|other| other.service == device.service)
            {
                found.push(device);
            }
        }
        found
    };
    let (found, ()) = tokio::join!(collect, repeat);
    Ok(found)
}

fn message(id: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
         xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
         xmlns:d=\"http://schemas.xmlsoap.org/ws/2005/04/discovery\" \
         xmlns:dn=\"http://www.onvif.org/ver10/network/wsdl\"><s:Header>\
         <a:Action s:mustUnderstand=\"1\">http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe\
         </a:Action><a:MessageID>urn:uuid:{id}</a:MessageID><a:ReplyTo><a:Address>\
         http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>\
         <a:To s:mustUnderstand=\"1\">urn:schemas-xmlsoap-org:ws:2005:04:discovery</a:To>\
         </s:Header><s:Body><d:Probe><d:Types>dn:NetworkVideoTransmitter</d:Types></d:Probe>\
         </s:Body></s:Envelope>"
    )
}

/// Reads an answer to the probe with an ID. Returns the device at the address that sent it.
fn read(answer: &str, id: &str, from: IpAddr) -> Option<Found> {
    let answer = xml::parse(answer.trim_start_matches('\u{feff}')).ok()?;
    let related = answer.text_at(&["Header", "RelatesTo"])?;
    if !related.ends_with(id) {
        return None;
    }
    let body = answer.child("Body")?;
    // Some devices leave out the list.
    let device = body.at(&["ProbeMatches", "ProbeMatch"]).or(body.child("ProbeMatch"))?;
    let urls = device.text_at(&["XAddrs"])?.split_whitespace();
    let urls = urls.filter_map(|url| Url::parse(url).ok()).filter(|url| url.scheme() == "http");
    let urls: Vec<Url> = urls.collect();
    let url = urls.iter().find(|url| is_at(url, from)).or(urls.first())?;
    let service = endpoint(url, from)?;
    let scopes = device.text_at(&["Scopes"]).unwrap_or_default().split_whitespace();
    let mut names = scopes.filter_map(|scope| scope.strip_prefix("onvif://www.onvif.org/name/"));
    let name =
        names.next().map(|name| percent_encoding::percent_decode_str(name).decode_utf8_lossy());
    let name = name.map(|name| plain(&name)).filter(|name| !name.is_empty());
    Some(Found { service, host: host(from), name })
}

/// Returns an address as it is written in a URL.
fn host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Returns the service that a URL of a device means. It is at the address that answered, with the
/// URL's port if the URL names that address.
fn endpoint(url: &Url, answered: IpAddr) -> Option<Endpoint> {
    let port = if is_at(url, answered) { url.port_or_known_default()? } else { 80 };
    Some(Endpoint { address: SocketAddr::new(answered, port), path: path(url) })
}

/// Returns true if the host of a URL is an address.
pub fn is_at(url: &Url, address: IpAddr) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(host)) => address == host,
        Some(url::Host::Ipv6(host)) => address == host,
        _ => false,
    }
}

/// Returns the path of a URL with its query.
pub fn path(url: &Url) -> String {
    url[url::Position::BeforePath..url::Position::AfterQuery].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str, urls: &str, scopes: &str) -> String {
        format!(
            "<e:Envelope xmlns:e=\"s\" xmlns:w=\"a\" xmlns:d=\"d\"><e:Header>\
             <w:RelatesTo>uuid:{id}</w:RelatesTo></e:Header><e:Body><d:ProbeMatches><d:ProbeMatch>\
             <w:EndpointReference><w:Address>urn:uuid:1</w:Address></w:EndpointReference>\
             <d:Types>dn:NetworkVideoTransmitter</d:Types><d:Scopes>{scopes}</d:Scopes>\
             <d:XAddrs>{urls}</d:XAddrs></d:ProbeMatch></d:ProbeMatches></e:Body></e:Envelope>"
        )
    }

    const CAMERA: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));

    fn service(urls: &str) -> Option<(String, String)> {
        let found = read(&answer("7", urls, ""), "7", CAMERA)?;
        Some((found.service.address.to_string(), found.service.path))
    }

    #[test]
    fn only_the_address_that_answered_is_contacted() {
        for (urls, address, path) in [
            ("http://192.0.2.9:8000/onvif/x", "192.0.2.9:8000", "/onvif/x"),
            ("http://[fe80::1]/a http://192.0.2.9:81/b?c=1", "192.0.2.9:81", "/b?c=1"),
            ("https://192.0.2.9/a http://192.0.2.9/b?c=1", "192.0.2.9:80", "/b?c=1"),
            // A device that names another host is contacted at its own address.
            ("http://198.51.100.1:22/onvif/x", "192.0.2.9:80", "/onvif/x"),
            ("http://bank.example:8080/transfer?to=me", "192.0.2.9:80", "/transfer?to=me"),
        ] {
            assert_eq!(service(urls), Some((address.into(), path.into())), "{urls}");
        }
        assert_eq!(service("https://192.0.2.9/a"), None);
        assert_eq!(service("file:///etc/passwd"), None);
        assert_eq!(service(""), None);
    }

    #[test]
    fn an_answer_to_another_probe_is_ignored() {
        let answer = answer("7", "http://192.0.2.9/a", "");
        assert!(read(&answer, "7", CAMERA).is_some());
        let bare = answer.replace("<d:ProbeMatches>", "").replace("</d:ProbeMatches>", "");
        assert_eq!(read(&bare, "7", CAMERA), read(&answer, "7", CAMERA));
        assert_eq!(read(&answer, "8", CAMERA), None);
        assert_eq!(read("<a/>", "7", CAMERA), None);
        assert_eq!(read("\u{0}", "7", CAMERA), None);
    }

    #[test]
    fn the_name_of_a_device_is_plain_text() {
        let name = |scopes: &str| {
            let answer = answer("7", "http://192.0.2.9/a", scopes);
            read(&answer, "7", CAMERA).and_then(|found| found.name)
        };
        let scopes =
            "onvif://www.onvif.org/type/ptz onvif://www.onvif.org/name/IPC%20%1b%5b31m%0aX";
        assert_eq!(name(scopes).as_deref(), Some("IPC [31m X"));
        assert_eq!(name("onvif://www.onvif.org/name/"), None);
    }
}
