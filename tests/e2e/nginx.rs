//! nginx with the committed `deploy/nginx.conf`, of which only addresses and paths are changed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::harness::{Api, eventually, given, seconds, try_signal};

/// The `nginx` program.
pub fn program() -> Option<String> {
    given("nginx", "HERALD_TEST_NGINX")
}

/// A running nginx. It ends with this value.
pub struct Nginx {
    /// What a client asks.
    pub api: Api,
    dir: TempDir,
    master: Child,
}

impl Nginx {
    /// On this port, before servers on these.
    pub async fn start(program: &str, port: u16, servers: [u16; 3]) -> Self {
        let dir = TempDir::with_prefix("herald-nginx-").expect("a temporary folder");
        // The workers of a master that is root are somebody else.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        let file = dir.path().join("nginx.conf");
        fs::write(&file, configuration(dir.path(), port, servers)).expect("writes");
        let mut nginx = Self {
            api: Api::new(format!("http://127.0.0.1:{port}")),
            master: Command::new(program)
                .arg("-c")
                .arg(&file)
                .arg("-e")
                .arg(dir.path().join("error.log"))
                .args(["-g", "daemon off;"])
                .stdin(Stdio::null())
                .spawn()
                .expect("nginx starts"),
            dir,
        };
        eventually("nginx listens", seconds(20), async || {
            let ended = nginx.master.try_wait().expect("a child");
            assert!(ended.is_none(), "nginx ended: {ended:?}\n{}", nginx.said());
            TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        nginx
    }

    /// Has it read its configuration again: new workers take over.
    pub fn reload(&self) {
        assert!(try_signal("HUP", self.master.id()), "nginx runs");
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Not KILL, which would leave the workers behind.
        if try_signal("TERM", self.master.id()) {
            let _ = self.master.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- nginx says:\n{}", self.said());
        }
    }
}

/// The sample with this test's addresses and paths.
fn configuration(dir: &Path, port: u16, servers: [u16; 3]) -> String {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx.conf");
    let mut text = fs::read_to_string(sample).expect("deploy/nginx.conf is there");
    let dir = dir.display();
    // Where nginx keeps what is too large for its memory is fixed when it is built, and may be
    // somebody else's.
    let kept = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let kept = kept.map(|what| format!("    {what}_temp_path {dir}/{what};\n"));
    let mut changes = vec![
        ("\nhttp {\n".into(), format!("\nhttp {{\n{}", kept.concat())),
        ("pid /run/".into(), format!("pid {dir}/")),
        (
            "error_log /var/log/nginx".into(),
            format!("error_log {dir}"),
        ),
        (
            "access_log /var/log/nginx".into(),
            format!("access_log {dir}"),
        ),
        (" listen 80;".into(), format!(" listen 127.0.0.1:{port};")),
    ];
    for (number, server) in (1..).zip(servers) {
        let old = format!(" server 127.0.0.1:300{number} ");
        changes.push((old, format!(" server 127.0.0.1:{server} ")));
    }
    for (old, new) in changes {
        assert_eq!(text.matches(&old).count(), 1, "{old:?} in the sample");
        text = text.replace(&old, &new);
    }
    text
}
