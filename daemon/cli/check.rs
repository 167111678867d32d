//! Implements `lookout check`: prints one line per item, with a fix for each failure.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::camera;
use crate::config::{self, Config};
use crate::disk;
use crate::exit::Failure;
use crate::model::{ModelError, Package};
use crate::workers::Workers;

/// Longest wait for a camera's first frame.
const CAMERA_TIMEOUT: Duration = Duration::from_secs(10);

const BROKER_TIMEOUT: Duration = Duration::from_secs(3);

pub fn check(file: &Path, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let config = match Config::read(file) {
        Ok(config) => config,
        Err(error) => {
            line(out, false, "config", &error.to_string())?;
            return Ok(ExitCode::from(2));
        }
    };
    line(out, true, "config", &format!("{}, {} cameras", file.display(), config.cameras.len()))?;
    let mut well = true;
    for (what, listen) in [("grpc", config.grpc), ("http", config.http)] {
        let Some(config::Listen { addr, .. }) = listen else { continue };
        match TcpListener::bind(addr) {
            Ok(_) => line(out, true, what, &format!("{addr} is free"))?,
            Err(e) => {
                well = false;
                line(out, false, what, &format!("{addr}: {e}; is lookout running already?"))?;
            }
        }
    }
    if let Some(mqtt) = &config.mqtt {
        let address = format!("{}:{}", mqtt.host, mqtt.port);
        match reach(&address) {
            Ok(()) => line(out, true, "mqtt", &format!("{address} answers"))?,
            Err(e) => {
                well = false;
                line(out, false, "mqtt", &format!("{address}: {e}; is the broker running?"))?;
            }
        }
    }
    if let Some(config::Disk { folder, retention, bytes }) = config.buffer.disk.clone() {
        let bounds = disk::Bounds { retention, bytes: bytes.as_u64() };
        let checked = disk::check(&folder, bounds);
        well &= checked.is_ok();
        match checked {
            Ok(words) => line(out, true, "disk", &words)?,
            Err(error) => line(out, false, "disk", &format!("{}: {error}", folder.display()))?,
        }
    }
    for (what, checked) in check_model(&config) {
        well &= checked.is_ok();
        match checked {
            Ok(words) => line(out, true, what, &words)?,
            Err(error) => line(out, false, what, &error.to_string())?,
        }
    }
    if let Err(error) = camera::init() {
        line(out, false, "gstreamer", &error.to_string())?;
        return Ok(ExitCode::from(2));
    }
    // The probes run in parallel: ten dead cameras take as long as one.
    let probes: Vec<_> = config
        .cameras
        .into_iter()
        .map(|camera| {
            std::thread::spawn(move || {
                let probed = camera::probe(&camera, CAMERA_TIMEOUT);
                (camera, probed)
            })
        })
        .collect();
    for probe in probes {
        let Ok((camera, probed)) = probe.join() else { continue };
        let what = format!("camera {}", camera.name);
        match probed {
            Ok(seen) => {
                let (after, source) = (seen.first_frame_after.as_secs_f64(), &camera.source);
                let (codec, decoder) = (&seen.codec, &seen.decoder);
                let words = format!(
                    "{source}: {codec} {}x{} by {decoder}, first picture after {after:.1} s",
                    seen.width, seen.height
                );
                line(out, true, &what, &words)?;
            }
            Err(error) => {
                well = false;
                line(out, false, &what, &format!("{}: {error}", camera.source))?;
            }
        }
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// Checks that a server accepts connections at this address.
fn reach(address: &str) -> io::Result<()> {
    let mut error = io::Error::from(io::ErrorKind::NotFound);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, BROKER_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(e) => error = e,
        }
    }
    Err(error)
}

fn line(out: &mut dyn Write, well: bool, what: &str, words: &str) -> io::Result<()> {
    let mark = if well { "ok  " } else { "FAIL" };
    writeln!(out, "{mark}  {what:<14}  {words}")?;
    out.flush()
}

/// Returns the lines about the package and about what runs it.
fn check_model(config: &Config) -> Vec<(&'static str, Result<String, ModelError>)> {
    let package = Package::read(&config.model.package, &config.model.precision).map(|package| {
        let plan = &config.model.plan;
        let tokens = plan.video_tokens(plan.frames, package.vision.grid_tokens).unwrap_or(0);
        let (name, context) = (&package.name, package.text.context);
        format!("{name}: a window takes {tokens} tokens of a context of {context}")
    });
    if package.is_err() {
        return vec![("model", package)];
    }
    let workers = match Workers::load(config) {
        Ok(workers) => workers,
        Err(error) => return vec![("model", package), ("onnxruntime", Err(error))],
    };
    let (vision, language) = (config.model.vision_threads, config.model.language_threads);
    let mut device = format!("{}; threads: vision {vision}, language {language}", workers.device());
    if !workers.device_reason().is_empty() {
        device += &format!("; {}", workers.device_reason());
    }
    let prompts = format!("by {}", workers.template());
    vec![
        ("model", package),
        ("onnxruntime", Ok(workers.onnxruntime)),
        ("device", Ok(device)),
        ("prompts", Ok(prompts)),
        ("memory", Ok(workers.memory)),
    ]
}
