//! The suite before a broadcast sink that keeps the contract, and before the same with one defect.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use herald_contract::{Broadcast, Event, StreamStats};
use herald_testkit::{BroadcastBench, Client, MemoryHistory, exercise_broadcast};
use tokio::sync::mpsc;
use ulid::Ulid;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    None,
    CountsNobody,
    Repeats,
    ForgetsSome,
    ShowsOtherTenants,
    NeverEnds,
    HoldsTheDead,
}

#[derive(Default)]
struct State {
    head: i64,
    clients: Vec<(String, mpsc::UnboundedSender<Ulid>)>,
    events: u64,
}

struct Radio {
    defect: Defect,
    state: Mutex<State>,
    history: MemoryHistory,
}

impl Broadcast for Radio {
    fn start(&self, seq: i64) {
        self.state.lock().expect("whole").head = seq;
    }

    fn publish(&self, events: &[Arc<Event>]) {
        let state = &mut *self.state.lock().expect("whole");
        for event in events {
            if event.seq <= state.head && self.defect != Defect::Repeats {
                continue;
            }
            state.head = event.seq;
            let lost = event.seq % 100 == 0 && self.defect == Defect::ForgetsSome;
            state.events += u64::from(self.defect == Defect::CountsNobody);
            for (tenant, client) in state.clients.iter().filter(|_| !lost) {
                let own = **tenant == *event.tenant_id || self.defect == Defect::ShowsOtherTenants;
                if own && client.send(event.event_id).is_ok() {
                    state.events += 1;
                }
            }
        }
    }

    fn close(&self) {
        if self.defect != Defect::NeverEnds {
            self.state.lock().expect("whole").clients.clear();
        }
    }

    fn stats(&self) -> StreamStats {
        let mut state = self.state.lock().expect("whole");
        if self.defect != Defect::HoldsTheDead {
            state.clients.retain(|(_, client)| !client.is_closed());
        }
        StreamStats {
            clients: state.clients.len() as u64,
            events: state.events,
        }
    }
}

struct Listener(mpsc::UnboundedReceiver<Ulid>);

#[async_trait]
impl Client for Listener {
    async fn next(&mut self) -> Option<Ulid> {
        self.0.recv().await
    }
}

#[async_trait]
impl BroadcastBench for Radio {
    fn sink(&self) -> &dyn Broadcast {
        self
    }

    fn history(&self) -> &MemoryHistory {
        &self.history
    }

    async fn connect(&self, tenant: &str) -> Box<dyn Client> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let client = (tenant.to_owned(), sender);
        self.state.lock().expect("whole").clients.push(client);
        Box::new(Listener(receiver))
    }
}

/// What the suite says of it; `None` when it is content.
async fn verdict(defect: Defect) -> Option<String> {
    let radio = Radio {
        defect,
        state: Mutex::default(),
        history: MemoryHistory::default(),
    };
    let run = tokio::spawn(async move { exercise_broadcast(&radio).await });
    let panic = run.await.err()?.into_panic();
    panic.downcast::<String>().map(|text| *text).ok()
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_keeps_the_contract_passes() {
    assert_eq!(verdict(Defect::None).await, None);
}

#[tokio::test(start_paused = true)]
async fn every_defect_is_found_and_named() {
    for (defect, told) in [
        (Defect::CountsNobody, "without clients"),
        (Defect::Repeats, "red at seq 42"),
        (Defect::ForgetsSome, "red at seq 100"),
        (Defect::ShowsOtherTenants, "red at seq 22"),
        (Defect::NeverEnds, "the end of a stream did not end"),
        (Defect::HoldsTheDead, "counting 2 clients did not end"),
    ] {
        let verdict = verdict(defect).await.unwrap_or_default();
        assert!(verdict.contains(told), "{defect:?}: {verdict:?}");
    }
}
