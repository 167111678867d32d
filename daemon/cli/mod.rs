//! The command line: one file per subcommand that is longer than a few lines.

mod ask;
mod check;
mod model;
mod run;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::bench;
use crate::client::{self, OnEnd, Output};
use crate::event::EventKind;
use crate::exit::Failure;
use crate::logging;

/// Watch RTSP cameras and describe in text what happens.
#[derive(Parser)]
#[command(name = "lookout", version, max_term_width = 100)]
struct Cli {
    /// Log level for stderr: error, warn, info, debug or trace, or a filter as in RUST_LOG.
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon until SIGTERM or Ctrl-C; a second one ends it at once.
    Run(ConfigFile),
    /// Check the config, model, onnxruntime and every camera. Print one line per item, with a fix
    /// for each failure.
    Check(ConfigFile),
    /// Inspect a model package: contents, memory requirements, and any reason it cannot run.
    Model(model::ModelArgs),
    /// List the cameras of a running daemon and their state.
    Cameras(Client),
    /// Print captions, answers and camera state changes as they happen.
    Watch {
        #[command(flatten)]
        client: Client,
        /// Show only this camera; may be repeated.
        #[arg(long, value_name = "NAME")]
        camera: Vec<String>,
        /// Show only this kind; may be repeated.
        #[arg(long)]
        kind: Vec<EventKind>,
        /// Start at this event of the journal; 0: new events only.
        #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
        from: u64,
        /// The run of that event, as given in its JSON. Default: the daemon's current run.
        #[arg(long, requires = "from", default_value_t = 0, hide_default_value = true)]
        run: u64,
    },
    /// Ask about a camera's most recent window, or a range of time in its buffer:
    /// lookout ask gate "Did anyone come to the gate?" --last 10m
    Ask(ask::Ask),
    /// Save the JPEG of a frame that an event names.
    Frame {
        #[command(flatten)]
        client: Client,
        /// Name of the camera in the config.
        camera: String,
        /// Number of the frame, as in an event's `frames`.
        number: u64,
        /// The run in the event's `frames`. Needed for a frame from before the daemon's start.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        run: u64,
        /// Output file; `-` is standard output.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Run a complete demo with rendered cameras, a broker and a small model, on this machine
    /// alone.
    #[cfg(feature = "demo")]
    Demo(crate::demo::Options),
    /// Serve video files as RTSP cameras, as `demo` and the tests use them.
    #[cfg(feature = "demo")]
    DemoCameras(crate::demo::CamerasArgs),
    /// Run benchmarks. Without a subcommand: benchmark the model and compare the device's output
    /// with the CPU's.
    Bench(bench::Bench),
}

#[derive(Args)]
struct ConfigFile {
    /// Config file; configs/example.toml shows every key.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/lookout/lookout.toml")]
    config: PathBuf,
}

#[derive(Args)]
struct Client {
    /// Address of the daemon's gRPC server.
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:50051",
        env = "LOOKOUT_SERVER"
    )]
    server: String,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

impl Client {
    fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Text }
    }
}

pub fn main() -> ExitCode {
    // SAFETY: no thread has been started.
    unsafe { crate::model::no_telemetry() };
    let cli = Cli::parse();
    let done = logging::init(cli.log.as_deref())
        .map_err(|e| Failure::cannot_begin(anyhow::anyhow!(e)))
        .and_then(|()| obey(cli.command));
    match done {
        Ok(code) => code,
        Err(Failure { code, error }) => {
            // A closed stderr must not cause a panic on exit.
            let _ = writeln!(io::stderr(), "lookout: {error:#}");
            ExitCode::from(code)
        }
    }
}

fn obey(command: Command) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = obey_on(&runtime, command, &mut io::stdout());
    // A model that is still loading, or a name lookup in progress, must not delay the exit.
    runtime.shutdown_timeout(Duration::from_millis(100));
    done
}

fn obey_on(runtime: &Runtime, command: Command, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(file) => return runtime.block_on(run::run(&file.config)),
        Command::Check(file) => return check::check(&file.config, out),
        Command::Model(args) => return model::model(args, out),
        Command::Cameras(to) => {
            runtime.block_on(client::cameras(&to.server, to.output(), out))?;
        }
        Command::Watch { client: to, camera, kind, from, run } => {
            let (cameras, kinds) = (camera, kind);
            let filter = client::Filter { cameras, kinds, from_sequence: from, from_run: run };
            let watch = client::watch(&to.server, filter, to.output(), OnEnd::Reconnect, out);
            runtime.block_on(watch)?;
        }
        Command::Ask(args) => ask::ask(runtime, args, out)?,
        Command::Frame { client: to, camera, number, run, output } => {
            let frame = client::frame(&to.server, &camera, (run, number), &output, out);
            runtime.block_on(frame)?;
        }
        #[cfg(feature = "demo")]
        Command::Demo(options) => runtime.block_on(crate::demo::run(options, out))?,
        #[cfg(feature = "demo")]
        Command::DemoCameras(args) => crate::demo::serve(args)?,
        Command::Bench(bench) => return bench::run(bench, out),
    }
    Ok(ExitCode::SUCCESS)
}
