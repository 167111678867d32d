//! Reports the daemon's state to systemd. Without systemd, only the check for hung workers remains.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::engine::Engine;

/// Interval of the check for hung workers where systemd sets no watchdog interval.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Reports that the daemon is ready. Then sends the watchdog's keep-alive at half its interval if
/// systemd asks for one, while no worker hangs.
pub async fn watch(engine: Arc<Engine>) {
    notify(NotifyState::Ready);
    let watched = sd_notify::watchdog_enabled();
    let mut tick = tokio::time::interval(watched.map_or(CHECK_INTERVAL, |interval| interval / 2));
    let mut hung = false;
    loop {
        tick.tick().await;
        let found = engine.heartbeats.hung(Instant::now());
        match &found {
            Some(why) if !hung => tracing::error!("{why}; the watchdog's signal stops"),
            None if hung => tracing::info!("all workers make progress again"),
            _ => {}
        }
        hung = found.is_some();
        if watched.is_some() && !hung {
            notify(NotifyState::Watchdog);
        }
    }
}

/// Reports that the daemon is stopping.
pub fn stopping() {
    notify(NotifyState::Stopping);
}

/// Reports that the config is being read again.
pub fn reloading() {
    let now = NotifyState::monotonic_usec_now();
    let _ = now.map(|now| sd_notify::notify(&[NotifyState::Reloading, now]));
}

/// Reports that the reload has ended, with its result.
pub fn reloaded(result: &str) {
    let result = result.replace('\n', "; ");
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&result)]);
}

/// Sends one message. Without systemd there is no receiver, which is not an error.
fn notify(state: NotifyState<'_>) {
    let _ = sd_notify::notify(&[state]);
}
