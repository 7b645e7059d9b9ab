//! SSE clients: each follows one tenant from its first event to its last, back with
//! `Last-Event-ID` whenever it is cut or hears nothing, each time to the other server.

use std::time::Duration;

use tokio::time::{interval, timeout};

use crate::checker::Stream;
use crate::harness::{Api, Sse};

/// Without a sign of life for this long (heartbeats come every second) a client tries elsewhere.
const PATIENCE: Duration = Duration::from_secs(4);

/// What a client saw, and how often it had to come back.
pub struct Watched {
    pub stream: Stream,
    pub reconnects: usize,
}

/// Sees the whole stream. How long that may take is the caller's to say.
pub async fn watch(servers: Vec<Api>, tenant: String) -> Watched {
    let query = format!("tenantId={tenant}&after=0");
    let mut seen = Vec::new();
    let mut last: Option<String> = None;
    let mut pause = interval(Duration::from_millis(100));
    let mut opened = 0;
    for turn in 0.. {
        pause.tick().await;
        let server = &servers[turn % servers.len()];
        let open = Sse::open(server, &query, last.as_deref());
        let Ok(Ok(mut stream)) = timeout(PATIENCE, open).await else {
            continue;
        };
        opened += 1;
        if read(&mut stream, &tenant, &mut seen).await {
            return Watched {
                stream: Stream { tenant, seen },
                reconnects: opened - 1,
            };
        }
        last = (!stream.last_id.is_empty()).then_some(stream.last_id);
    }
    unreachable!("the turns do not end")
}

/// Reads one connection to its end; whether that was the end of the story.
async fn read(stream: &mut Sse, tenant: &str, seen: &mut Vec<String>) -> bool {
    loop {
        let heard = stream.comments;
        match timeout(PATIENCE, stream.next()).await {
            Ok(Some(message)) if message.ends() => return true,
            Ok(Some(message)) => {
                let own = [("eventId", message.id.as_str()), ("tenantId", tenant)];
                let says = |(key, value)| message.data.contains(&format!(r#""{key}":"{value}""#));
                if message.name == "message" && own.into_iter().all(says) {
                    seen.push(message.id);
                } else {
                    // Nothing else belongs here: the checker will not find it in the feed.
                    seen.push(format!("{message:?}"));
                }
            }
            Ok(None) => return false,
            Err(_) if stream.comments > heard => {}
            Err(_) => return false,
        }
    }
}
