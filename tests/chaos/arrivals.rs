//! From what the far ends wrote down to what the checker reads.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::books::Planned;
use crate::far::Arrival;
use crate::harness::text;

/// Who is to get what.
pub fn recipients(
    committed: &BTreeMap<String, Planned>,
    of: impl Fn(&Planned) -> BTreeSet<String>,
) -> BTreeMap<String, BTreeSet<String>> {
    let all = committed.iter();
    all.map(|(id, event)| (id.clone(), of(event))).collect()
}

/// A line of `smtp_server.py`.
pub fn mail(line: &Value) -> Arrival {
    Arrival {
        number: last_number(&text(line, "subject")),
        event: text(line, "eventId"),
        recipient: text(line, "rcpt"),
        mark: text(line, "messageId"),
        at: at(line),
    }
}

/// A line of `push_receiver.py`.
pub fn push(line: &Value) -> Arrival {
    Arrival {
        number: last_number(&text(&line["payload"], "body")),
        event: text(line, "eventId"),
        recipient: line["subscription"].to_string(),
        mark: text(line, "eventId"),
        at: at(line),
    }
}

fn at(line: &Value) -> f64 {
    line["at"].as_f64().expect("a time")
}

fn last_number(text: &str) -> usize {
    let number = text.rsplit(' ').next().expect("one");
    let number = number.parse();
    number.unwrap_or_else(|_| panic!("no number in {text:?}"))
}
