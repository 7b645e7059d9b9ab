//! One server, so many clients, and events to them all: what it costs.

use std::time::Duration;

use anyhow::bail;

use crate::clients::{Clients, Manner};
use crate::clock;
use crate::message::Tenants;
use crate::pace::{Paced, pace};
use crate::server::Server;
use crate::servers::Latencies;

pub struct Run {
    pub clients: usize,
    pub tenants: usize,
    pub load: Load,
}

#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// So many events, as fast as they are taken.
    Burst(usize),
    Paced {
        rate: usize,
        seconds: usize,
    },
}

pub struct Figures {
    deliveries: u64,
    took: Duration,
    cpu: Duration,
    clients_cpu: Duration,
    /// Bytes of memory.
    pub peak: u64,
    /// From before an event is emitted until a client has it.
    pub latencies: Latencies,
    pub emitting: Latencies,
    returns: usize,
    pub bytes: (usize, usize),
    /// How it is untrue that every client got every event, once and in order.
    fault: Option<String>,
    lost: u64,
}

impl Run {
    pub async fn measure<S: Server>(&self, server: &mut S) -> anyhow::Result<Figures> {
        let mut tenants = Tenants::new(self.tenants);
        let manner = Manner {
            latencies: matches!(self.load, Load::Paced { .. }),
            ..Manner::default()
        };
        let wanted = server.clients(self.clients, &tenants);
        let mut clients = Clients::start(server.address()?, wanted, manner)?;
        clients.live().await?;
        // The first event of each tenant finds connections and buffers that are not there yet.
        server.emit(&tenants.next(self.tenants)).await?;
        let before = tenants.deliveries(self.clients);
        clients.received(before).await?;

        server.process().forget_peak()?;
        let cpu = server.cpu()?;
        let paced = self.emit(server, &mut tenants).await?;
        let due = tenants.deliveries(self.clients);
        clients.received(due).await?;
        let cpu = server.cpu()? - cpu;
        let peak = server.process().peak()?;
        let received = clients.end()?;
        Ok(Figures {
            deliveries: received.events - before,
            took: received.last - paced.from,
            cpu,
            clients_cpu: received.cpu,
            peak,
            latencies: received.latencies(paced.from, paced.to),
            emitting: paced.emitting,
            returns: received.returns,
            bytes: received.bytes.unwrap_or_default(),
            lost: due - received.events.min(due),
            fault: received
                .check(|client| tenants.last(client))
                .err()
                .map(|fault| format!("{fault:#}")),
        })
    }

    async fn emit<S: Server>(
        &self,
        server: &mut S,
        tenants: &mut Tenants,
    ) -> anyhow::Result<Paced> {
        match self.load {
            Load::Burst(events) => {
                let from = clock::now();
                server.emit(&tenants.next(events)).await?;
                let to = clock::now();
                Ok(Paced {
                    from,
                    to,
                    emitting: Latencies::from_iter([to - from]),
                })
            }
            Load::Paced { rate, seconds } => {
                pace(server, tenants, rate, |emitted| emitted >= rate * seconds).await
            }
        }
    }
}

impl Figures {
    pub fn per_second(&self) -> f64 {
        self.deliveries as f64 / self.took.as_secs_f64()
    }

    /// Whether every client got every event, once and in order.
    pub fn check(&self) -> anyhow::Result<()> {
        match &self.fault {
            Some(fault) => bail!("{fault}"),
            None => Ok(()),
        }
    }

    /// Microseconds of CPU time for each delivery.
    pub fn cpu(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.deliveries as f64
    }

    /// The same of the clients themselves.
    pub fn clients_cpu(&self) -> f64 {
        self.clients_cpu.as_secs_f64() * 1e6 / self.deliveries as f64
    }

    /// What else is to be said, if anything: it ends the line.
    pub fn remarks(&self) -> String {
        let mut remarks = String::new();
        if self.returns > 0 {
            remarks += &format!("   {} connections closed and resumed", self.returns);
        }
        if let Some(fault) = &self.fault {
            remarks += &format!("   NOT EXACT, {} lost: {fault}", self.lost);
        }
        remarks
    }
}
