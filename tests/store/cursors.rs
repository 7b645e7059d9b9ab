//! Where cursors stand, whatever they name: in a feed of two tenants, some of it not sequenced yet.

use std::sync::Arc;

use herald::store::Resolved;
use herald_contract::Cursor;
use herald_testkit::check_property;
use proptest::option;
use proptest::prelude::*;
use tokio::runtime::Handle;
use ulid::Ulid;

use crate::backend::{Fixture, event, ulid};

const TENANTS: [&str; 2] = ["acme", "bolt"];
const SEQUENCED: usize = 12;
const WAITING: usize = 4;

/// An event as the test knows it.
#[derive(Debug, Clone, Copy)]
struct Known {
    tenant: &'static str,
    aggregate_id: i64,
    event_id: Ulid,
    place: Resolved,
}

/// `Unknown` is before every place in the feed, and `Waiting` behind them all.
fn rank(place: Resolved) -> i64 {
    match place {
        Resolved::Unknown => i64::MIN,
        Resolved::At(seq) => seq,
        Resolved::Waiting => i64::MAX,
    }
}

fn place() -> impl Strategy<Value = Resolved> {
    prop_oneof![
        Just(Resolved::Unknown),
        Just(Resolved::Waiting),
        (0..5_i64).prop_map(Resolved::At),
    ]
}

#[test]
fn the_further_of_two_places_is_the_same_whichever_comes_first() {
    check_property(10_000, &(place(), option::of(place())), |(one, other)| {
        let furthest = other
            .into_iter()
            .chain([one])
            .max_by_key(|place| rank(*place));
        prop_assert_eq!(Some(one.further(other)), furthest);
        if let Some(other) = other {
            prop_assert_eq!(other.further(Some(one)), one.further(Some(other)));
        }
        Ok(())
    });
}

async fn feed(f: &Fixture) -> Vec<Known> {
    let mut known = Vec::new();
    for number in 0..SEQUENCED + WAITING {
        let tenant = TENANTS[usize::from(number % 3 == 0)];
        let event = event(tenant, "a");
        let aggregate_id = f.emit(std::slice::from_ref(&event)).await[0];
        let place = if number < SEQUENCED {
            Resolved::At(f.sequence().await[0].seq)
        } else {
            Resolved::Waiting
        };
        known.push(Known {
            tenant,
            aggregate_id,
            event_id: event.event_id,
            place,
        });
    }
    known
}

/// A cursor by what it names: an event's number, or one past them for nobody's, or the beginning.
pub async fn a_cursor_stands_at_the_furthest_of_the_tenants_places_that_it_names(f: Arc<Fixture>) {
    let known = feed(&f).await;
    let part = || option::of(0..known.len() + 2);
    let cases = (0..TENANTS.len(), part(), part());
    let (handle, nobodys) = (Handle::current(), ulid());
    let named = move |number: usize, tenant: &str| match known.get(number) {
        Some(event) if event.tenant == tenant => (event.aggregate_id, event.event_id, event.place),
        Some(event) => (event.aggregate_id, event.event_id, Resolved::Unknown),
        None if number == known.len() => (i64::MAX, nobodys, Resolved::Unknown),
        None => (0, Ulid::nil(), Resolved::At(0)),
    };
    let checked = tokio::task::spawn_blocking(move || {
        check_property(f.cases(), &cases, |(tenant, after, event_id)| {
            let tenant = TENANTS[tenant];
            let after = after.map(|number| named(number, tenant));
            let event_id = event_id.map(|number| named(number, tenant));
            let cursor = Cursor {
                after: after.map(|(id, _, _)| id),
                event_id: event_id.map(|(_, id, _)| id),
            };
            let expected = [after, event_id]
                .into_iter()
                .flatten()
                .map(|(_, _, place)| place);
            let expected = expected.max_by_key(|place| rank(*place));
            let resolved = handle.block_on(f.store.resolve(tenant, cursor));
            prop_assert_eq!(
                resolved.expect("read"),
                expected.unwrap_or(Resolved::Unknown)
            );
            Ok(())
        });
    });
    if let Err(failed) = checked.await {
        std::panic::resume_unwind(failed.into_panic());
    }
}
