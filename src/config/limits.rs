//! How a sink is kept from overrunning its far ends, and a dead one from holding up the rest.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use herald_contract::duration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// So many attempts in a second, a minute or an hour: `"100/s"`, `"20/m"`, `"1000/h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Unit {
    fn letter(self) -> char {
        match self {
            Self::Second => 's',
            Self::Minute => 'm',
            Self::Hour => 'h',
        }
    }

    fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        }
    }
}

impl Rate {
    /// Between two attempts, on average.
    pub fn interval(self) -> Duration {
        Duration::from_secs(self.unit.seconds()) / self.count
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (count, unit) = text.split_once('/')?;
            let unit = match unit.trim() {
                "s" => Unit::Second,
                "m" => Unit::Minute,
                "h" => Unit::Hour,
                _ => return None,
            };
            let count = count.trim().parse().ok()?;
            (1..=1_000_000)
                .contains(&count)
                .then_some(Self { count, unit })
        };
        read().ok_or_else(|| {
            format!("{text:?} is not a rate; write it as \"100/s\", \"20/m\" or \"1000/h\"")
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.unit.letter())
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// When a sink or a destination is left alone, since everything fails there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// Failures in a row that open it; 0 for never.
    pub failures: u32,
    /// How long it stays open at first; twice as long each time an attempt fails again.
    #[serde(with = "duration")]
    pub open: Duration,
    #[serde(with = "duration")]
    pub max_open: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 10,
            open: Duration::from_secs(5),
            max_open: Duration::from_secs(60),
        }
    }
}

/// What holds for each destination (mail domain, push service, host) by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Destination {
    /// Attempts under way at once; three quarters of the sink's without it.
    pub concurrency: Option<usize>,
    pub rate: Option<Rate>,
}

/// In which order deliveries to one recipient begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ordering {
    /// A delivery that fails holds up no other.
    #[default]
    None,
    /// One after the other where their events have the same key; one that fails holds up those
    /// behind it until it is delivered or dead.
    Key,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, ms) in [
            ("100/s", 10),
            ("20/m", 3000),
            (" 3600 / h ", 1000),
            ("1/s", 1000),
        ] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!(rate.interval(), Duration::from_millis(ms), "{text}");
        }
        for bad in ["", "100", "/s", "0/s", "-1/s", "1.5/s", "10/d", "2000000/s"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad:?}");
        }
    }
}
