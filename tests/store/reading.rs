//! Reading the feed, by place and by cursor.

use std::sync::Arc;

use herald::store::{PageQuery, Resolved};
use herald_contract::{Cursor, Event, TypeFilter};
use ulid::Ulid;

use crate::backend::{Fixture, event, ulid};

fn seqs(events: &[Arc<Event>]) -> Vec<i64> {
    events.iter().map(|e| e.seq).collect()
}

/// All of a tenant that these tests make.
pub fn everything<'a>(tenant: &'a str, types: &'a TypeFilter) -> PageQuery<'a> {
    PageQuery {
        tenant,
        types,
        after: 0,
        upto: 100,
        limit: 100,
        newest_first: false,
    }
}

fn by_id(id: Ulid) -> Cursor {
    Cursor {
        after: None,
        event_id: Some(id),
    }
}

fn after(id: i64) -> Cursor {
    Cursor {
        after: Some(id),
        event_id: None,
    }
}

pub async fn the_feed_is_read_after_a_place_and_up_to_a_limit(f: Arc<Fixture>) {
    let batch: Vec<_> = (0..10).map(|_| event("acme", "a")).collect();
    f.feed(&batch).await;
    assert_eq!(seqs(&f.store.feed(0, 3).await.expect("read")), [1, 2, 3]);
    assert_eq!(seqs(&f.store.feed(8, 100).await.expect("read")), [9, 10]);
    assert!(f.store.feed(10, 100).await.expect("read").is_empty());
}

pub async fn a_page_holds_one_tenants_events_of_the_wanted_types(f: Arc<Fixture>) {
    f.feed(&[
        event("acme", "order.created"), // 1
        event("bolt", "order.created"), // 2
        event("acme", "order.paid"),    // 3
        event("acme", "user.created"),  // 4
        event("acme", "order_x"),       // 5
        event("acme", "Order.created"), // 6
        event("acme", "a%[b]"),         // 7
        event("acme", "注文.作成"),     // 8
    ])
    .await;
    for (types, expected) in [
        ("", vec![1, 3, 4, 5, 6, 7, 8]),
        ("order.*", vec![1, 3]),
        ("order.paid,user.created", vec![3, 4]),
        ("order.paid,user.*", vec![3, 4]),
        ("order_*", vec![5]),
        ("a%[b]", vec![7]),
        ("a%[*", vec![7]),
        ("%*", vec![]),
        ("注文.*", vec![8]),
        ("nothing", vec![]),
    ] {
        let types = TypeFilter::parse(types).expect("a filter");
        let query = everything("acme", &types);
        let page = f.store.page(&query).await.expect("read");
        assert_eq!(seqs(&page), expected, "{types:?}");
    }
    let all = TypeFilter::default();
    let part = PageQuery {
        after: 1,
        upto: 4,
        ..everything("acme", &all)
    };
    assert_eq!(seqs(&f.store.page(&part).await.expect("read")), [3, 4]);
    let short = PageQuery { limit: 1, ..part };
    assert_eq!(seqs(&f.store.page(&short).await.expect("read")), [3]);
}

pub async fn a_page_can_begin_with_the_newest(f: Arc<Fixture>) {
    let batch: Vec<_> = (0..5).map(|_| event("acme", "a")).collect();
    f.feed(&batch).await;
    let all = TypeFilter::default();
    let query = PageQuery {
        after: 1,
        upto: 4,
        limit: 2,
        newest_first: true,
        ..everything("acme", &all)
    };
    assert_eq!(seqs(&f.store.page(&query).await.expect("read")), [4, 3]);
}

pub async fn cursors_resolve_to_their_place(f: Arc<Fixture>) {
    let events = f.feed(&[event("acme", "a"), event("acme", "a")]).await;
    let (first, second) = (&events[0], &events[1]);
    for (cursor, place) in [
        (after(0), 0),
        (by_id(Ulid::nil()), 0),
        (after(first.aggregate_id), 1),
        (by_id(second.event_id), 2),
        (
            Cursor {
                after: Some(first.aggregate_id),
                event_id: Some(second.event_id),
            },
            2,
        ),
        (
            Cursor {
                after: Some(second.aggregate_id),
                event_id: Some(first.event_id),
            },
            2,
        ),
        (
            Cursor {
                after: Some(0),
                event_id: Some(first.event_id),
            },
            1,
        ),
        (
            Cursor {
                after: Some(first.aggregate_id),
                event_id: Some(ulid()),
            },
            1,
        ),
    ] {
        let resolved = f.store.resolve("acme", cursor).await.expect("read");
        assert_eq!(resolved, Resolved::At(place), "{cursor:?}");
    }
}

pub async fn cursors_that_name_nothing_of_the_tenant_are_unknown(f: Arc<Fixture>) {
    let theirs = Arc::clone(&f.feed(&[event("bolt", "a")]).await[0]);
    for cursor in [
        Cursor::default(),
        after(theirs.aggregate_id),
        by_id(theirs.event_id),
        after(-1),
        after(i64::MAX),
        by_id(ulid()),
    ] {
        let resolved = f.store.resolve("acme", cursor).await.expect("read");
        assert_eq!(resolved, Resolved::Unknown, "{cursor:?}");
    }
}

pub async fn a_cursor_to_an_event_that_is_not_sequenced_waits(f: Arc<Fixture>) {
    let old = Arc::clone(&f.feed(&[event("acme", "a")]).await[0]);
    let new = event("acme", "a");
    let id = f.emit(std::slice::from_ref(&new)).await[0];
    let both = Cursor {
        after: Some(old.aggregate_id),
        event_id: Some(new.event_id),
    };
    for cursor in [after(id), by_id(new.event_id), both] {
        let resolved = f.store.resolve("acme", cursor).await.expect("read");
        assert_eq!(resolved, Resolved::Waiting, "{cursor:?}");
    }
    let theirs = f.store.resolve("bolt", after(id)).await.expect("read");
    assert_eq!(theirs, Resolved::Unknown);
    f.sequence().await;
    let resolved = f.store.resolve("acme", both).await.expect("read");
    assert_eq!(resolved, Resolved::At(2));
}

pub async fn the_latest_event_is_the_tenants_last_one_up_to_a_place(f: Arc<Fixture>) {
    let events = f
        .feed(&[event("acme", "a"), event("acme", "a"), event("bolt", "a")])
        .await;
    for (upto, expected) in [
        (0, None),
        (1, Some(events[0].event_id)),
        (3, Some(events[1].event_id)),
    ] {
        assert_eq!(latest(&f, "acme", "", upto).await, expected);
    }
    assert_eq!(latest(&f, "none", "", 3).await, None);
}

pub async fn of_some_types_the_latest_event_is_the_last_one_that_is_not_far_away(f: Arc<Fixture>) {
    let kinds = ["order.paid", "note", "b", "a", "a"].map(|kind| event("acme", kind));
    let events = f.feed(&kinds).await;
    for (types, upto, expected) in [
        ("order.*", 5, 0),
        ("b,note", 5, 2),
        ("b,note", 2, 1),
        ("a", 5, 4),
        ("a", 4, 3),
        ("none", 5, 4),
    ] {
        let expected = Some(events[expected].event_id);
        assert_eq!(latest(&f, "acme", types, upto).await, expected, "{types}");
    }
    let others: Vec<_> = (0..996).map(|_| event("acme", "a")).collect();
    f.feed(&others).await;
    let first = latest(&f, "acme", "order.*", 1000).await;
    assert_eq!(first, Some(events[0].event_id));
    let last = latest(&f, "acme", "", 1001).await;
    assert_eq!(latest(&f, "acme", "order.*", 1001).await, last);
}

async fn latest(f: &Fixture, tenant: &str, types: &str, upto: i64) -> Option<Ulid> {
    let types = TypeFilter::parse(types).expect("a filter");
    f.store.latest(tenant, &types, upto).await.expect("read")
}

pub async fn an_event_is_found_by_its_id_sequenced_or_not(f: Arc<Fixture>) {
    let sent = event("acme", "a");
    f.emit(std::slice::from_ref(&sent)).await;
    for seq in [0, 1] {
        for tenant in [None, Some("acme")] {
            let found = f.store.event(sent.event_id, tenant).await.expect("read");
            assert_eq!(found.expect("there").seq, seq);
        }
        let theirs = f.store.event(sent.event_id, Some("bolt")).await;
        assert!(theirs.expect("read").is_none());
        f.sequence().await;
    }
    assert!(f.store.event(ulid(), None).await.expect("read").is_none());
}
