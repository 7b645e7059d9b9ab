//! Dead letters.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use herald::store::{DeadFilter, LedgerRow, State};
use herald_contract::Event;

use crate::backend::{Fixture, event};
use crate::ledger::write;

/// Three dead letters beside rows in every other state.
async fn three(f: &Fixture) -> Vec<Arc<Event>> {
    let events = f
        .feed(&[
            event("acme", "order.created"),
            event("acme", "order_x"),
            event("bolt", "user.created"),
        ])
        .await;
    for (n, (sink, cause)) in [
        ("email", "Mailbox full"),
        ("email", "100% [sic]"),
        ("push", "x"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut dead = write(&events[n], &format!("r{n}"), State::Dead);
        dead.cause = Some(cause.to_owned());
        f.store
            .ledger_record(sink, &[dead])
            .await
            .expect("recorded");
    }
    let others = [
        State::Pending,
        State::Delivered,
        State::Skipped,
        State::Gone,
    ]
    .map(|state| write(&events[0], state.as_str(), state));
    f.store
        .ledger_record("email", &others)
        .await
        .expect("recorded");
    events
}

/// The recipients of the dead letters that the filter means, which the count must agree with.
async fn meant(f: &Fixture, filter: &DeadFilter) -> Vec<String> {
    let rows = f.store.dead(filter, 100).await.expect("read");
    let count = f.store.dead_count(filter).await.expect("read");
    assert_eq!(count, rows.len() as u64, "{filter:?}");
    rows.into_iter().map(|row| row.recipient).collect()
}

pub async fn dead_letters_are_listed_newest_first_up_to_a_limit(f: Arc<Fixture>) {
    three(&f).await;
    assert_eq!(meant(&f, &DeadFilter::default()).await, ["r2", "r1", "r0"]);
    let two = f.store.dead(&DeadFilter::default(), 2).await.expect("read");
    assert_eq!(two.len(), 2);
    assert_eq!((two[0].state, &*two[0].kind), (State::Dead, "user.created"));
    assert_eq!(two[0].next_attempt_at, None);
}

pub async fn every_filter_narrows(f: Arc<Fixture>) {
    let events = three(&f).await;
    let all = DeadFilter::default;
    let text = |text: &str| Some(text.to_owned());
    let newest = f.store.dead(&all(), 1).await.expect("read").remove(0);
    let cases: [(DeadFilter, &[&str]); 14] = [
        (
            DeadFilter {
                sink: text("push"),
                ..all()
            },
            &["r2"],
        ),
        (
            DeadFilter {
                sink: text("none"),
                ..all()
            },
            &[],
        ),
        (
            DeadFilter {
                kind: text("order.created"),
                ..all()
            },
            &["r0"],
        ),
        (
            DeadFilter {
                kind: text("order"),
                ..all()
            },
            &[],
        ),
        (
            DeadFilter {
                kind: text("order*"),
                ..all()
            },
            &["r1", "r0"],
        ),
        (
            DeadFilter {
                kind: text("*"),
                ..all()
            },
            &["r2", "r1", "r0"],
        ),
        (
            DeadFilter {
                tenant: text("bolt"),
                ..all()
            },
            &["r2"],
        ),
        (
            DeadFilter {
                cause: text("MAILBOX"),
                ..all()
            },
            &["r0"],
        ),
        (
            DeadFilter {
                event_id: Some(events[1].event_id),
                ..all()
            },
            &["r1"],
        ),
        (
            DeadFilter {
                recipient: text("r1"),
                ..all()
            },
            &["r1"],
        ),
        (
            DeadFilter {
                since: Some(newest.updated_at),
                ..all()
            },
            &["r2"],
        ),
        (
            DeadFilter {
                since: Some(Utc::now() - TimeDelta::hours(1)),
                ..all()
            },
            &["r2", "r1", "r0"],
        ),
        (
            DeadFilter {
                since: Some(Utc::now() + TimeDelta::hours(1)),
                ..all()
            },
            &[],
        ),
        (
            DeadFilter {
                sink: text("email"),
                tenant: text("bolt"),
                ..all()
            },
            &[],
        ),
    ];
    for (filter, expected) in cases {
        assert_eq!(meant(&f, &filter).await, expected, "{filter:?}");
    }
}

pub async fn special_characters_in_filters_mean_themselves(f: Arc<Fixture>) {
    three(&f).await;
    let kind = |kind: &str| DeadFilter {
        kind: Some(kind.to_owned()),
        ..DeadFilter::default()
    };
    let cause = |cause: &str| DeadFilter {
        cause: Some(cause.to_owned()),
        ..DeadFilter::default()
    };
    assert_eq!(meant(&f, &kind("order_*")).await, ["r1"]);
    assert!(meant(&f, &kind("%*")).await.is_empty());
    assert!(meant(&f, &kind("[o]rder*")).await.is_empty());
    assert!(meant(&f, &kind("Order*")).await.is_empty());
    assert_eq!(meant(&f, &cause("%")).await, ["r1"]);
    assert_eq!(meant(&f, &cause("[SIC]")).await, ["r1"]);
    assert!(meant(&f, &cause("_")).await.is_empty());
}

pub async fn replay_makes_dead_letters_due_with_all_attempts_before_them(f: Arc<Fixture>) {
    let events = three(&f).await;
    let filter = DeadFilter {
        kind: Some("order*".to_owned()),
        ..DeadFilter::default()
    };
    assert_eq!(f.store.dead_replay(&filter).await.expect("done"), 2);
    assert_eq!(f.store.dead_replay(&filter).await.expect("done"), 0);
    assert_eq!(meant(&f, &DeadFilter::default()).await, ["r2"]);
    let due = f
        .store
        .ledger_due("email", Duration::from_secs(60), 10, None, None)
        .await
        .expect("taken");
    let mut replayed: Vec<_> = due
        .iter()
        .filter(|d| d.recipient.starts_with('r'))
        .map(|d| (d.event.event_id, d.attempts))
        .collect();
    replayed.sort();
    let mut expected = [(events[0].event_id, 0), (events[1].event_id, 0)];
    expected.sort();
    assert_eq!(replayed, expected);
    // And it can be recorded anew.
    let delivered = write(&events[0], "r0", State::Delivered);
    f.store
        .ledger_record("email", &[delivered])
        .await
        .expect("recorded");
    let rows = f.store.deliveries(events[0].event_id).await.expect("read");
    assert!(
        rows.iter()
            .any(|r| r.recipient == "r0" && r.state == State::Delivered)
    );
}

pub async fn drop_deletes_what_matches_and_nothing_else(f: Arc<Fixture>) {
    let events = three(&f).await;
    let filter = DeadFilter {
        sink: Some("email".to_owned()),
        ..DeadFilter::default()
    };
    assert_eq!(f.store.dead_drop(&filter).await.expect("done"), 2);
    assert_eq!(meant(&f, &DeadFilter::default()).await, ["r2"]);
    let left = f.store.deliveries(events[0].event_id).await.expect("read");
    assert_eq!(left.len(), 4, "what is not dead stays");
    assert_eq!(
        f.store
            .dead_drop(&DeadFilter::default())
            .await
            .expect("done"),
        1
    );
}

pub async fn a_dead_letter_is_told_of_once_and_again_when_it_dies_again(f: Arc<Fixture>) {
    let events = f.feed(&[event("acme", "a"), event("acme", "b")]).await;
    let letters: Vec<_> = events
        .iter()
        .map(|event| write(event, "a", State::Dead))
        .collect();
    f.store
        .ledger_record("email", &letters)
        .await
        .expect("recorded");
    let untold = async |sink| f.store.dead_untold(sink, 10).await.expect("read");
    let ids = |rows: &[LedgerRow]| rows.iter().map(|row| row.event_id).collect::<Vec<_>>();
    let both = untold("email").await;
    assert_eq!(both.len(), 2);
    assert!(untold("push").await.is_empty());
    let (first, second) = (events[0].event_id, events[1].event_id);
    let told: Vec<_> = both
        .iter()
        .filter(|l| l.event_id == first)
        .cloned()
        .collect();
    f.store.dead_told(&told).await.expect("marked");
    assert_eq!(ids(&untold("email").await), [second]);

    let all = DeadFilter::default();
    assert_eq!(f.store.dead_replay(&all).await.expect("replayed"), 2);
    assert!(untold("email").await.is_empty(), "they live");
    f.store
        .ledger_record("email", &letters[..1])
        .await
        .expect("recorded");
    f.store.dead_told(&told).await.expect("marked");
    let again = untold("email").await;
    assert_eq!(ids(&again), [first], "this death was not told of");
}
