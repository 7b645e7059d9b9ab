//! The one list of the sinks that exist. A new sink is a crate under `sinks/`, an entry here and a
//! table in `config.toml`.

use std::sync::Arc;

use axum::Router;
use herald_contract::{Broadcast, Host, Sink};

use crate::config::{Located, Section, check};

/// A sink that is built, and what it answers over HTTP.
pub struct Part {
    pub sink: AnySink,
    pub routes: Router,
}

/// A sink of either kind.
pub enum AnySink {
    Competing(Arc<dyn Sink>),
    Broadcast(Arc<dyn Broadcast>),
}

/// A kind of sink.
pub struct Kind {
    /// As `kind = "…"` names it.
    pub name: &'static str,
    /// Every fault of its table.
    pub check: fn(&Section) -> Vec<Located>,
    /// Builds it from a table that has no faults; says what else is in its way.
    pub build: fn(&Section, Host) -> Result<Part, String>,
}

/// Every kind.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "sse",
        check: check::<herald_sse::Config>,
        build: |section, host| {
            let sink = Arc::new(herald_sse::Sse::new(decode(section)?, &host));
            let routes = sink.routes();
            Ok(broadcast(sink, routes))
        },
    },
    Kind {
        name: "email",
        check: check::<herald_email::Config>,
        build: |section, host| {
            let sink = Arc::new(herald_email::Email::new(decode(section)?, host)?);
            let routes = sink.routes();
            Ok(competing(sink, routes))
        },
    },
    Kind {
        name: "web_push",
        check: check::<herald_web_push::Config>,
        build: |section, host| {
            let sink = Arc::new(herald_web_push::WebPush::new(decode(section)?, host)?);
            let routes = sink.routes();
            Ok(competing(sink, routes))
        },
    },
];

/// The kind that `name` means; `check` has made sure that there is one.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// The kinds as the configuration checks them.
pub fn checks() -> Vec<crate::config::Kind> {
    KINDS.iter().map(|kind| (kind.name, kind.check)).collect()
}

fn decode<T: herald_contract::SinkConfig>(section: &Section) -> Result<T, String> {
    section.decode().map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        faults.join("\n")
    })
}

fn competing(sink: Arc<dyn Sink>, routes: Router) -> Part {
    Part {
        sink: AnySink::Competing(sink),
        routes,
    }
}

fn broadcast(sink: Arc<dyn Broadcast>, routes: Router) -> Part {
    Part {
        sink: AnySink::Broadcast(sink),
        routes,
    }
}
