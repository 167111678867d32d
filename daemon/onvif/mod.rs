//! Finds ONVIF cameras and reads what they describe of themselves: WS-Discovery, and the device and
//! media services over SOAP.
//!
//! Guarantees: only the address that answered, or that the user named, is contacted, whatever the
//! replies contain. A reply is limited in size, depth and time, and no entity is expanded. A
//! password is sent as a digest only, never in clear. A text from a camera has no control
//! characters when it leaves this module.
//!
//! Not here: the video. Replies over HTTPS are not read.

mod device;
mod discovery;
mod http;
mod profile;
mod soap;
mod xml;

pub use device::{Device, Information};
pub use discovery::{Found, discover, interfaces};
pub use http::OnvifError;
pub use profile::{Profile, choose};
pub use soap::Credentials;

/// Maximum number of characters of a text that a camera sends, such as a name.
const TEXT: usize = 120;

/// Returns a text of a camera without control characters, and not longer than [`TEXT`].
fn plain(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = shown.take(TEXT).collect();
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}
