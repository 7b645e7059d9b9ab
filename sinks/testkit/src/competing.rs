//! The contract of a sink of the competing kind ([`Sink`]), rule by rule.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use herald_contract::{Event, Outcome, Sink};

use crate::bounded;
use crate::calls::{
    assert_arrived, assert_delivered, deliver, deliver_one, delivery, keys, odd_events, of_event,
    recipients,
};

/// Enough calls to meet each other.
const MANY: i64 = 12;
/// A full batch is tried up to this size.
const MAX_BATCH: usize = 1000;
const DRAIN: Duration = Duration::from_secs(2);

/// How the far end is to behave from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FarEnd {
    Works,
    /// Later attempts will succeed.
    FailsForNow,
    /// No attempt will ever succeed.
    FailsForGood,
}

/// What came out at the far end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    /// The recipient's key.
    pub recipient: String,
    /// By what the far end tells that it has this already, a `Message-ID` say. It contains the
    /// event's id and is the same for each attempt.
    pub mark: String,
}

/// A sink and its far end, as [`exercise_sink`] needs them. Ids come from [`event`](crate::event).
#[async_trait]
pub trait SinkBench: Sync {
    /// A sink as after a restart: one more before the same far end, with the same configuration.
    fn sink(&self) -> Arc<dyn Sink>;

    /// An event that at least two recipients are to learn of, always the same ones.
    fn wanted(&self, seq: i64) -> Arc<Event>;

    /// An event that nobody is to learn of.
    fn unwanted(&self, seq: i64) -> Arc<Event>;

    /// Makes the far end behave; `false` when it cannot be made to, and that part is left out.
    async fn set(&self, far_end: FarEnd) -> bool;

    /// All that has arrived so far. A far end that keeps one of equal arrivals may do so.
    async fn arrivals(&self) -> Vec<Arrival>;
}

/// Checks that the sink keeps the contract.
///
/// # Panics
/// It does not.
pub async fn exercise_sink(bench: &dyn SinkBench) {
    assert!(bench.set(FarEnd::Works).await, "the far end must work");
    let sink = bench.sink();
    recipients_are_named_for_good(bench, &*sink).await;
    every_delivery_has_its_outcome(bench, &*sink).await;
    a_repeated_delivery_is_marked_as_the_same(bench, &*sink).await;
    concurrent_calls_do_not_mix_recipients(bench, &sink).await;
    an_odd_payload_is_settled(bench, &*sink).await;
    failures_are_classified(bench, &*sink).await;
    bounded("drain", sink.drain(Duration::ZERO)).await;
    let drained = tokio::time::timeout(DRAIN * 2, bench.sink().drain(DRAIN)).await;
    assert!(drained.is_ok(), "drain goes on beyond its deadline");
}

async fn recipients_are_named_for_good(bench: &dyn SinkBench, sink: &dyn Sink) {
    let ask = async |sink: &dyn Sink, events: &[Arc<Event>]| {
        let answer = bounded("recipients", sink.recipients(events)).await;
        let answer = answer.expect("recipients can be known");
        assert_eq!(answer.len(), events.len(), "one answer an event");
        answer
    };
    ask(sink, &[]).await;
    let events = [bench.wanted(1), bench.unwanted(2), bench.wanted(3)];
    let answer = ask(sink, &events).await;
    let named: Vec<_> = answer.iter().map(|found| keys(found.as_ref())).collect();
    assert!(named[0].len() > 1, "a wanted event has two recipients");
    assert!(named[1].is_empty(), "answers out of order, or not empty");
    assert_eq!(named[0], named[2], "wanted events have the same recipients");

    let again = ask(&*bench.sink(), &events[..1]).await;
    assert_eq!(keys(again[0].as_ref()), named[0], "keys survive a restart");
    for odd in odd_events(bench) {
        let answer = ask(sink, &[bench.wanted(1), odd, bench.wanted(3)]).await;
        for at in [0, 2] {
            let found = keys(answer[at].as_ref());
            assert_eq!(found, named[0], "an odd event spoils those beside it");
        }
        if let Ok(found) = &answer[1] {
            keys(Ok(found));
        }
    }
}

async fn every_delivery_has_its_outcome(bench: &dyn SinkBench, sink: &dyn Sink) {
    assert!(sink.batch() > 0, "a batch holds something");
    assert!(deliver(sink, &[]).await.is_empty(), "nothing asked");
    let mut batch = Vec::new();
    for seq in (1000..).take(sink.batch().min(MAX_BATCH)) {
        let event = bench.wanted(seq);
        let recipients = recipients(sink, &event).await;
        let recipient = recipients[batch.len() % recipients.len()].clone();
        batch.push(delivery(&event, recipient));
    }
    for outcome in deliver(sink, &batch).await {
        assert_delivered(&outcome);
    }
    for delivery in &batch {
        assert_arrived(bench, delivery).await;
    }
}

async fn a_repeated_delivery_is_marked_as_the_same(bench: &dyn SinkBench, sink: &dyn Sink) {
    let event = bench.wanted(40);
    for recipient in recipients(sink, &event).await {
        let first = delivery(&event, recipient);
        assert_delivered(&deliver_one(sink, &first).await);
        // Hints are not stored, so a retry comes without, to another process maybe.
        let mut retry = first.clone();
        retry.recipient.hint = None;
        retry.attempt = 2;
        for sink in [sink, &*bench.sink()] {
            assert_delivered(&deliver_one(sink, &retry).await);
            assert_arrived(bench, &first).await;
        }
    }
}

async fn concurrent_calls_do_not_mix_recipients(bench: &dyn SinkBench, sink: &Arc<dyn Sink>) {
    let (mut calls, mut deliveries) = (Vec::new(), Vec::new());
    for seq in 60..60 + MANY {
        let event = bench.wanted(seq);
        let recipients = recipients(&**sink, &event).await;
        let recipient = recipients[calls.len() % recipients.len()].clone();
        let delivery = delivery(&event, recipient);
        deliveries.push(delivery.clone());
        let sink = sink.clone();
        calls.push(tokio::spawn(
            async move { deliver_one(&*sink, &delivery).await },
        ));
    }
    for call in calls {
        assert_delivered(&call.await.expect("deliver does not panic"));
    }
    for delivery in &deliveries {
        assert_arrived(bench, delivery).await;
        let of_event = of_event(bench, &delivery.event).await;
        let other = of_event
            .iter()
            .find(|a| a.recipient != delivery.recipient.key);
        assert_eq!(other, None, "arrived at somebody else");
    }
}

/// What cannot be made of a payload now cannot be made of it later.
async fn an_odd_payload_is_settled(bench: &dyn SinkBench, sink: &dyn Sink) {
    let recipient = recipients(sink, &bench.wanted(80)).await.remove(0);
    for odd in odd_events(bench) {
        let outcome = deliver_one(sink, &delivery(&odd, recipient.clone())).await;
        let settled = matches!(
            outcome,
            Outcome::Delivered { .. } | Outcome::Skipped { .. } | Outcome::Reject { .. }
        );
        let shown: String = odd.payload.get().chars().take(80).collect();
        assert!(settled, "the payload {shown} gets {outcome:?}");
    }
}

async fn failures_are_classified(bench: &dyn SinkBench, sink: &dyn Sink) {
    let _ = bounded("health", sink.health()).await;
    let event = bench.wanted(90);
    let delivery = delivery(&event, recipients(sink, &event).await.remove(0));
    if bench.set(FarEnd::FailsForNow).await {
        let outcome = deliver_one(sink, &delivery).await;
        let again = matches!(outcome, Outcome::Retry { .. } | Outcome::Defer { .. });
        assert!(again, "a failure that passes gets {outcome:?}");
        let _ = bounded("health of a failing far end", sink.health()).await;
        bench.set(FarEnd::Works).await;
        assert_delivered(&deliver_one(sink, &delivery).await);
        assert_arrived(bench, &delivery).await;
    }
    if bench.set(FarEnd::FailsForGood).await {
        let outcome = deliver_one(sink, &delivery).await;
        match outcome {
            Outcome::Reject { .. } => {}
            Outcome::Gone { .. } => {
                let key = &delivery.recipient.key;
                sink.forget(key).await.expect("forgotten");
                sink.forget(key).await.expect("forgotten twice is no fault");
                let left = recipients(sink, &event).await;
                assert!(left.iter().all(|r| r.key != *key), "{key} is not forgotten");
            }
            other => panic!("a failure for good gets {other:?}"),
        }
        bench.set(FarEnd::Works).await;
    }
}
