//! Events that come faster than they can be written.

use anyhow::ensure;

use crate::herald::Separate;
use crate::message::FRAME;
use crate::nchan::Nchan;
use crate::part;
use crate::run::{Figures, Load, Run};
use crate::server::Server;
use crate::servers::Servers;

/// Clients, and events to them.
const SIZES: [(usize, usize); 2] = [(1_000, 5_000), (5_000, 2_000)];

pub async fn measure(servers: &Servers) -> anyhow::Result<()> {
    for (clients, events) in SIZES {
        let (clients, events) = (part(clients)?, part(events)?);
        println!(
            "burst: {events} events at once to {clients} clients of one tenant, {FRAME} bytes each"
        );
        let run = Run {
            clients,
            tenants: 1,
            load: Load::Burst(events),
        };
        let name = format!("burst_{clients}_{events}");
        let mut herald = Separate::start(servers, &name, "").await?;
        let ours = run.measure(&mut herald).await?;
        report("herald", &ours);
        ensure!(ours.bytes == (FRAME, FRAME), "{:?} bytes", ours.bytes);
        ours.check()?;
        drop(herald);
        let name = format!("burst_gzip_{clients}_{events}");
        let mut herald = Separate::start_compressed(servers, &name).await?;
        let compressed = run.measure(&mut herald).await?;
        report("gzip", &compressed);
        compressed.check()?;
        drop(herald);
        let Some(mut nchan) = Nchan::start(15).await? else {
            continue;
        };
        let theirs = run.measure(&mut nchan).await?;
        report(Nchan::NAME, &theirs);
        println!(
            "  herald to Nchan: deliveries/s {:.2}, CPU {:.2}, memory {:.2}",
            ours.per_second() / theirs.per_second(),
            ours.cpu() / theirs.cpu(),
            ours.peak as f64 / theirs.peak as f64
        );
    }
    Ok(())
}

fn report(name: &str, figures: &Figures) {
    println!(
        "  {:<7} {:>8.0} deliveries/s   CPU {:>5.2} µs a delivery (the clients' own \
         {:.2})   memory at most {:>6.1} MB{}",
        name,
        figures.per_second(),
        figures.cpu(),
        figures.clients_cpu(),
        figures.peak as f64 / 1e6,
        figures.remarks()
    );
}
