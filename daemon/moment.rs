//! Parses a time as a person writes it.

use std::time::SystemTime;

use crate::question::parse_time;

/// Parses a time in RFC 3339, or a duration before now. A time without an offset is UTC.
pub fn parse(text: &str) -> Result<SystemTime, String> {
    parse_time(text).map_or_else(|| ago(text), Ok).map_err(|_| {
        "wanted a time such as 2026-03-01T14:05:00Z, or a duration such as 2h".to_owned()
    })
}

/// Parses a duration, and returns the time that long before now.
pub fn ago(text: &str) -> Result<SystemTime, String> {
    let length = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    SystemTime::now().checked_sub(length).ok_or_else(|| "the duration is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_duration() {
        let time = parse("1970-01-01T00:01:00Z").unwrap();
        assert_eq!(time, SystemTime::UNIX_EPOCH + Duration::from_secs(60));
        assert_eq!(parse("1970-01-01T02:01:00+02:00"), Ok(time));
        assert_eq!(parse("1970-01-01 00:01:00"), Ok(time));
        let elapsed = parse("2h").unwrap().elapsed().unwrap();
        assert!((7_200..7_210).contains(&elapsed.as_secs()), "{elapsed:?}");
        assert!(parse("yesterday").unwrap_err().contains("wanted a time"));
    }
}
