//! The command line: one file per subcommand that is longer than a few lines.

mod ask;
mod camera;
mod check;
mod discover;
mod events;
mod fetch;
mod generate;
mod inspect;
mod journal;
mod rule;
mod run;
mod server;
mod stop;
mod test_alert;
mod token;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::allocator;
use crate::bench;
use crate::client::{self, Output};
use crate::event::EventKind;
use crate::exit::Failure;
use crate::logging::{self, Log};
use crate::mcp_stdio;

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
    /// Run the daemon.
    ///
    /// SIGTERM or Ctrl-C stops it after the work in progress; a second one stops it at once.
    Run(ConfigFile),
    /// Check the config, model, onnxruntime and every camera.
    ///
    /// Prints one line per item, with a fix for each failure. The exit code is 2 if an item fails.
    Check(ConfigFile),
    /// Find the ONVIF cameras of the local networks, and print their `[[camera]]` tables.
    ///
    /// Chooses the smallest profile of each camera that fills the model's input and waits for one
    /// frame of it. The output is TOML in which all else is a comment. Each device that answers
    /// receives the user and a digest of the password. The exit code is 1 if no camera works.
    ///
    /// Example: lookout discover --user viewer --password-file camera.password
    Discover(discover::Discover),
    /// Send a test alert to a webhook or ntfy target of the config.
    ///
    /// Its rule and its camera are named `test`. The daemon need not run.
    ///
    /// Example: lookout test-alert phone --config lookout.toml
    TestAlert(test_alert::TestAlert),
    /// Make, list and revoke the tokens of clients.
    #[command(subcommand)]
    Token(token::Token),
    /// Inspect a model package: contents, memory requirements, and any reason it cannot run.
    Inspect(inspect::Inspect),
    /// Download a model package from a hub, such as huggingface.co, and inspect it.
    ///
    /// The package is a repository with ONNX graphs: config.json, tokenizer.json, onnx/. Its licence
    /// and its size are printed first. An interrupted download continues, and every file is compared
    /// with the hash that the hub states. HF_TOKEN or `hf auth login` opens gated repositories.
    /// The exit code is 1 if the hub cannot be used, and 2 if the package is not there or cannot run.
    ///
    /// Example: lookout fetch my-team/llava-onnx models/llava --precision q4
    Fetch(fetch::Fetch),
    /// Let a running daemon read its config again, and print what changed.
    ///
    /// Keys that need a restart keep their values and are named. If the config is not valid, nothing
    /// changes, and the exit code is 1. SIGHUP and `systemctl reload lookout` do the same, and the
    /// log has the result.
    Reload(Client),
    /// Add, change, pause or remove a camera of a running daemon.
    #[command(subcommand)]
    Camera(camera::Camera),
    /// List the cameras of a running daemon and their state.
    Cameras(Client),
    /// Show a running daemon in the terminal: cameras, captions, rules, the model's speed.
    ///
    /// `?` lists the keys. If the output is not a terminal, one view is printed as text.
    Top(Top),
    /// List the rules of a running daemon: state, last score, alerts of today.
    Rules(Client),
    /// Try a rule before it is armed.
    #[command(subcommand)]
    Rule(rule::Rule),
    /// Acknowledge an alert.
    ///
    /// Example: lookout ack 019adf2e-6c1b-7d0a-9d7e-0a4d2f3b5c61 --false
    Ack(Ack),
    /// Print captions, answers, alerts and camera state changes as they happen, until Ctrl-C.
    ///
    /// `--server a:50051,b:50051` shows several daemons as one source: each line begins with the
    /// daemon's address, and JSON has it as `daemon`.
    Watch(Watch),
    /// List the events that the daemon's journal holds.
    Events(events::Events),
    /// Search the captions and answers of the journal for words.
    ///
    /// Example: lookout search "red car" --last 24h
    Search(events::Search),
    /// Mark an event as kept: it stays in the journal, whatever its age.
    ///
    /// Example: lookout keep 1234
    Keep(journal::Keep),
    /// Delete the events about a span of time, with their frames, and the frames of the buffer.
    ///
    /// Captions and answers are deleted whose window overlaps the span, and the frames that were
    /// taken in it. Nothing of them is left in the files. What clients and the broker have received
    /// stays.
    ///
    /// Example: lookout delete --from 2026-03-01T14:05:00Z --to 2026-03-01T14:10:00Z --camera gate
    Delete(journal::Delete),
    /// Export events with their frames to one ZIP file.
    ///
    /// events.jsonl has the JSON of each event, the newest first; frames/ has the JPEGs. After
    /// unpacking, `sha256sum -c SHA256SUMS` checks all files.
    ///
    /// Example: lookout export gate.zip --last 24h --camera gate
    Export(journal::Export),
    /// Ask about a camera's most recent window, or a range of time in its buffer.
    ///
    /// Example: lookout ask gate "Did anyone come to the gate?" --last 10m
    Ask(ask::Ask),
    /// Save the JPEGs of all frames of an event.
    ///
    /// Example: lookout frames 1234 --into frames
    Frames(journal::Frames),
    /// Save the clip of an alert: the camera's video around it, as MP4.
    ///
    /// The rule must have clip = "alert". Any event of the alert names it.
    ///
    /// Example: lookout clip 1234 -o alert.mp4
    Clip(journal::Clip),
    /// Save the JPEG of a frame that an event names.
    Frame(Frame),
    /// Connect an MCP client that starts programs, such as a desktop assistant, with the daemon.
    ///
    /// Passes messages between standard input and output and the daemon's /mcp.
    Mcp(Mcp),
    /// Run a complete demo on this machine: rendered cameras, a broker and a small model.
    #[cfg(feature = "demo")]
    Demo(crate::demo::Options),
    /// Serve video files as RTSP cameras, as `demo` and the tests use them.
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    DemoCameras(crate::demo::CamerasArgs),
    /// Run a benchmark.
    Bench(bench::Bench),
    /// Write the manual pages, or the completions of shells, to a folder.
    #[command(hide = true)]
    Generate(generate::Generate),
}

#[derive(Args)]
struct Top {
    #[command(flatten)]
    client: Client,
    /// Print one view as text.
    #[arg(long)]
    once: bool,
}

#[derive(Args)]
struct Watch {
    #[command(flatten)]
    client: Client,
    /// Show only this camera; may be repeated.
    #[arg(long, value_name = "NAME")]
    camera: Vec<String>,
    /// Show only events of this kind; may be repeated.
    #[arg(long)]
    kind: Vec<EventKind>,
    /// Start at the event with this sequence number. Default: new events only.
    ///
    /// 0 is the oldest event that the daemon has.
    #[arg(long, value_name = "SEQUENCE")]
    from_sequence: Option<u64>,
    /// The run of that event, as given in its JSON. Default: the daemon's current run.
    #[arg(long, requires = "from_sequence")]
    run: Option<u64>,
    /// Start at the first event from this time on, such as 2026-03-01T14:05:00Z, or from this long
    /// ago, such as 2h.
    #[arg(long, value_name = "TIME", conflicts_with = "from_sequence", value_parser = crate::moment::parse)]
    since: Option<SystemTime>,
}

#[derive(Args)]
struct Ack {
    #[command(flatten)]
    client: Client,
    /// ID of the alert, as `lookout watch` and `lookout events --kind alert` print it.
    alert: String,
    /// Mark the alert as a false alarm.
    #[arg(long = "false")]
    false_alarm: bool,
}

#[derive(Args)]
struct Frame {
    #[command(flatten)]
    client: Client,
    /// Name of the camera in the config.
    camera: String,
    /// Number of the frame, as in an event's `frames`.
    number: u64,
    /// The run in the event's `frames`. Needed for a frame from before the daemon's start.
    #[arg(long)]
    run: Option<u64>,
    /// Output file; `-` is standard output.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Args)]
struct Mcp {
    /// Address of the daemon's HTTP server: HOST:PORT, or https://HOST:PORT if it uses TLS.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9090",
        env = "LOOKOUT_HTTP_SERVER"
    )]
    http: String,
    #[command(flatten)]
    tls: server::Tls,
    #[command(flatten)]
    token: server::Token,
}

#[derive(Args)]
struct ConfigFile {
    /// Config file; configs/example.toml shows every key.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/lookout/lookout.toml")]
    config: PathBuf,
}

#[derive(Args)]
struct Client {
    #[command(flatten)]
    server: server::Server,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

/// Returns the definition of all commands and their arguments.
pub fn command() -> clap::Command {
    Cli::command()
}

pub fn main() -> ExitCode {
    // SAFETY: no thread has been started.
    unsafe { crate::model::no_telemetry() };
    allocator::configure();
    let cli = Cli::parse();
    // The log's last lines come before the error, because it is dropped first.
    let done = logging::init(cli.log.as_deref())
        .map_err(|e| Failure::cannot_begin(anyhow::anyhow!(e)))
        .and_then(|log| execute(cli.command, &log));
    done.unwrap_or_else(|Failure { code, error }| {
        // A closed stderr must not cause a panic on exit.
        let _ = writeln!(io::stderr(), "lookout: {error:#}");
        ExitCode::from(code)
    })
}

fn execute(command: Command, log: &Log) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let out: &mut dyn Write = &mut io::stdout();
    let done = match command {
        Command::Run(ConfigFile { config }) => {
            runtime.block_on(run::run(&config, log.lost_lines()))
        }
        Command::Check(ConfigFile { config }) => check::check(&config, out),
        Command::Discover(args) => runtime.block_on(discover::discover(args, out)),
        Command::TestAlert(args) => runtime.block_on(success(test_alert::test_alert(args, out))),
        Command::Token(command) => token::token(command, out).map(|()| ExitCode::SUCCESS),
        Command::Fetch(args) => runtime.block_on(fetch::fetch(args, out)),
        Command::Inspect(args) => inspect::inspect(args, out),
        Command::Cameras(Client { server, json }) => {
            runtime.block_on(success(client::cameras(&server, output(json), out)))
        }
        Command::Camera(command) => runtime.block_on(success(camera::camera(command, out))),
        Command::Reload(Client { server, json }) => {
            runtime.block_on(success(client::reload(&server, output(json), out)))
        }
        Command::Top(Top { client, once }) => {
            runtime.block_on(success(top(&client.server, once, out)))
        }
        Command::Rules(Client { server, json }) => {
            runtime.block_on(success(client::rules(&server, output(json), out)))
        }
        Command::Rule(command) => runtime.block_on(success(rule::rule(command, out))),
        Command::Ack(Ack { client: Client { server, json }, alert, false_alarm }) => {
            let done = client::acknowledge(&server, alert, false_alarm, output(json), out);
            runtime.block_on(success(done))
        }
        Command::Watch(args) => runtime.block_on(success(watch(args, out))),
        Command::Events(args) => runtime.block_on(success(events::events(args, out))),
        Command::Search(args) => runtime.block_on(success(events::search(args, out))),
        Command::Keep(args) => runtime.block_on(success(journal::keep(args, out))),
        Command::Delete(args) => runtime.block_on(success(journal::delete(args, out))),
        Command::Export(args) => runtime.block_on(success(journal::export(args, out))),
        Command::Clip(args) => runtime.block_on(success(journal::clip(args, out))),
        Command::Frames(args) => runtime.block_on(success(journal::frames(args, out))),
        Command::Ask(args) => runtime.block_on(success(ask::ask(args, out))),
        Command::Frame(Frame { client, camera, number, run, output }) => {
            let frame = client::frame(&client.server, &camera, (run, number), &output, out);
            runtime.block_on(success(frame))
        }
        Command::Mcp(Mcp { http, tls, token }) => {
            let daemon = mcp_stdio::Daemon {
                address: http,
                ca_file: tls.ca.clone(),
                identity: tls.identity(),
                token_file: token.token_file,
            };
            runtime.block_on(success(mcp_stdio::serve(daemon, mcp_stdio::input()?, out)))
        }
        #[cfg(feature = "demo")]
        Command::Demo(options) => runtime.block_on(success(crate::demo::run(options, out))),
        #[cfg(feature = "demo")]
        Command::DemoCameras(args) => {
            crate::demo::serve(args).map(|()| ExitCode::SUCCESS).map_err(Failure::from)
        }
        Command::Bench(args) => bench::run(args, out),
        Command::Generate(args) => generate::generate(&args).map(|()| ExitCode::SUCCESS),
    };
    // A model that is still loading, or a name lookup in progress, must not delay the exit.
    runtime.shutdown_timeout(Duration::from_millis(100));
    done
}

/// Runs a command that has no exit code of its own.
async fn success<T, E: Into<Failure>>(
    command: impl Future<Output = Result<T, E>>,
) -> Result<ExitCode, Failure> {
    command.await.map(|_| ExitCode::SUCCESS).map_err(E::into)
}

fn output(json: bool) -> Output {
    if json { Output::Json } else { Output::Text }
}

async fn watch(args: Watch, out: &mut dyn Write) -> Result<(), Failure> {
    let Watch { client: Client { server, json }, camera, kind, from_sequence, run, since } = args;
    let server = client::Server::from(&server);
    if from_sequence.is_some() && server.address.contains(',') {
        return Err(Failure::cannot_begin(anyhow::anyhow!(
            "--from-sequence is a position in the journal of one daemon, and --server names several; \
             use --since"
        )));
    }
    let from = from_sequence.map(|sequence| client::Position { run, sequence });
    let filter = client::Filter { cameras: camera, kinds: kind, from, since };
    let watching = client::watch_all(server, filter, output(json), out);
    stop::until_stopped(watching).await
}

async fn top(server: &server::Server, once: bool, out: &mut dyn Write) -> Result<(), Failure> {
    // Ctrl-C is a key of the view. A signal ends it as the key does.
    let stop = stop::stop_signal()?;
    client::top(server, once, stop, out).await.map_err(Failure::from)
}
