//! A herald as it is run: a process of its own, of the build that is measured.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

/// A herald process with a folder of its own.
pub struct Herald {
    child: Child,
    pub address: String,
    _folder: tempfile::TempDir,
}

impl Herald {
    /// Starts the roles `only`, with what `config` says beside the servers' addresses.
    pub fn start(database: &str, redis: &str, only: &str, config: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("config.toml");
        std::fs::write(
            &file,
            format!(
                "data_dir = \"{}\"\nstore.url = \"{database}\"\nbroker.url = \"{redis}\"\n\
                 http.listen = \"127.0.0.1:0\"\n{config}",
                folder.path().display()
            ),
        )?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
        // They would go over the file.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HERALD_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["run", "--only", only, "--config"])
            .arg(&file)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let mut address = String::new();
        if only.contains("http") {
            let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
            let first = lines.next().context("herald says where it listens")??;
            address = first
                .rsplit_once("http://")
                .context("an address")?
                .1
                .to_owned();
            std::thread::spawn(move || lines.for_each(drop));
        }
        Ok(Self {
            child,
            address,
            _folder: folder,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
