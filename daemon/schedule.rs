//! A weekly schedule: weekdays and hours in a time zone.
//!
//! Hours are those of a clock on the wall. An hour that a change of daylight saving time skips
//! never comes; an hour that it repeats comes twice, and both belong to the schedule or neither.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Names of the days, from Monday on.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

const MINUTES_PER_DAY: u16 = 24 * 60;

/// A time zone with its rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone(TimeZone);

impl Zone {
    /// Returns the zone of a name such as `Europe/Berlin`, or `None` if the system does not know it.
    pub fn named(name: &str) -> Option<Zone> {
        TimeZone::get(name).ok().map(Zone)
    }

    /// Returns the host's time zone.
    pub fn of_host() -> Zone {
        Zone(TimeZone::system())
    }

    /// Returns the start of the day that a time belongs to.
    pub fn start_of_day(&self, time: SystemTime) -> SystemTime {
        let day = self.clock(time).map(|clock| clock.date());
        let start = day.and_then(|day| day.to_zoned(self.0.clone()).ok());
        start.map_or(time, |start| start.timestamp().into())
    }

    /// Returns what a clock in the zone shows, or `None` for a time beyond the calendar.
    fn clock(&self, time: SystemTime) -> Option<DateTime> {
        Some(self.0.to_datetime(Timestamp::try_from(time).ok()?))
    }
}

/// The times of a week at which a rule is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    zone: Zone,
    /// Periods of the week; none means always.
    periods: Vec<Period>,
}

/// Hours of some days. Hours that end no later than they begin end on the day after.
#[derive(Clone, Debug, PartialEq)]
struct Period {
    /// True for each day on which the hours begin, from Monday on.
    days: [bool; 7],
    /// Minutes from midnight.
    from: u16,
    to: u16,
}

impl Schedule {
    /// Returns the schedule that is always in force.
    pub fn always(zone: Zone) -> Schedule {
        Schedule { zone, periods: Vec::new() }
    }

    /// Parses periods such as `Mon-Fri 22:00-06:00, Sat, Sun`. The error says what was found and
    /// what is wanted.
    pub fn parse(text: &str, zone: Zone) -> Result<Schedule, String> {
        let periods = text.split(',').map(|period| {
            Period::parse(period.trim()).ok_or_else(|| {
                format!("{:?} is not a period such as \"Mon-Fri 22:00-06:00\"", period.trim())
            })
        });
        Ok(Schedule { zone, periods: periods.collect::<Result<_, _>>()? })
    }

    /// Returns true if the schedule is in force at every time.
    pub fn is_always(&self) -> bool {
        self.periods.is_empty()
    }

    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Returns true if the schedule is in force at a time.
    pub fn contains(&self, time: SystemTime) -> bool {
        if self.periods.is_empty() {
            return true;
        }
        let Some(clock) = self.zone.clock(time) else { return false };
        let day = usize::from(clock.weekday().to_monday_zero_offset().unsigned_abs());
        let minute =
            u16::from(clock.hour().unsigned_abs()) * 60 + u16::from(clock.minute().unsigned_abs());
        self.periods.iter().any(|period| period.contains(day, minute))
    }
}

impl Period {
    /// Parses `DAY[-DAY] [HH:MM-HH:MM]`, or the hours alone.
    fn parse(text: &str) -> Option<Period> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, hours) = match *words.as_slice() {
            [hours] if hours.starts_with(|c: char| c.is_ascii_digit()) => ([true; 7], Some(hours)),
            [days] => (parse_days(days)?, None),
            [days, hours] => (parse_days(days)?, Some(hours)),
            _ => return None,
        };
        let Some(hours) = hours else { return Some(Period { days, from: 0, to: MINUTES_PER_DAY }) };
        let (from, to) = hours.split_once('-')?;
        let (from, to) = (parse_hour(from)?, parse_hour(to)?);
        (from < MINUTES_PER_DAY && from != to).then_some(Period { days, from, to })
    }

    fn contains(&self, day: usize, minute: u16) -> bool {
        let yesterday = (day + 6) % 7;
        if self.from < self.to {
            return self.days[day] && (self.from..self.to).contains(&minute);
        }
        (self.days[day] && minute >= self.from) || (self.days[yesterday] && minute < self.to)
    }
}

/// Parses a day, or the first and the last of several days.
fn parse_days(text: &str) -> Option<[bool; 7]> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (parse_day(first)?, parse_day(last)?);
    let mut days = [false; 7];
    for step in 0..=(last + 7 - first) % 7 {
        days[(first + step) % 7] = true;
    }
    Some(days)
}

fn parse_day(text: &str) -> Option<usize> {
    let name = text.to_ascii_lowercase();
    DAYS.iter().position(|day| *day == name)
}

fn parse_hour(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hour) || !digits(minute) {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let minutes = hour * 60 + minute;
    (minute < 60 && minutes <= MINUTES_PER_DAY).then_some(minutes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn berlin() -> Zone {
        Zone::named("Europe/Berlin").expect("the system's time zones")
    }

    fn schedule(text: &str) -> Schedule {
        Schedule::parse(text, berlin()).expect(text)
    }

    /// Returns the time at which a clock with an offset from UTC shows this.
    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().expect(text).into()
    }

    #[test]
    fn hours_may_cross_midnight() {
        let nights = schedule("Mon-Fri 22:00-06:00");
        // The 2nd of March 2026 is a Monday.
        for (time, expected) in [
            ("2026-03-02T21:59:59+01:00", false),
            ("2026-03-02T22:00:00+01:00", true),
            ("2026-03-03T05:59:59+01:00", true),
            ("2026-03-03T06:00:00+01:00", false),
            // The night from Sunday to Monday begins on a Sunday.
            ("2026-03-02T03:00:00+01:00", false),
            // The night from Friday to Saturday begins on a Friday.
            ("2026-03-07T03:00:00+01:00", true),
            ("2026-03-07T23:00:00+01:00", false),
        ] {
            assert_eq!(nights.contains(at(time)), expected, "{time}");
        }
    }

    #[test]
    fn days_and_hours_may_be_left_out() {
        let mixed = schedule("sat, Sun, 12:00-13:30, Thu-Thu 20:00-24:00");
        for (time, expected) in [
            ("2026-03-07T00:00:00+01:00", true),
            ("2026-03-08T23:59:59+01:00", true),
            ("2026-03-09T00:00:00+01:00", false),
            ("2026-03-09T13:29:59+01:00", true),
            ("2026-03-09T13:30:00+01:00", false),
            ("2026-03-05T23:59:59+01:00", true),
            ("2026-03-06T00:00:00+01:00", false),
        ] {
            assert_eq!(mixed.contains(at(time)), expected, "{time}");
        }
        let over_the_weekend = schedule("Fri-Mon");
        for (day, expected) in [(5, false), (6, true), (7, true), (8, true), (9, true), (10, false)]
        {
            let time = at(&format!("2026-03-{day:02}T12:00:00+01:00"));
            assert_eq!(over_the_weekend.contains(time), expected, "{day}");
        }
    }

    #[test]
    fn hours_follow_the_clock_over_changes_of_daylight_saving_time() {
        let early = schedule("01:30-03:30");
        for (time, expected) in [
            // 2:00 becomes 3:00: the period has one hour.
            ("2026-03-29T00:29:59Z", false),
            ("2026-03-29T00:30:00Z", true),
            ("2026-03-29T01:29:59Z", true),
            ("2026-03-29T01:30:00Z", false),
            // 3:00 becomes 2:00: the period has three hours.
            ("2026-10-24T23:29:59Z", false),
            ("2026-10-24T23:30:00Z", true),
            ("2026-10-25T02:29:59Z", true),
            ("2026-10-25T02:30:00Z", false),
        ] {
            assert_eq!(early.contains(at(time)), expected, "{time}");
        }
        // A period that lies within the hour that is skipped does not come that day.
        let skipped = schedule("02:10-02:50");
        let minutes =
            (0..24 * 60).map(|m| at("2026-03-28T23:00:00Z") + Duration::from_secs(m * 60));
        assert_eq!(minutes.filter(|time| skipped.contains(*time)).count(), 0);
    }

    #[test]
    fn a_day_starts_at_midnight_of_its_zone() {
        let zone = berlin();
        let midnight = at("2026-03-29T00:00:00+01:00");
        assert_eq!(zone.start_of_day(at("2026-03-29T23:00:00+02:00")), midnight);
        assert_eq!(zone.start_of_day(midnight), midnight);
        assert_eq!(Zone::named("Europe/Atlantis"), None);
    }

    #[test]
    fn wrong_periods_are_refused() {
        for text in [
            "",
            "Mon-",
            "Mon-Fri 22-6",
            "Montag",
            "Mon 25:00-26:00",
            "Mon 10:60-11:00",
            "24:00-01:00",
            "10:00-10:00",
            "Mon 1:00-2:00",
            "Mon Tue",
            "Mon,",
            "Mon 10:00-11:00 12:00-13:00",
            "+1:00-02:00",
        ] {
            let error = Schedule::parse(text, berlin()).expect_err(text);
            assert!(error.contains("Mon-Fri 22:00-06:00"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn hours_and_their_complement_cover_each_time_once(
            from in 0u16..1440, to in 0u16..1440, seconds in 0u64..4_000_000_000,
        ) {
            prop_assume!(from != to);
            let hours = |from: u16, to: u16| {
                let [a, b] = [from, to].map(|m| format!("{:02}:{:02}", m / 60, m % 60));
                schedule(&format!("{a}-{b}"))
            };
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            prop_assert!(hours(from, to).contains(time) != hours(to, from).contains(time));
        }

        #[test]
        fn no_text_causes_a_panic(text in "\\PC{0,30}", seconds: u64) {
            if let Ok(schedule) = Schedule::parse(&text, berlin()) {
                let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
                let _ = time.map(|time| schedule.contains(time));
            }
        }
    }
}
