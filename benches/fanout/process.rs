//! What a process uses, as /proc has it (proc_pid_stat(5) and its neighbours).

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// Clock ticks a second in /proc (`USER_HZ`, 100 on every Linux).
const TICKS: u64 = 100;

#[derive(Debug, Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    /// CPU time so far, its own and the kernel's on its behalf.
    pub fn cpu(self) -> anyhow::Result<Duration> {
        let stat = self.read("stat")?;
        // The second field is a name in parentheses, with whatever in it.
        let (_, rest) = stat.rsplit_once(')').context("a name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |number: usize| -> anyhow::Result<u64> {
            Ok(fields.get(number - 3).context("a field")?.parse()?)
        };
        Ok(Duration::from_millis(
            (ticks(14)? + ticks(15)?) * 1000 / TICKS,
        ))
    }

    /// Memory in bytes, shared pages by its share of them.
    pub fn memory(self) -> anyhow::Result<u64> {
        bytes(&self.read("smaps_rollup")?, "Pss:")
    }

    /// The most memory in bytes that was resident since [`Process::forget_peak`].
    pub fn peak(self) -> anyhow::Result<u64> {
        bytes(&self.read("status")?, "VmHWM:")
    }

    pub fn forget_peak(self) -> anyhow::Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.0), "5")?)
    }

    /// The first child.
    pub fn child(self) -> anyhow::Result<Self> {
        let children = self.read(&format!("task/{}/children", self.0))?;
        let first = children.split_whitespace().next();
        Ok(Self(first.context("a child")?.parse()?))
    }

    fn read(self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        fs::read_to_string(&path).context(path)
    }
}

/// The number of kilobytes in the line that begins so.
pub fn bytes(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.context("a line")?.split_whitespace().next();
    Ok(number.context("a number")?.parse::<u64>()? * 1024)
}
