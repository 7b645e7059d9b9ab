//! The suite before a sink that keeps the contract, and before the same sink with one defect.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use herald_contract::{Delivery, Event, Outcome, Recipient, Recipients, Scope, Sink, Unavailable};
use herald_testkit::{Arrival, FarEnd, SinkBench, event, exercise_sink};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    None,
    KeysRepeat,
    KeysOfOneRun,
    KeysEndLines,
    OddSpoilsAll,
    AnswersShort,
    NeedsHint,
    MarksAttempts,
    MixesRecipients,
    GivesUpAtOnce,
    NeverGivesUp,
    RetriesPayloads,
    ForgetsNothing,
    DrainsForever,
}

struct Paper {
    defect: Defect,
    desk: Arc<Desk>,
    run: u32,
}

#[derive(Default)]
struct Desk {
    far_end: Mutex<Option<FarEnd>>,
    gone: Mutex<Vec<String>>,
    arrivals: Mutex<Vec<Arrival>>,
}

fn is_odd(event: &Event) -> bool {
    event.payload.get() != "{}"
}

impl Paper {
    fn attempt(
        &self,
        Delivery {
            event,
            recipient,
            attempt,
        }: &Delivery,
    ) -> Outcome {
        if is_odd(event) && self.defect == Defect::RetriesPayloads {
            return Outcome::retry(Scope::Recipient, "what is this?");
        }
        match (*self.desk.far_end.lock().expect("whole"), self.defect) {
            (Some(FarEnd::FailsForNow), Defect::GivesUpAtOnce) => return Outcome::reject("busy"),
            (Some(FarEnd::FailsForNow), _) => return Outcome::retry(Scope::Destination, "busy"),
            (Some(FarEnd::FailsForGood), Defect::NeverGivesUp) => {
                return Outcome::retry(Scope::Destination, "busy");
            }
            (Some(FarEnd::FailsForGood), _) => {
                return Outcome::Gone {
                    cause: "moved".into(),
                };
            }
            _ => {}
        }
        if recipient.hint.is_none() && self.defect == Defect::NeedsHint {
            return Outcome::skipped("who?");
        }
        let mut arrival = Arrival {
            recipient: recipient.key.clone(),
            mark: event.event_id.to_string(),
        };
        match self.defect {
            Defect::MarksAttempts => arrival.mark += &attempt.to_string(),
            Defect::MixesRecipients => arrival.recipient = "0".into(),
            _ => {}
        }
        self.desk.arrivals.lock().expect("whole").push(arrival);
        Outcome::Delivered { response: None }
    }
}

#[async_trait]
impl Sink for Paper {
    fn batch(&self) -> usize {
        4
    }

    async fn recipients(&self, events: &[Arc<Event>]) -> Result<Vec<Recipients>, Unavailable> {
        let spoilt = self.defect == Defect::OddSpoilsAll && events.iter().any(|e| is_odd(e));
        let gone = self.desk.gone.lock().expect("whole");
        let of_event = |event: &Arc<Event>| {
            if spoilt || is_odd(event) {
                return Err("what is this?".into());
            }
            let count = if &*event.tenant_id == "acme" { 3 } else { 0 };
            let key = |n: u32| match self.defect {
                Defect::KeysRepeat => "0".into(),
                Defect::KeysOfOneRun => format!("{}-{n}", self.run),
                Defect::KeysEndLines => format!("{n}\n"),
                _ => n.to_string(),
            };
            let keys = (0..count).map(key).filter(|key| !gone.contains(key));
            let hint = Some("hint".into());
            Ok(keys
                .map(|key| Recipient {
                    hint: hint.clone(),
                    ..Recipient::new(key)
                })
                .collect())
        };
        Ok(events.iter().map(of_event).collect())
    }

    async fn deliver(&self, deliveries: &[Delivery]) -> Vec<Outcome> {
        let short = usize::from(self.defect == Defect::AnswersShort && deliveries.len() > 1);
        let answered = &deliveries[short..];
        answered.iter().map(|d| self.attempt(d)).collect()
    }

    async fn forget(&self, recipient: &str) -> Result<(), Unavailable> {
        if self.defect != Defect::ForgetsNothing {
            self.desk.gone.lock().expect("whole").push(recipient.into());
        }
        Ok(())
    }

    async fn drain(&self, _: std::time::Duration) {
        if self.defect == Defect::DrainsForever {
            std::future::pending().await
        }
    }
}

struct Bench {
    defect: Defect,
    desk: Arc<Desk>,
    runs: Mutex<u32>,
}

#[async_trait]
impl SinkBench for Bench {
    fn sink(&self) -> Arc<dyn Sink> {
        let mut runs = self.runs.lock().expect("whole");
        *runs += 1;
        Arc::new(Paper {
            defect: self.defect,
            desk: self.desk.clone(),
            run: *runs,
        })
    }

    fn wanted(&self, seq: i64) -> Arc<Event> {
        event(seq, "acme", "order.created", "{}")
    }

    fn unwanted(&self, seq: i64) -> Arc<Event> {
        event(seq, "nobody", "order.created", "{}")
    }

    async fn set(&self, far_end: FarEnd) -> bool {
        *self.desk.far_end.lock().expect("whole") = Some(far_end);
        true
    }

    async fn arrivals(&self) -> Vec<Arrival> {
        self.desk.arrivals.lock().expect("whole").clone()
    }
}

/// What the suite says of it; `None` when it is content.
async fn verdict(defect: Defect) -> Option<String> {
    let desk = Arc::default();
    let runs = Mutex::default();
    let bench = Bench { defect, desk, runs };
    let run = tokio::spawn(async move { exercise_sink(&bench).await });
    let panic = run.await.err()?.into_panic();
    let message = panic.downcast::<String>().map(|text| *text);
    Some(message.unwrap_or_else(|panic| (*panic.downcast::<&str>().expect("text")).into()))
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_keeps_the_contract_passes() {
    assert_eq!(verdict(Defect::None).await, None);
}

#[tokio::test(start_paused = true)]
async fn every_defect_is_found_and_named() {
    for (defect, told) in [
        (Defect::KeysRepeat, "keys are unique"),
        (Defect::KeysOfOneRun, "keys survive a restart"),
        (Defect::KeysEndLines, "control in"),
        (Defect::OddSpoilsAll, "can have recipients"),
        (Defect::AnswersShort, "one outcome a delivery"),
        (Defect::NeedsHint, "the far end works"),
        (Defect::MarksAttempts, "one mark"),
        (Defect::MixesRecipients, "one mark"),
        (Defect::GivesUpAtOnce, "a failure that passes"),
        (Defect::NeverGivesUp, "a failure for good"),
        (Defect::RetriesPayloads, "the payload null gets"),
        (Defect::ForgetsNothing, "is not forgotten"),
        (Defect::DrainsForever, "drain did not end"),
    ] {
        let verdict = verdict(defect).await.unwrap_or_default();
        assert!(verdict.contains(told), "{defect:?}: {verdict:?}");
    }
}
