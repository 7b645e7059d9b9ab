//! What it costs to pass events on to many clients, beside a bare loop of writes and beside Nchan
//! (a module of nginx, with one worker), in one run on one machine:
//!
//! 1. `burst`: events that come faster than they can be written, to 1,000 clients and to 5,000, and by
//!    compressed streams (what pads them compresses better than anything real);
//! 2. `paced`: 50 events a second to 1,000 clients;
//! 3. `idle`: memory of 9,000 connections over which nothing goes but heartbeats;
//! 4. `rates`: more and more events a second, all for one tenant or spread over 100;
//! 5. `herd`: 1,000 clients that come back at once, each 10,000 events behind;
//! 6. `slow`: one client that reads a byte a second, among 500 others.
//!
//! `cargo bench --bench fanout` brings up private servers by `tests/run`. `-- burst` and the like
//! measure that alone; `HERALD_BENCH_PERCENT` sets a part of all clients, events and seconds.
//!
//! herald is two processes here: what is measured is the one that serves HTTP; the relay is the
//! other. Whoever got what is checked: every client of herald gets every event, once and in order.

mod bare;
mod burst;
mod clients;
mod clock;
mod herald;
mod herd;
mod idle;
mod machine;
mod message;
mod nchan;
mod pace;
mod paced;
mod process;
mod rates;
mod run;
mod server;
#[path = "../servers/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "the producers and the client are for one stream, not for thousands"
)]
mod servers;
mod slow;
mod wire;

use anyhow::ensure;
use nchan::Nchan;
use servers::{number, wanted};

fn main() -> anyhow::Result<()> {
    let Some(servers) = servers::Servers::from_env() else {
        return servers::run_within_servers();
    };
    let files = machine::open_files()?;
    ensure!(
        files >= 10_000,
        "{files} open files are not enough; ulimit -n"
    );
    // The clients have a thread of their own; what remains is little.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if ["burst", "paced", "idle"].into_iter().any(wanted) && !Nchan::install()? {
            println!("skipped: Nchan: it is not installed and cannot be");
        }
        if wanted("burst") {
            burst::measure(&servers).await?;
        }
        if wanted("paced") {
            paced::measure(&servers).await?;
        }
        if wanted("idle") {
            idle::measure(&servers).await?;
        }
        if wanted("rates") {
            rates::measure(&servers).await?;
        }
        if wanted("herd") {
            herd::measure(&servers).await?;
        }
        if wanted("slow") {
            slow::measure(&servers).await?;
        }
        Ok(())
    })
}

/// The asked-for part of a number of clients, events or seconds.
fn part(whole: usize) -> anyhow::Result<usize> {
    let percent = number("HERALD_BENCH_PERCENT", 100)?;
    Ok((whole * percent / 100).max(1))
}
