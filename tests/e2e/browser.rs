//! Real browsers' EventSource behind a proxy that cuts its connections at random.
//!
//! The browser comes back by itself, with its old URL (so the old `after`) and the new
//! `Last-Event-ID`, and has each event once in the end.

use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    Config, Database, END, Home, emit, eventually, given, postgres, redis, seconds, seed, text,
    within,
};
use crate::proxy::Proxy;

const TENANT: &str = "acme";
/// Cuts before the stream is left alone.
const CUTS: usize = 8;

/// What the browser runs. It tells what it has when the last event arrives, or when it gives up.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>story</title><script>
const got = [];
let errors = 0;
const report = end => fetch("/result", {method: "POST", body: JSON.stringify({got, errors, end})});
const source = new EventSource("/sse?" + location.search.slice(1));
source.onmessage = e => {
  const event = JSON.parse(e.data);
  got.push(event.eventId);
  if (e.lastEventId !== event.eventId) report("lastEventId is " + e.lastEventId);
  if (event.type === "story.end") { source.close(); report("end"); }
};
source.addEventListener("herald.reset", () => report("reset"));
source.onerror = () => {
  errors += 1;
  if (source.readyState === EventSource.CLOSED) report("closed for good");
};
</script>"#;

/// A browser that runs. It ends with this value, and so do the processes that it has started.
pub struct Browser {
    child: Child,
    /// Closes when none of its processes is left: each has inherited its output.
    ended: Receiver<()>,
}

impl Browser {
    fn start(command: &mut Command, profile: &TempDir, url: &str) -> Self {
        let mut child = command
            .arg(url)
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the browser starts");
        let mut output = child.stdout.take().expect("piped");
        let (running, ended) = channel();
        thread::spawn(move || {
            let _ = io::copy(&mut output, &mut io::sink());
            drop(running);
        });
        Self { child, ended }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The others end by themselves when the first is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let late = self.ended.recv_timeout(seconds(20)) == Err(RecvTimeoutError::Timeout);
        assert!(
            !late || thread::panicking(),
            "a process of the browser is left over"
        );
    }
}

/// Starts Chromium with this page.
pub fn chromium(path: &str, profile: &TempDir, url: &str) -> Browser {
    let mut command = Command::new(path);
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--no-first-run",
            "--no-default-browser-check",
            "--disable-extensions",
        ])
        .args([
            "--disable-quic",
            "--disable-background-networking",
            "--disable-sync",
        ])
        .args([
            "--disable-component-update",
            "--disable-default-apps",
            "--no-proxy-server",
        ])
        // Without it headless Chromium ends as soon as the page is loaded.
        .args([
            "--remote-debugging-port=0",
            "--remote-debugging-address=127.0.0.1",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()));
    Browser::start(&mut command, profile, url)
}

/// What Firefox would begin with is switched off: pages of its own, and whatever asks the network.
/// What there is no switch for gets a proxy that does not answer; addresses of this machine have none.
const FIREFOX: &str = r#"
user_pref("network.proxy.type", 1);
user_pref("network.proxy.http", "127.0.0.1");
user_pref("network.proxy.http_port", 9);
user_pref("network.proxy.ssl", "127.0.0.1");
user_pref("network.proxy.ssl_port", 9);
user_pref("network.proxy.failover_direct", false);
user_pref("network.proxy.allow_bypass", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("app.normandy.enabled", false);
user_pref("app.update.enabled", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("browser.newtabpage.enabled", false);
user_pref("browser.region.update.enabled", false);
user_pref("browser.safebrowsing.downloads.enabled", false);
user_pref("browser.safebrowsing.malware.enabled", false);
user_pref("browser.safebrowsing.phishing.enabled", false);
user_pref("browser.sessionstore.resume_from_crash", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.startup.homepage_override.mstone", "ignore");
user_pref("browser.startup.page", 0);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("datareporting.usage.uploadEnabled", false);
user_pref("dom.ipc.processPrelaunch.enabled", false);
user_pref("dom.push.connection.enabled", false);
user_pref("extensions.systemAddon.update.enabled", false);
user_pref("extensions.update.enabled", false);
user_pref("media.gmp-manager.updateEnabled", false);
"#;

/// Starts Firefox with this page.
pub fn firefox(path: &str, profile: &TempDir, url: &str) -> Browser {
    std::fs::write(profile.path().join("user.js"), FIREFOX).expect("a file of preferences");
    let mut command = Command::new(path);
    command
        .args(["--headless", "--no-remote", "--profile"])
        .arg(profile.path())
        // The helper would outlive the browser.
        .env("MOZ_CRASHREPORTER_DISABLE", "1");
    Browser::start(&mut command, profile, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_that_is_cut_again_and_again_has_each_event_once_in_the_end() {
    let path = given("Chromium", "HERALD_TEST_CHROMIUM");
    let (Some(path), Some(server), Some(redis)) = (path, postgres(), redis(3)) else {
        return;
    };
    story(server, redis, |profile, url| chromium(&path, profile, url)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firefox_that_is_cut_again_and_again_has_each_event_once_in_the_end() {
    let path = given("Firefox", "HERALD_TEST_FIREFOX");
    let (Some(path), Some(server), Some(redis)) = (path, postgres(), redis(6)) else {
        return;
    };
    story(server, redis, |profile, url| firefox(&path, profile, url)).await;
}

async fn story(server: String, redis: String, start: impl FnOnce(&TempDir, &str) -> Browser) {
    let database = Database::create(&server).await;
    let home = Home::new(&Config::new(&database.url, &redis).sse());
    let herald = home.start().await;

    // What the page has by REST before it opens its stream.
    for _ in 0..20 {
        database.emit(TENANT, "order.before", "{}").await;
    }
    let before = eventually(
        "the first events are in the feed",
        seconds(10),
        async || {
            let path = format!("/events?tenantId={TENANT}&order=desc&limit=100");
            let page = herald.api.get(&path).await.expect(200);
            let events = page["events"].as_array().expect("a list").clone();
            (events.len() == 20).then_some(events)
        },
    )
    .await;
    let after = &before[0]["aggregateId"];

    let random = StdRng::seed_from_u64(seed());
    let mut proxy = Proxy::start(&herald.api.base, PAGE, random).await;
    let profile = TempDir::new().expect("a temporary folder");
    let url = format!("{}/test-page?tenantId={TENANT}&after={after}", proxy.base);
    let _browser = start(&profile, &url);

    // Events come for as long as it is cut, some of them in transactions that commit late.
    eventually("the browser opens its stream", seconds(60), async || {
        (proxy.streams() > 0).then_some(())
    })
    .await;
    eventually(
        "the browser came back each time",
        seconds(120),
        async || {
            let mut late = database.begin().await;
            emit(&mut late, TENANT, "order.late", "{}").await;
            for number in 0..10 {
                let payload = format!(r#"{{"number":{number},"padding":"{}"}}"#, "x".repeat(200));
                database.emit(TENANT, "order.created", &payload).await;
            }
            late.commit().await.expect("commits");
            (proxy.cuts() >= CUTS).then_some(())
        },
    )
    .await;
    proxy.leave_alone();
    database.emit(TENANT, END, "{}").await;

    let result = within("the browser's result", seconds(60), proxy.result()).await;
    let result: Value = serde_json::from_str(&result).expect("JSON");
    assert_eq!(result["end"], "end", "{result}");
    assert!(
        result["errors"].as_u64() >= Some(CUTS as u64),
        "it noticed each cut: {result}"
    );
    let got: Vec<_> = result["got"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let feed = herald.api.feed(TENANT, 500).await;
    let live: Vec<_> = feed[before.len()..]
        .iter()
        .map(|e| text(e, "eventId"))
        .collect();
    let differs = got.iter().zip(&live).position(|(a, b)| a != b);
    assert!(
        got == live,
        "the browser has {} events of {}, other from place {differs:?} on",
        got.len(),
        live.len(),
    );
}
