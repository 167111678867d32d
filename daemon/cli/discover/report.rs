//! The report about one device: lines of TOML, in which everything but the camera's table is a
//! comment, or JSON.
//!
//! Guarantees: no password is in it. What a camera calls itself can neither end a comment nor
//! control a terminal.

use std::collections::HashSet;
use std::io::{self, Write};

use serde::Serialize;
use toml::Value;
use url::Url;

use crate::config::masked;
use crate::onvif::{Found, Information, Profile};

/// Maximum length of a camera's name.
const NAME: usize = 40;

#[derive(Serialize)]
pub struct Report {
    /// Address and port of the device.
    address: String,
    /// The name that the device announces.
    announced: Option<String>,
    /// Name for the config.
    pub name: String,
    #[serde(flatten)]
    pub information: Option<Information>,
    pub profiles: Vec<Profile>,
    pub chosen: Option<Chosen>,
    pub error: Option<String>,
}

/// The profile that was chosen.
#[derive(Serialize)]
pub struct Chosen {
    /// Position among the profiles.
    pub profile: usize,
    pub reason: String,
    #[serde(serialize_with = "masked_url")]
    pub url: Url,
    /// True if the URL has secrets, which are not printed.
    pub is_secret: bool,
    pub username: Option<String>,
    pub password_file: Option<String>,
    pub fps: f64,
    /// Result of the test, or `None` if it failed.
    pub tested: Option<String>,
}

fn masked_url<S: serde::Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&masked(url.as_str()))
}

impl Report {
    pub fn of(found: &Found) -> Report {
        Report {
            address: found.service.address.to_string(),
            announced: found.name.clone(),
            name: String::new(),
            information: None,
            profiles: Vec::new(),
            chosen: None,
            error: None,
        }
    }

    /// Returns true if the chosen stream has been tested.
    pub fn works(&self) -> bool {
        self.chosen.as_ref().is_some_and(|chosen| chosen.tested.is_some())
    }

    /// Gives the camera a name that no other has.
    pub fn with_name(mut self, taken: &mut HashSet<String>) -> Report {
        let model = self.information.as_ref().map(|information| information.model.as_str());
        let candidates = [self.announced.as_deref(), model, Some(&self.address)];
        let names = candidates.into_iter().flatten().map(plain_name);
        let name = names.into_iter().find(|name| !name.is_empty()).unwrap_or("camera".into());
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let mut free =
            std::iter::once(name.clone()).chain(numbered).filter(|name| !taken.contains(name));
        self.name = free.next().unwrap_or(name);
        taken.insert(self.name.clone());
        self
    }

    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Report { address, announced, information, profiles, chosen, error, .. } = self;
        let mut words = Vec::new();
        words.extend(announced.clone());
        if let Some(Information { manufacturer, model, firmware }) = information {
            words.push(format!("{manufacturer} {model}").trim().to_owned());
            words.push(format!("firmware {firmware}"));
        }
        writeln!(out, "# {address}  {}", words.join(", "))?;
        for (at, profile) in profiles.iter().enumerate() {
            let mark = if chosen.as_ref().is_some_and(|c| c.profile == at) { '*' } else { ' ' };
            let size = format!("{}x{}", profile.width, profile.height);
            let rate =
                profile.frame_rate.map(|rate| format!("{rate} frames/s")).unwrap_or_default();
            let (codec, name) = (profile.codec(), &profile.name);
            writeln!(out, "# {mark} {codec:<7} {size:<10} {rate:<14} {name}")?;
        }
        if let Some(Chosen { reason, tested, .. }) = chosen {
            writeln!(out, "#   chosen: {reason}")?;
            if let Some(tested) = tested {
                writeln!(out, "#   tested: {tested}")?;
            }
        }
        if let Some(error) = error {
            writeln!(out, "#   failed: {}", error.replace(char::is_control, " "))?;
        }
        if let Some(chosen) = chosen {
            // A camera that does not work is printed, but not for a config.
            let comment = if self.works() { "" } else { "# " };
            for line in self.table(chosen) {
                writeln!(out, "{comment}{line}")?;
            }
        }
        writeln!(out)?;
        out.flush()
    }

    fn table(&self, chosen: &Chosen) -> Vec<String> {
        let Chosen { url, is_secret, username, password_file, fps, .. } = chosen;
        let key = |key: &str, value: Value| format!("{key} = {value}");
        let mut lines = vec!["[[camera]]".into(), key("name", self.name.clone().into())];
        if *is_secret {
            lines.push(
                "# The camera's URL has a password, which is hidden here: fill it in.".into(),
            );
        }
        lines.push(key("url", masked(url.as_str()).into()));
        if let Some(username) = username {
            lines.push(key("username", username.clone().into()));
            let file = password_file.clone().unwrap_or_else(|| {
                lines.push(
                    "# Write the password into this file, which only its owner can read.".into(),
                );
                format!("{}.password", self.name)
            });
            lines.push(key("password_file", file.into()));
        }
        lines.push(key("fps", Value::from(*fps)));
        lines
    }
}

/// Returns a text as a camera's name: small letters, digits and `-`.
fn plain_name(text: &str) -> String {
    let parts = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    let name = parts.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-");
    name.chars().take(NAME).collect::<String>().trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, chosen: Option<Chosen>) -> Report {
        let address = ([192, 0, 2, 9], 80).into();
        let report = Report::of(&Found { name: Some(name.into()), ..Found::at("cam", address) });
        Report { chosen, ..report }
    }

    fn chosen(url: &str, tested: Option<&str>) -> Chosen {
        Chosen {
            profile: 0,
            reason: "the smallest".into(),
            url: url.parse().expect("a URL"),
            is_secret: masked(url) != url,
            username: Some("view\"er".into()),
            password_file: None,
            fps: 1.0,
            tested: tested.map(String::from),
        }
    }

    fn printed(report: Report) -> String {
        let mut out = Vec::new();
        report.with_name(&mut HashSet::new()).print(&mut out).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn names_fit_the_config_and_differ() {
        let mut taken = HashSet::from(["available".into()]);
        let mut name = |text| report(text, None).with_name(&mut taken).name;
        assert_eq!(name("IPC BO (2)_x"), "ipc-bo-2-x");
        assert_eq!(name("ipc-bo/2.x"), "ipc-bo-2-x-2");
        assert_eq!(name("available"), "available-2");
        assert_eq!(name("摄像机"), "192-0-2-9-80");
        assert_eq!(name(&"a".repeat(99)).len(), NAME);
    }

    #[test]
    fn the_output_is_a_config_in_which_only_cameras_that_work_are_active() {
        let text = printed(report("gate", Some(chosen("rtsp://cam/1", Some("H.264")))));
        let table: toml::Table = text.parse().expect("TOML");
        let camera = &table["camera"][0];
        assert_eq!(camera["name"].as_str(), Some("gate"));
        assert_eq!(camera["username"].as_str(), Some("view\"er"));
        assert_eq!(camera["password_file"].as_str(), Some("gate.password"));
        let broken = Report {
            error: Some("no\n[[camera]]\nname = \"x\"".into()),
            ..report("gate", Some(chosen("rtsp://cam/1", None)))
        };
        assert_eq!(printed(broken).parse::<toml::Table>().expect("TOML"), toml::Table::new());
    }

    #[test]
    fn a_password_in_a_url_is_not_printed() {
        let url = "rtsp://cam/user=admin_password=Planted_channel=1";
        let report = report("gate", Some(chosen(url, Some("H.264"))));
        let json = serde_json::to_string(&report).expect("JSON");
        let text = printed(report);
        assert!(!text.contains("Planted") && !json.contains("Planted"), "{text}{json}");
        assert!(text.contains("has a password, which is hidden"), "{text}");
    }
}
