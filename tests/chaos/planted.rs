//! The checker is checked: it passes what is right, and fails what was planted.

use std::collections::{BTreeMap, BTreeSet};

use crate::books::Planned;
use crate::checker::{Evidence, Stream, judge};
use crate::far::{Arrival, Far, Window};

const EVENTS: usize = 20;
const CALM: f64 = 1_000.0;
const FAULT: (f64, f64) = (2_000.0, 2_004.0);

fn id(number: usize) -> String {
    format!("event-{number}")
}

fn tenant(number: usize) -> String {
    ["acme", "globex"][number % 2].to_owned()
}

/// Twenty events of two tenants, all of them where they belong, once.
fn evidence() -> Evidence {
    let mut evidence = Evidence::default();
    for number in 0..EVENTS {
        let (id, tenant) = (id(number), tenant(number));
        let event = Planned {
            id: id.clone(),
            tenant: tenant.clone(),
            number,
        };
        arrive(&mut evidence.email, number, &event.address());
        for phone in 0..2 {
            arrive(&mut evidence.push, number, &format!("{tenant}/{phone}"));
        }
        evidence.feed.entry(tenant).or_default().push(id.clone());
        evidence.committed.insert(id, event);
    }
    for (tenant, ids) in &evidence.feed {
        evidence.streams.push(Stream {
            tenant: tenant.clone(),
            seen: ids.clone(),
        });
    }
    evidence.rolled_back.insert("regretted".into());
    evidence
}

fn arrive(far: &mut Far, number: usize, recipient: &str) {
    far.windows = vec![Window {
        what: "Fault".into(),
        from: FAULT.0,
        to: FAULT.1,
    }];
    far.in_flight = 2;
    far.at_once = 2;
    far.recipients
        .entry(id(number))
        .or_default()
        .insert(recipient.into());
    far.arrivals.push(Arrival {
        number,
        event: id(number),
        recipient: recipient.into(),
        mark: format!("<{}>", id(number)),
        at: CALM,
    });
}

/// Delivers what came at this place once more.
fn again(far: &mut Far, place: usize, at: f64) {
    far.arrivals[place].at = at;
    let mut second = far.arrivals[place].clone();
    second.at += 1.0;
    far.arrivals.push(second);
}

type Choose = fn(&mut Evidence) -> &mut Far;
const SINKS: [(&str, Choose); 2] = [("email", |e| &mut e.email), ("push", |e| &mut e.push)];

/// What is wrong once this was planted.
fn faults(plant: impl FnOnce(&mut Evidence)) -> Vec<String> {
    let mut evidence = evidence();
    plant(&mut evidence);
    judge(&evidence).faults
}

#[track_caller]
fn assert_one(faults: &[String], word: &str) {
    assert!(faults.len() == 1 && faults[0].contains(word), "{faults:?}");
}

#[test]
fn what_is_right_passes() {
    assert_eq!(faults(|_| {}), [""; 0]);
}

#[test]
fn a_stream_that_lost_doubled_or_swapped_an_event_fails() {
    let lost = faults(|e| drop(e.streams[0].seen.remove(3)));
    assert_one(&lost, "is lost");
    let at_the_end = faults(|e| drop(e.streams[1].seen.pop()));
    assert_one(&at_the_end, "is lost");
    let doubled = faults(|e| {
        let id = e.streams[0].seen[3].clone();
        e.streams[0].seen.insert(5, id);
    });
    assert_one(&doubled, "came twice");
    let swapped = faults(|e| e.streams[1].seen.swap(4, 5));
    assert_one(&swapped, "out of order");
    let strange = faults(|e| e.streams[0].seen.push("event-1".into()));
    assert_one(&strange, "not in the feed");
}

#[test]
fn a_lost_mail_or_push_fails() {
    for (name, far) in SINKS {
        assert_one(&faults(|e| drop(far(e).arrivals.remove(7))), name);
    }
}

#[test]
fn a_double_outside_the_window_fails_and_one_inside_is_counted() {
    for (name, far) in SINKS {
        let outside = faults(|e| again(far(e), 7, CALM));
        assert_one(&outside, "without a fault");
        let mut inside = evidence();
        again(far(&mut inside), 7, FAULT.0 + 1.0);
        let verdict = judge(&inside);
        assert_eq!(verdict.faults, [""; 0], "{name}");
        let counted = verdict
            .email_doubles
            .values()
            .chain(verdict.push_doubles.values())
            .sum::<usize>();
        assert_eq!(counted, 1, "{name}");
        let many = faults(|e| (0..13).for_each(|place| again(far(e), place, FAULT.0)));
        assert_one(&many, "in flight");
    }
}

#[test]
fn a_double_with_another_id_fails() {
    for (_, far) in SINKS {
        let marked = faults(|e| {
            again(far(e), 7, FAULT.0);
            far(e).arrivals.last_mut().expect("one").mark = "<another>".into();
        });
        assert_one(&marked, "<another>");
        let renamed = faults(|e| {
            again(far(e), 7, FAULT.0);
            far(e).arrivals.last_mut().expect("one").event = "another".into();
        });
        assert_one(&renamed, "as another");
    }
}

#[test]
fn two_mails_or_pushes_that_were_swapped_fail() {
    for (name, far) in SINKS {
        let recipients = faults(|e| {
            let arrivals = &mut far(e).arrivals;
            let first = arrivals[0].recipient.clone();
            arrivals[0].recipient = std::mem::replace(&mut arrivals[3].recipient, first);
        });
        assert!(
            recipients.iter().any(|f| f.contains("is not for")),
            "{name}"
        );
        assert!(recipients.iter().any(|f| f.contains("is lost")), "{name}");
        let contents = faults(|e| {
            let arrivals = &mut far(e).arrivals;
            let first = arrivals[0].event.clone();
            arrivals[0].event = std::mem::replace(&mut arrivals[3].event, first);
        });
        assert_eq!(contents.len(), 2, "{name}: {contents:?}");
    }
}

#[test]
fn what_was_rolled_back_or_never_emitted_must_not_appear() {
    for stranger in ["regretted", "unheard-of"] {
        let fed = faults(|e| {
            let feed: &mut BTreeMap<_, _> = &mut e.feed;
            feed.entry("acme".into()).or_default().push(stranger.into());
            for stream in e.streams.iter_mut().filter(|s| s.tenant == "acme") {
                stream.seen.push(stranger.into());
            }
        });
        assert_eq!(fed.len(), 1, "{fed:?}");
    }
    for (name, far) in SINKS {
        let sent = faults(|e| {
            let mut arrival = far(e).arrivals[0].clone();
            arrival.number = EVENTS + 1;
            far(e).arrivals.push(arrival);
        });
        assert_one(&sent, "never committed");
        assert!(sent[0].starts_with(name));
    }
}

#[test]
fn the_feed_must_have_every_committed_event_once() {
    let lost = faults(|e| {
        let gone = e.feed.get_mut("acme").expect("a tenant").remove(0);
        e.streams
            .iter_mut()
            .for_each(|s| s.seen.retain(|id| *id != gone));
    });
    assert_one(&lost, "committed and is lost");
    let twice = faults(|e| {
        e.feed.get_mut("acme").expect("a tenant").push(id(0));
        e.streams.clear();
    });
    assert_one(&twice, "twice");
    let nobody = BTreeSet::from([id(2)]);
    let unwanted = faults(|e| e.committed.retain(|id, _| !nobody.contains(id)));
    assert!(
        unwanted.iter().any(|f| f.contains("nobody emitted")),
        "{unwanted:?}"
    );
}
