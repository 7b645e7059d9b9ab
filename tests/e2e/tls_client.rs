//! herald with a certificate of its own, and those who ask it by HTTPS.

use std::process::Stdio;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{Config, Herald, Home, eventually, seconds, within};

/// A certificate for this machine, and its private key.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Pair {
    pub fn make() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")
    }
}

/// A folder whose herald has this pair, and can be asked without TLS how it is.
pub fn home(pair: &Pair) -> Home {
    let files = "certificate_file = \"certificate.pem\"\nkey_file = \"key.pem\"";
    let config = Config::embedded()
        .sse()
        .table("http.tls", files)
        .table("operations", "listen = \"127.0.0.1:0\"");
    let home = Home::new(&config);
    write(&home, &pair.certificate, &pair.key);
    home
}

pub fn write(home: &Home, certificate: &str, key: &str) {
    std::fs::write(home.path().join("certificate.pem"), certificate).expect("writes");
    std::fs::write(home.path().join("key.pem"), key).expect("writes");
}

/// A herald that speaks TLS.
pub struct Https {
    pub herald: Herald,
    /// `127.0.0.1:PORT`
    pub address: String,
}

impl Https {
    pub async fn start(home: &Home, environment: &[&str]) -> Self {
        let herald = home.start_as("herald", environment).await;
        let address = eventually("it says where", seconds(30), async || {
            let said = herald.said();
            let (_, rest) = said.split_once("listening on https://")?;
            Some(rest.split_once('\n')?.0.trim().to_owned())
        });
        Self {
            address: address.await,
            herald,
        }
    }

    /// A client that trusts this pair alone, and would speak this protocol.
    pub async fn connect(
        &self,
        pair: &Pair,
        protocol: &str,
    ) -> Result<TlsStream<TcpStream>, String> {
        let mut roots = RootCertStore::empty();
        roots.add(pair.der()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let socket = TcpStream::connect(&self.address).await.expect("connects");
        let name = "localhost".try_into().expect("a name");
        let shaking = TlsConnector::from(Arc::new(config)).connect(name, socket);
        let shaken = within("the handshake", seconds(30), shaking).await;
        shaken.map_err(|error| error.to_string())
    }

    /// The same, which has asked for a stream by HTTP/1.1 and reads what it likes.
    pub async fn stream(&self, pair: &Pair, query: &str) -> TlsStream<TcpStream> {
        let mut stream = self.connect(pair, "http/1.1").await.expect("a handshake");
        let head = format!(
            "GET /sse?{query} HTTP/1.1\r\nHost: {}\r\n\r\n",
            self.address
        );
        stream.write_all(head.as_bytes()).await.expect("writes");
        stream
    }
}

/// curl, which trusts the certificate in the folder.
pub struct Curl<'a> {
    pub program: &'a str,
    pub home: &'a Home,
    /// `--http2` or `--http1.1`
    pub version: &'a str,
    pub address: &'a str,
}

impl Curl<'_> {
    fn command(&self, path: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command
            .args(["-q", "--noproxy", "*", "--silent", "--no-buffer"])
            .args(["--cacert", "certificate.pem", self.version])
            .args(args)
            .arg(format!("https://{}{path}", self.address))
            .current_dir(self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// The status, the version of HTTP, and what came.
    pub async fn ask(&self, path: &str, args: &[&str], body: &str) -> (String, Value) {
        let tail = ["--write-out", "\n%{http_code} %{http_version}"];
        let mut args = [&tail, args].concat();
        if !body.is_empty() {
            args.extend(["--data-binary", "@-"]);
        }
        let mut child = self.command(path, &args).spawn().expect("curl starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(body.as_bytes()).await.expect("writes");
        drop(stdin);
        let output = within("an answer", seconds(30), child.wait_with_output()).await;
        let output = String::from_utf8(output.expect("an answer").stdout).expect("UTF-8");
        let (body, status) = output.rsplit_once('\n').expect("a status");
        (
            status.to_owned(),
            serde_json::from_str(body).unwrap_or_default(),
        )
    }

    /// Follows a stream, by its lines.
    pub fn follow(
        &self,
        query: &str,
        last: Option<&str>,
    ) -> (Child, Lines<BufReader<ChildStdout>>) {
        use tokio::io::AsyncBufReadExt as _;
        let header = last.map(|id| format!("Last-Event-ID: {id}"));
        let args: Vec<_> = header.iter().flat_map(|h| ["--header", h]).collect();
        let mut command = self.command(&format!("/sse?{query}"), &args);
        let mut child = command.spawn().expect("curl starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        (child, lines)
    }
}
