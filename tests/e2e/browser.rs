//! Chromium and Firefox, each without a window and with a profile of its own.

use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use tempfile::TempDir;

use crate::harness::seconds;

/// A browser that runs. It ends with this value, and so do the processes that it has started.
pub struct Browser {
    child: Child,
    /// Closes when none of its processes is left: each has inherited its standard error.
    ended: Receiver<()>,
}

impl Browser {
    fn start(command: &mut Command, profile: &TempDir, url: &str) -> Self {
        let mut child = command
            .arg(url)
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the browser starts");
        let mut output = child.stderr.take().expect("piped");
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
        .arg(profile.path());
    Browser::start(&mut command, profile, url)
}
