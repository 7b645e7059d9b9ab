//! Single calls of a sink, each with the rules that hold for every such call.

use std::collections::BTreeSet;
use std::sync::Arc;

use herald_contract::{Delivery, Event, Outcome, Recipient, Sink};

use crate::{Arrival, SinkBench, bounded, odd_payloads, raw};

/// The ledger's bound for a recipient's key, in bytes.
const MAX_KEY: usize = 512;

/// The keys, which are fit for the ledger.
pub fn keys(recipients: Result<&Vec<Recipient>, &String>) -> BTreeSet<String> {
    let recipients = recipients.expect("the event can have recipients");
    let keys: BTreeSet<String> = recipients.iter().map(|r| r.key.clone()).collect();
    assert_eq!(keys.len(), recipients.len(), "keys are unique: {keys:?}");
    for key in &keys {
        assert!((1..=MAX_KEY).contains(&key.len()), "1 to 512 bytes: {key}");
        assert!(!key.contains(char::is_control), "control in {key:?}");
    }
    keys
}

pub fn odd_events(bench: &dyn SinkBench) -> Vec<Arc<Event>> {
    let odd = |(seq, payload): (i64, String)| {
        let event = Event::clone(&bench.wanted(seq));
        let payload = raw(&payload);
        Arc::new(Event { payload, ..event })
    };
    (100..).zip(odd_payloads()).map(odd).collect()
}

pub async fn recipients(sink: &dyn Sink, event: &Arc<Event>) -> Vec<Recipient> {
    let answer = bounded("recipients", sink.recipients(std::slice::from_ref(event))).await;
    let answer = answer.expect("recipients can be known").remove(0);
    answer.expect("the event can have recipients")
}

pub fn delivery(event: &Arc<Event>, recipient: Recipient) -> Delivery {
    Delivery {
        event: event.clone(),
        recipient,
        attempt: 1,
    }
}

pub async fn deliver(sink: &dyn Sink, deliveries: &[Delivery]) -> Vec<Outcome> {
    let outcomes = bounded("deliver", sink.deliver(deliveries)).await;
    assert_eq!(outcomes.len(), deliveries.len(), "one outcome a delivery");
    outcomes
}

pub async fn deliver_one(sink: &dyn Sink, delivery: &Delivery) -> Outcome {
    deliver(sink, std::slice::from_ref(delivery))
        .await
        .remove(0)
}

pub fn assert_delivered(outcome: &Outcome) {
    let delivered = matches!(outcome, Outcome::Delivered { .. });
    assert!(delivered, "the far end works, yet: {outcome:?}");
}

pub async fn of_event(bench: &dyn SinkBench, event: &Event) -> Vec<Arrival> {
    let id = event.event_id.to_string();
    let mut arrivals = bench.arrivals().await;
    arrivals.retain(|a| a.mark.contains(&id));
    arrivals
}

/// It arrived, and whatever arrived of it bears one mark.
pub async fn assert_arrived(bench: &dyn SinkBench, delivery: &Delivery) {
    let mut arrivals = of_event(bench, &delivery.event).await;
    arrivals.retain(|a| a.recipient == delivery.recipient.key);
    let marks: BTreeSet<String> = arrivals.into_iter().map(|a| a.mark).collect();
    assert_eq!(marks.len(), 1, "one mark for {delivery:?}: {marks:?}");
}
