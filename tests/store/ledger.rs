//! The ledger.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use herald::store::{Attempt, LedgerWrite, SinkCounts, State, Store};
use herald_contract::Event;

use crate::backend::{Fixture, event};

pub fn write(event: &Event, recipient: &str, state: State) -> LedgerWrite {
    LedgerWrite {
        event_id: event.event_id,
        tenant_id: event.tenant_id.clone(),
        recipient: recipient.to_owned(),
        state,
        attempts: 1,
        retry_in: Duration::ZERO,
        cause: (state != State::Delivered).then(|| "refused".to_owned()),
        response: (state == State::Delivered).then(|| "250 OK".to_owned()),
        history: Vec::new(),
        destination: None,
        waits_for: None,
        first: false,
        order: None,
    }
}

async fn one(f: &Fixture) -> Arc<Event> {
    Arc::clone(&f.feed(&[event("acme", "order.created")]).await[0])
}

pub async fn what_is_recorded_is_known_and_shown(f: Arc<Fixture>) {
    let events = f
        .feed(&[event("acme", "order.created"), event("acme", "b")])
        .await;
    let (e, other) = (&events[0], &events[1]);
    let at = DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("in range");
    let history = vec![Attempt {
        at,
        cause: "it said \"no\"\n\0".to_owned(),
    }];
    let mut pending = write(e, "é@example.org", State::Pending);
    pending.attempts = 3;
    pending.retry_in = Duration::from_secs(60);
    pending.history = history.clone();
    let delivered = write(e, "b@example.org", State::Delivered);
    let before = Utc::now();
    f.store
        .ledger_record("email", &[pending, delivered])
        .await
        .expect("recorded");
    f.store
        .ledger_record("email", &[])
        .await
        .expect("nothing to record");

    let ids = [e.event_id, other.event_id];
    let mut known = f.store.ledger_known("email", &ids).await.expect("read");
    known.sort();
    assert_eq!(
        known,
        [
            (e.event_id, "b@example.org".to_owned()),
            (e.event_id, "é@example.org".to_owned())
        ]
    );
    assert!(
        f.store
            .ledger_known("push", &ids)
            .await
            .expect("read")
            .is_empty()
    );

    let rows = f.store.deliveries(e.event_id).await.expect("read");
    assert_eq!(rows.len(), 2);
    let row = rows
        .iter()
        .find(|r| r.recipient == "é@example.org")
        .expect("there");
    assert_eq!(
        (&*row.sink, &*row.tenant_id, &*row.kind),
        ("email", "acme", "order.created")
    );
    assert_eq!((row.state, row.attempts), (State::Pending, 3));
    assert_eq!(
        (row.cause.as_deref(), row.response.as_deref()),
        (Some("refused"), None)
    );
    assert_eq!(row.history, history);
    let wait = row.next_attempt_at.expect("pending") - before;
    assert!((wait.num_seconds() - 60).abs() < 30, "{wait}");
    let row = rows
        .iter()
        .find(|r| r.recipient == "b@example.org")
        .expect("there");
    assert_eq!((row.state, row.next_attempt_at), (State::Delivered, None));
    assert_eq!(
        (row.cause.as_deref(), row.response.as_deref()),
        (None, Some("250 OK"))
    );
    assert!(
        f.store
            .deliveries(other.event_id)
            .await
            .expect("read")
            .is_empty()
    );
}

pub async fn a_final_row_stays_as_it_is(f: Arc<Fixture>) {
    let e = one(&f).await;
    for state in [State::Delivered, State::Skipped, State::Gone, State::Dead] {
        let to = state.as_str();
        let record = |state| {
            let writes = [write(&e, to, state)];
            let store = Arc::clone(&f.store);
            async move {
                store
                    .ledger_record("email", &writes)
                    .await
                    .expect("recorded")
            }
        };
        record(State::Pending).await;
        record(state).await;
        record(State::Pending).await;
        record(State::Delivered).await;
    }
    for row in f.store.deliveries(e.event_id).await.expect("read") {
        assert_eq!(row.state.as_str(), row.recipient);
        assert_eq!(row.next_attempt_at, None);
    }
}

pub async fn a_delivery_named_twice_in_a_batch_is_one_row(f: Arc<Fixture>) {
    use State::{Dead, Delivered, Pending};
    let e = one(&f).await;
    for (to, outcomes, expected) in [
        ("a", [(Pending, 1), (Delivered, 1)], (Delivered, 1)),
        ("b", [(Delivered, 1), (Pending, 2)], (Delivered, 1)),
        ("c", [(Delivered, 1), (Dead, 2)], (Delivered, 1)),
        ("d", [(Pending, 2), (Pending, 1)], (Pending, 2)),
        ("e", [(Pending, 1), (Pending, 2)], (Pending, 2)),
    ] {
        let writes = outcomes.map(|(state, attempts)| LedgerWrite {
            attempts,
            ..write(&e, to, state)
        });
        f.store
            .ledger_record("email", &writes)
            .await
            .expect("recorded");
        let rows = f.store.deliveries(e.event_id).await.expect("read");
        let row = rows.iter().find(|r| r.recipient == to).expect("there");
        assert_eq!((row.state, row.attempts), expected, "{to}");
    }
    let rows = f.store.deliveries(e.event_id).await.expect("read");
    assert_eq!(rows.len(), 5);
}

/// A process that was stopped between reading and recording comes late.
pub async fn a_first_pending_row_takes_nothing_from_the_process_that_was_first(f: Arc<Fixture>) {
    let e = one(&f).await;
    let record = async |writes: &[LedgerWrite]| {
        let recorded = f.store.ledger_record("email", writes).await;
        recorded.expect("recorded");
    };
    let due = async || {
        let lease = Duration::from_secs(60);
        let due = f.store.ledger_due("email", lease, 10, None, None).await;
        due.expect("taken").len()
    };
    let mut first = write(&e, "a", State::Pending);
    (first.first, first.attempts) = (true, 0);
    record(std::slice::from_ref(&first)).await;
    assert_eq!(due().await, 1);
    let mut late = first.clone();
    late.attempts = 1;
    let other = LedgerWrite {
        recipient: "b".to_owned(),
        ..first.clone()
    };
    record(&[late, other]).await;
    let shown = f.store.deliveries(e.event_id).await.expect("read");
    let attempts: Vec<_> = shown.iter().map(|row| row.attempts).collect();
    assert_eq!(attempts, [0, 0], "two rows, neither overwritten");
    assert_eq!(due().await, 1, "the other one: the first is on its way");

    // What came of it counts, whoever tells.
    first.state = State::Delivered;
    record(&[first]).await;
    let shown = f.store.deliveries(e.event_id).await.expect("read");
    let delivered = shown.iter().filter(|row| row.state == State::Delivered);
    assert_eq!(delivered.count(), 1);
}

pub async fn due_rows_are_taken_once_and_leased(f: Arc<Fixture>) {
    let batch: Vec<_> = (0..5).map(|_| event("acme", "a")).collect();
    let events = f.feed(&batch).await;
    let mut writes: Vec<_> = events
        .iter()
        .map(|e| write(e, "r", State::Pending))
        .collect();
    writes[0].history.push(Attempt {
        at: Utc::now(),
        cause: "first".to_owned(),
    });
    f.store
        .ledger_record("email", &writes)
        .await
        .expect("recorded");
    let hour = Duration::from_secs(3600);
    let due = async |sink, limit| {
        f.store
            .ledger_due(sink, hour, limit, None, None)
            .await
            .expect("taken")
    };
    assert!(due("push", 10).await.is_empty());
    let first = due("email", 3).await;
    assert_eq!(first.len(), 3);
    let rest = due("email", 10).await;
    assert_eq!(rest.len(), 2);
    assert!(due("email", 10).await.is_empty(), "leased");
    let mut taken: Vec<_> = first.iter().chain(&rest).collect();
    taken.sort_by_key(|d| d.event.seq);
    for (taken, event) in taken.iter().zip(&events) {
        assert_eq!(
            (taken.event.seq, taken.event.event_id),
            (event.seq, event.event_id)
        );
        assert_eq!((taken.recipient.as_str(), taken.attempts), ("r", 1));
        assert_eq!(taken.event.payload.get(), event.payload.get());
    }
    assert_eq!(taken[0].history[0].cause, "first");
    let wait = f
        .store
        .ledger_wait("email", None)
        .await
        .expect("read")
        .expect("pending");
    assert!(wait > hour / 2 && wait <= hour, "{wait:?}");
}

pub async fn processes_that_ask_at_once_take_each_due_row_once(f: Arc<Fixture>) {
    let e = one(&f).await;
    let writes: Vec<_> = (0..60)
        .map(|n| write(&e, &n.to_string(), State::Pending))
        .collect();
    f.store
        .ledger_record("email", &writes)
        .await
        .expect("recorded");
    let take = |store: Arc<dyn Store>| {
        tokio::spawn(async move {
            let mut got = Vec::new();
            loop {
                let due = store.ledger_due("email", Duration::from_secs(3600), 4, None, None);
                let due = due.await.expect("taken");
                if due.is_empty() {
                    return got;
                }
                got.extend(due.into_iter().map(|due| due.recipient));
            }
        })
    };
    let mut got = Vec::new();
    for taker in [f.another(), f.another(), f.another()].map(take) {
        got.extend(taker.await.expect("takes"));
    }
    got.sort();
    let mut all: Vec<_> = writes.into_iter().map(|write| write.recipient).collect();
    all.sort();
    assert_eq!(got, all);
}

pub async fn a_stale_outcome_takes_nothing_back(f: Arc<Fixture>) {
    let e = one(&f).await;
    let record = async |state, attempts: u32, hours: u64| {
        let mut stale = write(&e, "r", state);
        stale.attempts = attempts;
        stale.retry_in = Duration::from_secs(hours * 3600);
        f.store
            .ledger_record("email", &[stale])
            .await
            .expect("recorded");
        let row = f
            .store
            .deliveries(e.event_id)
            .await
            .expect("read")
            .remove(0);
        (row.state, row.attempts)
    };
    assert_eq!(record(State::Pending, 3, 5).await, (State::Pending, 3));
    // A process that hung through its lease says at last what came of the second attempt.
    assert_eq!(record(State::Pending, 2, 0).await, (State::Pending, 3));
    let wait = f.store.ledger_wait("email", None).await.expect("read");
    assert!(wait > Some(Duration::from_secs(4 * 3600)), "{wait:?}");
    // A delivery is one all the same.
    assert_eq!(record(State::Delivered, 2, 0).await, (State::Delivered, 3));
}

pub async fn a_row_is_due_when_its_time_has_come(f: Arc<Fixture>) {
    let e = one(&f).await;
    let mut soon = write(&e, "soon", State::Pending);
    soon.retry_in = Duration::from_millis(30);
    let mut never = write(&e, "never", State::Pending);
    never.retry_in = Duration::from_secs(86_400 * 365);
    let done = write(&e, "done", State::Delivered);
    f.store
        .ledger_record("email", &[soon, never, done])
        .await
        .expect("recorded");
    let hour = Duration::from_secs(3600);
    for _ in 0..500 {
        let due = f
            .store
            .ledger_due("email", hour, 10, None, Some(hour))
            .await
            .expect("taken");
        if !due.is_empty() {
            assert_eq!(due.len(), 1);
            assert_eq!(due[0].recipient, "soon");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never was due");
}

pub async fn the_wait_is_until_the_next_row_is_due(f: Arc<Fixture>) {
    let e = one(&f).await;
    let hour = Some(Duration::from_secs(3600));
    let wait = async || f.store.ledger_wait("email", hour).await.expect("read");
    assert_eq!(wait().await, None);
    let mut later = write(&e, "later", State::Pending);
    later.retry_in = Duration::from_secs(1000);
    let dead = write(&e, "dead", State::Dead);
    f.store
        .ledger_record("email", &[later, dead])
        .await
        .expect("recorded");
    let until = wait().await.expect("pending").as_secs();
    assert!((900..=1000).contains(&until), "{until}");
    let now = write(&e, "now", State::Pending);
    f.store
        .ledger_record("email", &[now])
        .await
        .expect("recorded");
    assert_eq!(wait().await, Some(Duration::ZERO));
}

pub async fn text_that_no_database_holds_does_not_stop_a_batch(f: Arc<Fixture>) {
    let e = one(&f).await;
    let mut odd = write(&e, "a\0b", State::Dead);
    odd.cause = Some("550 \0 no".to_owned());
    odd.response = Some("\0".to_owned());
    f.store
        .ledger_record("email", &[odd])
        .await
        .expect("recorded");
    let row = f
        .store
        .deliveries(e.event_id)
        .await
        .expect("read")
        .remove(0);
    assert_eq!(row.cause.as_deref(), Some("550 \u{fffd} no"));
    assert_eq!(row.recipient, "a\u{fffd}b");
}

pub async fn counts_are_a_sinks_own(f: Arc<Fixture>) {
    let e = one(&f).await;
    let all = [
        State::Pending,
        State::Pending,
        State::Dead,
        State::Delivered,
    ];
    let writes: Vec<_> = all
        .into_iter()
        .enumerate()
        .map(|(n, state)| write(&e, &n.to_string(), state))
        .collect();
    f.store
        .ledger_record("email", &writes)
        .await
        .expect("recorded");
    f.store
        .ledger_record("push", &writes[2..3])
        .await
        .expect("recorded");
    f.store
        .ledger_record("calm", &writes[3..])
        .await
        .expect("recorded");
    let mut counts = f.store.sink_counts().await.expect("read");
    counts.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = |sink: &str, retrying, dead| (sink.to_owned(), SinkCounts { retrying, dead });
    assert_eq!(counts, [expected("email", 2, 1), expected("push", 0, 1)]);
}
