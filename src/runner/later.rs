//! When those come back by themselves that wait for a destination: late, and few at a time over all
//! destinations, since each that comes in vain costs two writes.

use std::time::Duration;

use tokio::time::Instant;

/// When the first of them comes back.
const SOONEST: Duration = Duration::from_secs(10);

/// How many come back every second.
pub const IN_VAIN: u32 = 25;

/// None waits for longer, however many wait.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// The turns of those that come back by themselves.
#[derive(Debug)]
pub struct Later {
    turn: Instant,
    /// How many have this turn.
    taken: u32,
}

impl Later {
    pub fn new(now: Instant) -> Self {
        Self {
            turn: now,
            taken: 0,
        }
    }

    /// Whole seconds: those of one turn come back in few looks at the ledger.
    pub fn take_turn(&mut self, now: Instant) -> Instant {
        if self.turn <= now || self.turn > now + LONGEST {
            *self = Self::new(now + SOONEST);
        }
        if self.taken == IN_VAIN {
            *self = Self::new(self.turn + Duration::from_secs(1));
        }
        self.taken += 1;
        self.turn
    }
}
