//! The scripts. Redis runs each as a whole, so what they read is still true when they write.

use std::sync::LazyLock;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, ToRedisArgs, Value};

use super::reply;

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {$(
        $(#[$doc])*
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(include_str!("lua/shared.lua"), include_str!($file)))
        });
    )*};
}

scripts! {
    /// Appends entries and stops at the first that Redis refuses.
    APPEND = "lua/append.lua";
    /// Makes a group, or moves it forward to its checkpoint.
    JOIN = "lua/join.lua";
    /// Leases a hole to a reader.
    CLAIM = "lua/claim.lua";
    /// Lists what a reader has leased.
    LEASES = "lua/leases.lua";
    /// Keeps what a reader holds from the others.
    KEEP = "lua/keep.lua";
    /// Takes over what a dead reader left pending.
    RECLAIM = "lua/reclaim.lua";
    /// Takes what was acknowledged out of the holes.
    DONE = "lua/done.lua";
    /// Says what a group has settled.
    SETTLED = "lua/settled.lua";
    /// Trims, and registers what groups lack then.
    TRIM = "lua/trim.lua";
}

/// A script and its arguments.
pub(super) struct Call {
    script: &'static Script,
    command: Cmd,
}

impl Call {
    pub(super) fn new(script: &'static LazyLock<Script>, keys: &[&str]) -> Self {
        let script: &Script = script;
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys.len()).arg(keys);
        Self { script, command }
    }

    pub(super) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        self.command.arg(arg);
        self
    }

    /// Runs it, and loads it first where Redis does not know it.
    pub(super) async fn run(&self, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
        match self.command.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.script.load_async(connection).await?;
                self.command.query_async(connection).await
            }
            result => result,
        }
    }
}

/// What [`APPEND`] answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Append {
    Done,
    /// The stream ends before the place where the entries begin.
    OutOfOrder,
    /// Redis took the entries before some entry, and none from that on.
    Refused(String),
}

impl Append {
    pub(super) fn read(answer: Value) -> RedisResult<Self> {
        let Value::Array(parts) = &answer else {
            return Err(unexpected(&answer));
        };
        match parts.first().and_then(reply::int) {
            Some(0) => Ok(Self::Done),
            Some(1) => Ok(Self::OutOfOrder),
            Some(2) => Ok(Self::Refused(
                reply::text(parts.get(1))
                    .unwrap_or("no reason given")
                    .into(),
            )),
            _ => Err(unexpected(&answer)),
        }
    }
}

fn unexpected(answer: &Value) -> RedisError {
    RedisError::from((
        ErrorKind::UnexpectedReturnType,
        "an answer that was not expected",
        format!("{answer:?}"),
    ))
}
