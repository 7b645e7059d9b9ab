//! Stories of events, from the transaction that writes them to everyone who should know, told
//! against real servers. `tests/run` starts those; a story whose parts are missing is skipped.

mod bad_input;
mod bad_queries;
mod behind_nginx;
mod browser;
mod browser_client;
mod checking;
mod clients;
mod compression;
mod cursors;
mod cut_browsers;
mod dead_letters;
mod embedded;
mod everyone;
mod expiry;
mod foreign;
mod hanging;
mod isolation;
mod limits;
mod losses;
mod nginx;
mod odd_data;
mod operations;
mod order;
mod outages;
mod processes;
mod proxy;
mod push;
mod restored;
mod resume;
mod retention;
mod streams;
mod tabs;
mod tls;
mod tls_client;
mod tokens;
mod transactions;
mod websocket;

#[path = "../harness/mod.rs"]
mod harness;
