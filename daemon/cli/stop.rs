//! Ends a command at SIGINT or SIGTERM.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::exit::Failure;

/// Longest time for a command that is stopped, whose output may be blocked.
const PATIENCE: Duration = Duration::from_secs(1);

/// Returns a future that ends with SIGINT or SIGTERM.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Runs a command that prints lines until SIGINT or SIGTERM, which end it after a line. If nobody
/// reads the output, the process ends after [`PATIENCE`].
pub async fn until_stopped<E: Into<Failure>>(
    command: impl Future<Output = Result<(), E>>,
) -> Result<(), Failure> {
    let stop = stop_signal()?;
    let (to, stopped) = oneshot::channel();
    // A task of its own runs while the command is blocked.
    tokio::spawn(async move {
        stop.await;
        // The command may have ended.
        let _ = to.send(());
        tokio::time::sleep(PATIENCE).await;
        #[expect(clippy::disallowed_methods, reason = "a blocked main thread cannot return")]
        std::process::exit(1);
    });
    tokio::select! {
        done = command => done.map_err(E::into),
        _ = stopped => Ok(()),
    }
}
