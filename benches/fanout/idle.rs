//! Connections over which nothing goes but heartbeats.

use std::time::Duration;

use crate::clients::{Clients, Manner};
use crate::herald::Separate;
use crate::machine::Kernel;
use crate::message::Tenants;
use crate::nchan::Nchan;
use crate::part;
use crate::server::Server;
use crate::servers::Servers;

const CLIENTS: usize = 9_000;
const SECONDS: usize = 20;
/// Seconds between heartbeats.
const HEARTBEAT: u32 = 5;

pub async fn measure(servers: &Servers) -> anyhow::Result<()> {
    for tenants in [100, 1] {
        let clients = part(CLIENTS)?;
        println!(
            "idle: {clients} connections, tenants: {tenants}; a heartbeat every {HEARTBEAT} s"
        );
        let settings = format!("heartbeat = \"{HEARTBEAT}s\"\n");
        let herald = Separate::start(servers, &format!("idle_{tenants}"), &settings).await?;
        let ours = hold(&herald, clients, tenants).await?;
        drop(herald);
        let Some(nchan) = Nchan::start(HEARTBEAT).await? else {
            continue;
        };
        let theirs = hold(&nchan, clients, tenants).await?;
        println!("  herald to Nchan: {:.2}", ours / theirs);
    }
    println!(
        "  in the kernel: the machine's slab and TCP's buffers, for both ends of each connection"
    );
    Ok(())
}

/// Memory of the process for each connection, in bytes.
async fn hold<S: Server>(server: &S, clients: usize, tenants: usize) -> anyhow::Result<f64> {
    // What a server does after its start is done by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, kernel) = (server.process().memory()?, Kernel::now()?);
    let wanted = server.clients(clients, &Tenants::new(tenants));
    let mut held = Clients::start(server.address()?, wanted, Manner::default())?;
    held.live().await?;
    let cpu = server.cpu()?;
    let seconds = part(SECONDS)?.max(HEARTBEAT as usize * 2);
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    let cpu = (server.cpu()? - cpu).as_secs_f64() / seconds as f64;
    let (after, with) = (server.process().memory()?, Kernel::now()?);
    let received = held.end()?;
    anyhow::ensure!(received.returns == 0, "{} closed", received.returns);
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / clients as f64;
    println!(
        "  {:<7} {:>5.2} kB each ({:.1} MB, then {:.1} MB); kernel {:.2} kB of slab, {:.2} kB of \
         buffers each; CPU {:.1} % of a core",
        S::NAME,
        each(before, after) / 1e3,
        before as f64 / 1e6,
        after as f64 / 1e6,
        each(kernel.slab, with.slab) / 1e3,
        each(kernel.buffers, with.buffers) / 1e3,
        cpu * 100.0
    );
    Ok(each(before, after))
}
