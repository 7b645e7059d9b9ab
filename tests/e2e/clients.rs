//! Other people's clients, which are cut off again and again, in the middle of a large event too,
//! and given every [odd payload](crate::odd_data) there is: each has all of them once, in order, to
//! the letter.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::browser::{Browser, chromium, firefox};
use crate::foreign::{curl, eventsource_client, node, run, snake};
use crate::harness::{
    Config, Database, END, Herald, Home, Sse, Turns, eventually, given, postgres, redis, seconds,
    seed, text, within,
};
use crate::odd_data::{Got, LARGEST, Odd, TENANT, compare, large, small};
use crate::proxy::Proxy;

/// Cuts before anything large is sent.
const CUTS: usize = 4;

/// A herald with the settings that the odd payloads need, and that no client can rely upon to get
/// what was kept back: there is no heartbeat that would carry it along.
fn home(config: &Config, compression: bool) -> Home {
    let limit = format!("[http]\nmax_payload_bytes = {LARGEST}\n");
    let text = config.as_str().replace("[http]\n", &limit);
    let sse = format!("kind = \"sse\"\nheartbeat = \"10m\"\ncompression = {compression}\n");
    Home::with(&text.replace("kind = \"sse\"\n", &sse))
}

/// herald behind a proxy that cuts its streams.
struct Stage {
    _home: Home,
    herald: Herald,
    proxy: Proxy,
    emitted: Vec<(String, Odd)>,
}

impl Stage {
    async fn set(page: &'static str, compression: bool) -> Self {
        let home = home(&Config::embedded().sse(), compression);
        let herald = home.start().await;
        let random = StdRng::seed_from_u64(seed());
        let proxy = Proxy::start(&herald.api.base, page, random).await;
        Self {
            _home: home,
            herald,
            proxy,
            emitted: Vec::new(),
        }
    }

    /// The stream, from its beginning. A client that comes back without `Last-Event-ID` has all of
    /// it again.
    fn url(&self) -> String {
        format!("{}/sse?tenantId={TENANT}&after=0", self.proxy.base)
    }

    async fn emit(&mut self, odd: Odd) {
        let json = [("content-type", "application/json")];
        let api = &self.herald.api;
        let reply = api.request("POST", "/events", &json, odd.request()).await;
        let id = text(&reply.expect("an answer").expect(201), "eventId");
        self.emitted.push((id, odd));
    }

    /// Emits all there is, and last the [`END`].
    async fn emit_all(&mut self) {
        eventually("the client connects", seconds(60), async || {
            (self.proxy.streams() > 0).then_some(())
        })
        .await;
        let mut turns = Turns::new("the client comes back each time", seconds(90));
        for odd in small().into_iter().cycle() {
            turns.next().await;
            self.emit(odd).await;
            if self.proxy.cuts() >= CUTS {
                break;
            }
        }
        // It is too large to get through before it is cut.
        self.emit(large().remove(0)).await;
        let cuts = self.proxy.cuts() + 2;
        eventually("the large event is cut", seconds(60), async || {
            (self.proxy.cuts() >= cuts).then_some(())
        })
        .await;
        self.proxy.leave_alone();
        for odd in small().into_iter().chain(large()) {
            self.emit(odd).await;
        }
        let end = Odd {
            kind: END,
            payload: "{}".into(),
        };
        self.emit(end).await;
        self.emitted.pop();
    }

    /// Every stream that was cut was compressed, or none was.
    fn check_coding(&self, compression: bool) {
        let (compressed, cuts) = (self.proxy.compressed(), self.proxy.cuts());
        let holds = match compression {
            true => compressed >= cuts,
            false => compressed == 0,
        };
        assert!(holds, "{compressed} compressed streams, {cuts} cut");
    }
}

/// Tells the story of a client that a command runs.
async fn story(compression: bool, client: impl FnOnce(String) -> JoinHandle<Vec<Got>>) {
    let mut stage = Stage::set("", compression).await;
    let client = client(stage.url());
    stage.emit_all().await;
    let got = within("the client sees the end", seconds(60), client).await;
    compare(&stage.emitted, &got.expect("the client is well"));
    stage.check_coding(compression);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_eventsource_of_npm_has_every_odd_event_once() {
    let Some(command) = node("eventsource") else {
        return;
    };
    story(false, |url| tokio::spawn(run(command, url))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_eventsource_of_npm_has_every_odd_event_once_compressed() {
    let Some(command) = node("eventsource") else {
        return;
    };
    story(true, |url| tokio::spawn(run(command, url))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fetch_event_source_of_npm_has_every_odd_event_once() {
    let Some(command) = node("@microsoft/fetch-event-source") else {
        return;
    };
    story(false, |url| tokio::spawn(run(command, url))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sseclient_of_pypi_has_every_odd_event_once() {
    let Some(command) = snake("sseclient-py") else {
        return;
    };
    story(false, |url| tokio::spawn(run(command, url))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_httpx_sse_of_pypi_has_every_odd_event_once() {
    let Some(command) = snake("httpx-sse") else {
        return;
    };
    story(false, |url| tokio::spawn(run(command, url))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_httpx_sse_of_pypi_has_every_odd_event_once_compressed() {
    let Some(command) = snake("httpx-sse") else {
        return;
    };
    story(true, |url| tokio::spawn(run(command, url))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_has_every_odd_event_once() {
    let Some(program) = given("curl", "HERALD_TEST_CURL") else {
        return;
    };
    story(false, |url| {
        tokio::spawn(async move { curl(program, &[], url).await })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_has_every_odd_event_once_compressed() {
    let Some(program) = given("curl", "HERALD_TEST_CURL") else {
        return;
    };
    let options = &["--compressed"];
    story(true, |url| {
        tokio::spawn(async move { curl(program, options, url).await })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_eventsource_client_of_crates_io_has_every_odd_event_once() {
    story(false, |url| tokio::spawn(eventsource_client(url))).await;
}

/// What the browser runs.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>odd</title><script>
const got = [];
const report = end => fetch("/result", {method: "POST", body: JSON.stringify({got, end})});
const source = new EventSource("/sse?" + location.search.slice(1));
source.onmessage = e => {
  const event = JSON.parse(e.data);
  if (event.type === "story.end") { source.close(); report("end"); return; }
  got.push({id: e.lastEventId, data: e.data, eventId: event.eventId});
};
source.addEventListener("herald.reset", () => report("reset"));
source.onerror = () => { if (source.readyState === EventSource.CLOSED) report("closed for good"); };
</script>"#;

#[tokio::test(flavor = "multi_thread")]
async fn chromium_has_every_odd_event_once() {
    let Some(path) = given("Chromium", "HERALD_TEST_CHROMIUM") else {
        return;
    };
    browse(|profile, url| chromium(&path, profile, url), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_has_every_odd_event_once_compressed() {
    let Some(path) = given("Chromium", "HERALD_TEST_CHROMIUM") else {
        return;
    };
    browse(|profile, url| chromium(&path, profile, url), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firefox_has_every_odd_event_once() {
    let Some(path) = given("Firefox", "HERALD_TEST_FIREFOX") else {
        return;
    };
    browse(|profile, url| firefox(&path, profile, url), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firefox_has_every_odd_event_once_compressed() {
    let Some(path) = given("Firefox", "HERALD_TEST_FIREFOX") else {
        return;
    };
    browse(|profile, url| firefox(&path, profile, url), true).await;
}

async fn browse(start: impl FnOnce(&TempDir, &str) -> Browser, compression: bool) {
    let mut stage = Stage::set(PAGE, compression).await;
    let profile = TempDir::new().expect("a temporary folder");
    let url = stage.url().replace("/sse?", "/test-page?");
    let _browser = start(&profile, &url);
    stage.emit_all().await;
    let result = within("the browser's result", seconds(60), stage.proxy.result()).await;
    let result: Value = serde_json::from_str(&result).expect("JSON");
    assert_eq!(result["end"], "end");
    let got = result["got"].as_array().expect("a list");
    compare(
        &stage.emitted,
        &got.iter().map(Got::read).collect::<Vec<_>>(),
    );
    stage.check_coding(compression);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_odd_event_comes_through_postgresql_and_redis_to_the_letter() {
    let (Some(server), Some(redis)) = (postgres(), redis(51)) else {
        return;
    };
    let database = Database::create(&server).await;
    let home = home(&Config::new(&database.url, &redis).sse(), false);
    let herald = home.start().await;
    let query = format!("tenantId={TENANT}&after=0");
    let mut stream = Sse::open(&herald.api, &query, None)
        .await
        .expect("a stream");
    let mut emitted = Vec::new();
    for odd in small().into_iter().chain(large()) {
        let id = database.emit(TENANT, odd.kind, &odd.payload).await;
        emitted.push((id, odd));
    }
    let read = stream.take(emitted.len());
    let read = within("all events", seconds(30), read).await;
    let got = read.into_iter().map(|message| Got {
        event_id: message.data.split('"').nth(3).unwrap_or_default().into(),
        id: message.id,
        data: message.data,
    });
    compare(&emitted, &got.collect::<Vec<_>>());
}
