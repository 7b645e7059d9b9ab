//! Events come in.

use std::sync::Arc;

use chrono::{Timelike as _, Utc};
use herald::store::StoreError;
use sqlx::error::ErrorKind;

use crate::backend::{Fixture, event, json, ulid};

pub async fn a_batch_is_answered_in_its_order_with_ids_that_grow(f: Arc<Fixture>) {
    let batch: Vec<_> = (0..100).map(|_| event("acme", "order.created")).collect();
    let emitted = f.store.emit(&batch).await.expect("emitted");
    assert_eq!(emitted.len(), 100);
    for (sent, got) in batch.iter().zip(&emitted) {
        assert_eq!(sent.event_id, got.event_id);
        assert!(!got.repeated);
    }
    assert!(emitted.is_sorted_by(|a, b| a.aggregate_id < b.aggregate_id));
    assert!(f.store.emit(&[]).await.expect("emitted").is_empty());
}

pub async fn an_id_that_is_emitted_again_gets_the_first_answer(f: Arc<Fixture>) {
    let (old, new) = (event("acme", "a"), event("acme", "b"));
    let first = f
        .store
        .emit(std::slice::from_ref(&old))
        .await
        .expect("emitted");
    let again = f.store.emit(&[new.clone(), old]).await.expect("emitted");
    assert_eq!(
        (again[0].event_id, again[0].repeated),
        (new.event_id, false)
    );
    assert_eq!(again[1].aggregate_id, first[0].aggregate_id);
    assert!(again[1].repeated);
    assert_eq!(f.sequence().await.len(), 2);
}

pub async fn an_idempotency_key_that_is_used_again_gets_the_first_answer(f: Arc<Fixture>) {
    let mut old = event("acme", "a");
    old.idempotency_key = Some("key \"1\"".to_owned());
    let mut new = event("acme", "b");
    new.idempotency_key = old.idempotency_key.clone();
    let first = f.store.emit(&[old]).await.expect("emitted");
    let again = f.store.emit(&[new]).await.expect("emitted");
    assert_eq!(again[0].event_id, first[0].event_id);
    assert_eq!(again[0].aggregate_id, first[0].aggregate_id);
    assert!(again[0].repeated);
    assert_eq!(f.sequence().await.len(), 1);
}

pub async fn an_idempotency_key_belongs_to_its_tenant(f: Arc<Fixture>) {
    let (mut a, mut b) = (event("acme", "a"), event("bolt", "a"));
    a.idempotency_key = Some("same".to_owned());
    b.idempotency_key = Some("same".to_owned());
    let emitted = f.store.emit(&[a, b]).await.expect("emitted");
    assert!(emitted.iter().all(|e| !e.repeated));
}

pub async fn a_repetition_within_a_batch_is_one_event(f: Arc<Fixture>) {
    let one = event("acme", "a");
    let emitted = f.store.emit(&[one.clone(), one]).await.expect("emitted");
    assert_eq!(emitted[0].aggregate_id, emitted[1].aggregate_id);
    assert_eq!((emitted[0].repeated, emitted[1].repeated), (false, true));
    assert_eq!(f.sequence().await.len(), 1);
}

pub async fn another_tenants_id_is_a_conflict_and_nothing_of_the_batch_is_stored(f: Arc<Fixture>) {
    let theirs = event("bolt", "a");
    f.feed(std::slice::from_ref(&theirs)).await;
    let (before, mut taken) = (event("acme", "a"), event("acme", "a"));
    taken.event_id = theirs.event_id;
    let refused = f.store.emit(&[before.clone(), taken]).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict { index: 1 })),
        "{refused:?}"
    );
    let stored = f.store.event(before.event_id, None).await.expect("read");
    assert!(stored.is_none());
    assert!(f.sequence().await.is_empty());
}

pub async fn an_event_reads_back_as_it_was_emitted(f: Arc<Fixture>) {
    let payload = r#"{ "z":1.50, "a": "\u0000\ud83d\ude00 \"é\"", "a": 12345678901234567890.0 }"#;
    let mut sent = event("Acme & Söhne", "注文.作成");
    sent.payload = json(payload);
    sent.metadata = Some(json(r#"{"trace" : "x"}"#));
    let before = Utc::now();
    let got = &f.feed(std::slice::from_ref(&sent)).await[0];
    assert_eq!(got.event_id, sent.event_id);
    assert_eq!((&*got.tenant_id, &*got.kind), ("Acme & Söhne", "注文.作成"));
    assert_eq!(got.payload.get(), payload);
    let metadata = got.metadata.as_ref().map(|m| m.get());
    assert_eq!(metadata, Some(r#"{"trace" : "x"}"#));
    // A second of grace, should the database's clock be another machine's.
    assert!((got.created_at - before).abs() < chrono::TimeDelta::seconds(60));
    let mut microseconds = got.created_at.nanosecond() / 1000 % 1000;
    for _ in 0..5 {
        let more = &f.feed(&[event("acme", "a")]).await[0];
        microseconds += more.created_at.nanosecond() / 1000 % 1000;
        assert_eq!(more.created_at.nanosecond() % 1000, 0);
    }
    assert_ne!(microseconds, 0, "times are kept to the microsecond");
}

pub async fn plain_inserts_become_events(f: Arc<Fixture>) {
    let id = ulid();
    f.execute(&format!(
        "INSERT INTO events (event_id, tenant_id, type, payload)
         VALUES ('{id}', 'acme', 'order.created', '{{\"orderId\": 7}}');
         INSERT INTO outbox (aggregate_id, event_id)
         SELECT id, event_id FROM events WHERE event_id = '{id}'"
    ))
    .await
    .expect("inserted");
    let events = f.sequence().await;
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].seq, events[0].event_id), (1, id));
    assert_eq!(events[0].payload.get(), r#"{"orderId": 7}"#);
    let age = Utc::now() - events[0].created_at;
    assert!(age.abs() < chrono::TimeDelta::seconds(60), "{age}");
}

pub async fn names_that_would_break_something_are_refused(f: Arc<Fixture>) {
    let long = "x".repeat(129);
    let tenants = ["", " acme", "acme ", "a\rb", "a\nb", "a\u{7f}b", &long];
    let kinds = ["", "a b", "a\tb", "a\nb", "a,b", "order.*", &long];
    let bad = tenants
        .iter()
        .map(|tenant| event(tenant, "a"))
        .chain(kinds.iter().map(|kind| event("acme", kind)));
    for event in bad {
        let refused = f.store.emit(std::slice::from_ref(&event)).await;
        let kind = match &refused {
            Err(StoreError::Database(e)) => e.as_database_error().map(|e| e.kind()),
            _ => None,
        };
        assert!(
            matches!(kind, Some(ErrorKind::CheckViolation)),
            "{event:?}: {refused:?}"
        );
    }
    for (id, payload) in [
        ("", "{}"),
        ("81ARZ3NDEKTSV4RRFFQ69G5FAV", "{}"),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAI", "{}"),
        ("01arz3ndektsv4rrffq69g5fav", "{}"),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAVX", "{}"),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "{"),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "{a: 1}"),
    ] {
        let insert = format!(
            "INSERT INTO events (event_id, tenant_id, type, payload)
             VALUES ('{id}', 'acme', 'a', '{payload}')"
        );
        assert!(f.execute(&insert).await.is_err(), "{insert}");
    }
    for time in [
        "infinity",
        "12:00",
        "20260-01-01T00:00:00.000000Z",
        "2026-02-31T00:00:00.000000Z",
    ] {
        let insert = format!(
            "INSERT INTO events (event_id, tenant_id, type, payload, created_at)
             VALUES ('{}', 'acme', 'a', '1', '{time}')",
            ulid()
        );
        assert!(f.execute(&insert).await.is_err(), "{insert}");
    }
    let longest = "é".repeat(64);
    f.emit(&[event(&longest, &longest)]).await;
}
