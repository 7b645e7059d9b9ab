//! Compressed streams over each version of HTTP: every event can be decoded when it comes, and the
//! end is that of a whole stream.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::GzDecoder;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Api, Config, Home, seconds, text, within};

const TENANT: &str = "compressed";

/// Where what is compressed comes from.
enum Source {
    /// Of HTTP/1.0: what follows the head, to the end of the connection.
    Connection(TcpStream),
    Body(Incoming),
}

impl Source {
    async fn connect(api: &Api) -> Self {
        let address = api.base.trim_start_matches("http://");
        let mut connection = TcpStream::connect(address).await.expect("connects");
        let request = format!(
            "GET /sse?tenantId={TENANT} HTTP/1.0\r\nhost: {address}\r\naccept-encoding: gzip\r\n\r\n"
        );
        let written = connection.write_all(request.as_bytes()).await;
        written.expect("writes");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await.expect("a head"));
        }
        let head = String::from_utf8(head).expect("ASCII");
        assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "{head}");
        assert!(!head.contains("chunked"), "{head}");
        Self::Connection(connection)
    }

    async fn request(api: &Api, http2: bool) -> Self {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http();
        let request = Request::get(format!("{}/sse?tenantId={TENANT}", api.base))
            .header("accept-encoding", "gzip");
        let request = request.body(Full::default()).expect("valid");
        let response = client.request(request).await.expect("an answer");
        assert_eq!(response.headers()["content-encoding"], "gzip");
        assert_eq!(response.headers()["vary"], "accept-encoding");
        Self::Body(response.into_body())
    }

    /// Something, or nothing at the end.
    async fn read(&mut self) -> Bytes {
        match self {
            Self::Connection(connection) => {
                let mut some = vec![0; 4096];
                let count = connection.read(&mut some).await.expect("reads");
                some.truncate(count);
                some.into()
            }
            Self::Body(body) => match body.frame().await {
                Some(frame) => frame.expect("no error").into_data().expect("data"),
                None => Bytes::new(),
            },
        }
    }
}

struct Stream {
    source: Source,
    decoder: GzDecoder<Vec<u8>>,
}

impl Stream {
    fn text(&self) -> String {
        String::from_utf8_lossy(self.decoder.get_ref()).into_owned()
    }

    /// Reads until the text ends so; what comes at once is read to the end.
    async fn read_to(&mut self, what: &str, holds: impl Fn(&str) -> bool) {
        let reading = async {
            while !holds(&self.text()) {
                let some = self.source.read().await;
                assert!(!some.is_empty(), "it ends after {:?}", self.text());
                self.decoder.write_all(&some).expect("gzip");
                self.decoder.flush().expect("gzip");
            }
        };
        within(what, seconds(10), reading).await;
    }

    /// Reads to the end, which says that it is one.
    async fn end(mut self) -> String {
        let reading = async {
            loop {
                let some = self.source.read().await;
                if some.is_empty() {
                    break;
                }
                self.decoder.write_all(&some).expect("gzip");
            }
            self.decoder.finish().expect("a whole stream")
        };
        let text = within("the end", seconds(10), reading).await;
        String::from_utf8(text).expect("UTF-8")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_decoded_when_it_comes_by_every_version_of_http() {
    let sse = "kind = \"sse\"\nheartbeat = \"10m\"\ncompression = true";
    let home = Home::with(Config::embedded().table("sinks.sse", sse).as_str());
    let herald = home.start().await;
    let api = &herald.api;
    let mut streams: Vec<Stream> = [
        Source::connect(api).await,
        Source::request(api, false).await,
        Source::request(api, true).await,
    ]
    .into_iter()
    .map(|source| Stream {
        source,
        decoder: GzDecoder::new(Vec::new()),
    })
    .collect();
    for stream in &mut streams {
        let greeted = |text: &str| text.contains("\nid: ") && text.ends_with("\n\n");
        stream.read_to("the greeting", greeted).await;
    }
    for number in 0..3 {
        let event = json!({"tenantId": TENANT, "type": "k", "payload": {"number": number}});
        let id = text(&api.post("/events", &event).await.expect(201), "eventId");
        let begin = format!("\nid: {id}\ndata: ");
        for stream in &mut streams {
            let whole = |text: &str| text.contains(&begin) && text.ends_with("\n\n");
            stream.read_to("the event", whole).await;
        }
    }
    let stopped = tokio::spawn(herald.terminate());
    for stream in streams {
        let text = stream.end().await;
        assert_eq!(text.matches("\ndata: ").count(), 3, "{text}");
        assert!(
            text.contains("\n\nretry: "),
            "it says when to come back: {text}"
        );
    }
    assert!(stopped.await.expect("no panic").success());
}
