//! What a tree of processes holds in memory, the server in it left out.

use std::fs;

/// In KiB.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) resident: u64,
    /// Shared pages counted in parts.
    pub(super) proportional: u64,
    pub(super) each: Vec<(String, u64)>,
}

/// The processes from `pid` down that are not the server.
pub(super) fn beside_the_server(pid: u32) -> Memory {
    let mut memory = Memory::default();
    for pid in family(pid) {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&str> = line.split('\0').collect();
        if words.first().is_some_and(|program| program.ends_with("hms-test-mcp")) {
            continue;
        }
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let field = |name: &str| -> u64 {
            let line = rollup.lines().find(|l| l.starts_with(name)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        memory.resident += field("Rss:");
        memory.proportional += field("Pss:");
        let name =
            words.iter().take(3).map(|w| w.rsplit('/').next().unwrap_or(w)).collect::<Vec<_>>().join(" ");
        memory.each.push((name, field("Rss:")));
    }
    memory
}

/// A process and its descendants.
fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()?))
        })
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let of = found[at];
        found.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}
