//! herald turns "this happened" in a database into "everyone who should know knows".
//!
//! ```text
//! app transaction             relay (one leads)                    every sink on its own
//! events + outbox ──claim──▶ feed ──append──▶ stream ──read──▶ runner ──deliver──▶ the outside
//!   (the record)         (the order)     (a cache of the feed)    └──▶ ledger ─▶ retry · dead letter
//! ```
//!
//! An application needs [`emit`] alone, or plain SQL. The rest of this library is the program
//! itself; read it from [`app::run`] downwards.

pub mod app;
pub mod auth;
pub mod backoff;
pub mod broker;
pub mod cli;
pub mod config;
pub mod epoch;
pub mod history;
pub mod http;
pub mod ingest;
pub mod metrics;
pub mod monitor;
pub mod registry;
pub mod relay;
pub mod retention;
pub mod roles;
pub mod runner;
pub mod store;
pub mod tls;

pub use store::emit;
