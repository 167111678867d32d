//! `lookout demo`: everything at once on one machine, nothing of it pretended. Rendered cameras
//! over RTSP, a broker, the daemon as its own process, and a watcher that listens on both wires.

pub mod cameras;
pub mod children;
mod watcher;

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use cameras::CamerasOptions;
use children::Children;
use watcher::Watcher;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The cameras of the demo: clips and their truth, by name.
pub const CAMERAS: [&str; 3] = ["gate", "yard", "drive"];
/// The demo model's: it was trained on 16 frames of a window, 4 of them slow.
pub const PLAN: &str = "16:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x2";
const USUAL_PORT: u16 = 50051;
/// Reading the model and connecting take seconds; more is a failure.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Options {
    /// Ends by itself after so long ("60s"); otherwise by Ctrl-C.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    limit: Option<Duration>,
    /// One event a line, as JSON.
    #[arg(long)]
    json: bool,
    /// The folder with `package/` and `cameras/`; found by itself in a checkout.
    #[arg(long, value_name = "DIR")]
    assets: Option<PathBuf>,
    /// Where the daemon's gRPC listens; by default 50051, where `lookout ask` looks for it, or any
    /// free port if that is taken.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
}

#[derive(Args)]
pub struct CamerasArgs {
    /// A stream's name and its file: gate=clip.mp4 is rtsp://ADDRESS/gate.
    #[arg(required = true, value_name = "NAME=FILE", value_parser = name_and_file)]
    streams: Vec<(String, PathBuf)>,
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8554")]
    listen: SocketAddr,
    /// Asks for this user and password.
    #[arg(long, value_name = "USER:PASSWORD", value_parser = user_and_password)]
    credentials: Option<(String, String)>,
    /// Serves rtsps:// with this certificate.
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

fn name_and_file(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("wanted NAME=FILE")?;
    Ok((name.into(), file.into()))
}

fn user_and_password(text: &str) -> Result<(String, String), String> {
    let (user, password) = text.split_once(':').ok_or("wanted USER:PASSWORD")?;
    Ok((user.into(), password.into()))
}

/// `lookout demo-cameras`: prints `ready PORT`, then plays until its standard input ends.
pub fn serve(args: CamerasArgs) -> anyhow::Result<()> {
    let options = CamerasOptions {
        listen: args.listen,
        mounts: args.streams,
        credentials: args.credentials,
        tls: args.tls_cert.zip(args.tls_key),
    };
    let ready = |port: u16| {
        let mut out = io::stdout();
        let _ = writeln!(out, "ready {port}").and_then(|()| out.flush());
    };
    cameras::serve(options, ready, io::stdin().lock())?;
    Ok(())
}

pub async fn run(options: Options, out: &mut dyn Write) -> anyhow::Result<()> {
    let assets = assets(options.assets.as_deref())?;
    let folder = tempfile::Builder::new().prefix("lookout-demo-").tempdir()?;
    let mut children = Children::new(folder.path());
    let say = |words: &str| {
        if !options.json {
            let _ = writeln!(io::stderr(), "{words}");
        }
    };

    let rtsp = children.cameras(&assets, &CAMERAS).await?;
    say(&format!("cameras   rtsp://127.0.0.1:{rtsp}/  ({})", CAMERAS.join(", ")));
    let broker = free_port()?;
    children.broker(broker).await?;
    say(&format!("broker    mqtt://127.0.0.1:{broker}"));
    let grpc = match options.port {
        Some(port) => is_free(port).with_context(|| format!("port {port}"))?,
        None => is_free(USUAL_PORT).or_else(|_| free_port())?,
    };
    let http = free_port()?;
    let config = folder.path().join("lookout.toml");
    fs::write(&config, daemon_config(&assets, rtsp, broker, grpc, http))?;
    let server = format!("127.0.0.1:{grpc}");
    children.daemon(&config, &server, START_TIMEOUT).await?;
    say(&format!(
        "daemon    gRPC {server}, http://127.0.0.1:{http}/metrics, log {}",
        children.log("run")
    ));
    say("Captions come every 4 s a camera, each about the 8 s before it. Meanwhile, elsewhere:");
    say(&format!("          lookout ask gate \"Is there a person?\" --server {server}"));
    say(&format!("          mosquitto_sub -p {broker} -t 'lookout/#' -v"));

    let mut watcher =
        Watcher::start(&mut children, &server, broker, &assets, &CAMERAS, options.json)?;
    let ended = tokio::select! {
        watched = watcher.run(options.limit, out) => watched.map_err(anyhow::Error::from),
        gone = children.any_gone() => Err(gone),
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    say(&format!("{}; ending", watcher.summary()));
    children.stop().await;
    ended
}

/// Installed, or in the checkout that the program was built in, or in this folder's checkout.
pub fn assets(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let places = named.map_or_else(crate::assets::places, |folder| vec![folder.into()]);
    let whole =
        |folder: &&PathBuf| folder.join("package").is_dir() && folder.join("cameras").is_dir();
    let Some(found) = places.iter().find(whole) else {
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        bail!("no folder with package/ and cameras/ at {}; name it by --assets", places.join(", "));
    };
    found.canonicalize().context("assets")
}

/// A port that nobody has at the moment, below those that the kernel gives to whoever connects.
pub fn free_port() -> io::Result<u16> {
    let mut ports = (0..1000).map(|_| rand::random_range(20_000..32_000));
    ports.find_map(|port| is_free(port).ok()).ok_or(io::ErrorKind::AddrNotAvailable.into())
}

/// The port itself, if nobody has it.
fn is_free(port: u16) -> io::Result<u16> {
    TcpListener::bind((LOOPBACK, port)).map(|_| port)
}

fn daemon_config(assets: &Path, rtsp: u16, broker: u16, grpc: u16, http: u16) -> String {
    let package = assets.join("package");
    let mut config = format!(
        r#"[model]
package = {package:?}
plan = "{PLAN}"
device = "cpu"
[generate]
max_new_tokens = 64
summary = "list"
[grpc]
listen = "127.0.0.1:{grpc}"
[http]
listen = "127.0.0.1:{http}"
[mqtt]
broker = "mqtt://127.0.0.1:{broker}"
"#
    );
    for name in CAMERAS {
        config += &format!(
            r#"[[camera]]
name = "{name}"
url = "rtsp://127.0.0.1:{rtsp}/{name}"
fps = 2
window = "8s"
every = "4s"
"#
        );
    }
    config
}
