//! Implements `lookout demo`: the complete system on one machine, without mocks. Runs rendered
//! cameras over RTSP, a broker, the daemon in its own process, and a watcher that reads gRPC and
//! MQTT and knows what the cameras showed.

pub mod cameras;
pub mod children;
pub mod score;
mod watcher;

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;

use cameras::CamerasOptions;
use children::Children;
use score::Score;
use watcher::{Manner, Watcher};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Names of the demo's cameras, each with a clip and its truth.
pub const CAMERAS: [&str; 3] = ["gate", "yard", "drive"];
const USUAL_PORT: u16 = 50051;
/// Longest time for the start. Reading the model and connecting take seconds; more is a failure.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Options {
    /// End after this much time ("60s"). Default: run until Ctrl-C.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    limit: Option<Duration>,
    /// Print one event per line, as JSON.
    #[arg(long)]
    json: bool,
    /// Ask many more questions, and print every mistake and a table of the results at the end.
    #[arg(long)]
    score: bool,
    /// Folder with `package/` and `cameras/`; found automatically in a checkout.
    #[arg(long, value_name = "DIR")]
    assets: Option<PathBuf>,
    /// Folder with the clips, each NAME.mp4 with its NAME.json. Default: `cameras/` of the assets.
    #[arg(long, value_name = "DIR")]
    clips: Option<PathBuf>,
    /// Port of the daemon's gRPC server. Default: 50051, which `lookout ask` uses, or any free port
    /// if that is taken.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
}

#[derive(Args)]
pub struct CamerasArgs {
    /// Name and file of each stream: gate=clip.mp4 is rtsp://ADDRESS/gate.
    #[arg(required = true, value_name = "NAME=FILE", value_parser = name_and_file)]
    streams: Vec<(String, PathBuf)>,
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8554")]
    listen: SocketAddr,
    /// Require this user and password.
    #[arg(long, value_name = "USER:PASSWORD", value_parser = user_and_password)]
    credentials: Option<(String, String)>,
    /// Serve rtsps:// with this certificate.
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

/// Implements `lookout demo-cameras`: prints `ready PORT`, then plays until its standard input
/// ends.
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
    let clips = options.clips.unwrap_or_else(|| assets.join("cameras"));
    let cameras = clips_in(&clips)?;
    let folder = tempfile::Builder::new().prefix("lookout-demo-").tempdir()?;
    let mut children = Children::new(folder.path());
    let say = |words: &str| {
        if !options.json {
            let _ = writeln!(io::stderr(), "{words}");
        }
    };

    let rtsp = children.cameras(&clips, &cameras).await?;
    say(&format!("cameras   rtsp://127.0.0.1:{rtsp}/  ({})", cameras.join(", ")));
    let broker = free_port()?;
    children.broker(broker).await?;
    say(&format!("broker    mqtt://127.0.0.1:{broker}"));
    let grpc = match options.port {
        Some(port) => is_free(port).with_context(|| format!("port {port}"))?,
        None => is_free(USUAL_PORT).or_else(|_| free_port())?,
    };
    let http = free_port()?;
    let config = folder.path().join("lookout.toml");
    let ports = Ports { rtsp, broker, grpc, http };
    let mut text = daemon_config(&assets, &cameras, ports) + &journal_config(folder.path());
    let embedding_model = crate::assets::embedding_model();
    if let Some(model) = &embedding_model {
        text += &format!("[search]\nmodel = {model:?}\n");
    }
    fs::write(&config, text)?;
    let server = format!("127.0.0.1:{grpc}");
    children.daemon(&config, &server, START_TIMEOUT).await?;
    say(&format!("daemon    gRPC {server}, log {}", children.log("run")));
    say(&format!("page      http://127.0.0.1:{http}/ (open it in a browser)"));
    say("Captions come every 4 s a camera, each about the 8 s before it. In another terminal:");
    say(&format!("          lookout ask {} \"Is there a person?\" --server {server}", cameras[0]));
    let query = match embedding_model {
        Some(_) => "somebody in crimson clothing",
        None => "person red",
    };
    say(&format!("          lookout search \"{query}\" --server {server}"));
    say(&format!("          mosquitto_sub -p {broker} -t 'lookout/#' -v"));

    let score = Score::of_clips(&clips, &cameras)?;
    let manner = match (options.json, options.score) {
        (true, _) => Manner::Json,
        (false, true) => Manner::Score,
        (false, false) => Manner::Show,
    };
    let mut watcher = Watcher::start(&mut children, &server, broker, cameras, score, manner)?;
    let ended = tokio::select! {
        watched = watcher.run(options.limit, out) => watched.map_err(anyhow::Error::from),
        gone = children.any_gone() => Err(gone),
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    say(&format!("{}; ending", watcher.summary()));
    children.stop().await;
    if options.score {
        watcher.report(out)?;
    }
    ended
}

/// Returns the folder of the demo's assets: the one named, or the first complete one of
/// `assets::places`.
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

/// Returns a port that is free at the moment, below the kernel's range for outgoing connections.
pub fn free_port() -> io::Result<u16> {
    let mut ports = (0..1000).map(|_| rand::random_range(20_000..32_000));
    ports.find_map(|port| is_free(port).ok()).ok_or(io::ErrorKind::AddrNotAvailable.into())
}

/// Returns the port itself if it is free.
fn is_free(port: u16) -> io::Result<u16> {
    TcpListener::bind((LOOPBACK, port)).map(|_| port)
}

/// Returns the names of a folder's clips, sorted.
fn clips_in(folder: &Path) -> anyhow::Result<Vec<String>> {
    let files = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut names = Vec::new();
    for file in files {
        let file = file?.path();
        if file.extension().is_some_and(|e| e == "json") && file.with_extension("mp4").exists() {
            names.extend(file.file_stem().and_then(|stem| stem.to_str()).map(String::from));
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "{}: no NAME.mp4 with a NAME.json", folder.display());
    Ok(names)
}

struct Ports {
    rtsp: u16,
    broker: u16,
    grpc: u16,
    http: u16,
}

/// Returns the table of a journal on disk, which a search needs.
fn journal_config(folder: &Path) -> String {
    format!("[journal]\nfolder = {:?}\nbytes = \"1GiB\"\n", folder.join("journal"))
}

fn daemon_config(assets: &Path, cameras: &[String], ports: Ports) -> String {
    let (package, plan) = (assets.join("package"), crate::assets::PLAN);
    let Ports { rtsp, broker, grpc, http } = ports;
    let mut config = format!(
        r#"[model]
package = {package:?}
plan = "{plan}"
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
    for name in cameras {
        config += &format!(
            r#"[[camera]]
name = "{name}"
url = "rtsp://127.0.0.1:{rtsp}/{name}"
fps = 2
window = "8s"
caption_interval = "4s"
"#
        );
    }
    config
}
