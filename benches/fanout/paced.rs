//! A steady rate that is no effort.

use crate::bare::Bare;
use crate::herald::Separate;
use crate::message::FRAME;
use crate::nchan::Nchan;
use crate::part;
use crate::run::{Figures, Load, Run};
use crate::server::Server;
use crate::servers::Servers;

const CLIENTS: usize = 1_000;
const RATE: usize = 50;
const SECONDS: usize = 20;

pub async fn measure(servers: &Servers) -> anyhow::Result<()> {
    let (clients, seconds) = (part(CLIENTS)?, part(SECONDS)?);
    println!(
        "paced: {RATE} events/s to {clients} clients of one tenant for {seconds} s, {FRAME} bytes \
         each; latency from before the event is emitted"
    );
    let run = Run {
        clients,
        tenants: 1,
        load: Load::Paced {
            rate: RATE,
            seconds,
        },
    };
    let mut bare = Bare::start(clients)?;
    let limit = run.measure(&mut bare).await?;
    report(&bare, &limit);
    drop(bare);
    let mut herald = Separate::start(servers, "paced", "").await?;
    let ours = run.measure(&mut herald).await?;
    report(&herald, &ours);
    println!("          of it emitting: {}", ours.emitting);
    drop(herald);
    println!("  herald to bare: CPU {:.2}", ours.cpu() / limit.cpu());
    ours.check()?;
    let Some(mut nchan) = Nchan::start(15).await? else {
        return Ok(());
    };
    let theirs = run.measure(&mut nchan).await?;
    report(&nchan, &theirs);
    println!(
        "  herald to Nchan: CPU {:.2}, p50 {:.2}, p99 {:.2}",
        ours.cpu() / theirs.cpu(),
        ours.latencies.at(0.5) / theirs.latencies.at(0.5),
        ours.latencies.at(0.99) / theirs.latencies.at(0.99)
    );
    Ok(())
}

fn report<S: Server>(_: &S, figures: &Figures) {
    println!(
        "  {:<7} CPU {:>5.2} µs a delivery   {}{}",
        S::NAME,
        figures.cpu(),
        figures.latencies,
        figures.remarks()
    );
}
