//! onnxruntime kept from telling Microsoft what it runs.

/// Since 1.29 (onnxruntime's pull request 27379) the official builds for Linux keep a device's
/// identifier in the cache folder and upload the machine's CPU, memory and system, and each session's
/// model, unless this variable is set. `DisableTelemetryEvents` of the API leaves the first of it on.
const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

/// For the processes of this one as well.
///
/// # Safety
/// No other thread runs yet.
#[expect(clippy::disallowed_methods, reason = "before there are threads")]
pub unsafe fn no_telemetry() {
    // SAFETY: as promised by the caller.
    unsafe { std::env::set_var(VARIABLE, "1") };
}
