//! Sets up the log: messages of the daemon and of its libraries, on stderr.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets up the log on stderr. `RUST_LOG` takes precedence over `level`, the value of `--log`; the
/// default is `info`. Libraries that log too much are logged from a level of their own on, unless
/// the level names them: onnxruntime (`ort`) and the MCP library (`rmcp`), which logs every message
/// of a client.
///
/// Returns an error if the level is invalid or the log is already set up.
pub fn init(level: Option<&str>) -> Result<(), String> {
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
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .try_init()
        .map_err(|e| format!("the log is set up already: {e}"))
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
