//! What may happen to a ledger, by chance.

use herald::store::State;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::model::{Dead, SINKS, Write};

/// One step of a life. Processes are numbered.
#[derive(Debug, Clone)]
pub enum Step {
    Record(usize, usize, Vec<Write>),
    /// Both processes record at once what came of the same sink's attempts.
    RecordAtOnce(usize, [Write; 2]),
    Take(usize, usize, usize, i64),
    /// Both processes ask at once.
    TakeAtOnce(usize, [usize; 2], i64),
    Pass(i64),
    /// What waits on the sink is let go.
    LetGo(usize),
    Replay(Dead),
    Drop(Dead),
}

fn write() -> impl Strategy<Value = Write> {
    let state = prop_oneof![
        5 => Just(State::Pending),
        1 => Just(State::Delivered),
        1 => Just(State::Skipped),
        1 => Just(State::Gone),
        3 => Just(State::Dead),
    ];
    let delivery = (0..2_usize, 0..2_usize);
    (delivery, state, 0..4_u32, 0..3_i64, any::<bool>()).prop_map(
        |((event, recipient), state, attempts, wait, waits)| Write {
            event,
            recipient,
            state,
            attempts,
            wait,
            waits,
        },
    )
}

pub fn step() -> impl Strategy<Value = Step> {
    let process = || 0..2_usize;
    let sink = || 0..SINKS.len();
    let dead = || {
        let one = || option::of(0..2_usize);
        (one(), one(), one()).prop_map(|(sink, event, recipient)| Dead {
            sink,
            event,
            recipient,
        })
    };
    prop_oneof![
        8 => (process(), sink(), vec(write(), 1..4)).prop_map(|(p, s, w)| Step::Record(p, s, w)),
        1 => (sink(), write(), write()).prop_map(|(s, a, b)| Step::RecordAtOnce(s, [a, b])),
        4 => (process(), sink(), 1..4_usize, 1..3_i64)
            .prop_map(|(p, s, limit, lease)| Step::Take(p, s, limit, lease)),
        1 => (sink(), [1..4_usize, 1..4_usize], 1..3_i64)
            .prop_map(|(s, limits, lease)| Step::TakeAtOnce(s, limits, lease)),
        3 => (1..3_i64).prop_map(Step::Pass),
        2 => sink().prop_map(Step::LetGo),
        2 => dead().prop_map(Step::Replay),
        1 => dead().prop_map(Step::Drop),
    ]
}
