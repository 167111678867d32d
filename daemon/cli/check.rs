//! Implements `lookout check`: prints one line per item, with a fix for each failure.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::camera;
use crate::config::{self, Config, Language};
use crate::disk;
use crate::embedding::{SentenceModel, TextEmbedder};
use crate::event_store;
use crate::exit::Failure;
use crate::loaded::read_package;
use crate::masks::{self, Mask};
use crate::model::{Package, Runtime};
use crate::publish::{self, delivery};
use crate::tls::ServerTls;
use crate::workers::Workers;

/// Longest wait for a camera's first frame.
const CAMERA_TIMEOUT: Duration = Duration::from_secs(10);

const BROKER_TIMEOUT: Duration = Duration::from_secs(3);

/// One line of the output: the item, and what was found or what is wrong.
type Line = (String, Result<String, String>);

/// Checks everything that `run` needs. The exit code is 2 if a check fails.
pub fn check(file: &Path, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let config = match Config::read(file) {
        Ok(config) => config,
        Err(error) => {
            print(out, &("config".into(), Err(error.to_string())))?;
            return Ok(ExitCode::from(2));
        }
    };
    let found = format!("{}, {} cameras", file.display(), config.cameras.len());
    print(out, &("config".into(), Ok(found)))?;
    let checks = [
        check_tls,
        check_addresses,
        check_broker,
        check_targets,
        check_disk,
        check_journal,
        check_model,
        check_cameras,
    ];
    let mut passed = true;
    for check in checks {
        for line in check(&config) {
            passed &= line.1.is_ok();
            print(out, &line)?;
        }
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn print(out: &mut dyn Write, (item, result): &Line) -> io::Result<()> {
    match result {
        Ok(found) => writeln!(out, "ok    {item:<14}  {found}")?,
        Err(error) => writeln!(out, "FAIL  {item:<14}  {error}")?,
    }
    out.flush()
}

/// Checks that the certificate of gRPC and HTTP can be used and is valid.
fn check_tls(config: &Config) -> Vec<Line> {
    let Some(files) = &config.tls else { return Vec::new() };
    let result = ServerTls::load(files).and_then(|tls| match tls.trouble() {
        Some(trouble) => Err(trouble),
        None => Ok(format!("{}: {}", files.cert_file.display(), tls.describe())),
    });
    vec![("tls".into(), result)]
}

/// Checks that the addresses of gRPC and HTTP are free.
fn check_addresses(config: &Config) -> Vec<Line> {
    let interfaces = [("grpc", config.grpc), ("http", config.http)];
    let interfaces = interfaces.into_iter().filter_map(|(name, listen)| Some((name, listen?)));
    let check = |(name, listen): (&str, config::Listen)| {
        let config::Listen { addr, tls, lacks, .. } = listen;
        let bound = TcpListener::bind(addr);
        let protection = match lacks {
            Some(lacking) => format!(", INSECURE: without {lacking} ({name}.insecure = true)"),
            None if tls => ", with TLS".into(),
            None => String::new(),
        };
        let result = bound.map(|_| format!("{addr} is free{protection}"));
        (name.into(), result.map_err(|e| format!("{addr}: {e}; is lookout running already?")))
    };
    interfaces.map(check).collect()
}

/// Checks that the broker accepts a login with the configured password and certificates.
fn check_broker(config: &Config) -> Vec<Line> {
    let Some(mqtt) = &config.mqtt else { return Vec::new() };
    let address = format!("{}:{}", mqtt.host, mqtt.port);
    let result = match reach(&address) {
        Ok(()) => publish::mqtt::check(mqtt).map(|version| format!("{address}: {version}")),
        Err(e) => Err(format!("{e}; is the broker running?")),
    };
    vec![("mqtt".into(), result.map_err(|why| format!("{address}: {why}")))]
}

/// Checks the templates, secrets and certificates of the targets of alerts, and contacts none.
fn check_targets(config: &Config) -> Vec<Line> {
    let check = |target: &config::Target| {
        let endpoint = target.endpoint.to_string();
        let target = delivery::Target::new(target.clone());
        let checked = target.and_then(|target| target.check_files());
        checked.map(|()| format!("{endpoint}: not contacted"))
    };
    let line = |target: &config::Target| (format!("alerts {}", target.name), check(target));
    config.targets.iter().map(line).collect()
}

/// Checks that the folder of the disk tier can be used.
fn check_disk(config: &Config) -> Vec<Line> {
    let Some(config::Disk { folder, retention, bytes }) = &config.buffer.disk else {
        return Vec::new();
    };
    let bounds = disk::Bounds { retention: *retention, bytes: bytes.as_u64() };
    let result = disk::check(folder, bounds);
    vec![("disk".into(), result.map_err(|error| format!("{}: {error}", folder.display())))]
}

/// Checks that the folder of the journal can be used.
fn check_journal(config: &Config) -> Vec<Line> {
    let Some(config::Journal { folder, .. }) = &config.journal else {
        return Vec::new();
    };
    vec![("journal".into(), event_store::check(folder))]
}

/// Connects to every camera at the same time, so that ten dead cameras take as long as one.
fn check_cameras(config: &Config) -> Vec<Line> {
    if let Err(error) = camera::init() {
        return vec![("gstreamer".into(), Err(error.to_string()))];
    }
    thread::scope(|scope| {
        let probe = |camera| scope.spawn(move || check_camera(camera));
        let probes: Vec<_> = config.cameras.iter().map(probe).collect();
        let lines = config.cameras.iter().zip(probes).map(|(camera, probe)| {
            let result = probe.join().unwrap_or_else(|_| Err("the check panicked".into()));
            (format!("camera {}", camera.name), result)
        });
        lines.collect()
    })
}

/// Waits for a camera's first frame.
pub fn check_camera(camera: &config::Camera) -> Result<String, String> {
    let source = &camera.source;
    if camera.is_paused {
        return Ok(format!("{source}: paused, and not contacted"));
    }
    let probed =
        camera::probe(camera, CAMERA_TIMEOUT).map_err(|error| format!("{source}: {error}"))?;
    let camera::Probed { codec, decoder, width, height, first_frame_after } = probed;
    let after = first_frame_after.as_secs_f64();
    let masks = describe_masks(&camera.masks, width as usize, height as usize);
    Ok(format!(
        "{source}: {codec} {width}x{height} by {decoder}, first frame after {after:.1} s{masks}"
    ))
}

/// Describes how much of a camera's frames its masks hide. Warns of masks that hide nothing or all.
fn describe_masks(masks: &[Mask], width: usize, height: usize) -> String {
    if masks.is_empty() {
        return String::new();
    }
    let share = masks::share(masks, width, height);
    let warning = if share == 0.0 {
        "; WARNING: they hide nothing"
    } else if share == 1.0 {
        "; WARNING: they hide the whole frame"
    } else {
        ""
    };
    let scheduled = match masks.iter().filter(|mask| mask.has_schedule()).count() {
        0 => String::new(),
        scheduled => format!(" ({scheduled} with a schedule)"),
    };
    let (count, percent) = (masks.len(), 100.0 * share);
    format!(
        "; privacy masks: {count}{scheduled}, which hide {percent:.1} % of the frame, so alerts \
         have no clips{warning}"
    )
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

/// Loads the model and reports what runs it.
fn check_model(config: &Config) -> Vec<Line> {
    let model = match &config.language {
        Language::OpenAi(openai) => format!(
            "{}: language servers get at most {} frames of a window as JPEGs, which leave this \
             machine unless the servers run on it",
            openai.servers.model, openai.max_images
        ),
        Language::Onnxruntime | Language::Vllm(_) => match read_package(config) {
            Ok(package) => describe_package(config, &package),
            Err(error) => return vec![("model".into(), Err(error.to_string()))],
        },
    };
    let mut lines = vec![("model".into(), Ok(model))];
    let workers = match Workers::load(config) {
        Ok(workers) => workers,
        Err(error) => {
            let item = if config.language.is_in_this_process() { "onnxruntime" } else { "loading" };
            lines.push((item.into(), Err(error.to_string())));
            return lines;
        }
    };
    let mut device = workers.devices().device();
    if config.model.package.is_some() {
        let (vision, language) = (config.model.vision_threads, config.model.language_threads);
        device += &format!("; threads: vision {vision}, language {language}");
    }
    let reason = workers.devices().reason();
    if !reason.is_empty() {
        device += &format!("; {reason}");
    }
    let prompts = format!("by {}", workers.template);
    let onnxruntime = workers.runtime.as_ref().map(|runtime| runtime.file.display().to_string());
    let loaded = [
        ("onnxruntime", onnxruntime),
        ("device", Some(device)),
        ("prompts", Some(prompts)),
        ("memory", Some(workers.memory)),
    ];
    lines.extend(loaded.into_iter().filter_map(|(item, found)| Some((item.into(), Ok(found?)))));
    for (address, state) in workers.servers.iter().flat_map(|servers| servers.states()) {
        let about = |what| format!("{address}: {what}");
        lines.push(("language server".into(), state.map(about).map_err(about)));
    }
    lines.extend(workers.runtime.and_then(|runtime| check_search(config, &runtime)));
    lines
}

fn describe_package(config: &Config, package: &Package) -> String {
    let plan = &config.model.plan;
    let tokens = plan.video_tokens(plan.frames, package.vision.grid_tokens).unwrap_or(0);
    let (name, context) = (&package.name, package.text.context);
    format!("{name}: a window takes {tokens} tokens of a context of {context}")
}

/// Loads the model of the search by meaning, if the config has one.
fn check_search(config: &Config, runtime: &Runtime) -> Option<Line> {
    let config::Search { model, .. } = config.search.as_ref()?;
    let loaded = SentenceModel::load(runtime, model);
    let found = loaded
        .map(|loaded| format!("{}: vectors of {} numbers", model.display(), loaded.dimensions()));
    Some(("search".into(), found.map_err(|error| error.to_string())))
}
