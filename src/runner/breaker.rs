//! A circuit breaker: after so many failures in a row nobody tries any more, and from time to time
//! one attempt is let through to find out whether that is still right.
//!
//! ```text
//!            `failures` in a row                time is up
//! Closed ──────────────────────────▶ Open ──────────────────────▶ Probing
//!   ▲                                 ▲                            │   │
//!   │                                 └──── it failed: open longer ┘   │
//!   └────────────────────────── an attempt succeeded ──────────────────┘
//! ```
//!
//! An attempt whose fate is never told (its process of delivery was given up) does not keep it
//! probing for ever: another is let through a second later.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

/// Between two attempts that find out.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// When to stop trying.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Failures in a row that open it; 0 for never.
    pub failures: u32,
    /// How long it stays open; longer after each attempt that failed.
    pub open: Backoff,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Go,
    /// Ask again at this time.
    Wait(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, turn: u32 },
    Probing { again: Instant, turn: u32 },
}

#[derive(Debug)]
pub struct Breaker {
    limits: Limits,
    state: State,
}

impl Breaker {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Closed { failures: 0 },
        }
    }

    /// Whether an attempt may begin now. Whoever is let through tells what came of it.
    pub fn ask(&mut self, now: Instant) -> Pass {
        match self.state {
            State::Closed { .. } => Pass::Go,
            State::Open { until, turn } | State::Probing { again: until, turn } => {
                if now < until {
                    return Pass::Wait(until);
                }
                let again = now + PROBE_EVERY;
                self.state = State::Probing { again, turn };
                Pass::Go
            }
        }
    }

    /// From when on somebody is let through again; `None` when it is not open.
    pub fn closed_from(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until, .. } | State::Probing { again: until, .. } => Some(until.max(now)),
        }
    }

    /// An attempt reached the far end, whatever it said. Whether that closed the breaker.
    pub fn succeeded(&mut self) -> bool {
        let was_open = self.is_open();
        self.state = State::Closed { failures: 0 };
        was_open
    }

    /// An attempt failed for a cause that others share. Whether that opened the breaker.
    pub fn failed(&mut self, now: Instant) -> bool {
        let turn = match self.state {
            State::Closed { failures } => {
                let failures = failures.saturating_add(1);
                self.state = State::Closed { failures };
                if self.limits.failures == 0 || failures < self.limits.failures {
                    return false;
                }
                1
            }
            State::Probing { turn, .. } => turn.saturating_add(1),
            // It began before the breaker opened.
            State::Open { .. } => return false,
        };
        let until = now + self.limits.open.after(turn);
        self.state = State::Open { until, turn };
        turn == 1
    }

    /// Whether it has let one through to find out.
    pub fn is_probing(&self) -> bool {
        matches!(self.state, State::Probing { .. })
    }

    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// Whether it is as a new one.
    pub fn is_new(&self) -> bool {
        self.state == State::Closed { failures: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker(failures: u32) -> Breaker {
        Breaker::new(Limits {
            failures,
            open: Backoff {
                base: 5 * SECOND,
                factor: 2.0,
                max: 15 * SECOND,
                jitter: 0.0,
            },
        })
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_so_many_failures_in_a_row() {
        let (mut breaker, now) = (breaker(3), Instant::now());
        assert!(!breaker.failed(now) && !breaker.failed(now));
        assert!(!breaker.succeeded());
        assert!(!breaker.failed(now) && !breaker.failed(now));
        assert_eq!(breaker.ask(now), Pass::Go);
        assert!(breaker.failed(now));
        assert_eq!(breaker.ask(now), Pass::Wait(now + 5 * SECOND));
        assert!(!breaker.failed(now), "those under way change nothing");
        assert_eq!(breaker.ask(now), Pass::Wait(now + 5 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn one_attempt_at_a_time_finds_out_whether_it_works_again() {
        let (mut breaker, mut now) = (breaker(1), Instant::now());
        breaker.failed(now);
        for wait in [5, 10, 15, 15] {
            assert_eq!(breaker.ask(now), Pass::Wait(now + wait * SECOND));
            now += wait * SECOND;
            assert_eq!(breaker.ask(now), Pass::Go);
            assert_eq!(breaker.ask(now), Pass::Wait(now + PROBE_EVERY));
            assert!(!breaker.failed(now), "it was open before");
        }
        now += 15 * SECOND;
        assert_eq!(breaker.ask(now), Pass::Go);
        assert!(breaker.succeeded());
        assert_eq!(breaker.ask(now), Pass::Go);
        assert!(breaker.is_new());
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_never_tells_holds_nobody_up_for_long() {
        let (mut breaker, now) = (breaker(1), Instant::now());
        breaker.failed(now);
        let later = now + 5 * SECOND;
        assert_eq!(breaker.ask(later), Pass::Go);
        assert_eq!(breaker.ask(later + PROBE_EVERY), Pass::Go);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_number_of_failures_it_never_opens() {
        let (mut breaker, now) = (breaker(0), Instant::now());
        for _ in 0..1000 {
            assert!(!breaker.failed(now));
        }
        assert_eq!(breaker.ask(now), Pass::Go);
    }
}
