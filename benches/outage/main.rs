//! What an outage of a far end costs the others, and whether everything arrives when it is over:
//!
//! 1. `retry`: mail that a server defers with 451, while another tenant's streams and push go on.
//!    Three times: all mail for one domain, all mail spread over many, and without a breaker, so
//!    that every delivery is attempted again and again (`retry-one-domain`, `retry-many-domains`,
//!    `retry-without-breaker`).
//! 2. `behind`: a sink that is dead while a million events pass, and a Redis that could not hold
//!    them; and a smaller number, in order to the letter (`behind-at-once`, `behind-in-order`).
//!
//! `cargo bench --bench outage` brings up private servers by `tests/run`. `-- retry`, `-- behind`
//! or a longer name measures that alone; `HERALD_BENCH_DELIVERIES` and `HERALD_BENCH_EVENTS` set
//! smaller numbers of either. What is compared is compared within one run.

mod behind;
mod cpu;
mod mail;
mod memory;
mod neighbour;
mod push;
mod retry;
#[path = "../servers/mod.rs"]
mod servers;
mod smtp;

use servers::wanted;

fn main() -> anyhow::Result<()> {
    let Some(servers) = servers::Servers::from_env() else {
        return servers::run_within_servers();
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        for scenario in &retry::SCENARIOS {
            if wanted("retry") || wanted(scenario.name) {
                scenario.measure(&servers).await?;
            }
        }
        for scenario in &behind::SCENARIOS {
            if wanted("behind") || wanted(scenario.name) {
                scenario.measure(&servers).await?;
            }
        }
        Ok(())
    })
}
