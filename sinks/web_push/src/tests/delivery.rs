//! Recipients and deliveries.

use std::time::Duration;

use chrono::TimeDelta;

use super::*;

async fn deliver_one(bench: &Bench, event: Event, recipient: Recipient) -> Outcome {
    let outcomes = bench.sink.deliver(&[delivery(event, recipient)]).await;
    let [outcome] = outcomes.try_into().expect("one outcome");
    outcome
}

#[tokio::test]
async fn an_event_reaches_the_browser_that_subscribed_and_only_it_can_read_it() {
    let service = PushService::default();
    let address = service.start().await.to_string();
    let endpoint = format!("http://{address}/message/1");
    let bench = bench(json!({
        "ttl": "1h", "urgency": "high", "subject": "mailto:ops@example.com",
        "templates": [{"topic": "order-{{ payload.id }}"}],
    }));
    let (subscription, open) = subscription("acme", None, &endpoint);
    bench.store.put(subscription).await.expect("stored");

    let order = Arc::new(event(
        "acme",
        "order.created",
        json!({"id": 1, "text": "hello"}),
    ));
    let recipients = bench
        .sink
        .recipients(std::slice::from_ref(&order))
        .await
        .expect("known");
    let [recipient] = recipients[0]
        .clone()
        .expect("some")
        .try_into()
        .expect("one");
    assert_eq!(recipient.destination.as_deref(), Some(&*address));
    // A tenth of an hour ago: what is left of it goes to the push service.
    let mut event = Event::clone(&order);
    event.created_at -= TimeDelta::seconds(360);
    let outcome = deliver_one(&bench, event, recipient).await;
    assert_eq!(
        outcome,
        Outcome::Delivered {
            response: Some("201 Created".into())
        }
    );

    let [(headers, body)] = service.received().try_into().expect("one request");
    for (name, value) in [
        ("urgency", "high"),
        ("topic", "order-1"),
        ("content-encoding", "aes128gcm"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    let ttl: u32 = headers["ttl"]
        .to_str()
        .expect("ASCII")
        .parse()
        .expect("seconds");
    assert!((3200..=3240).contains(&ttl), "{ttl}");
    assert_eq!(bench.sink.lifetime(), Some(Duration::from_secs(3600)));
    let authorization = headers["authorization"].to_str().expect("ASCII");
    assert!(authorization.starts_with("vapid t="));
    assert!(authorization.ends_with(&format!(", k={}", bench.sink.public_key())));
    let shown: Value = serde_json::from_slice(&open(&body)).expect("JSON");
    assert_eq!(shown["body"], "hello");
    assert_eq!(shown["eventId"], order.event_id.to_string());
}

#[tokio::test]
async fn the_longest_message_goes_through_as_one_record_of_4096_bytes() {
    let service = PushService::default();
    let endpoint = format!("http://{}/", service.start().await);
    let bench = bench(json!({}));
    let (subscription, open) = subscription("acme", None, &endpoint);
    let recipient = without_hint(&subscription);
    bench.store.put(subscription).await.expect("stored");
    let long = event("acme", "a", json!({"text": "x".repeat(10_000)}));
    let outcome = deliver_one(&bench, long, recipient).await;
    assert!(matches!(outcome, Outcome::Delivered { .. }), "{outcome:?}");
    let (_, body) = &service.received()[0];
    assert_eq!(body.len(), 4096);
    assert_eq!(open(body).len(), 3993);
}

#[tokio::test]
async fn the_answer_of_the_push_service_decides_the_outcome() {
    let service = PushService::default();
    let endpoint = format!("http://{}/", service.start().await);
    let bench = bench(json!({}));
    let (subscription, _) = subscription("acme", None, &endpoint);
    let recipient = without_hint(&subscription);
    bench.store.put(subscription).await.expect("stored");
    for (status, retry_after, expected) in [
        (201, None, "Delivered"),
        (410, None, "Gone"),
        (404, None, "Gone"),
        (413, None, "Reject"),
        (400, None, "Reject"),
        (403, None, "Reject"),
        (401, None, "Retry { after: None"),
        (302, None, "Retry { after: None"),
        (500, None, "Retry { after: None"),
        (429, Some("30"), "Retry { after: Some(30s)"),
        (
            503,
            Some("Thu, 01 Jan 2099 00:00:00 GMT"),
            "Retry { after: Some(86400s)",
        ),
    ] {
        let mut answer = Response::builder().status(status);
        if let Some(value) = retry_after {
            answer = answer.header("retry-after", value);
        }
        let body = Body::from(format!("because\r\n{}", "x".repeat(100_000)));
        service.will_answer(answer.body(body).expect("an answer"));
        let outcome = deliver_one(&bench, event("acme", "a", json!({})), recipient.clone()).await;
        let shown = format!("{outcome:?}");
        assert!(shown.starts_with(expected), "{status}: {shown}");
        assert!(shown.len() < 1000, "{status}: {shown}");
        if status >= 400 {
            assert!(shown.contains(&format!("{status} ")) && shown.contains("because  x"));
        }
    }
}

#[tokio::test]
async fn a_refused_token_is_not_used_again() {
    let service = PushService::default();
    let endpoint = format!("http://{}/", service.start().await);
    let bench = bench(json!({}));
    let (subscription, _) = subscription("acme", None, &endpoint);
    let recipient = without_hint(&subscription);
    bench.store.put(subscription).await.expect("stored");
    service.will_answer(StatusCode::CREATED.into_response());
    service.will_answer(StatusCode::UNAUTHORIZED.into_response());
    for _ in 0..3 {
        deliver_one(&bench, event("acme", "a", json!({})), recipient.clone()).await;
    }
    let tokens: Vec<_> = service
        .received()
        .into_iter()
        .map(|(headers, _)| headers["authorization"].clone())
        .collect();
    assert_eq!(tokens[0], tokens[1], "kept for the origin");
    assert_ne!(tokens[1], tokens[2], "signed anew after 401");
}

#[tokio::test]
async fn a_push_service_that_is_away_or_silent_means_try_again() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("port");
    let gone = closed.local_addr().expect("bound");
    drop(closed);
    // It takes connections, in the kernel's queue, and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("port");
    let mute = silent.local_addr().expect("bound");
    let bench = bench(json!({"timeout": "200ms"}));
    for (address, cause) in [(gone, "refused"), (mute, "no answer within 200ms")] {
        let (subscription, _) = subscription("acme", None, &format!("http://{address}/"));
        let recipient = without_hint(&subscription);
        bench.store.put(subscription).await.expect("stored");
        match deliver_one(&bench, event("acme", "a", json!({})), recipient).await {
            Outcome::Retry {
                after: None,
                cause: told,
                ..
            } => {
                assert!(told.contains(cause), "{told}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_whose_body_never_ends_counts_by_its_status() {
    let service = PushService::default();
    let endpoint = format!("http://{}/", service.start().await);
    let bench = bench(json!({"timeout": "200ms"}));
    let (subscription, _) = subscription("acme", None, &endpoint);
    let recipient = without_hint(&subscription);
    bench.store.put(subscription).await.expect("stored");
    service.will_answer((StatusCode::CREATED, Body::new(Endless)).into_response());
    let outcome = deliver_one(&bench, event("acme", "a", json!({})), recipient).await;
    assert!(matches!(outcome, Outcome::Delivered { .. }), "{outcome:?}");
}

/// A body of which nothing ever comes.
struct Endless;

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn subscriptions_that_cannot_work_are_rejected_and_removed_ones_skipped() {
    let bench = bench(json!({"private_endpoints": "none"}));
    let (good, _) = subscription("acme", None, "https://push.example.net/1");
    for (endpoint, p256dh, cause) in [
        ("http://127.0.0.1:9/", good.p256dh.as_str(), "endpoint"),
        ("https://10.0.0.1/", good.p256dh.as_str(), "private address"),
        ("https://push.example.net/", "AAAA", "p256dh"),
    ] {
        let bad = Subscription {
            id: Ulid::generate(),
            endpoint: endpoint.into(),
            p256dh: p256dh.into(),
            ..good.clone()
        };
        let recipient = without_hint(&bad);
        bench.store.put(bad).await.expect("stored");
        match deliver_one(&bench, event("acme", "a", json!({})), recipient).await {
            Outcome::Reject { cause: told } => assert!(told.contains(cause), "{told}"),
            other => panic!("{other:?}"),
        }
    }
    for key in [Ulid::generate().to_string(), "not an id".into()] {
        let removed = Recipient::new(key);
        let outcome = deliver_one(&bench, event("acme", "a", json!({})), removed).await;
        assert_eq!(outcome, Outcome::skipped("the subscription was removed"));
    }
}

#[tokio::test]
async fn a_database_that_is_away_spends_no_attempt() {
    let bench = bench(json!({}));
    bench.store.away.store(true, Ordering::Relaxed);
    let (missing, _) = subscription("acme", None, "https://push.example.net/1");
    let outcome = deliver_one(
        &bench,
        event("acme", "a", json!({})),
        without_hint(&missing),
    )
    .await;
    assert!(matches!(outcome, Outcome::Defer { .. }), "{outcome:?}");
    let events = [Arc::new(event("acme", "a", json!({})))];
    assert!(bench.sink.recipients(&events).await.is_err());
}

#[tokio::test]
async fn recipients_are_the_tenants_browsers_asked_for_once_a_batch() {
    let bench = bench(json!({}));
    for (tenant, endpoint) in [
        ("acme", "https://a/1"),
        ("acme", "https://a/2"),
        ("beta", "https://b/1"),
    ] {
        let (row, _) = subscription(tenant, None, endpoint);
        bench.store.put(row).await.expect("stored");
    }
    bench.store.questions.store(0, Ordering::Relaxed);
    let events: Vec<_> = ["acme", "beta", "acme", "none"]
        .map(|tenant| Arc::new(event(tenant, "a", json!({}))))
        .into();
    let recipients = bench.sink.recipients(&events).await.expect("known");
    let counts: Vec<usize> = recipients
        .iter()
        .map(|r| r.as_ref().expect("some").len())
        .collect();
    assert_eq!(counts, [2, 1, 2, 0]);
    assert_eq!(bench.store.questions.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn with_a_user_template_only_that_users_browsers_are_recipients() {
    let bench = bench(json!({"user": "{{ payload.userId }}"}));
    for (user, endpoint) in [
        (Some("ann"), "https://a/1"),
        (Some("bob"), "https://a/2"),
        (None, "https://a/3"),
    ] {
        let (row, _) = subscription("acme", user, endpoint);
        bench.store.put(row).await.expect("stored");
    }
    for (payload, expected) in [
        (json!({"userId": "ann"}), Some("ann")),
        (json!({"userId": "eve"}), None),
        (json!({}), None),
    ] {
        let events = [Arc::new(event("acme", "a", payload))];
        let recipients = bench.sink.recipients(&events).await.expect("known");
        let users: Vec<String> = recipients[0]
            .as_ref()
            .expect("rendered")
            .iter()
            .map(|r| {
                let hint = r.hint.as_deref().expect("a hint");
                let row: Subscription = serde_json::from_str(hint).expect("a subscription");
                row.user_id.expect("a user")
            })
            .collect();
        assert_eq!(users.first().map(String::as_str), expected);
        assert!(users.len() <= 1);
    }
}

#[tokio::test]
async fn a_subscription_that_is_gone_is_forgotten() {
    let bench = bench(json!({}));
    let (row, _) = subscription("acme", None, "https://a/1");
    let key = row.id.to_string();
    bench.store.put(row).await.expect("stored");
    bench.sink.forget(&key).await.expect("forgotten");
    assert!(bench.store.all().is_empty());
    assert!(bench.sink.forget("not an id").await.is_ok());
}
