//! A client of `/ws`, by a library that others use too.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async, connect_async};

use super::{Api, seconds, within};

/// What comes over a WebSocket.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Text(Value),
    Ping,
    Pong(Vec<u8>),
    /// The code and the reason.
    Close(u16, String),
    /// Nothing more.
    End,
}

/// An open WebSocket; dropping it cuts the connection.
#[derive(Debug)]
pub struct WebSocket<S = MaybeTlsStream<TcpStream>> {
    stream: WebSocketStream<S>,
}

impl WebSocket {
    /// Opens `GET /ws?{query}`.
    ///
    /// # Errors
    /// The server cannot be reached, or does not want to.
    pub async fn open(api: &Api, query: &str) -> Result<Self, String> {
        let base = api.base.replacen("http", "ws", 1);
        let opened = connect_async(format!("{base}/ws?{query}")).await;
        match opened {
            Ok((stream, _)) => Ok(Self { stream }),
            Err(error) => Err(format!("GET /ws?{query}: {error}")),
        }
    }

    /// Opens one that subscribes by its query; what herald says of that comes with it.
    pub async fn subscribed(api: &Api, query: &str) -> (Self, Value) {
        let mut socket = Self::open(api, query).await.expect("a WebSocket");
        let said = socket.text().await;
        assert_eq!(said["herald"], "subscribed", "{said}");
        (socket, said)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Opens the WebSocket of this URL over a connection that there is already.
    ///
    /// # Errors
    /// The server does not want to.
    pub async fn over(connection: S, url: &str) -> Result<Self, String> {
        match client_async(url, connection).await {
            Ok((stream, _)) => Ok(Self { stream }),
            Err(error) => Err(format!("GET {url}: {error}")),
        }
    }

    pub async fn say(&mut self, message: &Value) {
        self.send(Message::text(message.to_string())).await;
    }

    pub async fn send(&mut self, message: Message) {
        self.stream.send(message).await.expect("it is open");
    }

    pub async fn next(&mut self) -> Heard {
        let next = within("more of a WebSocket", seconds(30), self.stream.next()).await;
        let message = match next {
            Some(Ok(message)) => message,
            Some(Err(error)) => panic!("{error}"),
            None => return Heard::End,
        };
        match message {
            Message::Text(text) => {
                let json = serde_json::from_str(&text);
                Heard::Text(json.unwrap_or_else(|e| panic!("{e}: {text}")))
            }
            Message::Ping(_) => Heard::Ping,
            Message::Pong(payload) => Heard::Pong(payload.to_vec()),
            Message::Close(Some(frame)) => {
                Heard::Close(frame.code.into(), frame.reason.as_str().to_owned())
            }
            other => panic!("{other:?} is never sent"),
        }
    }

    /// The next text; signs of life are passed over.
    pub async fn text(&mut self) -> Value {
        loop {
            match self.next().await {
                Heard::Text(json) => return json,
                Heard::Ping => {}
                other => panic!("{other:?} instead of a text"),
            }
        }
    }

    /// The next text, which is an event.
    pub async fn event(&mut self) -> Value {
        let event = self.text().await;
        assert!(event["eventId"].is_string(), "{event}");
        event
    }
}
