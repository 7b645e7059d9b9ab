//! How a fault is done to the cluster, and undone.

use std::time::Duration;

use tokio::time::sleep;

use crate::cluster::{Cluster, Link};
use crate::harness::signal;
use crate::proxy::Weather;
use crate::schedule::{Comeback, Drawn, Kind, Shutdown, Struck, now};

fn pick<T>(all: &[T], number: usize) -> &T {
    &all[number % all.len()]
}

impl Cluster {
    /// Breaks something, and returns when it is whole again. `None` when it is broken already.
    pub async fn strike(&self, drawn: Drawn) -> Option<Struck> {
        let from = now();
        let (target, email, push) = match drawn.kind {
            Kind::Process(blow) => {
                let mut member = pick(&self.members, drawn.pick).try_lock().ok()?;
                member.suffer(blow, drawn.lasts).await;
                (
                    member.name.clone(),
                    member.drives_sinks(),
                    member.drives_sinks(),
                )
            }
            Kind::LinkCut | Kind::LinkRefuses | Kind::LinkHangs | Kind::LinkSlow => {
                let link = pick(&self.links, drawn.pick);
                let _busy = link.busy.try_lock().ok()?;
                break_link(link, drawn).await;
                (link.name.clone(), link.email, link.push)
            }
            Kind::RedisFlushed | Kind::RedisKilled(_) | Kind::RedisStopped => {
                self.break_redis(drawn).await?;
                ("Redis".into(), true, true)
            }
            Kind::MailRefused => {
                let mut smtp = self.smtp.try_lock().ok()?;
                smtp.fail("451 4.3.0 try again later").await;
                sleep(drawn.lasts).await;
                smtp.heal().await;
                ("SMTP".into(), false, false)
            }
            Kind::PushRefused => {
                let mut push = self.push.try_lock().ok()?;
                let status = [429, 500, 503][drawn.pick % 3];
                push.fail_next(usize::MAX >> 1, status).await;
                sleep(drawn.lasts).await;
                push.heal().await;
                ("push".into(), false, false)
            }
            _ => {
                self.break_postgres(drawn).await?;
                ("PostgreSQL".into(), true, true)
            }
        };
        Some(Struck {
            kind: drawn.kind,
            target,
            email,
            push,
            from,
            to: now(),
        })
    }

    async fn break_redis(&self, drawn: Drawn) -> Option<()> {
        let mut redis = self.redis.try_lock().ok()?;
        match drawn.kind {
            Kind::RedisFlushed => redis.flush().await,
            Kind::RedisStopped => {
                let pid = redis.process().pid();
                signal("STOP", pid);
                sleep(drawn.lasts).await;
                signal("CONT", pid);
            }
            Kind::RedisKilled(comeback) => {
                redis.save().await;
                let dumps = redis.dumps();
                let dump = match comeback {
                    Comeback::Empty => None,
                    Comeback::WithAll => dumps.last().cloned(),
                    Comeback::WithAnOlderDump => Some(pick(dumps, drawn.pick).clone()),
                };
                redis.kill().await;
                sleep(drawn.lasts).await;
                redis.restart(dump.as_deref()).await;
            }
            _ => {}
        }
        Some(())
    }

    async fn break_postgres(&self, drawn: Drawn) -> Option<()> {
        let mut postgres = self.postgres.try_lock().ok()?;
        if let Kind::PostgresShut(shutdown) = drawn.kind {
            let signal = match shutdown {
                Shutdown::Fast => "INT",
                Shutdown::Immediate => "QUIT",
                Shutdown::Killed => "KILL",
            };
            postgres.shut(signal).await;
            sleep(drawn.lasts).await;
            postgres.restart().await;
            return Some(());
        }
        let backends = postgres.backends().await;
        let victim = *backends.get(drawn.pick % backends.len().max(1))?;
        match drawn.kind {
            Kind::BackendKilled => {
                postgres.signal_backend("KILL", victim);
                postgres.restart().await;
            }
            Kind::BackendStopped => {
                postgres.signal_backend("STOP", victim);
                sleep(drawn.lasts).await;
                postgres.signal_backend("CONT", victim);
            }
            _ => {
                for victim in backends {
                    postgres.signal_backend("TERM", victim);
                }
            }
        }
        Some(())
    }
}

async fn break_link(link: &Link, drawn: Drawn) {
    let weather = match drawn.kind {
        Kind::LinkCut => return link.proxy.cut(),
        Kind::LinkHangs => Weather::Hanging,
        Kind::LinkSlow => Weather::Slow(Duration::from_millis(20)),
        _ => {
            link.proxy.cut();
            Weather::Refusing
        }
    };
    link.proxy.set(weather);
    sleep(drawn.lasts).await;
    link.proxy.set(Weather::Fair);
}
