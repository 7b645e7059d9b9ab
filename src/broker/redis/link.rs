//! Connections: one that everybody shares for what is answered at once, and one for each reader
//! that blocks. A request that blocks would hold up all others on its connection, and the
//! client's own time limit, shorter than the block, would abandon a read that still takes
//! entries.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisResult,
    ServerErrorKind, Value,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::script::Call;
use crate::broker::BrokerError;

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// How long to leave Redis alone after failures: doubling up to [`LONGEST_DELAY`], with jitter so
/// that processes do not return together.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    pub(super) fn failed(&mut self) {
        let delay = FIRST_DELAY
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST_DELAY);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(Instant::now() + delay.mul_f64(rand::random_range(0.5..1.0)));
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// How long still to wait.
    pub(super) fn wait(&self) -> Option<Duration> {
        let wait = self.until?.checked_duration_since(Instant::now())?;
        (!wait.is_zero()).then_some(wait)
    }
}

#[derive(Default)]
struct Shared {
    connection: Option<MultiplexedConnection>,
    /// Tells a failure of this connection from one of an earlier connection.
    number: u64,
    backoff: Backoff,
}

/// The way to one Redis.
pub(super) struct Link {
    client: Client,
    timeout: Duration,
    shared: Mutex<Shared>,
}

impl Link {
    pub(super) fn new(url: &str, timeout: Duration) -> Result<Self, BrokerError> {
        let client = Client::open(url).map_err(|error| BrokerError::Url(error.to_string()))?;
        Ok(Self {
            client,
            timeout,
            shared: Mutex::default(),
        })
    }

    /// A connection whose requests may block for `block` in Redis.
    pub(super) async fn dedicated(&self, block: Duration) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(block + self.timeout));
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    pub(super) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        let (mut connection, number) = self.connection().await?;
        let result = command.query_async(&mut connection).await;
        self.judge(number, result).await
    }

    /// # Errors
    /// Also when one reply among good ones is an error.
    pub(super) async fn pipeline(&self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let (mut connection, number) = self.connection().await?;
        let result = pipeline.query_async(&mut connection).await;
        self.judge(number, result).await
    }

    pub(super) async fn script(&self, call: &Call) -> RedisResult<Value> {
        let (mut connection, number) = self.connection().await?;
        let result = call.run(&mut connection).await;
        self.judge(number, result).await
    }

    async fn connection(&self) -> RedisResult<(MultiplexedConnection, u64)> {
        let mut shared = self.shared.lock().await;
        if let Some(connection) = &shared.connection {
            return Ok((connection.clone(), shared.number));
        }
        if let Some(wait) = shared.backoff.wait() {
            return Err(RedisError::from((
                ErrorKind::Io,
                "the connection was lost",
                format!("the next attempt is in {} ms", wait.as_millis()),
            )));
        }
        match self.dedicated(Duration::ZERO).await {
            Ok(mut connection) => {
                warn_of_eviction(&mut connection).await;
                shared.number += 1;
                shared.connection = Some(connection.clone());
                Ok((connection, shared.number))
            }
            Err(error) => {
                shared.backoff.failed();
                Err(error)
            }
        }
    }

    /// Drops the connection when it is of no more use: broken, hung, or to a server that became
    /// a replica, whose address may by now lead to another one.
    async fn judge<T>(&self, number: u64, result: RedisResult<T>) -> RedisResult<T> {
        let mut shared = self.shared.lock().await;
        if shared.number == number && shared.connection.is_some() {
            match &result {
                Err(error) if is_lost(error) => {
                    shared.connection = None;
                    shared.backoff.failed();
                }
                _ => shared.backoff.succeeded(),
            }
        }
        result
    }
}

/// Whether to connect anew after this error.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::Server(
                ServerErrorKind::ReadOnly
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::BusyLoading
            )
        )
}

/// Warns when Redis may evict keys that have no time to live.
async fn warn_of_eviction(connection: &mut MultiplexedConnection) {
    let mut info = redis::cmd("INFO");
    info.arg("memory");
    // An ACL may forbid the question.
    let Ok(memory) = info.query_async::<String>(connection).await else {
        return;
    };
    let value = |name| {
        memory
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
    };
    let policy = value("maxmemory_policy");
    if value("maxmemory") != "0" && policy.starts_with("allkeys") {
        tracing::warn!(
            policy,
            "Redis may evict herald's keys: set maxmemory-policy to noeviction or volatile-*"
        );
    }
}

/// The error as callers of the broker get it; all of them may heal.
pub(super) fn unavailable(error: RedisError) -> BrokerError {
    BrokerError::Unavailable(match error.code() {
        Some("WRONGTYPE") => {
            format!("one of herald's keys in Redis holds something else than herald's: {error}")
        }
        _ => error.to_string(),
    })
}
