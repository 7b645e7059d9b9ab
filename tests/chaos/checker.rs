//! The checker: from what the producers wrote down and what came out at the far ends to what is
//! wrong with it. Pure data in, verdict out; `planted.rs` shows that it sees what it must.

use std::collections::{BTreeMap, BTreeSet};

use crate::books::Planned;
use crate::far::{self, Doubles, Far};

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

#[derive(Debug, Default)]
pub struct Verdict {
    /// What is wrong, one sentence each; nothing if all is well.
    pub faults: Vec<String>,
    /// Second and later arrivals of a mail, by the fault nearest to the first.
    pub email_doubles: Doubles,
    pub push_doubles: Doubles,
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
    let email_doubles = far::judge("email", &evidence.email, &evidence.committed, &mut faults);
    let push_doubles = far::judge("push", &evidence.push, &evidence.committed, &mut faults);
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
