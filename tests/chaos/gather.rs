//! What the checker reads, and what a reader of the run wants to see, from the cluster.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::arrivals::{mail, push, recipients};
use crate::books::Books;
use crate::checker::Evidence;
use crate::clients::Watched;
use crate::cluster::{Cluster, PHONES, TENANTS};
use crate::far::Far;
use crate::harness::END;
use crate::member::CONCURRENCY;
use crate::say;
use crate::schedule::Struck;

/// Processes that drive the sinks.
const RUNNERS: usize = 2;

/// Everything the checker wants to know.
pub async fn gather(
    cluster: &Cluster,
    books: &Books,
    watched: Vec<Watched>,
    struck: &[Struck],
) -> Evidence {
    let committed = books.committed();
    let mails = cluster.smtp.lock().await.mails();
    let pushes = cluster.push.lock().await.messages();
    let in_flight = RUNNERS * CONCURRENCY;
    let windows = |choose: fn(&Struck) -> bool| {
        let chosen = struck.iter().filter(|fault| choose(fault));
        chosen.map(Struck::window).collect()
    };
    Evidence {
        rolled_back: books.rolled_back(),
        feed: feed(cluster).await,
        streams: watched.into_iter().map(|w| w.stream).collect(),
        email: Far {
            recipients: recipients(&committed, |event| [event.address()].into()),
            arrivals: mails.iter().map(mail).collect(),
            windows: windows(|fault| fault.email),
            in_flight,
            at_once: 2,
        },
        push: Far {
            recipients: recipients(&committed, |event| {
                let phones = (0..PHONES).filter(|phone| TENANTS[*phone] == event.tenant);
                phones.map(|phone| phone.to_string()).collect()
            }),
            arrivals: pushes.iter().map(push).collect(),
            windows: windows(|fault| fault.push),
            in_flight,
            at_once: 2,
        },
        committed,
    }
}

/// The feed without the last events.
async fn feed(cluster: &Cluster) -> BTreeMap<String, Vec<String>> {
    let sql = "SELECT e.tenant_id, e.event_id FROM herald.feed f
               JOIN herald.events e ON e.id = f.aggregate_id WHERE e.type <> $1 ORDER BY f.seq";
    let rows: Vec<(String, String)> = sqlx::query_as(sql)
        .bind(END)
        .fetch_all(&mut cluster.connect().await)
        .await
        .expect("the feed");
    let mut feed = BTreeMap::<_, Vec<_>>::new();
    for (tenant, id) in rows {
        feed.entry(tenant).or_default().push(id);
    }
    feed
}

impl Cluster {
    /// What the processes said of themselves, and that they said nothing that must not be.
    pub async fn tell(&self) {
        for member in &self.members {
            let member = member.lock().await;
            let [led, filled, made] = ["the relay leads", "filling the stream", "made a consumer"]
                .map(|what| member.said(what));
            say(&format!(
                "servers: {}: led {led}, filled the stream {filled}, made a group {made} times",
                member.name
            ));
            // The database never was an older one.
            for never in ["panicked", "a new epoch begins", "gave up events"] {
                assert_eq!(member.said(never), 0, "{} said: {never}", member.name);
            }
        }
    }
}

/// Leaves what happened in the folder `HERALD_CHAOS_KEEP`, to be read by somebody who wonders.
pub async fn keep(cluster: &Cluster, struck: &[Struck], evidence: &Evidence) {
    let Some(folder) = std::env::var_os("HERALD_CHAOS_KEEP").map(PathBuf::from) else {
        return;
    };
    let write = |name: &str, text: String| fs::write(folder.join(name), text).expect("writes");
    for member in &cluster.members {
        let member = member.lock().await;
        write(&format!("{}.log", member.name), member.log());
    }
    write("faults.txt", format!("{struck:#?}"));
    write("email.txt", format!("{:#?}", evidence.email.arrivals));
    write("push.txt", format!("{:#?}", evidence.push.arrivals));
}
