//! Implements `lookout run`: the daemon.

use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::app::{App, Ended};
use crate::config::Config;
use crate::core_dumps;
use crate::exit::Failure;
use crate::logging::LostLines;

pub async fn run(config: &Path, lost_lines: LostLines) -> Result<ExitCode, Failure> {
    core_dumps::switch_off();
    tokio::spawn(lost_lines.report());
    let mut stops = signals(&[SignalKind::terminate(), SignalKind::interrupt()])?;
    // A reload that is requested while the model loads is done afterwards.
    let reloads = signals(&[SignalKind::hangup()])?;
    let file = config.to_owned();
    let config = Config::read(config).map_err(Failure::cannot_begin)?;
    let app = tokio::select! {
        app = App::build(config, file) => app.map_err(Failure::cannot_begin)?,
        _ = stops.recv() => return Ok(ExitCode::SUCCESS),
    };
    Ok(match app.run(stops, reloads).await? {
        Ended::Stopped => ExitCode::SUCCESS,
        // Threads may still be running the model; the process exits without waiting for them.
        Ended::Cut => ExitCode::FAILURE,
    })
}

/// Returns a channel that receives one message per signal of these kinds.
fn signals(kinds: &[SignalKind]) -> std::io::Result<mpsc::Receiver<()>> {
    let (to, signals) = mpsc::channel(4);
    for kind in kinds {
        let mut stream = signal(*kind)?;
        let to = to.clone();
        tokio::spawn(
            async move { while stream.recv().await.is_some() && to.send(()).await.is_ok() {} },
        );
    }
    Ok(signals)
}
