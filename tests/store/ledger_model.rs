//! Random lives of a ledger that two processes share: it must be as its [`Model`] after every
//! step, whatever they record, take, replay and drop, one after the other or at once.
//!
//! What hangs on the clock is told by letting time pass: every pending row's hour comes nearer.

use std::fmt::Debug;
use std::sync::Arc;

use chrono::TimeDelta;
use herald::store::{DeadFilter, Due, SinkCounts, State};
use herald_testkit::check_property;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tokio::runtime::Handle;

use crate::backend::{Fixture, event};
use crate::life::{Life, recipient, whole_hours};
use crate::model::{Key, Model, SINKS};
use crate::steps::{Step, step};

pub async fn a_ledger_is_as_its_model_after_every_step(f: Arc<Fixture>) {
    let events = f
        .feed(&[event("acme", "order.created"), event("acme", "order.paid")])
        .await;
    let life = Arc::new(Life {
        processes: [f.another(), f.another()],
        events,
        f,
    });
    let handle = Handle::current();
    // The property's runner is not asynchronous: it has a thread of its own.
    let checked = tokio::task::spawn_blocking(move || {
        check_property(life.f.cases(), &vec(step(), 1..9), |steps| {
            handle.block_on(life.live(&steps))
        });
    });
    if let Err(failed) = checked.await {
        std::panic::resume_unwind(failed.into_panic());
    }
}

impl Life {
    async fn live(&self, steps: &[Step]) -> TestCaseResult {
        let cleared = self.f.execute("DELETE FROM deliveries").await;
        cleared.expect("cleared");
        let mut model = Model::default();
        for (number, step) in steps.iter().enumerate() {
            model = self.step(model, step).await?;
            // One event a step, by turns: reading is most of the time.
            self.is_as(&model, &[number % 2], step).await?;
        }
        self.is_as(&model, &[0, 1], &steps.last()).await?;
        self.sums(&model).await
    }

    /// Does the step, in the ledger and in the model.
    async fn step(&self, mut model: Model, step: &Step) -> Result<Model, TestCaseError> {
        match step {
            Step::Record(process, sink, writes) => {
                self.record(*process, *sink, writes).await;
                model.record(*sink, writes);
            }
            Step::RecordAtOnce(sink, [a, b]) => {
                tokio::join!(
                    self.record(0, *sink, std::slice::from_ref(a)),
                    self.record(1, *sink, std::slice::from_ref(b))
                );
                let mut other = model.clone();
                for write in [a, b] {
                    model.record(*sink, &[*write]);
                }
                for write in [b, a] {
                    other.record(*sink, &[*write]);
                }
                // Either may have been the first.
                if self.is_as(&model, &[0, 1], step).await.is_err() {
                    model = other;
                }
            }
            Step::Take(process, sink, limit, hours) => {
                let due = self.take(*process, *sink, *limit, *hours).await;
                self.taken(&mut model, *sink, &due, *limit, *hours)?;
            }
            Step::TakeAtOnce(sink, limits, hours) => {
                let (mut due, more) = tokio::join!(
                    self.take(0, *sink, limits[0], *hours),
                    self.take(1, *sink, limits[1], *hours)
                );
                due.extend(more);
                self.taken(&mut model, *sink, &due, limits[0] + limits[1], *hours)?;
            }
            Step::Pass(hours) => {
                self.f.pass(*hours).await;
                model.now += hours;
            }
            Step::LetGo(sink) => {
                let count = self.let_go(*sink).await;
                prop_assert_eq!(count, model.let_go(*sink));
            }
            Step::Replay(dead) => {
                let count = self.f.store.dead_replay(&self.filter(*dead)).await;
                prop_assert_eq!(count.expect("replayed"), model.dead(*dead).len() as u64);
                model.replay(*dead);
            }
            Step::Drop(dead) => {
                let count = self.f.store.dead_drop(&self.filter(*dead)).await;
                prop_assert_eq!(count.expect("dropped"), model.dead(*dead).len() as u64);
                model.drop(*dead);
            }
        }
        Ok(model)
    }

    /// The ledger has of these events what the model has.
    async fn is_as(&self, model: &Model, events: &[usize], after: &impl Debug) -> TestCaseResult {
        let of_these = |key: &Key| events.contains(&key.1);
        let expected = model.rows.iter().filter(|(key, _)| of_these(key));
        let expected: Vec<_> = expected.map(|(key, row)| (*key, row.shown())).collect();
        let rows = self.rows(model, events).await;
        prop_assert_eq!(rows, expected, "after {:?}", after);
        Ok(())
    }

    /// What was taken is as many of the oldest due as were asked for, each once.
    fn taken(
        &self,
        model: &mut Model,
        sink: usize,
        taken: &[Due],
        limit: usize,
        lease: i64,
    ) -> TestCaseResult {
        let mut due = model.due(sink);
        prop_assert_eq!(taken.len(), due.len().min(limit), "of {:?}", due);
        let (mut keys, mut latest) = (Vec::new(), i64::MIN);
        for one in taken {
            let key = (sink, self.event(&one.event), recipient(&one.recipient));
            let Some(hour) = due.remove(&key) else {
                return Err(TestCaseError::fail(format!("{key:?} was not to be taken")));
            };
            let row = model.rows[&key];
            prop_assert_eq!(
                (one.attempts, one.history.len()),
                (row.attempts, row.history)
            );
            latest = latest.max(hour);
            keys.push(key);
        }
        let left = due.values().min();
        prop_assert!(
            left.is_none_or(|hour| *hour >= latest),
            "older ones are left"
        );
        model.lease(&keys, lease);
        Ok(())
    }

    /// What is counted and waited for is what the rows say.
    async fn sums(&self, model: &Model) -> TestCaseResult {
        let counts = self.f.store.sink_counts().await.expect("read");
        let ids: Vec<_> = self.events.iter().map(|event| event.event_id).collect();
        for (sink, name) in SINKS.iter().enumerate() {
            let counted = counts.iter().find(|(sink, _)| sink == name);
            let expected = SinkCounts {
                retrying: model.count(sink, State::Pending).try_into().expect("few"),
                dead: model.count(sink, State::Dead).try_into().expect("few"),
            };
            prop_assert_eq!(counted.map_or_else(Default::default, |(_, n)| *n), expected);
            let wait = self.f.store.ledger_wait(name, None).await.expect("read");
            let wait = wait.map(|wait| whole_hours(TimeDelta::from_std(wait).expect("short")));
            prop_assert_eq!(wait, model.next(sink).map(|hour| (hour - model.now).max(0)));
        }
        let known = self.f.store.ledger_known(SINKS[0], &ids).await;
        let rows = model.rows.keys().filter(|key| key.0 == 0).count();
        prop_assert_eq!(known.expect("read").len(), rows);
        let dead: i64 = counts.iter().map(|(_, count)| count.dead).sum();
        let counted = self.f.store.dead_count(&DeadFilter::default()).await;
        prop_assert_eq!(i64::try_from(counted.expect("read")).expect("few"), dead);
        Ok(())
    }
}
