//! The part of the checker that judges a far end: everybody got each event, and where twice, a fault
//! explains it.

use std::collections::{BTreeMap, BTreeSet};

use crate::books::Planned;

/// How long before a fault a far end may have accepted what the fault kept from being recorded:
/// an attempt that was under way, in seconds.
const UNDER_WAY: f64 = 3.0;

/// How long after a fault's end outcomes may still wait to be recorded, in seconds: herald finds
/// its connections dead, backs off and connects again.
const RECOVERY: f64 = 8.0;

/// After how long an attempt is given up, and made again, in seconds.
const ATTEMPT: f64 = 2.0;

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
    /// Faults that can go on at once and catch each other's.
    pub at_once: usize,
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

/// How many came again, by the fault nearest to the first time.
pub type Doubles = BTreeMap<String, usize>;

/// Each recipient got each event, and where twice, there was a reason. Returns what came again.
pub fn judge(
    name: &str,
    far: &Far,
    committed: &BTreeMap<String, Planned>,
    faults: &mut Vec<String>,
) -> Doubles {
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
    let mut around = BTreeMap::new();
    for ((id, recipient), mut arrivals) in got {
        arrivals.sort_by(|a, b| a.at.total_cmp(&b.at));
        for pair in arrivals.windows(2) {
            if let Some(window) = far.nearest(pair[0].at) {
                *around.entry(window).or_default() += 1;
            }
            if pair[0].mark != pair[1].mark {
                let marks = format!("{} and {}", pair[0].mark, pair[1].mark);
                faults.push(format!(
                    "{name}: {id} came twice to {recipient}, as {marks}"
                ));
            }
            if !far.explains(pair[0].at) {
                let apart = pair[1].at - pair[0].at;
                faults.push(format!(
                    "{name}: {id} came twice to {recipient}, {apart:.1} s apart, without a fault near"
                ));
            }
        }
    }
    faults.extend(far.too_many(name, &around));
    let mut doubles = Doubles::new();
    for (window, count) in around {
        *doubles.entry(far.windows[window].what.clone()).or_default() += count;
    }
    doubles
}

impl Far {
    /// Whether what was accepted at this moment may have gone unrecorded.
    fn explains(&self, at: f64) -> bool {
        let mut windows = self.windows.iter();
        windows.any(|w| (w.from - UNDER_WAY..=w.to + RECOVERY).contains(&at))
    }

    /// The fault that began nearest to this moment.
    fn nearest(&self, at: f64) -> Option<usize> {
        let far = |window: &Window| (window.from - at).abs();
        let windows = self.windows.iter().enumerate();
        let nearest = windows.min_by(|(_, a), (_, b)| far(a).total_cmp(&far(b)));
        nearest.map(|(place, _)| place)
    }

    /// A fault catches what is in flight, and again with each attempt that it outlasts. Where
    /// several go on at once, what one of them caught may be nearer to another.
    fn too_many(&self, name: &str, around: &BTreeMap<usize, usize>) -> Vec<String> {
        let sentence = |(place, count): (&usize, &usize)| {
            let Window { what, from, to } = &self.windows[*place];
            let attempts = 1 + ((to - from) / ATTEMPT).ceil() as usize;
            let most = self.at_once * attempts * self.in_flight;
            (*count > most).then(|| {
                format!("{name}: {count} doubles around {what}, at most {most} were in flight")
            })
        };
        around.iter().filter_map(sentence).collect()
    }
}
