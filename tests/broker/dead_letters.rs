//! The stream of dead letters.

use std::sync::Arc;

use chrono::DateTime;
use herald::store::{LedgerRow, State};
use ulid::Ulid;

use crate::bench::Bench;

fn letter(recipient: &str) -> LedgerRow {
    LedgerRow {
        sink: "email".into(),
        event_id: Ulid(1),
        tenant_id: "acme".into(),
        kind: "order.created".into(),
        recipient: recipient.into(),
        state: State::Dead,
        attempts: 3,
        next_attempt_at: None,
        cause: Some("550 no such user".into()),
        response: None,
        history: Vec::new(),
        created_at: DateTime::UNIX_EPOCH,
        updated_at: DateTime::UNIX_EPOCH,
    }
}

pub async fn whoever_listens_is_told_of_dead_letters(bench: Arc<Bench>) {
    let broker = bench.process("a");
    broker.dead_letters(&[]).await.expect("nothing is no fault");
    let letters = [letter("a@example.org"), letter("b@example.org")];
    broker.dead_letters(&letters).await.expect("told");
    broker
        .dead_letters(&letters[..1])
        .await
        .expect("told again");
    let told = bench.server.told().await;
    let expected = ["a", "b", "a"].map(|name| {
        ["email", &format!("{name}@example.org"), "550 no such user"].map(str::to_owned)
    });
    assert_eq!(told, expected);
}
