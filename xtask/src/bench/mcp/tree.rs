//! What a tree of processes holds in memory, the server in it left out.

use std::{fs, path::Path};

use serde_json::{Value, json};

/// In KiB.
#[derive(Default)]
pub(super) struct Memory {
    /// Pages in memory, the program's own file among them.
    pub(super) resident: u64,
    /// The same, with pages that several processes share counted in parts.
    pub(super) proportional: u64,
    /// Pages that nobody else has: what one more of it costs.
    pub(super) private: u64,
    /// Of these the ones that are backed by no file.
    pub(super) anonymous: u64,
    each: Vec<Value>,
}

impl Memory {
    /// Of the processes from `pid` down that are not `server`.
    pub(super) fn beside(server: &Path, pid: u32) -> Self {
        let mut memory = Self::default();
        for pid in family(pid) {
            if fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == server) {
                continue;
            }
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let field = |name: &str| -> u64 {
                let line = rollup.lines().find(|l| l.starts_with(name)).unwrap_or_default();
                line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
            };
            let resident = field("Rss:");
            let private = field("Private_Clean:") + field("Private_Dirty:");
            memory.resident += resident;
            memory.proportional += field("Pss:");
            memory.private += private;
            memory.anonymous += field("Anonymous:");
            memory.each.push(json!({"process": name(pid), "residentKib": resident, "privateKib": private}));
        }
        memory
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "residentKib": self.resident,
            "pssKib": self.proportional,
            "privateKib": self.private,
            "anonymousKib": self.anonymous,
            "processes": self.each,
        })
    }
}

/// The first words of a command line, without their folders.
fn name(pid: u32) -> String {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split('\0').take(3).map(|word| word.rsplit('/').next().unwrap_or(word));
    words.collect::<Vec<_>>().join(" ").trim_end().to_owned()
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
