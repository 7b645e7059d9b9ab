//! The sink with its mailbox, before the suite that every sink passes.

use std::sync::Arc;

use herald_contract::{Event, Sink};
use herald_email::{Config, Email};
use herald_testkit::{Arrival, FarEnd, SinkBench, event, exercise_sink, host};
use serde_json::Value;
use tempfile::TempDir;

struct Mailbox(TempDir);

#[async_trait::async_trait]
impl SinkBench for Mailbox {
    fn sink(&self) -> Arc<dyn Sink> {
        let host = host("email", self.0.path());
        Arc::new(Email::new(Config::default(), host).expect("a sink"))
    }

    fn wanted(&self, seq: i64) -> Arc<Event> {
        let payload = r#"{"email": ["jane@example.com", "Joe <joe@EXAMPLE.com>", "zoë@例え.jp"]}"#;
        event(seq, "acme", "order.created", payload)
    }

    fn unwanted(&self, seq: i64) -> Arc<Event> {
        event(seq, "acme", "order.created", "{}")
    }

    /// A file in the folder's place is a disk that cannot be written to.
    async fn set(&self, far_end: FarEnd) -> bool {
        let [folder, aside] = ["mailbox", "aside"].map(|name| self.0.path().join(name));
        match far_end {
            FarEnd::Works if aside.is_dir() => {
                std::fs::remove_file(&folder).expect("removed");
                std::fs::rename(aside, folder).expect("restored");
            }
            FarEnd::Works => {}
            FarEnd::FailsForNow => {
                std::fs::rename(&folder, aside).expect("moved");
                std::fs::write(folder, "").expect("written");
            }
            FarEnd::FailsForGood => return false,
        }
        true
    }

    async fn arrivals(&self) -> Vec<Arrival> {
        let files = std::fs::read_dir(self.0.path().join("mailbox")).expect("a folder");
        let paths = files.map(|file| file.expect("readable").path());
        let entries = paths.filter(|path| path.extension().is_some_and(|e| e == "json"));
        let arrival = |path| {
            let entry = std::fs::read(path).expect("readable");
            let entry: Value = serde_json::from_slice(&entry).expect("JSON");
            let text = |name: &str| entry[name].as_str().expect("text").to_owned();
            Arrival {
                recipient: text("to"),
                mark: text("messageId"),
            }
        };
        entries.map(arrival).collect()
    }
}

#[tokio::test]
async fn the_sink_keeps_the_contract() {
    exercise_sink(&Mailbox(tempfile::tempdir().expect("a folder"))).await;
}
