//! Connections: HTTP/1.1 and HTTP/2, which clients agree on in TLS (ALPN, RFC 7301), or without TLS
//! begin with (RFC 9113 §3.3). Where there is TLS, whoever comes without is told so.
//!
//! A route that would rather write to the connection itself ([`Takeover`]) gets it from HTTP/1.1:
//! hyper has read the request by then, has nothing left to write, and is taken away from between.
//! So a stream costs a task and a socket, and none of the buffers of a connection that goes on with
//! requests and responses.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::Response;
use chrono::Utc;
use herald_routes::{ClientAddress, Connection, Problem, Socket, Takeover, Writing};
use http::header::CONNECTION;
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use crate::tls;

/// For a request's head, from the first byte or the last response on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// For a handshake, from its first byte on.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection whose other end acknowledges nothing for so long is gone (RFC 5482).
const GONE: Duration = Duration::from_secs(60);

/// For what has been answered by HTTP/2 to reach its client, when herald stops. One that is asleep
/// would hold up the stop.
const FLUSH: Duration = Duration::from_secs(3);

/// Before another connection is taken, when there are no file descriptors, say.
const PAUSE: Duration = Duration::from_millis(200);

/// What a client begins with that speaks HTTP/2 at once: no method of HTTP/1.1 begins with it.
const PREFACE: &[u8; 3] = b"PRI";

/// What a handshake begins with (RFC 8446 §5.1): no method does.
const HANDSHAKE: u8 = 22;

/// A response that its route writes.
struct Handover {
    takeover: Takeover,
    head: Bytes,
    chunked: bool,
}

#[derive(Clone)]
struct Server {
    router: Router,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

/// Answers requests until `stop`, and then those under way for at most `drain`. With `tls` there are
/// no requests without.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
    drain: Duration,
) -> anyhow::Result<()> {
    let server = Server {
        router,
        tls,
        stop,
        tasks: Arc::default(),
    };
    let mut reap = interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((connection, from)) => {
                    // What hyper needs is large, and a stream may stay for days without it: it is
                    // not a part of the task, and gone when this ends.
                    let serving = Box::pin(server.clone().connection(connection, from.ip()));
                    lock(&server.tasks).spawn(async move {
                        if let Some(writing) = serving.await {
                            writing.await;
                        }
                    });
                }
                Err(error) => refused(&error).await,
            },
            _ = reap.tick() => { server.reap(); }
            () = server.stop.cancelled() => break,
        }
    }
    drop(listener);
    let ended = async {
        while server.reap() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(drain, ended).await.is_err() {
        tracing::warn!("requests under way were cut off");
        lock(&server.tasks).abort_all();
    }
    Ok(())
}

/// A client that is gone already is no reason to wait.
async fn refused(error: &std::io::Error) {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        tracing::warn!(error = %error, "cannot take a connection");
        sleep(PAUSE).await;
    }
}

impl Server {
    /// Forgets tasks that have ended; how many there are still.
    fn reap(&self) -> usize {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.len()
    }

    /// Serves requests, until one is to be answered by its route itself.
    async fn connection(self, connection: TcpStream, from: IpAddr) -> Option<Writing> {
        // Small frames must not wait for an acknowledgement (Nagle's algorithm).
        let _ = connection.set_nodelay(true);
        let _ = SockRef::from(&connection).set_tcp_user_timeout(Some(GONE));
        let mut first = [0; PREFACE.len()];
        let peeked = tokio::select! {
            peeked = timeout(HEAD_TIMEOUT, connection.peek(&mut first)) => peeked,
            () = self.stop.cancelled() => return None,
        };
        let Ok(Ok(1..)) = peeked else {
            return None;
        };
        let server = match self.tls.clone() {
            Some(tls) if first[0] == HANDSHAKE => {
                // It is large, and others do without.
                return Box::pin(self.tls(tls, connection, from)).await;
            }
            Some(_) => Self {
                router: Router::new().fallback(refuse),
                ..self
            },
            None => self,
        };
        match first == *PREFACE {
            true => server.http2(connection, from).await,
            false => server.http1(connection, from, Socket::Bare).await,
        }
    }

    async fn tls(self, tls: TlsAcceptor, connection: TcpStream, from: IpAddr) -> Option<Writing> {
        let handshake = tls.accept_with(connection, tls::bound);
        let shaken = tokio::select! {
            shaken = timeout(HANDSHAKE_TIMEOUT, handshake) => shaken,
            () = self.stop.cancelled() => return None,
        };
        let connection = match shaken {
            Ok(Ok(connection)) => connection,
            // Scanners, clients that want TLS 1.1 or do not trust the certificate.
            Ok(Err(error)) => {
                tracing::debug!(error = %error, %from, "a TLS handshake failed");
                return None;
            }
            Err(_) => return None,
        };
        let protocol = connection.get_ref().1.alpn_protocol();
        match protocol == Some(tls::HTTP2) {
            true => self.http2(connection, from).await,
            false => {
                let wrap = |connection| Socket::Wrapped(Box::new(connection));
                self.http1(connection, from, wrap).await
            }
        }
    }

    /// `socket` is for whoever takes the connection over.
    async fn http1<C>(
        self,
        connection: C,
        from: IpAddr,
        socket: impl FnOnce(C) -> Socket,
    ) -> Option<Writing>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let handover: Arc<Mutex<Option<Handover>>> = Arc::default();
        let (router, slot) = (self.router.clone(), handover.clone());
        let service = service_fn(move |request| {
            let (router, slot) = (router.clone(), slot.clone());
            async move {
                let version = request.version();
                let response = answer(router, request, from).await;
                if let Some(takeover) = response.extensions().get::<Takeover>() {
                    let becomes_another = response.headers().contains_key(CONNECTION);
                    let chunked = version == Version::HTTP_11 && !becomes_another;
                    let handover = Handover {
                        takeover: takeover.clone(),
                        head: head(&response, chunked),
                        chunked,
                    };
                    *lock(&slot) = Some(handover);
                    // Whoever polls this takes the connection away.
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(connection), service);
        let mut stopped = pin!(self.stop.cancelled());
        let mut told = false;
        let handover = poll_fn(|cx| {
            if !told && stopped.as_mut().poll(cx).is_ready() {
                told = true;
                Pin::new(&mut serving).graceful_shutdown();
            }
            let polled = Pin::new(&mut serving).poll(cx);
            match lock(&handover).take() {
                Some(handover) => Poll::Ready(Some(handover)),
                // A client that went away is not worth a word.
                None => polled.map(|_| None),
            }
        });
        let Handover {
            takeover,
            head,
            chunked,
        } = handover.await?;
        let parts = serving.into_parts();
        takeover.begin(Connection {
            socket: socket(parts.io.into_inner()),
            read: parts.read_buf,
            head,
            chunked,
        })
    }

    async fn http2<C>(self, connection: C, from: IpAddr) -> Option<Writing>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let asked = Arc::new(AtomicBool::new(false));
        let (router, begun) = (self.router.clone(), asked.clone());
        let service = service_fn(move |request| {
            begun.store(true, Ordering::Relaxed);
            let (router, under_way) = (router.clone(), begun.clone());
            async move {
                let response = answer(router, request, from).await;
                drop(under_way);
                Ok::<_, Infallible>(response)
            }
        });
        let mut serving = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(connection), service);
        let stopped = async {
            let _ = timeout(HEAD_TIMEOUT, self.stop.cancelled()).await;
            // Whoever has asked for nothing by then may not even have begun, and hyper would wait.
            let goes_on = asked.load(Ordering::Relaxed);
            if goes_on {
                self.stop.cancelled().await;
            }
            goes_on
        };
        let in_order = tokio::select! {
            _ = &mut serving => false,
            in_order = stopped => in_order,
        };
        if in_order {
            Pin::new(&mut serving).graceful_shutdown();
            let answered = async {
                // This function has one, the service another, and each request under way.
                while Arc::strong_count(&asked) > 2 {
                    sleep(Duration::from_millis(10)).await;
                }
                sleep(FLUSH).await;
            };
            tokio::select! {
                _ = &mut serving => {}
                () = answered => {}
            }
        }
        None
    }
}

/// Answers what comes without TLS where there is TLS.
async fn refuse() -> Problem {
    Problem::bad_request("this address speaks TLS: ask https://")
}

async fn answer(mut router: Router, mut request: Request<Incoming>, from: IpAddr) -> Response {
    request.extensions_mut().insert(ClientAddress(from));
    // A router is always ready.
    match router.call(request.map(Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The head of a response after which the connection ends, unless its own headers say what that
/// becomes.
fn head(response: &Response, chunked: bool) -> Bytes {
    let mut head = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    let date = Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let close: Option<(&str, &[u8])> = Some(("connection", b"close"));
    let close = close.filter(|_| !response.headers().contains_key(CONNECTION));
    let coding: Option<(&str, &[u8])> = Some(("transfer-encoding", b"chunked"));
    let coding = coding.filter(|_| chunked);
    let own = [("date", date.as_bytes())].into_iter();
    let own = own.chain(close).chain(coding);
    let headers = response.headers().iter();
    for (name, value) in headers
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .chain(own)
    {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
