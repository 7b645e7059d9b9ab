//! Deleting what has had its time, from the feed's beginning on.

use std::sync::Arc;
use std::time::Duration;

use herald::store::{
    DeadFilter, Expired, Expiry, HeldBy, LedgerWrite, NewEvent, Portion, Resolved, State,
};
use herald_contract::{Cursor, Event, TypeFilter};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use ulid::Ulid;

use crate::backend::{Fixture, event};
use crate::reading::everything;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Events are kept for a day, dead letters until somebody acts.
const A_DAY: Expiry = Expiry {
    events: DAY,
    dead: None,
};

const PORTION: Portion = Portion {
    events: 100,
    deliveries: 100,
};

/// Long before any limit here.
const LONG_AGO: &str = "2020-01-01T00:00:00.000000Z";

/// Sequences this many events and makes them old.
async fn feed_old(f: &Fixture, count: usize) -> Vec<Arc<Event>> {
    let batch: Vec<NewEvent> = (0..count).map(|_| event("acme", "a")).collect();
    let events = f.feed(&batch).await;
    let last = events.last().expect("events").seq;
    make_old(f, last).await;
    events
}

/// Makes the events up to this `seq` old.
async fn make_old(f: &Fixture, upto: i64) {
    let sql = format!(
        "UPDATE events SET created_at = '{LONG_AGO}'
         WHERE id IN (SELECT aggregate_id FROM feed WHERE seq <= {upto})"
    );
    f.execute(&sql).await.expect("old");
}

async fn record(f: &Fixture, event: Ulid, recipient: &str, state: State) {
    let write = LedgerWrite {
        event_id: event,
        tenant_id: "acme".into(),
        recipient: recipient.to_owned(),
        state,
        attempts: 1,
        retry_in: DAY,
        cause: None,
        response: None,
        history: Vec::new(),
        destination: None,
        waits_for: None,
        first: false,
        order: None,
    };
    let recorded = f.store.ledger_record("email", &[write]).await;
    recorded.expect("recorded");
}

/// Deletes all that may go; how many events and ledger rows.
async fn expire(f: &Fixture, expiry: &Expiry) -> (u64, u64) {
    let mut sum = (0, 0);
    loop {
        let expired = f.store.expire(expiry, PORTION).await.expect("deleted");
        sum = (sum.0 + expired.events, sum.1 + expired.deliveries);
        if !expired.more {
            return sum;
        }
    }
}

async fn seqs(f: &Fixture) -> Vec<i64> {
    let events = f.store.feed(0, 10_000).await.expect("read");
    events.iter().map(|e| e.seq).collect()
}

async fn held_by(f: &Fixture, expiry: &Expiry) -> Option<HeldBy> {
    let overdue = f.store.overdue(expiry).await.expect("read");
    overdue.and_then(|event| event.held_by)
}

pub async fn an_event_goes_with_its_rows_when_its_time_is_up(f: Arc<Fixture>) {
    let old = feed_old(&f, 3).await;
    f.feed(&[event("acme", "young")]).await;
    for event in &old {
        record(&f, event.event_id, "a", State::Delivered).await;
        record(&f, event.event_id, "b", State::Skipped).await;
    }
    assert_eq!(expire(&f, &A_DAY).await, (3, 6));
    assert_eq!(seqs(&f).await, [4]);
    for event in &old {
        let id = event.event_id;
        assert!(f.store.event(id, None).await.expect("read").is_none());
        assert!(f.store.deliveries(id).await.expect("read").is_empty());
    }
    assert_eq!(expire(&f, &A_DAY).await, (0, 0));
    assert_eq!(f.store.overdue(&A_DAY).await.expect("read"), None);
}

pub async fn the_numbers_go_on_although_everything_is_gone(f: Arc<Fixture>) {
    let old = feed_old(&f, 3).await;
    assert_eq!(expire(&f, &A_DAY).await, (3, 0));
    let head = f.store.feed_head().await.expect("read");
    assert_eq!((head.seq, head.expired), (3, 3));
    let new = f.feed(&[event("acme", "a")]).await;
    assert_eq!(new[0].seq, 4);
    assert!(new[0].aggregate_id > old[2].aggregate_id);
    let again = f.store.new_epoch(&head.epoch).await.expect("done");
    assert_eq!((again.seq, again.expired), (4, 3));
}

pub async fn what_is_not_sequenced_stays(f: Arc<Fixture>) {
    let waiting = f.emit(&[event("acme", "a")]).await[0];
    let old = format!("UPDATE events SET created_at = '{LONG_AGO}' WHERE id = {waiting}");
    f.execute(&old).await.expect("old");
    assert_eq!(expire(&f, &A_DAY).await, (0, 0));
    assert_eq!(f.sequence().await.len(), 1);
    assert_eq!(expire(&f, &A_DAY).await, (1, 0));
}

pub async fn an_event_stays_until_every_known_sink_has_settled_it(f: Arc<Fixture>) {
    for sink in ["email", "push"] {
        f.store.register_sink(sink).await.expect("done");
    }
    feed_old(&f, 5).await;
    f.store.settle("email", 5, None).await.expect("settled");
    f.store.settle("push", 2, None).await.expect("settled");
    f.store.pause("push", true).await.expect("paused");
    assert_eq!(expire(&f, &A_DAY).await, (2, 0));
    assert_eq!(seqs(&f).await, [3, 4, 5]);
    let held = held_by(&f, &A_DAY).await;
    assert_eq!(held, Some(HeldBy::Checkpoint("push".to_owned())));

    assert!(f.store.forget_sink("push").await.expect("forgotten"));
    assert!(!f.store.forget_sink("push").await.expect("known no more"));
    assert_eq!(expire(&f, &A_DAY).await, (3, 0));
}

pub async fn an_event_with_a_pending_delivery_stays_and_holds_those_behind_it(f: Arc<Fixture>) {
    let old = feed_old(&f, 4).await;
    let slow = old[1].event_id;
    record(&f, slow, "a", State::Delivered).await;
    record(&f, slow, "b", State::Pending).await;
    assert_eq!(expire(&f, &A_DAY).await, (1, 0));
    assert_eq!(seqs(&f).await, [2, 3, 4], "no hole");
    assert_eq!(f.store.deliveries(slow).await.expect("read").len(), 2);
    let held = held_by(&f, &A_DAY).await;
    assert_eq!(held, Some(HeldBy::Pending("email".to_owned())));
    record(&f, slow, "b", State::Delivered).await;
    assert_eq!(held_by(&f, &A_DAY).await, None);
    assert_eq!(expire(&f, &A_DAY).await, (3, 2));
}

pub async fn a_young_event_holds_older_ones_behind_it(f: Arc<Fixture>) {
    f.feed(&[event("acme", "young")]).await;
    let batch = [event("acme", "imported")];
    let imported = f.feed(&batch).await[0].aggregate_id;
    let old = format!("UPDATE events SET created_at = '{LONG_AGO}' WHERE id = {imported}");
    f.execute(&old).await.expect("old");
    assert_eq!(expire(&f, &A_DAY).await, (0, 0));
    assert_eq!(seqs(&f).await, [1, 2]);
}

pub async fn a_dead_letter_holds_its_event_until_it_is_dropped_or_its_own_time_is_up(
    f: Arc<Fixture>,
) {
    let old = feed_old(&f, 2).await;
    for event in &old {
        record(&f, event.event_id, "a", State::Dead).await;
    }
    let lasting = Expiry {
        dead: Some(DAY),
        ..A_DAY
    };
    for expiry in [&A_DAY, &lasting] {
        assert_eq!(expire(&f, expiry).await, (0, 0));
        let held = held_by(&f, expiry).await;
        assert_eq!(held, Some(HeldBy::Dead("email".to_owned())));
    }
    let drop = DeadFilter {
        event_id: Some(old[0].event_id),
        ..DeadFilter::default()
    };
    assert_eq!(f.store.dead_drop(&drop).await.expect("dropped"), 1);
    assert_eq!(expire(&f, &A_DAY).await, (1, 0));
    let died = format!("UPDATE deliveries SET updated_at = '{LONG_AGO}'");
    f.execute(&died).await.expect("died long ago");
    assert_eq!(expire(&f, &A_DAY).await, (0, 0), "kept until dropped");
    assert_eq!(expire(&f, &lasting).await, (1, 1));
}

pub async fn no_transaction_deletes_more_than_its_portion(f: Arc<Fixture>) {
    let old = feed_old(&f, 5).await;
    for event in &old[..2] {
        for recipient in 0..5 {
            let recipient = format!("{recipient}@example.test");
            record(&f, event.event_id, &recipient, State::Delivered).await;
        }
    }
    let portion = Portion {
        events: 2,
        deliveries: 4,
    };
    let mut steps = Vec::new();
    for _ in 0..5 {
        let expired = f.store.expire(&A_DAY, portion).await.expect("deleted");
        steps.push(expired);
    }
    let step = |events, deliveries, more| Expired {
        events,
        deliveries,
        more,
    };
    let expected = [
        step(0, 4, true),
        step(0, 4, true),
        step(2, 2, true),
        step(2, 0, true),
        step(1, 0, false),
    ];
    assert_eq!(steps, expected);
}

pub async fn a_place_that_has_expired_is_unknown_and_the_beginning_is_the_oldest_kept(
    f: Arc<Fixture>,
) {
    let old = feed_old(&f, 2).await;
    f.feed(&[event("acme", "a"), event("acme", "a")]).await;
    expire(&f, &A_DAY).await;
    for event in &old {
        let by_number = Cursor {
            after: Some(event.aggregate_id),
            event_id: None,
        };
        let by_id = Cursor {
            after: None,
            event_id: Some(event.event_id),
        };
        for cursor in [by_number, by_id] {
            let resolved = f.store.resolve("acme", cursor).await.expect("read");
            assert_eq!(resolved, Resolved::Unknown);
        }
    }
    let all = TypeFilter::default();
    let page = f.store.page(&everything("acme", &all)).await.expect("read");
    let page: Vec<_> = page.iter().map(|e| e.seq).collect();
    assert_eq!(page, [3, 4]);
    assert_eq!(seqs(&f).await, [3, 4]);
    assert_eq!(f.store.latest("acme", &all, 2).await.expect("read"), None);
}

pub async fn an_id_or_key_that_is_emitted_again_after_its_event_has_expired_is_new(
    f: Arc<Fixture>,
) {
    let first = NewEvent {
        idempotency_key: Some("order-7".to_owned()),
        ..event("acme", "a")
    };
    f.feed(std::slice::from_ref(&first)).await;
    make_old(&f, 1).await;
    let again = std::slice::from_ref(&first);
    assert!(f.store.emit(again).await.expect("emitted")[0].repeated);
    expire(&f, &A_DAY).await;
    assert!(!f.store.emit(again).await.expect("emitted")[0].repeated);
    let events = f.sequence().await;
    assert_eq!((events[0].seq, events[0].event_id), (2, first.event_id));
}

pub async fn a_sink_that_is_given_up_holds_nothing(f: Arc<Fixture>) {
    let old = feed_old(&f, 3).await;
    record(&f, old[0].event_id, "a", State::Pending).await;
    record(&f, old[1].event_id, "a", State::Dead).await;
    record(&f, old[2].event_id, "a", State::Delivered).await;
    let mut given_up = Vec::new();
    for _ in 0..3 {
        given_up.push(f.store.give_up("email", 1).await.expect("done"));
    }
    assert_eq!(given_up, [1, 1, 0]);
    assert_eq!(f.store.give_up("push", 10).await.expect("done"), 0);
    assert_eq!(expire(&f, &A_DAY).await, (3, 1));
}

pub async fn the_oldest_pending_delivery_of_each_sink_is_told(f: Arc<Fixture>) {
    for sink in ["email", "idle"] {
        f.store.register_sink(sink).await.expect("done");
    }
    let old = feed_old(&f, 2).await;
    record(&f, old[0].event_id, "a", State::Delivered).await;
    assert!(vitals(&f).await.is_empty());
    record(&f, old[0].event_id, "b", State::Pending).await;
    record(&f, old[1].event_id, "b", State::Pending).await;
    let since = format!("UPDATE deliveries SET created_at = '{LONG_AGO}' WHERE recipient = 'b'");
    f.execute(&since).await.expect("old");
    let vitals = vitals(&f).await;
    assert_eq!(vitals.len(), 1, "{vitals:?}");
    assert!(vitals[0].0 == "email" && vitals[0].1 > 365 * DAY);
}

async fn vitals(f: &Fixture) -> Vec<(String, Duration)> {
    f.store.vitals().await.expect("read").oldest_pending
}

/// Emits, records, settles, forgets and deletes at random; after each step what must hold does.
pub async fn whatever_happens_the_feed_has_no_hole_and_nothing_unfinished_is_deleted(
    f: Arc<Fixture>,
) {
    let seed = std::env::var("HERALD_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(rand::random);
    println!("HERALD_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for sink in ["email", "push"] {
        f.store.register_sink(sink).await.expect("done");
    }
    let mut events: Vec<Arc<Event>> = Vec::new();
    for _ in 0..120 {
        let end = events.len() as i64;
        match random.random_range(0..6) {
            0 => {
                let batch: Vec<_> = (0..random.random_range(1..6))
                    .map(|_| event("acme", "a"))
                    .collect();
                events.extend(f.feed(&batch).await);
            }
            1 => make_old(&f, random.random_range(0..=end)).await,
            2 => {
                let sink = ["email", "push"][random.random_range(0..2)];
                let seq = random.random_range(0..=end);
                f.store.settle(sink, seq, None).await.expect("settled");
            }
            3 if end > 0 => {
                // Of what is there: nobody records a delivery of what every sink has settled.
                let kept = f.store.feed(0, 10_000).await.expect("read");
                if kept.is_empty() {
                    continue;
                }
                let event = &kept[random.random_range(0..kept.len())];
                let states = [State::Pending, State::Delivered, State::Dead];
                let state = states[random.random_range(0..3)];
                let recipient = random.random_range(0..4).to_string();
                record(&f, event.event_id, &recipient, state).await;
            }
            4 => {
                let filter = DeadFilter::default();
                f.store.dead_replay(&filter).await.expect("replayed");
            }
            _ => {
                let portion = Portion {
                    events: random.random_range(1..5),
                    deliveries: random.random_range(1..5),
                };
                check_one_deletion(&f, &events, portion).await;
            }
        }
    }
}

async fn check_one_deletion(f: &Fixture, events: &[Arc<Event>], portion: Portion) {
    let before = f.store.feed(0, 10_000).await.expect("read");
    let mut unfinished = Vec::new();
    for event in &before {
        let rows = f.store.deliveries(event.event_id).await.expect("read");
        if rows
            .iter()
            .any(|row| matches!(row.state, State::Pending | State::Dead))
        {
            unfinished.push(event.seq);
        }
    }
    let checkpoints = f.store.checkpoints().await.expect("read");
    let settled = checkpoints.iter().map(|(_, at)| at.seq).min().expect("two");
    let expired = f.store.expire(&A_DAY, portion).await.expect("deleted");
    assert!(expired.events <= portion.events as u64, "{expired:?}");
    assert!(
        expired.deliveries <= portion.deliveries as u64,
        "{expired:?}"
    );

    let head = f.store.feed_head().await.expect("read");
    let dense: Vec<i64> = (head.expired + 1..=events.len() as i64).collect();
    assert_eq!(
        seqs(f).await,
        dense,
        "the feed is dense above its beginning"
    );
    assert!(head.expired <= settled, "{head:?}, settled {settled}");
    assert!(
        unfinished.iter().all(|seq| *seq > head.expired),
        "{head:?}, unfinished {unfinished:?}"
    );
}
