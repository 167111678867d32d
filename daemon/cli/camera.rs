//! Implements `lookout camera`: adds, changes, pauses and removes cameras of a running daemon.

use std::io::Write;

use clap::{Args, Subcommand};

use super::{Client, output};
use crate::client;
use crate::exit::Failure;
use crate::service::CameraEdit;

#[derive(Subcommand)]
pub enum Camera {
    /// Add a camera. It must send a frame within 10 s.
    ///
    /// The daemon stores it in a file of `drop_in_folder`.
    ///
    /// Example: lookout camera add hall --url rtsp://10.0.0.9/live --set username=me --set fps=2
    Add(Add),
    /// Change settings of a camera that was added; the others stay.
    ///
    /// Example: lookout camera update hall --set 'caption_prompt="Who is there?"'
    Update(Update),
    /// Disconnect a camera until it is resumed, also after a restart.
    Pause(Named),
    /// Connect a paused camera again.
    Resume(Named),
    /// Remove a camera that was added.
    Remove(Named),
}

#[derive(Args)]
pub struct Add {
    #[command(flatten)]
    camera: Named,
    /// URL of the camera: rtsp://…, rtsps://… or file:….
    #[arg(long)]
    url: String,
    #[command(flatten)]
    settings: Settings,
    /// Add the camera although it may not answer.
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
pub struct Update {
    #[command(flatten)]
    camera: Named,
    #[command(flatten)]
    settings: Settings,
    /// Remove a key, so that its default applies; may be repeated.
    #[arg(long, value_name = "KEY")]
    reset: Vec<String>,
}

#[derive(Args)]
pub struct Named {
    #[command(flatten)]
    client: Client,
    /// Name of the camera: letters, digits, `-` and `_`.
    name: String,
}

#[derive(Args)]
struct Settings {
    /// Set a key of the camera's table in the config; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, toml::Value)>,
}

impl Settings {
    fn to_toml(&self, url: Option<String>) -> String {
        let url = url.map(|url| ("url".to_owned(), toml::Value::String(url)));
        let keys: toml::Table = self.set.iter().cloned().chain(url).collect();
        keys.to_string()
    }
}

pub async fn camera(command: Camera, out: &mut dyn Write) -> Result<(), Failure> {
    let (Named { client, name }, edit) = match command {
        Camera::Add(Add { camera, url, settings, force }) => {
            (camera, CameraEdit::Add { settings: settings.to_toml(Some(url)), force })
        }
        Camera::Update(Update { camera, settings, reset }) => {
            (camera, CameraEdit::Update { settings: settings.to_toml(None), reset })
        }
        Camera::Pause(camera) => (camera, CameraEdit::Pause),
        Camera::Resume(camera) => (camera, CameraEdit::Resume),
        Camera::Remove(camera) => (camera, CameraEdit::Remove),
    };
    client::edit_camera(&client.server, name, edit, output(client.json), out).await?;
    Ok(())
}

/// Parses `KEY=VALUE`. A value that is not TOML is a text.
fn key_and_value(text: &str) -> Result<(String, toml::Value), String> {
    let (key, value) = text.split_once('=').ok_or("wanted KEY=VALUE")?;
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"));
    let parsed = parsed.ok().and_then(|mut table| table.remove("value"));
    Ok((key.trim().into(), parsed.unwrap_or_else(|| toml::Value::String(value.into()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_toml_or_a_text() {
        for (text, value) in [
            ("fps=2", toml::Value::Integer(2)),
            ("captions=false", toml::Value::Boolean(false)),
            ("window=10s", toml::Value::String("10s".into())),
            ("window=\"10s\"", toml::Value::String("10s".into())),
            ("caption_prompt=Is a = b?", toml::Value::String("Is a = b?".into())),
        ] {
            let (key, found) = key_and_value(text).expect(text);
            assert!(text.starts_with(&key) && found == value, "{text}: {found:?}");
        }
        assert!(key_and_value("fps").is_err());
    }
}
