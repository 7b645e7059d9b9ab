//! Checkpoints.

use std::sync::Arc;

use herald::store::{Checkpoint, Witness};

use crate::backend::{Fixture, event};

fn at(seq: i64) -> Checkpoint {
    Checkpoint { seq, paused: false }
}

pub async fn a_new_sink_begins_at_the_feeds_end_and_stays_where_it_is(f: Arc<Fixture>) {
    assert_eq!(f.store.register_sink("early").await.expect("done"), at(0));
    f.feed(&[event("acme", "a"), event("acme", "a")]).await;
    assert_eq!(f.store.register_sink("late").await.expect("done"), at(2));
    assert_eq!(f.store.register_sink("early").await.expect("done"), at(0));
    let all = f.store.checkpoints().await.expect("read");
    assert_eq!(
        all,
        [("early".to_owned(), at(0)), ("late".to_owned(), at(2))]
    );
}

pub async fn checkpoints_never_go_back_and_never_pass_the_feed(f: Arc<Fixture>) {
    f.store.register_sink("email").await.expect("done");
    let events: Vec<_> = (0..7).map(|_| event("acme", "a")).collect();
    f.feed(&events).await;
    for (seq, expected) in [(5, 5), (3, 5), (5, 5), (6, 6), (1000, 6), (7, 7), (6, 7)] {
        f.store.settle("email", seq, None).await.expect("settled");
        let all = f.store.checkpoints().await.expect("read");
        assert_eq!(all[0].1, at(expected), "after {seq}");
    }
}

pub async fn a_checkpoint_does_not_move_for_a_broker_that_speaks_of_another_history(
    f: Arc<Fixture>,
) {
    f.store.register_sink("email").await.expect("done");
    let events = f.feed(&[event("acme", "a"), event("acme", "a")]).await;
    let witness = |seq, event_id| Some(Witness { seq, event_id });
    for (witness, expected) in [
        (witness(2, events[0].event_id), 0),
        (witness(3, events[1].event_id), 0),
        (witness(2, events[1].event_id), 1),
    ] {
        f.store.settle("email", 1, witness).await.expect("settled");
        let all = f.store.checkpoints().await.expect("read");
        assert_eq!(all[0].1, at(expected), "{witness:?}");
    }
}

pub async fn a_known_sink_is_paused_and_resumed(f: Arc<Fixture>) {
    assert!(!f.store.pause("email", true).await.expect("done"));
    f.store.register_sink("email").await.expect("done");
    for paused in [true, true, false] {
        assert!(f.store.pause("email", paused).await.expect("done"));
        let known = f.store.register_sink("email").await.expect("done");
        assert_eq!(known, Checkpoint { seq: 0, paused });
    }
}
