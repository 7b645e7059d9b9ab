//! The checker: from what the producers wrote down and what came out at the far ends to what is
//! wrong with it. Pure data in, verdict out; `planted.rs` shows that it sees what it must.

use std::collections::{BTreeMap, BTreeSet};

use crate::books::Planned;

/// How long before a fault a far end may have accepted what the fault kept from being recorded:
/// an attempt that was under way, in seconds.
const UNDER_WAY: f64 = 3.0;

/// How long after a fault's end outcomes may still wait to be recorded, in seconds: herald finds
/// its connections dead, backs off and connects again.
const RECOVERY: f64 = 8.0;

/// Everything there is to judge by.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// By event id: what the producers know to be committed.
    pub committed: BTreeMap<String, Planned>,
    pub rolled_back: BTreeSet<String>,
    /// By tenant: the ids of the feed, in its order.
    pub feed: BTreeMap<String, Vec<String>>,
    pub streams: Vec<Stream>,
    pub email: Far,
    pub push: Far,
}

/// What one SSE client saw.
#[derive(Debug, Clone)]
pub struct Stream {
    pub tenant: String,
    pub seen: Vec<String>,
}

/// What came out at the far end of a sink.
#[derive(Debug, Clone, Default)]
pub struct Far {
    /// Who is to get each event, by its id.
    pub recipients: BTreeMap<String, BTreeSet<String>>,
    pub arrivals: Vec<Arrival>,
    /// When faults could come between acceptance and record.
    pub windows: Vec<Window>,
    /// Deliveries that one fault can catch in flight.
    pub in_flight: usize,
}

/// A fault; its times are seconds since 1970.
#[derive(Debug, Clone)]
pub struct Window {
    pub what: String,
    pub from: f64,
    pub to: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// The number in the payload, which no two events share.
    pub number: usize,
    pub event: String,
    pub recipient: String,
    /// What the far end can tell a repetition by, such as a Message-ID.
    pub mark: String,
    /// Seconds since 1970.
    pub at: f64,
}

#[derive(Debug, Default)]
pub struct Verdict {
    /// What is wrong, one sentence each; nothing if all is well.
    pub faults: Vec<String>,
    /// Second and later arrivals, all within the documented window.
    pub email_doubles: usize,
    pub push_doubles: usize,
}

pub fn judge(evidence: &Evidence) -> Verdict {
    let mut faults = Vec::new();
    judge_feed(evidence, &mut faults);
    for (client, stream) in evidence.streams.iter().enumerate() {
        let name = format!("SSE client {client} of {}", stream.tenant);
        match evidence.feed.get(&stream.tenant) {
            Some(feed) => judge_stream(&name, feed, &stream.seen, &mut faults),
            None => faults.push(format!("{name}: the tenant has no feed")),
        }
    }
    let email_doubles = judge_far("email", &evidence.email, &evidence.committed, &mut faults);
    let push_doubles = judge_far("push", &evidence.push, &evidence.committed, &mut faults);
    Verdict {
        faults,
        email_doubles,
        push_doubles,
    }
}

/// The feed has each committed event once, in its tenant's part, and nothing else.
fn judge_feed(evidence: &Evidence, faults: &mut Vec<String>) {
    let mut fed = BTreeSet::new();
    for (tenant, ids) in &evidence.feed {
        for id in ids {
            if !fed.insert(id) {
                faults.push(format!("feed: {id} stands in it twice"));
            }
            match evidence.committed.get(id) {
                Some(event) if event.tenant == *tenant => {}
                Some(event) => {
                    faults.push(format!("feed: {id} of {} is in {tenant}", event.tenant))
                }
                None if evidence.rolled_back.contains(id) => {
                    faults.push(format!("feed: {id} was rolled back"));
                }
                None => faults.push(format!("feed: nobody emitted {id}")),
            }
        }
    }
    let lost = evidence.committed.keys().filter(|id| !fed.contains(id));
    faults.extend(lost.map(|id| format!("feed: {id} was committed and is lost")));
}

/// A client sees exactly the feed: nothing lost, nothing twice, nothing in another order.
fn judge_stream(name: &str, feed: &[String], seen: &[String], faults: &mut Vec<String>) {
    if feed == seen {
        return;
    }
    let place: BTreeMap<&str, usize> = (0..).zip(feed).map(|(at, id)| (id.as_str(), at)).collect();
    let mut had = BTreeSet::new();
    let mut highest = None;
    for id in seen {
        let Some(at) = place.get(id.as_str()) else {
            faults.push(format!("{name}: {id} is not in the feed"));
            continue;
        };
        if !had.insert(id) {
            faults.push(format!("{name}: {id} came twice"));
        } else if highest > Some(at) {
            faults.push(format!("{name}: {id} came too late, out of order"));
        }
        highest = highest.max(Some(at));
    }
    let lost = feed.iter().filter(|id| !had.contains(id));
    faults.extend(lost.map(|id| format!("{name}: {id} is lost")));
}

/// Each recipient got each event, and where twice, there was a reason. Returns how many came again.
fn judge_far(
    name: &str,
    far: &Far,
    committed: &BTreeMap<String, Planned>,
    faults: &mut Vec<String>,
) -> usize {
    let numbers: BTreeMap<usize, &Planned> = committed.values().map(|e| (e.number, e)).collect();
    let mut got: BTreeMap<(&str, &str), Vec<&Arrival>> = BTreeMap::new();
    for arrival in &far.arrivals {
        let Arrival {
            event,
            number,
            recipient,
            ..
        } = arrival;
        let Some(planned) = numbers.get(number) else {
            faults.push(format!(
                "{name}: number {number} ({event}) was never committed"
            ));
            continue;
        };
        if planned.id != *event {
            let id = &planned.id;
            faults.push(format!("{name}: {id} came to {recipient} as {event}"));
        }
        let expected = far.recipients.get(&planned.id);
        if !expected.is_some_and(|all| all.contains(recipient)) {
            faults.push(format!("{name}: {event} is not for {recipient}"));
        }
        got.entry((&planned.id, recipient))
            .or_default()
            .push(arrival);
    }
    for (id, recipients) in &far.recipients {
        for recipient in recipients {
            if !got.contains_key(&(id.as_str(), recipient.as_str())) {
                faults.push(format!("{name}: {id} is lost for {recipient}"));
            }
        }
    }
    let mut doubles = 0;
    for ((id, recipient), mut arrivals) in got {
        arrivals.sort_by(|a, b| a.at.total_cmp(&b.at));
        for pair in arrivals.windows(2) {
            doubles += 1;
            if pair[0].mark != pair[1].mark {
                let marks = format!("{} and {}", pair[0].mark, pair[1].mark);
                faults.push(format!(
                    "{name}: {id} came twice to {recipient}, as {marks}"
                ));
            }
            if !far.explains(pair[0].at) {
                let (after, last) = (pair[1].at - pair[0].at, far.last_before(pair[0].at));
                faults.push(format!(
                    "{name}: {id} came twice to {recipient} within {after:.1} s without a fault near; {last}"
                ));
            }
        }
    }
    let most = far.windows.len() * far.in_flight;
    if doubles > most {
        faults.push(format!(
            "{name}: {doubles} doubles, and at most {most} were in flight at faults"
        ));
    }
    doubles
}

impl Far {
    /// Whether what was accepted at this moment may have gone unrecorded.
    fn explains(&self, at: f64) -> bool {
        let mut windows = self.windows.iter();
        windows.any(|w| (w.from - UNDER_WAY..=w.to + RECOVERY).contains(&at))
    }

    fn last_before(&self, at: f64) -> String {
        let before = self.windows.iter().filter(|w| w.from <= at);
        match before.max_by(|a, b| a.to.total_cmp(&b.to)) {
            Some(w) => format!("the last, {}, was over for {:.1} s", w.what, at - w.to),
            None => "there was none before".into(),
        }
    }
}
