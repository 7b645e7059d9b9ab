//! The embedded broker before the suite.

use std::sync::Arc;

use herald::broker::{Broker, Embedded};
use herald::store::Sqlite;

use crate::bench::{Bench, Process, Server};

exercise_broker!(crate::embedded::on_embedded);

struct InProcess(Arc<Sqlite>);

impl Server for InProcess {
    fn broker(&self, _process: Process<'_>) -> Arc<dyn Broker> {
        Arc::new(Embedded::new(self.0.clone()))
    }
}

pub async fn on_embedded<T: Future<Output = ()>>(test: impl FnOnce(Arc<Bench>) -> T) {
    test(Bench::new(InProcess).await).await;
}
