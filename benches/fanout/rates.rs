//! More and more events a second.

use crate::herald::Separate;
use crate::message::FRAME;
use crate::part;
use crate::run::{Load, Run};
use crate::servers::Servers;

const CLIENTS: usize = 1_000;
const SECONDS: usize = 8;
/// Tenants, and events a second for all of them together.
const SWEEPS: [(usize, [usize; 5]); 2] = [
    (1, [25, 50, 100, 200, 400]),
    (100, [100, 500, 1_000, 2_000, 4_000]),
];

pub async fn measure(servers: &Servers) -> anyhow::Result<()> {
    for (tenants, rates) in SWEEPS {
        let (clients, seconds) = (part(CLIENTS)?, part(SECONDS)?);
        println!(
            "rates: {clients} clients, tenants: {tenants}; {seconds} s each, {FRAME} bytes an event"
        );
        let mut herald = Separate::start(servers, &format!("rates_{tenants}"), "").await?;
        for rate in rates {
            let run = Run {
                clients,
                tenants,
                load: Load::Paced { rate, seconds },
            };
            let figures = run.measure(&mut herald).await?;
            println!(
                "  {rate:>5} events/s: {:>7.0} deliveries/s   CPU {:>5.2} µs a delivery   {}{}",
                figures.per_second(),
                figures.cpu(),
                figures.latencies,
                figures.remarks()
            );
            figures.check()?;
        }
    }
    Ok(())
}
