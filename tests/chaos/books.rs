//! The test's own books: what was committed, what was rolled back, and what nobody knows yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use ulid::Ulid;

/// An event as its producer knows it before it is emitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub id: String,
    pub tenant: String,
    /// Stands in the payload too, and so in the mail and in the push: by it a second delivery is
    /// known as one even if it carried another id.
    pub number: usize,
}

impl Planned {
    /// Whom the mail goes to.
    pub fn address(&self) -> String {
        format!("user{}@example.test", self.number)
    }

    pub fn payload(&self) -> Value {
        let number = self.number.to_string();
        json!({"number": self.number, "email": self.address(), "message": number})
    }
}

/// What is written down while the faults go on.
#[derive(Debug, Default)]
pub struct Books {
    next: AtomicUsize,
    committed: Mutex<BTreeMap<String, Planned>>,
    rolled_back: Mutex<BTreeSet<String>>,
    doubtful: Mutex<Vec<Planned>>,
}

impl Books {
    pub fn plan(&self, tenant: &str) -> Planned {
        Planned {
            id: Ulid::generate().to_string(),
            tenant: tenant.to_owned(),
            number: self.next.fetch_add(1, Ordering::SeqCst),
        }
    }

    pub fn commit(&self, events: Vec<Planned>) {
        let mut committed = self.committed.lock().expect("not poisoned");
        committed.extend(events.into_iter().map(|event| (event.id.clone(), event)));
    }

    pub fn roll_back(&self, events: Vec<Planned>) {
        let mut rolled_back = self.rolled_back.lock().expect("not poisoned");
        rolled_back.extend(events.into_iter().map(|event| event.id));
    }

    /// The answer to the COMMIT was lost.
    pub fn doubt(&self, events: Vec<Planned>) {
        self.doubtful.lock().expect("not poisoned").extend(events);
    }

    /// Decides every doubt by what the database has, and returns how many there were.
    pub fn resolve(&self, stored: &BTreeSet<String>) -> usize {
        let doubtful = std::mem::take(&mut *self.doubtful.lock().expect("not poisoned"));
        let count = doubtful.len();
        let (there, not_there) = doubtful
            .into_iter()
            .partition(|event| stored.contains(&event.id));
        self.commit(there);
        self.roll_back(not_there);
        count
    }

    pub fn committed(&self) -> BTreeMap<String, Planned> {
        assert!(self.doubtful.lock().expect("not poisoned").is_empty());
        self.committed.lock().expect("not poisoned").clone()
    }

    pub fn rolled_back(&self) -> BTreeSet<String> {
        self.rolled_back.lock().expect("not poisoned").clone()
    }
}
