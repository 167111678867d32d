//! Sets up the log: messages of the daemon and of its libraries, on stderr.
//!
//! A thread of its own writes the lines, so that nothing waits for the reader of stderr.

use std::io::IsTerminal;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::metrics;

/// Number of lines that wait until stderr takes them. Further ones are lost.
const WAITING_LINES: usize = 4096;

/// Interval at which lost lines are reported.
const REPORTED_EVERY: Duration = Duration::from_secs(5);

/// The log. When it is dropped, it writes the lines that wait, for about a second at most.
pub struct Log {
    _writer: WorkerGuard,
    lost: ErrorCounter,
}

/// The number of lines that were lost.
pub struct LostLines(ErrorCounter);

/// Sets up the log on stderr. `RUST_LOG` takes precedence over `level`, the value of `--log`; the
/// default is `info`. Libraries that log too much are logged from a level of their own on, unless
/// the level names them: onnxruntime (`ort`) and the MCP library (`rmcp`), which logs every message
/// of a client.
///
/// Returns an error if the level is invalid or the log is already set up.
pub fn init(level: Option<&str>) -> Result<Log, String> {
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
    let wanted = wanted.as_deref().or(level).unwrap_or("info");
    let filter = EnvFilter::try_new(wanted).map_err(|e| {
        format!("log level {wanted:?}: {e}; one of error, warn, info, debug, trace")
    })?;
    let quiet = [("ort", "warn"), ("rmcp", "error")].into_iter();
    let quiet = quiet.filter(|(target, _)| !names_target(wanted, target));
    let quiet: String = quiet.map(|(target, level)| format!(",{target}={level}")).collect();
    let filter = if matches!(wanted, "off" | "error") {
        filter
    } else {
        EnvFilter::try_new(format!("{wanted}{quiet}")).unwrap_or(filter)
    };
    let (lines, writer) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    let lost = lines.error_counter();
    tracing_subscriber::fmt()
        .with_writer(lines)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .try_init()
        .map_err(|e| format!("the log is set up already: {e}"))?;
    Ok(Log { _writer: writer, lost })
}

impl Log {
    pub fn lost_lines(&self) -> LostLines {
        LostLines(self.lost.clone())
    }
}

impl LostLines {
    /// Reports lost lines in the log and in the metrics, indefinitely.
    pub async fn report(self) {
        let mut tick = tokio::time::interval(REPORTED_EVERY);
        let mut reported = 0;
        loop {
            tick.tick().await;
            let lost = self.0.dropped_lines();
            if lost > reported {
                let lines = lost - reported;
                metrics::log_lines_lost(lines as u64);
                tracing::warn!("{lines} lines of the log were lost: stderr did not take them");
                reported = lost;
            }
        }
    }
}

/// Returns true if one of the filter's directives is about this target (`ort=info`, `ort[span]`).
fn names_target(filter: &str, target: &str) -> bool {
    filter.split(',').any(|directive| {
        let end = directive.find(['=', '[', ':']).unwrap_or(directive.len());
        directive[..end].trim() == target
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_ort_only_as_a_target() {
        for filter in [
            "ort=info",
            "info,ort=debug",
            "warn, ort",
            concat!("ort", "::session=trace"),
            "ort[x]=info",
        ] {
            assert!(names_target(filter, "ort"), "{filter}");
        }
        for filter in ["info", "lookout::transport=debug", "transport=debug", "lookout=ort"] {
            assert!(!names_target(filter, "ort"), "{filter}");
        }
    }
}
