//! The command line: one subcommand a file, where it is more than a few lines.
//!
//! Exit codes: 0 done, 1 failed while running, 2 cannot begin (config, model, address).

mod ask;
mod bench;
mod check;
mod model;
mod run;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::runtime::Runtime;
use toml::{Table, Value};

use crate::client::{self, OnEnd, Output};
use crate::event::Kind;
use crate::telemetry;

/// Watches RTSP cameras and says in words what happens.
#[derive(Parser)]
#[command(name = "lookout", version, max_term_width = 100)]
struct Cli {
    /// How much to say on stderr: error, warn, info, debug or trace, or a filter as in RUST_LOG.
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the daemon until SIGTERM or Ctrl-C; a second one ends it at once.
    Run(ConfigFile),
    /// Tries the config, the model, onnxruntime and every camera, a line each, with the mend.
    Check(ConfigFile),
    /// Says what a model package holds, what it takes to run it, and why it cannot be run, if so.
    Model(model::ModelArgs),
    /// Lists the cameras of a running daemon and how they are.
    Cameras(Client),
    /// Prints captions, answers and changes of cameras as they happen.
    Watch {
        #[command(flatten)]
        client: Client,
        /// Only this camera; may be given again.
        #[arg(long, value_name = "NAME")]
        camera: Vec<String>,
        /// Only this kind; may be given again.
        #[arg(long)]
        kind: Vec<Kind>,
        /// From this event of the journal on, not only new ones.
        #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
        from: u64,
        /// The run of that event, as its JSON has it; the daemon's own by default.
        #[arg(long, requires = "from", default_value_t = 0, hide_default_value = true)]
        run: u64,
    },
    /// Asks about a camera's most recent window, or a range of time that its buffer holds:
    /// lookout ask gate "Did anyone come to the gate?" --last 10m
    Ask(ask::Ask),
    /// Saves the JPEG of a frame that an event names.
    Frame {
        #[command(flatten)]
        client: Client,
        /// Its name in the config.
        camera: String,
        /// As in an event's `frames`.
        number: u64,
        /// Of a frame from before the daemon's start: the run in the event's `frames`.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        run: u64,
        /// The file; `-` is standard output.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Shows it all with rendered cameras, a broker and a small model, on this machine alone.
    #[cfg(feature = "demo")]
    Demo(crate::demo::Options),
    /// Serves video files as RTSP cameras: what `demo` and the tests watch.
    #[cfg(feature = "demo")]
    DemoCameras(crate::demo::CamerasArgs),
    /// Measures: by itself the model, and whether a device says what the CPU says.
    Bench(bench::Bench),
}

#[derive(Args)]
struct ConfigFile {
    /// configs/example.toml shows every key.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/lookout/lookout.toml")]
    config: PathBuf,
}

#[derive(Args)]
struct Client {
    /// Where the daemon's gRPC listens.
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:50051",
        env = "LOOKOUT_SERVER"
    )]
    server: String,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Client {
    fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Text }
    }
}

/// `q4`, or `vision=int8,embed=fp16,decoder=q4`: as the config has it.
fn precision(text: &str) -> Result<Value, String> {
    if !text.contains('=') {
        return Ok(text.into());
    }
    let pair = |pair: &str| {
        let (graph, suffix) = pair.split_once('=').ok_or("wanted GRAPH=SUFFIX,…")?;
        Ok((graph.to_string(), Value::from(suffix)))
    };
    text.split(',').map(pair).collect::<Result<Table, String>>().map(Value::Table)
}

/// Why the program ends early, and with which exit code.
pub struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl Failure {
    fn cannot_begin(error: impl Into<anyhow::Error>) -> Failure {
        Failure { code: 2, error: error.into() }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure { code: 1, error: error.into() }
    }
}

pub fn main() -> ExitCode {
    // SAFETY: no thread has been started.
    unsafe { crate::model::no_telemetry() };
    let cli = Cli::parse();
    let done = telemetry::init_log(cli.log.as_deref())
        .map_err(|e| Failure::cannot_begin(anyhow::anyhow!(e)))
        .and_then(|()| obey(cli.command));
    match done {
        Ok(code) => code,
        Err(Failure { code, error }) => {
            // A closed stderr is no reason to panic on the way out.
            let _ = writeln!(io::stderr(), "lookout: {error:#}");
            ExitCode::from(code)
        }
    }
}

fn obey(command: Command) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = obey_on(&runtime, command, &mut io::stdout());
    // A model that is still being loaded, or a name that is looked up, must not hold up the end.
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
