//! How each sink is doing, and holding one back.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use herald_contract::{Broadcast, Sink};
use herald_routes::{Access, Problem, Scope, Segment};
use serde::Serialize;
use tokio::sync::watch;

use super::{Api, failed};
use crate::runner::Runner;

/// A sink of this process, as the API shows it.
pub struct SinkHandle {
    pub name: String,
    pub kind: String,
    pub at_work: AtWork,
}

/// What drives it.
pub enum AtWork {
    Competing {
        sink: Arc<dyn Sink>,
        runner: Arc<Runner>,
        /// What the far end said last.
        health: watch::Sender<Health>,
    },
    Broadcast(Arc<dyn Broadcast>),
}

/// Whether a sink's far end can be reached.
#[derive(Debug, Clone, Default)]
pub enum Health {
    #[default]
    Unknown,
    Asked(Result<(), String>),
}

#[derive(Serialize)]
pub(super) struct Answer {
    sinks: Vec<SinkState>,
    feed: FeedState,
}

#[derive(Serialize)]
pub(super) struct Paused {
    paused: bool,
}

#[derive(Serialize)]
struct FeedState {
    seq: i64,
    pending: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SinkState {
    name: String,
    kind: String,
    /// `competing`: one process handles each event; `broadcast`: each process shows it.
    mode: &'static str,
    /// For competing sinks: all up to this `seq` is settled, in all processes together.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<i64>,
    /// Attempts under way in this process.
    in_flight: usize,
    retrying: i64,
    dead: i64,
    paused: bool,
    /// For competing sinks: `open` while everything fails and this process leaves the sink alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker: Option<&'static str>,
    /// Destinations that this process leaves alone, as everything fails there: the first few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    open_destinations: Vec<Arc<str>>,
    /// For broadcast sinks: clients of this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<u64>,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    access: Access,
) -> Result<Json<Answer>, Problem> {
    access.require(Scope::Admin)?;
    let store = &api.store;
    let (head, backlog, checkpoints, counts) = tokio::try_join!(
        store.feed_head(),
        store.backlog(),
        store.checkpoints(),
        store.sink_counts()
    )
    .map_err(|e| failed(&e))?;
    let checkpoints: HashMap<_, _> = checkpoints.into_iter().collect();
    let counts: HashMap<_, _> = counts.into_iter().collect();
    let sinks = api
        .sinks
        .iter()
        .map(|sink| {
            let counts = counts.get(&sink.name).copied().unwrap_or_default();
            let checkpoint = checkpoints.get(&sink.name);
            let common = SinkState {
                name: sink.name.clone(),
                kind: sink.kind.clone(),
                mode: "broadcast",
                checkpoint: checkpoint.map(|c| c.seq),
                lag: checkpoint.map(|c| (head.seq - c.seq).max(0)),
                in_flight: 0,
                retrying: counts.retrying,
                dead: counts.dead,
                paused: checkpoint.is_some_and(|c| c.paused),
                breaker: None,
                open_destinations: Vec::new(),
                clients: None,
            };
            match &sink.at_work {
                AtWork::Competing { runner, .. } => SinkState {
                    mode: "competing",
                    in_flight: runner.in_flight(),
                    breaker: Some(if runner.breaker_is_open() {
                        "open"
                    } else {
                        "closed"
                    }),
                    open_destinations: some(runner.open_destinations()),
                    ..common
                },
                AtWork::Broadcast(sink) => SinkState {
                    clients: Some(sink.stats().clients),
                    ..common
                },
            }
        })
        .collect();
    let feed = FeedState {
        seq: head.seq,
        pending: backlog.pending,
    };
    Ok(Json(Answer { sinks, feed }))
}

/// Of many, enough to know where to look.
fn some(mut destinations: Vec<Arc<str>>) -> Vec<Arc<str>> {
    destinations.sort_unstable();
    destinations.truncate(20);
    destinations
}

pub(super) async fn pause(
    state: State<Arc<Api>>,
    access: Access,
    name: Segment,
) -> Result<Json<Paused>, Problem> {
    set_paused(state, access, name, true).await
}

pub(super) async fn resume(
    state: State<Arc<Api>>,
    access: Access,
    name: Segment,
) -> Result<Json<Paused>, Problem> {
    set_paused(state, access, name, false).await
}

/// Within a second every process knows. What is under way ends.
async fn set_paused(
    State(api): State<Arc<Api>>,
    access: Access,
    Segment(name): Segment,
    paused: bool,
) -> Result<Json<Paused>, Problem> {
    access.require(Scope::Admin)?;
    match api.store.pause(&name, paused).await {
        Ok(true) => Ok(Json(Paused { paused })),
        Ok(false) => Err(Problem::not_found(format!(
            "there is no competing sink named {name:?}"
        ))),
        Err(error) => Err(failed(&error)),
    }
}
