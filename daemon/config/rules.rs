//! The checks of values, and their errors: each has the key, the value found and the value wanted.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Bytes, ConfigError, masked};
use crate::schedule::{Schedule, Zone};

/// Maximum duration of a key, ten years. Sums of several stay within the range of every clock.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Returns the error of a key. Texts are shown with quotes, as in the file.
pub fn invalid(key: &str, found: impl Display, wanted: impl Display) -> ConfigError {
    ConfigError(format!("{key} = {found}: wanted {wanted}"))
}

/// Checks that a number is within its limits.
pub fn in_range<T: PartialOrd + Display>(
    key: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, ConfigError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = range.into_inner();
    Err(invalid(key, value, format!("{least} to {most}")))
}

/// Checks that a duration is at least `least` and at most ten years.
pub fn at_least(key: &str, value: Duration, least: Duration) -> Result<Duration, ConfigError> {
    let wanted = if value < least {
        format!("at least {}", shown(least))
    } else if value > LONGEST {
        format!("at most \"{} days\"", LONGEST.as_secs() / 86_400)
    } else {
        return Ok(value);
    };
    Err(invalid(key, shown(value), wanted))
}

/// Checks that a size is at least `least`.
pub fn size_at_least(key: &str, value: Bytes, least: Bytes) -> Result<Bytes, ConfigError> {
    if value < least {
        return Err(invalid(key, format!("\"{value}\""), format!("at least \"{least}\"")));
    }
    Ok(value)
}

/// Checks that a name is valid in an MQTT topic, a metric label and a gRPC request.
pub fn plain_name(key: &str, name: &str) -> Result<(), ConfigError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.len() <= 64 && name.chars().all(fits) {
        return Ok(());
    }
    Err(invalid(key, format!("{name:?}"), "1 to 64 letters, digits, `-` or `_`"))
}

/// Checks the keys `schedule` and `time_zone`.
pub fn schedule(text: Option<&str>, time_zone: Option<&str>) -> Result<Schedule, ConfigError> {
    let zone = match time_zone {
        Some(name) => Zone::named(name).ok_or_else(|| {
            let wanted = "a name of the system's time zones such as \"Europe/Berlin\"";
            invalid("time_zone", format!("{name:?}"), wanted)
        })?,
        None => Zone::of_host(),
    };
    let Some(text) = text else { return Ok(Schedule::always(zone)) };
    Schedule::parse(text, zone).map_err(|why| {
        let wanted = format!("periods separated by commas ({why})");
        invalid("schedule", format!("{text:?}"), wanted)
    })
}

/// Returns a value that has no default.
pub fn required<T>(key: &str, value: Option<T>, wanted: &str) -> Result<T, ConfigError> {
    value.ok_or_else(|| ConfigError(format!("{key} is missing: wanted {wanted}")))
}

/// Shows a duration as it is written in the file.
pub fn shown(duration: Duration) -> String {
    format!("\"{}\"", humantime::format_duration(duration))
}

/// Returns serde's message about a table, with credentials hidden: a value at the wrong key may be
/// a URL. About an unknown key, it names the nearest known key instead of all.
pub fn toml_error(message: &str) -> String {
    masked(&shortened(message))
}

fn shortened(message: &str) -> String {
    let message = message.replace('\n', " ");
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (Some((unknown, known)), true) =
        (quoted.split_first(), message.starts_with("unknown field"))
    else {
        return message;
    };
    let likeness = |key: &str| strsim::jaro_winkler(unknown, key);
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest {
        Some(nearest) => format!("unknown key `{unknown}`; the nearest known key is `{nearest}`"),
        None => message.clone(),
    }
}
