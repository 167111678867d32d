//! Implements `lookout discover`: finds ONVIF cameras, chooses a profile of each, tests it, and
//! prints the `[[camera]]` tables, or adds a camera to the running daemon.

mod report;

use std::collections::HashSet;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use toml::Table;
use url::Url;

use super::check::check_camera;
use super::output;
use super::server::Server;
use crate::camera;
use crate::client;
use crate::config::{self, Config, DEFAULT_FPS, Language, masked};
use crate::exit::Failure;
use crate::model::Package;
use crate::onvif::{self, Credentials, Device, Found};
use crate::service::CameraEdit;
use report::{Chosen, Report};

/// Maximum time for a device's description, over all its requests.
const DESCRIPTION: Duration = Duration::from_secs(30);

/// Number of devices that are read and tested at a time.
const AT_A_TIME: usize = 8;

/// Side of the model's input in pixels if neither a config nor a package is named: that of most
/// LLaVA models.
const IMAGE_SIZE: usize = 336;

#[derive(Args)]
pub struct Discover {
    /// Ask this device instead of all devices of the local networks; may be repeated.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = host)]
    host: Vec<Host>,
    /// Search on the interface with this IPv4 address only; may be repeated.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "host")]
    interface: Vec<Ipv4Addr>,
    /// Time to wait for the devices' answers.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// User of the cameras. The password is asked for.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// File with the password, instead of asking for it.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Frames sampled per second, as `fps` in a config.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FPS)]
    fps: f64,
    /// Config whose model's input a profile must fill. Names of its cameras are not used again.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Model package whose input a profile must fill. Default: 336 pixels.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    package: Option<PathBuf>,
    /// Print one JSON object per device.
    #[arg(long)]
    json: bool,
    /// Add the camera to the running daemon under this name. It must be the only one that works.
    #[arg(long, value_name = "NAME", value_parser = camera_name)]
    add: Option<String>,
    #[command(flatten)]
    server: Server,
}

#[derive(Clone)]
struct Host {
    name: String,
    port: u16,
}

/// The requirements on a stream, and the user who may see it.
struct Wanted {
    side: usize,
    fps: f64,
    credentials: Option<Credentials>,
    password_file: Option<PathBuf>,
}

pub async fn discover(args: Discover, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let config = args.config.as_deref().map(Config::read).transpose();
    let config = config.map_err(Failure::cannot_begin)?;
    let side = image_size(config.as_ref(), args.package).map_err(Failure::cannot_begin)?;
    let wanted = Wanted {
        side,
        fps: args.fps,
        credentials: credentials(args.user, args.password_file.clone())
            .map_err(Failure::cannot_begin)?,
        password_file: args.password_file,
    };
    let wanted = Arc::new(wanted);
    camera::init().map_err(Failure::cannot_begin)?;
    let found = if args.host.is_empty() {
        search(args.interface, args.wait).await?
    } else {
        named(&args.host).await?
    };
    let mut names: HashSet<String> = HashSet::from(["available".into()]);
    names.extend(config.iter().flat_map(|config| &config.cameras).map(|c| c.name.to_string()));
    let mut working = Vec::new();
    for report in reports(found, wanted.clone()).await {
        let mut report = report.with_name(&mut names);
        if let Some(name) = &args.add {
            report.name.clone_from(name);
        }
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&report)?)?;
        } else {
            report.print(out)?;
        }
        working.extend(report.chosen.filter(|chosen| chosen.tested.is_some()));
    }
    let Some(name) = args.add else {
        return Ok(if working.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    };
    let [chosen] = &working[..] else {
        let count = working.len();
        let why = anyhow!("--add: {count} cameras work: wanted one; pass --host ADDRESS");
        return Err(why.into());
    };
    let settings = keys_of(chosen, &wanted).to_string();
    let edit = CameraEdit::Add { settings, force: false };
    client::edit_camera(&args.server, name, edit, output(args.json), out).await?;
    Ok(ExitCode::SUCCESS)
}

fn camera_name(text: &str) -> Result<String, String> {
    config::drop_in::check_name(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn host(text: &str) -> Result<Host, String> {
    let wanted = || format!("{text:?}: wanted ADDRESS or ADDRESS:PORT, such as 192.168.1.64:80");
    let url = Url::parse(&format!("http://{text}")).map_err(|_| wanted())?;
    let is_plain = url.path() == "/" && url.query().is_none() && url.username().is_empty();
    let name =
        url.host_str().filter(|_| is_plain && url.fragment().is_none()).ok_or_else(wanted)?;
    Ok(Host { name: name.into(), port: url.port_or_known_default().ok_or_else(wanted)? })
}

/// Returns the number of pixels that a stream's shorter side needs for the model.
fn image_size(config: Option<&Config>, package: Option<PathBuf>) -> anyhow::Result<usize> {
    let model = match (config, package) {
        // Servers get frames of this width, most of which are 16:9.
        (Some(Config { language: Language::OpenAi(_), buffer, .. }), _) => {
            return Ok(buffer.jpeg_width as usize * 9 / 16);
        }
        (Some(config), _) => config.model.clone(),
        (None, Some(folder)) => {
            let folder = folder.display().to_string();
            config::Model::of(Table::from_iter([("package".to_string(), folder.into())]))?
        }
        (None, None) => return Ok(IMAGE_SIZE),
    };
    Ok(Package::of(&model)?.vision.image_size)
}

fn credentials(user: Option<String>, file: Option<PathBuf>) -> anyhow::Result<Option<Credentials>> {
    let Some(username) = user else { return Ok(None) };
    let password = match file {
        Some(file) => config::Secret::File(file).read()?,
        None => rpassword::prompt_password(format!("Password of {username}: "))
            .context("no terminal to ask for the password: pass --password-file")?,
    };
    Ok(Some(Credentials { username, password }))
}

/// Searches the local networks.
async fn search(interfaces: Vec<Ipv4Addr>, wait: Duration) -> anyhow::Result<Vec<Found>> {
    let interfaces = if interfaces.is_empty() {
        onvif::interfaces().context("the interfaces of this machine")?
    } else {
        interfaces
    };
    let names: Vec<String> = interfaces.iter().map(|address| address.to_string()).collect();
    let names = names.join(", ");
    let found = onvif::discover(&interfaces, wait).await;
    let found = found.with_context(|| format!("a multicast from {names}"))?;
    if found.is_empty() {
        return Err(anyhow!(
            "no ONVIF camera answered within {} on the interfaces {names}. Is ONVIF switched on in \
             the cameras, and are they in the same network? Else pass --host ADDRESS",
            humantime::format_duration(wait)
        ));
    }
    Ok(found)
}

/// Returns the devices that the user named.
async fn named(hosts: &[Host]) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for Host { name, port } in hosts {
        let plain = name.trim_matches(['[', ']']);
        let mut addresses = lookup_host((plain, *port)).await.with_context(|| name.clone())?;
        let address = addresses.next().with_context(|| format!("{name}: no host has this name"))?;
        found.push(Found::at(name, address));
    }
    Ok(found)
}

/// Reads and tests all devices. The reports are in the order of the devices.
async fn reports(found: Vec<Found>, wanted: Arc<Wanted>) -> Vec<Report> {
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    let mut tasks = JoinSet::new();
    for (at, found) in found.into_iter().enumerate() {
        let (turns, wanted) = (turns.clone(), wanted.clone());
        tasks.spawn(async move {
            let _turn = turns.acquire().await;
            (at, report(found, &wanted).await)
        });
    }
    let mut reports = tasks.join_all().await;
    reports.sort_by_key(|(at, _)| *at);
    reports.into_iter().map(|(_, report)| report).collect()
}

/// Reads a device's description, chooses a profile and tests it.
async fn report(found: Found, wanted: &Wanted) -> Report {
    let mut report = Report::of(&found);
    match timeout(DESCRIPTION, describe(&found, wanted, &mut report)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report.error = Some(error.to_string()),
        Err(_) => {
            let seconds = DESCRIPTION.as_secs();
            report.error = Some(format!("its description is not complete after {seconds} s"));
        }
    }
    let Some(chosen) = &mut report.chosen else { return report };
    let tested = match camera_of(chosen, wanted) {
        // A test takes as long as a camera needs for its first frame.
        Ok(camera) => spawn_blocking(move || check_camera(&camera)).await,
        Err(error) => Ok(Err(error)),
    };
    match tested.unwrap_or_else(|_| Err("the test panicked".into())) {
        Ok(found) => chosen.tested = Some(found),
        Err(error) => report.error = Some(error),
    }
    report
}

async fn describe(
    found: &Found,
    wanted: &Wanted,
    report: &mut Report,
) -> Result<(), onvif::OnvifError> {
    let mut device = Device::read(found, wanted.credentials.clone()).await?;
    report.information = Some(device.information.clone());
    report.profiles = device.profiles.clone();
    let chosen = onvif::choose(&device.profiles, wanted.side, wanted.fps);
    let chosen = chosen.ok_or(onvif::OnvifError::Missing("no profile has a codec that plays"))?;
    let (profile, reason) = chosen;
    let url = device.stream(&report.profiles[profile]).await?;
    let username = wanted.credentials.as_ref().map(|credentials| credentials.username.clone());
    let password_file = wanted.password_file.as_deref().map(|file| {
        std::path::absolute(file).unwrap_or_else(|_| file.into()).display().to_string()
    });
    let is_secret = masked(url.as_str()) != url.as_str();
    report.chosen = Some(Chosen {
        profile,
        reason,
        url,
        is_secret,
        username,
        password_file,
        fps: wanted.fps,
        tested: None,
    });
    Ok(())
}

/// Returns the camera as the config would have it.
fn camera_of(chosen: &Chosen, wanted: &Wanted) -> Result<config::Camera, String> {
    let mut keys = keys_of(chosen, wanted);
    keys.insert("name".into(), "discovered".into());
    config::Camera::of(keys).map_err(|error| error.to_string())
}

/// Returns the keys of a camera, with its user and its password.
fn keys_of(chosen: &Chosen, wanted: &Wanted) -> Table {
    let mut url = chosen.url.clone();
    if let Some(Credentials { username, password }) = &wanted.credentials {
        // Neither fails, because the URL has a host.
        let _ = url.set_username(&escaped(username));
        let _ = url.set_password(Some(&escaped(password)));
    }
    Table::from_iter([
        ("url".to_string(), url.to_string().into()),
        ("fps".into(), wanted.fps.into()),
    ])
}

fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        let read = |text| host(text).map(|host| (host.name, host.port));
        for (text, name, port) in [
            ("192.168.1.64", "192.168.1.64", 80),
            ("cam.local:8000", "cam.local", 8000),
            ("[fd00::1]:81", "[fd00::1]", 81),
        ] {
            assert_eq!(read(text), Ok((name.into(), port)));
        }
        for text in ["", "http://cam", "cam/path", "cam:99999", "admin@cam", "cam?x", "cam#x"] {
            let error = read(text).expect_err(text);
            assert!(error.contains("wanted ADDRESS or ADDRESS:PORT"), "{error}");
        }
    }
}
