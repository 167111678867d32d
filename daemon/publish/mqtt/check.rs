//! Tries to log in at the broker, for `lookout check`.

use super::link::{self, Cause, Version};
use super::options::Access;
use crate::config::Mqtt;

/// Logs in at the broker and leaves again. Returns the protocol version that it speaks. A running
/// daemon keeps its connection, because this client's ID has `-check` at its end.
pub fn check(config: &Mqtt) -> Result<&'static str, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| e.to_string())?.block_on(log_in(config))
}

async fn log_in(config: &Mqtt) -> Result<&'static str, String> {
    let mut refused = String::new();
    for (version, name) in [(Version::V5, "MQTT 5"), (Version::V3, "MQTT 3.1.1")] {
        let access = Access::read(config).await?.for_a_check();
        let (client, mut turns) = link::open(version, access);
        match turns.turn().await {
            Ok(_) => {
                client.disconnect();
                let _ = turns.turn().await;
                return Ok(name);
            }
            // Some brokers close the connection without a reason if they do not know the version.
            Err(broke) if matches!(broke.cause, Cause::Version | Cause::Closed) => {
                refused = broke.why;
            }
            Err(broke) => return Err(broke.why),
        }
    }
    Err(refused)
}
