//! Clients that come back at once, far behind, while others are live.

use anyhow::ensure;

use crate::clients::{Clients, Manner, Wanted};
use crate::clock;
use crate::herald::Separate;
use crate::message::{FRAME, Tenants};
use crate::pace::pace;
use crate::part;
use crate::server::{Server as _, request};
use crate::servers::Servers;

const HERD: usize = 1_000;
const LIVE: usize = 100;
/// Events that the herd is behind.
const BEHIND: usize = 10_000;
const RATE: usize = 50;
const SECONDS: usize = 10;
/// Whoever has not caught up by then has failed.
const PATIENCE: usize = 600;

pub async fn measure(servers: &Servers) -> anyhow::Result<()> {
    let (count, behind, seconds) = (part(HERD)?, part(BEHIND)?, part(SECONDS)?);
    println!(
        "herd: {count} clients come back at once, each {behind} events of {FRAME} bytes behind; \
         {LIVE} others live, {RATE} events/s"
    );
    let mut herald = Separate::start(servers, "herd", "").await?;
    let mut tenants = Tenants::new(1);
    herald.emit(&tenants.next(1 + behind)).await?;
    herald.relayed().await?;
    let goal = tenants.last(0);
    let manner = Manner {
        latencies: true,
        ..Manner::default()
    };
    let wanted = herald.clients(LIVE, &tenants);
    let mut live = Clients::start(herald.address()?, wanted, manner)?;
    live.live().await?;
    let quiet = pace(&mut herald, &mut tenants, RATE, |n| n >= RATE * seconds).await?;

    herald.process().forget_peak()?;
    let memory = herald.process().memory()?;
    let cpu = herald.cpu()?;
    let wanted = returning(&herald, &tenants, count).await?;
    let manner = Manner {
        at_once: true,
        goal,
        ..Manner::default()
    };
    let began = clock::now();
    let mut herd = Clients::start(herald.address()?, wanted, manner)?;
    let enough = |n| herd.all_caught_up() || !herd.fine() || n >= RATE * PATIENCE;
    let busy = pace(&mut herald, &mut tenants, RATE, enough).await?;
    let peak = herald.process().peak()?;
    let cpu = herald.cpu()? - cpu;

    let last = tenants.last(0);
    herd.received((last - 1) * count as u64).await?;
    live.received((last - goal) * LIVE as u64).await?;
    ensure!(herd.all_caught_up(), "not within {PATIENCE} s");
    let (herd, live) = (herd.end()?, live.end()?);
    herd.check(|_| last)?;
    live.check(|_| last)?;
    let took = (herd.caught_up - began).as_secs_f64();
    let deliveries = (behind * count) as f64;
    println!(
        "  all have caught up after {took:.1} s: {:.0} deliveries/s, CPU {:.2} µs each; each got \
         each event once, in order",
        deliveries / took,
        cpu.as_secs_f64() * 1e6 / deliveries,
    );
    if herd.returns + live.returns > 0 {
        println!(
            "  connections closed and resumed: {} of the herd, {} of the live ones",
            herd.returns, live.returns
        );
    }
    println!(
        "  memory: {:.1} MB before, {:.1} MB at most",
        memory as f64 / 1e6,
        peak as f64 / 1e6
    );
    let before = live.latencies(quiet.from, quiet.to);
    let during = live.latencies(busy.from, busy.to.min(herd.caught_up));
    println!("  live clients before  {before}\n  live clients during  {during}");
    println!(
        "  during to before: p50 {:.2}, p99 {:.2}",
        during.at(0.5) / before.at(0.5),
        during.at(0.99) / before.at(0.99)
    );
    Ok(())
}

/// Clients that have had the first event: one half says so by its id, the other by its place.
async fn returning(
    herald: &Separate,
    tenants: &Tenants,
    count: usize,
) -> anyhow::Result<Vec<Wanted>> {
    let tenant = tenants.name(0);
    let path = herald.path(tenant);
    let (id, place) = herald.first(tenant).await?;
    let request = |client: usize| match client % 2 {
        0 => format!("{}Last-Event-ID: {id}\r\n", request(&path)),
        _ => request(&format!("{path}&after={place}")),
    };
    let wanted = |client| Wanted {
        request: request(client),
        after: 1,
    };
    Ok((0..count).map(wanted).collect())
}
