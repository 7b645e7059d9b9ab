//! What the kernel says about the whole machine and about this process.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::process;

/// Bytes of a page, which is what sockstat counts in, here.
const PAGE: u64 = 4096;

/// What the kernel holds for everyone.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// Bytes of all its small objects: sockets, files, what epoll has.
    pub slab: u64,
    /// Bytes in buffers of TCP.
    pub buffers: u64,
}

impl Kernel {
    pub fn now() -> anyhow::Result<Self> {
        let sockets = fs::read_to_string("/proc/net/sockstat")?;
        let tcp = sockets.lines().find(|line| line.starts_with("TCP:"));
        let mut words = tcp.context("TCP")?.split_whitespace();
        words.find(|word| *word == "mem").context("mem")?;
        Ok(Self {
            slab: process::bytes(&fs::read_to_string("/proc/meminfo")?, "Slab:")?,
            buffers: words.next().context("pages")?.parse::<u64>()? * PAGE,
        })
    }
}

/// How many files this process may have open.
pub fn open_files() -> anyhow::Result<usize> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.context("a limit")?.split_whitespace().next();
    Ok(soft.context("a number")?.parse().unwrap_or(usize::MAX))
}

/// CPU time of one thread of this process; `thread` is its folder in /proc.
pub fn cpu_of_thread(thread: &Path) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(thread.join("schedstat"))?;
    let nanoseconds = text.split_whitespace().next().context("a number")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
