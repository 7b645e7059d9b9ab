//! What an outcome means for a delivery: attempts, backoff and expiry are decided here.
//!
//! | outcome | state | spends an attempt |
//! | --- | --- | --- |
//! | delivered | delivered | yes |
//! | skipped | skipped | no |
//! | gone | gone | yes |
//! | reject, or the last attempt failed | dead | yes |
//! | retry that would come too late | skipped, as expired | yes |
//! | none: it was too late to begin | skipped, as expired | no |
//! | retry | pending, after the backoff or what the far end wished, if that is longer | yes |
//! | defer | pending, until then | no |

use std::time::Duration;

use chrono::Utc;
use herald_contract::Outcome;
use tokio::time::Instant;

use super::destinations::Aside;
use crate::backoff::Backoff;
use crate::store::{State, WaitsFor};

/// After so much more than its time an event is too old.
const TICK: Duration = Duration::from_millis(1);

/// How long a delivery waits for those before it in its lane before it would be due by itself. It is
/// released when they are through, and lanes are looked through every minute.
const LINED: Duration = Duration::from_secs(24 * 3600);

/// What becomes of a delivery.
#[derive(Debug)]
pub(super) struct Verdict {
    pub state: State,
    /// Whether it spends an attempt.
    pub spends: bool,
    /// For `Pending`: until the next attempt.
    pub wait: Duration,
    pub cause: Option<String>,
    pub response: Option<String>,
    pub waits_for: Option<WaitsFor>,
    /// As the metrics count it.
    pub label: &'static str,
}

impl Verdict {
    fn final_state(state: State, cause: String, label: &'static str) -> Self {
        Self {
            state,
            spends: true,
            wait: Duration::ZERO,
            cause: Some(cause),
            response: None,
            waits_for: None,
            label,
        }
    }

    fn pending(wait: Duration, cause: Option<String>, label: &'static str) -> Self {
        Self {
            state: State::Pending,
            spends: false,
            wait,
            cause,
            response: None,
            waits_for: None,
            label,
        }
    }

    /// Its destination lets it not through now. It has so long to live, and comes back for its end
    /// at the latest.
    pub fn put_aside(destination: Option<&str>, aside: Aside, left: Duration) -> Self {
        let wait = aside.until.saturating_duration_since(Instant::now());
        let wait = wait.min(left.saturating_add(TICK));
        let cause = format!("waits for {}", destination.unwrap_or_default());
        Self {
            waits_for: aside.left_alone.then_some(WaitsFor::Destination),
            ..Self::pending(wait, Some(cause), "deferred")
        }
    }

    /// It is too late for an attempt; `last` is why the last one failed, if one was made.
    pub fn expired(lifetime: Duration, last: Option<&str>) -> Self {
        let cause = match last {
            Some(last) => format!("expired before the next attempt; the last one: {last}"),
            None => format!(
                "expired before an attempt could begin: older than {}",
                humantime::format_duration(lifetime)
            ),
        };
        Self {
            spends: false,
            ..Self::final_state(State::Skipped, cause, "expired")
        }
    }

    /// It takes its place in its lane, if it has one.
    pub fn lined(has_lane: bool) -> Self {
        if !has_lane {
            return Self::pending(Duration::ZERO, None, "lined");
        }
        let cause = "waits for those before it".to_owned();
        Self {
            waits_for: Some(WaitsFor::Order),
            ..Self::pending(LINED, Some(cause), "lined")
        }
    }
}

/// A sink's terms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judge {
    pub max_attempts: u32,
    pub backoff: Backoff,
    /// For how long an event is of use.
    pub lifetime: Duration,
}

impl Judge {
    /// The verdict after an attempt with `spent` attempts before it at an event of this `age`.
    pub fn verdict(&self, outcome: Outcome, spent: u32, age: Duration) -> Verdict {
        let spent = spent.saturating_add(1);
        match outcome {
            Outcome::Delivered { response } => Verdict {
                state: State::Delivered,
                spends: true,
                wait: Duration::ZERO,
                cause: None,
                response,
                waits_for: None,
                label: "delivered",
            },
            Outcome::Skipped { reason } => Verdict {
                spends: false,
                ..Verdict::final_state(State::Skipped, reason, "skipped")
            },
            Outcome::Gone { cause } => Verdict::final_state(State::Gone, cause, "gone"),
            Outcome::Reject { cause } => Verdict::final_state(State::Dead, cause, "rejected"),
            Outcome::Retry { cause, .. } if spent >= self.max_attempts => {
                let cause = format!("{spent} attempts failed; the last one: {cause}");
                Verdict::final_state(State::Dead, cause, "exhausted")
            }
            Outcome::Retry { after, cause, .. } => {
                // The far end's wish is a lower bound; so many come back at the same moment only
                // if it told them so.
                let wait = self.backoff.after(spent).max(after.unwrap_or_default());
                if age.saturating_add(wait) > self.lifetime {
                    return Verdict {
                        spends: true,
                        ..Verdict::expired(self.lifetime, Some(&cause))
                    };
                }
                Verdict {
                    spends: true,
                    ..Verdict::pending(wait, Some(cause), "retry")
                }
            }
            Outcome::Defer { until, cause } => {
                let wait = (until - Utc::now()).to_std().unwrap_or_default();
                Verdict::pending(wait, Some(cause), "deferred")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use herald_contract::Scope;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Five attempts; 1, 2, 4 … seconds between them; the event has ten seconds to live.
    fn judged(outcome: Outcome, spent: u32) -> Verdict {
        let judge = Judge {
            max_attempts: 5,
            backoff: Backoff {
                base: SECOND,
                factor: 2.0,
                max: 60 * SECOND,
                jitter: 0.0,
            },
            lifetime: 10 * SECOND,
        };
        judge.verdict(outcome, spent, Duration::ZERO)
    }

    fn retry(after: Option<Duration>) -> Outcome {
        Outcome::Retry {
            after,
            scope: Scope::Destination,
            cause: "451 later".to_owned(),
        }
    }

    #[test]
    fn what_is_final_is_final_whatever_was_before_it() {
        let text = || "why".to_owned();
        for spent in [0, 3, 4, 100, u32::MAX] {
            for (outcome, state, spends, label) in [
                (
                    Outcome::Delivered { response: None },
                    State::Delivered,
                    true,
                    "delivered",
                ),
                (
                    Outcome::Skipped { reason: text() },
                    State::Skipped,
                    false,
                    "skipped",
                ),
                (Outcome::Gone { cause: text() }, State::Gone, true, "gone"),
                (
                    Outcome::Reject { cause: text() },
                    State::Dead,
                    true,
                    "rejected",
                ),
            ] {
                let verdict = judged(outcome, spent);
                let found = (verdict.state, verdict.spends, verdict.label);
                assert_eq!(found, (state, spends, label), "after {spent}");
                assert_eq!(verdict.waits_for, None);
            }
        }
    }

    #[test]
    fn a_retry_waits_longer_each_time_until_its_attempts_are_spent() {
        for (spent, seconds) in [(0, 1), (1, 2), (2, 4), (3, 8)] {
            let verdict = judged(retry(None), spent);
            let found = (verdict.state, verdict.spends, verdict.wait);
            assert_eq!(found, (State::Pending, true, seconds * SECOND), "{spent}");
        }
        for spent in [4, 5, u32::MAX] {
            let verdict = judged(retry(None), spent);
            assert_eq!((verdict.state, verdict.label), (State::Dead, "exhausted"));
            let cause = verdict.cause.expect("a cause");
            assert!(cause.ends_with("attempts failed; the last one: 451 later"));
        }
    }

    #[test]
    fn the_far_ends_wish_is_a_lower_bound() {
        for (spent, wish, seconds) in [(0, 5, 5), (2, 3, 4), (3, 8, 8)] {
            let verdict = judged(retry(Some(wish * SECOND)), spent);
            assert_eq!(verdict.wait, seconds * SECOND, "{spent} {wish}");
        }
    }

    #[test]
    fn a_retry_that_would_come_too_late_is_expired_and_no_dead_letter() {
        let verdict = judged(retry(Some(11 * SECOND)), 0);
        let found = (verdict.state, verdict.spends, verdict.label);
        assert_eq!(found, (State::Skipped, true, "expired"));
        let cause = verdict.cause.expect("a cause");
        assert!(cause.starts_with("expired") && cause.ends_with("451 later"));
        for (last, told) in [(Some("451 later"), "451 later"), (None, "older than 10s")] {
            let verdict = Verdict::expired(10 * SECOND, last);
            let found = (verdict.state, verdict.spends, verdict.label);
            assert_eq!(found, (State::Skipped, false, "expired"));
            let cause = verdict.cause.expect("a cause");
            assert!(
                cause.starts_with("expired") && cause.ends_with(told),
                "{cause}"
            );
        }
        let last = judged(retry(Some(11 * SECOND)), 4);
        assert_eq!(last.state, State::Dead, "the attempts were spent first");
    }

    #[test]
    fn what_is_deferred_put_aside_or_lined_up_spends_no_attempt() {
        let until = Utc::now() + chrono::TimeDelta::seconds(30);
        let cause = "busy".to_owned();
        let deferred = judged(Outcome::Defer { until, cause }, 4);
        assert!(deferred.wait > 20 * SECOND && deferred.wait <= 30 * SECOND);
        let past = Utc::now() - chrono::TimeDelta::seconds(30);
        let cause = "busy".to_owned();
        let due = judged(Outcome::Defer { until: past, cause }, 4);
        assert_eq!(due.wait, Duration::ZERO);
        let put_aside = |left_alone, left| {
            let until = Instant::now() + SECOND;
            Verdict::put_aside(Some("example.dead"), Aside { until, left_alone }, left)
        };
        let (aside, full) = (put_aside(true, Duration::MAX), put_aside(false, SECOND));
        assert!(aside.wait > SECOND / 2 && aside.wait <= SECOND);
        let old = put_aside(true, Duration::ZERO);
        assert_eq!(old.wait, TICK, "it comes back to be dropped as expired");
        assert_eq!(aside.waits_for, Some(WaitsFor::Destination));
        assert_eq!(full.waits_for, None, "it has a turn of its own");
        let lined = Verdict::lined(true);
        assert_eq!(lined.waits_for, Some(WaitsFor::Order));
        let free = Verdict::lined(false);
        assert_eq!((free.wait, free.waits_for), (Duration::ZERO, None));
        for verdict in [deferred, due, aside, full, lined, free] {
            assert_eq!((verdict.state, verdict.spends), (State::Pending, false));
        }
    }
}
