//! How each of other people's clients is run. All of them follow a stream from its beginning to its
//! [`END`], which is left out, and come back by themselves with `Last-Event-ID`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use eventsource_client::{Client as _, ClientBuilder, Error, ReconnectOptions, SSE};
use futures_util::StreamExt as _;
use launchdarkly_sdk_transport::HyperTransport;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::interval;

use crate::harness::{END, given, python};
use crate::odd_data::Got;

/// The script of `tests/peers` that runs a library, and what runs the script.
pub fn node(library: &str) -> Option<Command> {
    let folder = given("Node.js peers", "HERALD_TEST_NODE_PEERS")?;
    let mut command = Command::new("node");
    command
        .arg(script("sse_client.mjs"))
        .args([&folder, library]);
    Some(command)
}

/// The same in Python.
pub fn snake(library: &str) -> Option<Command> {
    let mut command = Command::new(python()?);
    command.arg(script("sse_client.py")).arg(library);
    Some(command)
}

fn script(name: &str) -> std::path::PathBuf {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
    peers.join(name)
}

/// Runs a script to its end, and reads the line that it writes for each event.
pub async fn run(mut command: Command, url: String) -> Vec<Got> {
    let mut child = command
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the client starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut got = Vec::new();
    while let Some(line) = lines.next_line().await.expect("UTF-8") {
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        got.push(Got::read(&line));
    }
    let status = child.wait().await.expect("a child");
    assert!(status.success(), "{status}");
    got
}

/// What a script around curl does: starts it again, with the last id that it saw. By HTTP/1.0, in
/// which a stream has no chunks and ends with its connection, and by HTTP/1.1 in turn; with more
/// `options`.
pub async fn curl(program: String, options: &[&str], url: String) -> Vec<Got> {
    let mut got: Vec<Got> = Vec::new();
    let mut pause = interval(Duration::from_millis(200));
    for version in ["--http1.1", "--http1.0"].iter().cycle() {
        pause.tick().await;
        let mut command = Command::new(&program);
        command.args([
            "-q",
            "--noproxy",
            "*",
            "--silent",
            "--no-buffer",
            version,
            &url,
        ]);
        command.args(options);
        if let Some(last) = got.last() {
            command
                .arg("--header")
                .arg(format!("Last-Event-ID: {}", last.id));
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("curl starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).split(b'\n');
        let (mut id, mut data) = (String::new(), Vec::new());
        // A line that was cut may end in the middle of a character; its event has no blank line.
        while let Some(line) = lines.next_segment().await.expect("reads") {
            let line = String::from_utf8_lossy(&line);
            if let Some(value) = line.strip_prefix("id: ") {
                id = value.to_owned();
            } else if let Some(value) = line.strip_prefix("data: ") {
                data.push(value.to_owned());
            } else if line.is_empty() && !data.is_empty() {
                let data = std::mem::take(&mut data).join("\n");
                if data.contains(&format!(r#""type":"{END}""#)) {
                    return got;
                }
                let event_id = data.split('"').nth(3).unwrap_or_default().to_owned();
                let id = id.clone();
                got.push(Got { id, data, event_id });
            }
        }
    }
    unreachable!("the turns do not end")
}

/// What [`eventsource_client`] reads of an event. A string of Rust cannot hold every string of JSON
/// (half a surrogate pair) and a number not every number, so the payload is left as it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    event_id: String,
    #[serde(rename = "type")]
    kind: String,
}

/// The crate of that name, which connects again by itself with its own last id.
pub async fn eventsource_client(url: String) -> Vec<Got> {
    // It takes no `retry` that comes without data, and doubles its own pause from cut to cut.
    let pauses = ReconnectOptions::reconnect(true)
        .retry_initial(true)
        .delay(Duration::from_millis(200))
        .backoff_factor(1);
    let direct = HyperTransport::builder().disable_proxy();
    let client = ClientBuilder::for_url(&url)
        .expect("a URL")
        .reconnect(pauses.build())
        .build_with_transport(direct.build_http().expect("a transport"));
    let mut stream = client.stream();
    let mut got = Vec::new();
    loop {
        match stream.next().await.expect("it comes back for ever") {
            Ok(SSE::Event(event)) => {
                assert_eq!(event.event_type, "message", "{}", event.data);
                let said: Said = serde_json::from_str(&event.data).expect("JSON");
                if said.kind == END {
                    return got;
                }
                got.push(Got {
                    id: event.id.unwrap_or_default(),
                    data: event.data,
                    event_id: said.event_id,
                });
            }
            Ok(SSE::Connected(_) | SSE::Comment(_)) => {}
            // It says so each time it is cut, and goes on.
            Err(Error::Eof | Error::UnexpectedEof | Error::Transport(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
