//! Push subscriptions.

use std::sync::Arc;

use chrono::DateTime;
use herald_contract::Subscription;

use crate::backend::{Fixture, ulid};

fn subscription(tenant: &str, endpoint: &str) -> Subscription {
    Subscription {
        id: ulid(),
        tenant_id: tenant.to_owned(),
        user_id: Some("u1".to_owned()),
        endpoint: endpoint.to_owned(),
        p256dh: "key".to_owned(),
        auth: "secret".to_owned(),
        created_at: DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("in range"),
    }
}

pub async fn a_subscription_reads_back_as_it_was_put(f: Arc<Fixture>) {
    let (mut a, b) = (
        subscription("acme", "https://push.example/1"),
        subscription("bolt", "https://push.example/1"),
    );
    a.user_id = None;
    assert_eq!(
        f.store.subscription_put(a.clone()).await.expect("put"),
        a.id
    );
    assert_eq!(
        f.store.subscription_put(b.clone()).await.expect("put"),
        b.id
    );
    let of = |tenants| f.store.subscriptions_of(tenants);
    assert_eq!(of(&["acme"]).await.expect("read"), [a.clone()]);
    assert_eq!(of(&["acme", "bolt", "x"]).await.expect("read").len(), 2);
    assert!(of(&["x"]).await.expect("read").is_empty());
    let got = f.store.subscriptions_get(&[b.id, ulid()]).await;
    assert_eq!(got.expect("read"), [b]);
}

pub async fn the_same_endpoint_is_replaced_and_keeps_its_id(f: Arc<Fixture>) {
    let old = subscription("acme", "https://push.example/1");
    let new = Subscription {
        user_id: Some("u2".to_owned()),
        p256dh: "new key".to_owned(),
        auth: "new secret".to_owned(),
        ..subscription("acme", "https://push.example/1")
    };
    f.store.subscription_put(old.clone()).await.expect("put");
    assert_eq!(
        f.store.subscription_put(new.clone()).await.expect("put"),
        old.id
    );
    let all = f.store.subscriptions_of(&["acme"]).await.expect("read");
    let expected = Subscription { id: old.id, ..new };
    assert_eq!(all, [expected]);
}

pub async fn subscriptions_are_removed_by_endpoint_and_forgotten_by_id(f: Arc<Fixture>) {
    let a = subscription("acme", "https://push.example/1");
    let b = subscription("acme", "https://push.example/2");
    for s in [&a, &b] {
        f.store.subscription_put(s.clone()).await.expect("put");
    }
    let remove = |tenant, endpoint| f.store.subscription_remove(tenant, endpoint);
    assert!(
        !remove("bolt", "https://push.example/1")
            .await
            .expect("done")
    );
    assert!(
        remove("acme", "https://push.example/1")
            .await
            .expect("done")
    );
    assert!(
        !remove("acme", "https://push.example/1")
            .await
            .expect("done")
    );
    f.store.subscription_forget(b.id).await.expect("done");
    f.store.subscription_forget(b.id).await.expect("done");
    assert!(
        f.store
            .subscriptions_of(&["acme"])
            .await
            .expect("read")
            .is_empty()
    );
}
