//! A client that changes its filters, at random, between any two turns.

use std::task::{Context, Waker};

use herald_testkit::{check_property, event_id};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::peer::{Peer, Server};
use crate::Config;
use crate::raw::Talk as _;

/// What happens while a client changes its filters.
#[derive(Debug, Clone)]
enum Step {
    /// An event of a kind that the client always wants, or only at times.
    Emit { always: bool },
    /// It wants both from now on, or not.
    Filter { both: bool },
    /// It takes a turn.
    Turn,
    /// Its log lets go of what it has not taken.
    Relieve,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<bool>().prop_map(|always| Step::Emit { always }),
        2 => any::<bool>().prop_map(|both| Step::Filter { both }),
        5 => Just(Step::Turn),
        1 => Just(Step::Relieve),
    ]
}

#[test]
fn a_change_of_filters_loses_nothing_and_doubles_nothing_whenever_it_comes() {
    let case = (1..5_usize, 1..5_usize, vec(step(), 0..60));
    check_property(2_000, &case, |(buffer, replay_page, steps)| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let server = Server::new(Config {
                buffer,
                replay_page,
                ..Config::default()
            });
            let mut feed = Vec::new();
            let mut peer = server.connect("tenantId=a&after=0&types=always");
            for step in steps {
                match step {
                    Step::Emit { always } => {
                        feed.push(always);
                        let kind = if always { "always" } else { "at-times" };
                        server.emit(feed.len() as i64, kind);
                    }
                    Step::Filter { both } => {
                        let types = if both { "always,at-times" } else { "always" };
                        peer.say(&json!({"subscribe": {"tenantId": "a", "types": types}}));
                    }
                    Step::Turn => {
                        let mut out = Vec::new();
                        let mut cx = Context::from_waker(Waker::noop());
                        let _ = peer.session.poll_next(&mut cx, &mut out);
                        peer.read(&out.concat());
                        tokio::task::yield_now().await;
                    }
                    Step::Relieve => server.sse.shared.hub.relieve(),
                }
            }
            feed.push(true);
            server.emit(feed.len() as i64, "always");
            check(&mut peer, &feed).await
        })
    });
}

/// What comes up to the last event of the feed: each event that was wanted when its turn came.
async fn check(peer: &mut Peer, feed: &[bool]) -> Result<(), TestCaseError> {
    let (mut both, mut settled) = (false, false);
    let mut last = 0;
    let seq = |id: &str| {
        let seqs = 1..=feed.len();
        seqs.rev()
            .find(|seq| event_id(*seq as i64).to_string() == id)
    };
    while last < feed.len() {
        let said = peer.text().await;
        if said["herald"] == "subscribed" {
            both = said["types"] == "always,at-times";
            settled = false;
            continue;
        }
        let seq = seq(said["eventId"].as_str().unwrap_or_default()).expect("an event");
        prop_assert!(seq > last, "{} after {}", seq, last);
        prop_assert!(both || feed[seq - 1], "{} was not wanted", seq);
        let skipped = last + 1..seq;
        prop_assert!(
            skipped.clone().all(|seq| !feed[seq - 1]),
            "of {:?} some were always wanted",
            skipped
        );
        prop_assert!(!(both && settled) || skipped.is_empty(), "{:?}", skipped);
        (last, settled) = (seq, true);
    }
    Ok(())
}
