//! A device's description: maker and model, its profiles, and the URL of a profile's stream.

use std::net::SocketAddr;
use std::time::SystemTime;

use quick_xml::escape::escape;
use serde::Serialize;
use url::Url;

use super::discovery::{Found, is_at, path};
use super::http::{Endpoint, OnvifError};
use super::plain;
use super::profile::Profile;
use super::soap::{Call, Caller, Credentials, clock_ahead};
use super::xml::Element;

const DEVICE: &str = "http://www.onvif.org/ver10/device/wsdl";
const MEDIA: &str = "http://www.onvif.org/ver10/media/wsdl";
const MEDIA2: &str = "http://www.onvif.org/ver20/media/wsdl";

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Information {
    pub manufacturer: String,
    pub model: String,
    pub firmware: String,
}

/// A device whose description has been read.
pub struct Device {
    pub information: Information,
    pub profiles: Vec<Profile>,
    host: String,
    media: Media,
    caller: Caller,
}

/// The service that has the profiles. Only the second version knows H.265.
struct Media {
    namespace: &'static str,
    endpoint: Endpoint,
}

impl Device {
    /// Reads a device's description.
    pub async fn read(
        found: &Found,
        credentials: Option<Credentials>,
    ) -> Result<Device, OnvifError> {
        let service = &found.service;
        let mut caller = Caller::new(credentials);
        caller.clock_ahead = measure_clock(service).await?;
        let call = Call::new(DEVICE, "GetDeviceInformation");
        let information = caller.call(service, &call).await?;
        let text = |name| plain(information.text_at(&[name]).unwrap_or_default());
        let information = Information {
            manufacturer: text("Manufacturer"),
            model: text("Model"),
            firmware: text("FirmwareVersion"),
        };
        let mut failure = OnvifError::Missing("the device has no media service");
        for media in media_services(&mut caller, service).await? {
            let call = get_profiles(media.namespace);
            match caller.call(&media.endpoint, &call).await.map(|found| Profile::all(&found)) {
                Ok(profiles) if !profiles.is_empty() => {
                    let host = found.host.clone();
                    return Ok(Device { information, profiles, host, media, caller });
                }
                Ok(_) => failure = OnvifError::Missing("the device has no profile with video"),
                // Another attempt with a wrong password may lock the user out.
                Err(error @ OnvifError::WrongCredentials) => return Err(error),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Returns the URL of a profile's stream, without a user and a password, at the host that
    /// answered.
    pub async fn stream(&mut self, profile: &Profile) -> Result<Url, OnvifError> {
        let call = get_stream(self.media.namespace, &profile.token);
        let response = self.caller.call(&self.media.endpoint, &call).await?;
        let url = response.text_at(&["MediaUri", "Uri"]).or(response.text_at(&["Uri"]));
        let url = url.and_then(|url| stream_url(url, &self.host));
        url.ok_or(OnvifError::Missing("the device's URL of the stream is not rtsp:// or rtsps://"))
    }
}

/// Reads the device's clock, because a password's digest is valid only near its time. A device that
/// refuses is taken to have the right time.
async fn measure_clock(service: &Endpoint) -> Result<i128, OnvifError> {
    let sent = SystemTime::now();
    match Caller::call_openly(service, &Call::new(DEVICE, "GetSystemDateAndTime")).await {
        Ok(response) => Ok(clock_ahead(&response, sent, SystemTime::now()).unwrap_or(0)),
        Err(OnvifError::CredentialsWanted | OnvifError::Fault { .. }) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Returns the media services, the newest first.
async fn media_services(caller: &mut Caller, service: &Endpoint) -> Result<Vec<Media>, OnvifError> {
    let include = "<t:IncludeCapability>false</t:IncludeCapability>".into();
    let call = Call { content: include, ..Call::new(DEVICE, "GetServices") };
    let media = |namespace: &'static str, url: &str| {
        let endpoint = endpoint(url, service.address)?;
        Some(Media { namespace, endpoint })
    };
    match caller.call(service, &call).await {
        Ok(response) => Ok([MEDIA2, MEDIA]
            .into_iter()
            .filter_map(|namespace| media(namespace, service_url(&response, namespace)?))
            .collect()),
        // Devices from before ONVIF 2.0.
        Err(OnvifError::Fault { .. } | OnvifError::Status { .. }) => {
            let category = "<t:Category>Media</t:Category>".into();
            let call = Call { content: category, ..Call::new(DEVICE, "GetCapabilities") };
            let response = caller.call(service, &call).await?;
            let url = response.text_at(&["Capabilities", "Media", "XAddr"]);
            Ok(url.and_then(|url| media(MEDIA, url)).into_iter().collect())
        }
        Err(error) => Err(error),
    }
}

fn service_url<'a>(response: &'a Element, namespace: &str) -> Option<&'a str> {
    let is_meant = |service: &&Element| service.text_at(&["Namespace"]) == Some(namespace);
    response.all("Service").find(is_meant)?.text_at(&["XAddr"])
}

/// Returns the service that a URL of a device means, at the device's own address. The URL's port
/// counts only if the URL names that address.
fn endpoint(url: &str, device: SocketAddr) -> Option<Endpoint> {
    let url = Url::parse(url).ok()?;
    let port = match url.port_or_known_default() {
        Some(port) if url.scheme() == "http" && is_at(&url, device.ip()) => port,
        _ => device.port(),
    };
    Some(Endpoint { address: SocketAddr::new(device.ip(), port), path: path(&url) })
}

fn get_profiles(namespace: &'static str) -> Call {
    let mut call = Call::new(namespace, "GetProfiles");
    if namespace == MEDIA2 {
        call.content = "<t:Type>VideoEncoder</t:Type>".into();
    }
    call
}

fn get_stream(namespace: &'static str, token: &str) -> Call {
    let token = escape(token);
    let content = if namespace == MEDIA2 {
        format!("<t:Protocol>RTSP</t:Protocol><t:ProfileToken>{token}</t:ProfileToken>")
    } else {
        format!(
            "<t:StreamSetup><tt:Stream>RTP-Unicast</tt:Stream><tt:Transport>\
             <tt:Protocol>RTSP</tt:Protocol></tt:Transport></t:StreamSetup>\
             <t:ProfileToken>{token}</t:ProfileToken>"
        )
    };
    Call { content, ..Call::new(namespace, "GetStreamUri") }
}

fn stream_url(url: &str, host: &str) -> Option<Url> {
    let mut url = Url::parse(url).ok()?;
    if !matches!(url.scheme(), "rtsp" | "rtsps") {
        return None;
    }
    url.set_host(Some(host)).ok()?;
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_taken_from_the_host_that_answered() {
        let url = |url| stream_url(url, "192.0.2.9").map(|url| url.to_string());
        for (written, used) in [
            ("rtsp://192.0.2.9:554/a?b=c", "rtsp://192.0.2.9:554/a?b=c"),
            ("rtsp://198.51.100.1/a", "rtsp://192.0.2.9/a"),
            ("rtsp://admin:Planted@192.0.2.9/a", "rtsp://192.0.2.9/a"),
            ("rtsps://cam.example:322/a", "rtsps://192.0.2.9:322/a"),
        ] {
            assert_eq!(url(written).as_deref(), Some(used));
        }
        for refused in ["http://192.0.2.9/a", "file:///etc/passwd", "rtsp:", ""] {
            assert_eq!(url(refused), None, "{refused}");
        }
        let v6 = stream_url("rtsp://192.0.2.9/a", "[fd00::2]").map(|url| url.to_string());
        assert_eq!(v6.as_deref(), Some("rtsp://[fd00::2]/a"));
    }

    #[test]
    fn a_service_is_at_the_address_of_its_device() {
        let device = SocketAddr::from(([192, 0, 2, 9], 8080));
        for (url, address, path) in [
            ("http://192.0.2.9:8899/onvif/media", "192.0.2.9:8899", "/onvif/media"),
            ("http://198.51.100.1:22/onvif/media", "192.0.2.9:8080", "/onvif/media"),
            ("https://192.0.2.9/onvif/media?x=1", "192.0.2.9:8080", "/onvif/media?x=1"),
        ] {
            let found = endpoint(url, device).expect(url);
            assert_eq!((found.address.to_string().as_str(), found.path.as_str()), (address, path));
        }
        assert_eq!(endpoint("/onvif/media", device), None);
    }
}
