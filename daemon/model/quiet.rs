//! Disables onnxruntime's telemetry, which reports to Microsoft.

/// The variable that disables telemetry. Since 1.29 (onnxruntime's pull request 27379) the official
/// builds for Linux keep a device identifier in the cache folder and upload the machine's CPU,
/// memory and system, and each session's model, unless this variable is set. The API's
/// `DisableTelemetryEvents` does not disable the first of these.
const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

/// Disables telemetry for this process and its child processes.
///
/// # Safety
/// No other thread may run yet.
#[expect(clippy::disallowed_methods, reason = "before there are threads")]
pub unsafe fn no_telemetry() {
    // SAFETY: guaranteed by the caller.
    unsafe { std::env::set_var(VARIABLE, "1") };
}
