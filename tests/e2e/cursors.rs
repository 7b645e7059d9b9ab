//! Cursors that name nothing: the client is told, and then gets what comes.

use serde_json::json;

use crate::harness::{Config, Home, Sse, seconds, text, within};

/// (query, `Last-Event-ID`) that resolve to nothing the tenant has.
const LOST: &[(&str, Option<&str>)] = &[
    ("tenantId=acme", Some("01JD5Z00000000000000000000")),
    ("tenantId=acme&lastEventId=01JD5Z00000000000000000000", None),
    ("tenantId=acme&after=999999", None),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_names_nothing_gets_a_reset_and_then_what_is_live() {
    let home = Home::new(&Config::embedded().sse());
    let herald = home.start().await;
    let event = |tenant: &str| json!({"tenantId": tenant, "type": "order.created", "payload": {}});
    let first = herald.api.post("/events", &event("acme")).await.expect(201);
    let mut earlier = vec![text(&first, "eventId")];
    let foreign = herald
        .api
        .post("/events", &event("other"))
        .await
        .expect(201);
    let foreign = text(&foreign, "eventId");
    let lost = LOST
        .iter()
        .copied()
        .chain([("tenantId=acme", Some(foreign.as_str()))]);

    for (query, header) in lost {
        let mut stream = Sse::open(&herald.api, query, header)
            .await
            .unwrap_or_else(|e| panic!("{query} {header:?}: {e}"));
        let reset = within("a reset", seconds(10), stream.next()).await;
        let reset = reset.expect("the stream goes on");
        assert_eq!(reset.name, "herald.reset", "{query} {header:?}");
        assert!(reset.json()["reason"].is_string(), "{}", reset.data);
        let live = herald.api.post("/events", &event("acme")).await.expect(201);
        let live = text(&live, "eventId");
        // The relay may not have come to the events of before when the stream was opened.
        let mut next = within("a live event", seconds(10), stream.take(1))
            .await
            .remove(0);
        while next.id != live && earlier.contains(&next.id) {
            next = within("a live event", seconds(10), stream.take(1))
                .await
                .remove(0);
        }
        assert_eq!(next.id, live, "{query} {header:?}");
        earlier.push(live);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_cut_before_its_first_event_resumes_from_where_it_connected() {
    let home = Home::new(&Config::embedded().sse());
    let herald = home.start().await;
    let event = json!({"tenantId": "acme", "type": "order.created", "payload": {}});
    for _ in 0..5 {
        let earlier = herald.api.post("/events", &event).await.expect(201);
        let mut stream = Sse::open(&herald.api, "tenantId=acme", None)
            .await
            .expect("a stream");
        let greeted = within("an id at once", seconds(10), stream.greeting()).await;
        assert!(
            greeted && stream.retry.is_some(),
            "retry: and an id at connect"
        );
        let place = stream.last_id.clone();
        drop(stream);

        let missed = herald.api.post("/events", &event).await.expect(201);
        let (earlier, missed) = (text(&earlier, "eventId"), text(&missed, "eventId"));
        let mut again = Sse::open(&herald.api, "tenantId=acme", Some(&place))
            .await
            .expect("a stream");
        let mut got = again.take(1).await;
        // The relay may not have come to the earlier event when the stream was opened.
        if got[0].id == earlier {
            got = again.take(1).await;
        }
        assert_eq!(got[0].id, missed, "resumed at {place}");
    }
}
