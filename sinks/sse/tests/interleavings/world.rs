//! Everything there is in one case: the feed to come, its history, servers and clients.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use herald_contract::{Broadcast as _, Event};
use herald_sse::Config;
use herald_testkit::{MemoryHistory, event};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::client::Client;
use crate::support::Server;
use crate::{Case, END, FILTERS, KINDS, SERVERS, Step, TENANTS};

/// Longer than any client needs, with every wait for the database.
const PATIENCE: Duration = Duration::from_secs(600);

pub struct World {
    config: Config,
    feed: Vec<Arc<Event>>,
    committed: usize,
    memory: Arc<MemoryHistory>,
    /// Each with the number of events it has published.
    servers: Vec<(Arc<Server>, usize)>,
    clients: Vec<Client>,
}

impl World {
    pub fn new(case: &Case) -> Self {
        let named = case.events.iter().map(|(t, k)| (TENANTS[*t], KINDS[*k]));
        let feed = (1..)
            .zip(named.chain(TENANTS.map(|tenant| (tenant, END))))
            .map(|(seq, (tenant, kind))| event(seq, tenant, kind, "{\"text\":\"x\\ny\"}"))
            .collect();
        let mut world = Self {
            config: Config {
                buffer: case.buffer,
                replay_page: case.replay_page,
                compression: true,
                ..Config::default()
            },
            feed,
            committed: 0,
            memory: Arc::default(),
            servers: Vec::new(),
            clients: case.clients.iter().copied().map(Client::new).collect(),
        };
        for _ in 0..SERVERS {
            let server = world.server();
            world.servers.push(server);
        }
        world
    }

    /// A server that begins now.
    fn server(&self) -> (Arc<Server>, usize) {
        let server = Server::over(self.memory.clone(), self.config.clone());
        server
            .sse
            .start(i64::try_from(self.committed).expect("few"));
        (Arc::new(server), self.committed)
    }

    pub async fn step(&mut self, step: &Step) {
        match *step {
            Step::Commit(count) => self.commit(count),
            Step::Publish {
                server,
                upto,
                again,
                hole,
            } => self.publish(server, upto, again, hole),
            Step::Turn {
                client,
                server,
                times,
            } => {
                for _ in 0..times {
                    self.turn(client, server);
                    // Tokio's budget for one poll of this test is not the sink's to run out of.
                    tokio::task::yield_now().await;
                }
            }
            Step::Cut { client, bytes } => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.turn(bytes);
                    client.cut();
                }
            }
            Step::Close { server } => {
                self.servers[server].0.sse.close();
                self.servers[server] = self.server();
            }
            Step::Kill { server } => {
                let on_it = |client: &&mut Client| client.server == server;
                self.clients.iter_mut().filter(on_it).for_each(Client::cut);
                self.servers[server] = self.server();
            }
            Step::Away(away) => self.memory.away.store(away, Ordering::Relaxed),
            Step::Heartbeat => tokio::time::advance(self.config.heartbeat).await,
        }
    }

    fn commit(&mut self, count: usize) {
        let upto = self.feed.len().min(self.committed + count);
        self.memory.commit(&self.feed[self.committed..upto]);
        self.committed = upto;
    }

    fn publish(&mut self, server: usize, count: usize, again: usize, hole: usize) {
        let (server, published) = &mut self.servers[server];
        let upto = self.committed.min(*published + count);
        let from = match hole {
            0 => published.saturating_sub(again),
            left_out => (*published + left_out).min(upto),
        };
        server.sse.publish(&self.feed[from..upto]);
        // A hole at the end is not published yet.
        if from < upto {
            *published = upto;
        }
    }

    fn turn(&mut self, client: usize, server: usize) {
        let Some(client) = self.clients.get_mut(client) else {
            return;
        };
        if client.is_away() {
            let committed = &self.feed[..self.committed];
            client.come(server, self.servers[server].0.clone(), committed);
        }
        client.turn(usize::MAX);
    }

    /// All is published, and every client stays until it has its last event.
    pub async fn end(mut self) -> TestCaseResult {
        self.memory.away.store(false, Ordering::Relaxed);
        self.commit(self.feed.len());
        for server in 0..SERVERS {
            self.publish(server, self.feed.len(), 0, 0);
        }
        let last = self.feed.len() - TENANTS.len() + 1;
        for (number, client) in self.clients.iter_mut().enumerate() {
            let last = Some(i64::try_from(last + client.tenant).expect("few"));
            let all = async {
                while client.got.last().copied().or(client.start) < last {
                    if client.is_away() {
                        let server = self.servers[number % SERVERS].0.clone();
                        client.come(number % SERVERS, server, &self.feed);
                    }
                    client.wait().await;
                }
            };
            let in_time = tokio::time::timeout(PATIENCE, all).await;
            prop_assert!(in_time.is_ok(), "{number} waits for what it missed");
            let (tenant, filter) = (TENANTS[client.tenant], FILTERS[client.filter]);
            let types = herald_contract::TypeFilter::parse(filter).expect("a filter");
            let expected: Vec<_> = self
                .feed
                .iter()
                .filter(|e| &*e.tenant_id == tenant && types.matches(&e.kind))
                .map(|e| e.seq)
                .filter(|seq| Some(*seq) > client.start)
                .collect();
            prop_assert_eq!(
                &client.got,
                &expected,
                "{} after {:?}",
                number,
                client.start
            );
        }
        self.clients.clear();
        for (server, _) in &self.servers {
            prop_assert_eq!(server.sse.stats().clients, 0);
        }
        Ok(())
    }
}
