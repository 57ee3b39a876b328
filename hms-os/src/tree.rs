//! Everything that descends from an agent: find it, end it.
//!
//! A stop must leave nothing behind, also of programs that daemonise. A process
//! is attributed to a target when one of these holds:
//!
//! 1. it carries the target's token (see [`crate::token`]);
//! 2. it is in the target's cgroup, where there is one;
//! 3. it is the leader that the caller names;
//! 4. its parent is attributed;
//! 5. its process group or session was founded by an attributed process, dead
//!    or alive, or its group is that of a tagged process and has no living
//!    founder outside.
//!
//! Never attributed, whatever the rules say: this process, init, kernel
//! threads, and a process that carries the token of another agent or another
//! incarnation of the same home. The children of such a process are not
//! followed either.
//!
//! What can still escape where there is no cgroup: a process that clears its
//! environment (or overwrites it, as `setproctitle` does), founds a new session
//! *and* outlives every attributed parent before it is looked for.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group, pidfd_send_signal};

pub use crate::cgroup::Cgroup;
use crate::identity::ProcessId;
use crate::procfs::{self, Stat};
pub use crate::token::{Incarnations, Token};
use crate::{TOKEN_VARIABLE, pidfd};

/// After so many passes the rest is reported as surviving.
const MAX_PASSES: u32 = 100;
/// After so many passes that found nothing, but may have missed something on a
/// machine that forks all the time, nothing is believed to be left.
const MAX_DOUBTS: u32 = 4;
/// How long one pass waits for what it killed; killed processes need
/// microseconds unless they wait for a device.
const PASS_PATIENCE: Duration = Duration::from_millis(5);
/// How many deaths one pass waits for by descriptor.
const MAX_WAITS: usize = 64;

/// A process that carries a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    /// Who it is.
    pub id: ProcessId,
    /// Its parent's pid.
    pub ppid: i32,
    /// Its process group.
    pub pgid: i32,
    /// Its session.
    pub session: i32,
    /// The token it carries.
    pub token: Token,
}

/// Every living process that carries a token of this home (the canonical path),
/// by one pass over `/proc`. Processes whose environment we may not read, those
/// of other users, are left out.
pub fn scan(home: &Path) -> Vec<Tagged> {
    let mut buffer = Vec::new();
    let mut found = Vec::new();
    procfs::each(|stat| {
        if stat.is_dead() || stat.is_kernel_thread() {
            return;
        }
        let value = procfs::environment_value(stat.pid, TOKEN_VARIABLE, &mut buffer);
        let token = value.and_then(Token::parse);
        if let Some(token) = token.filter(|token| token.home == home) {
            found.push(Tagged {
                id: ProcessId::from_stat(&stat),
                ppid: stat.ppid,
                pgid: stat.pgid,
                session: stat.session,
                token,
            });
        }
    });
    found
}

/// The living descendants of `pid`, by one pass over `/proc`: children,
/// grandchildren and so on, as far as the chain of parents is unbroken.
pub fn descendants(pid: i32) -> Vec<ProcessId> {
    let mut children: HashMap<i32, Vec<Stat>> = HashMap::new();
    procfs::each(|stat| children.entry(stat.ppid).or_default().push(stat));
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        for child in children.remove(&parent).into_iter().flatten() {
            open.push(child.pid);
            if !child.is_dead() {
                found.push(ProcessId::from_stat(&child));
            }
        }
    }
    found
}

/// What to end.
#[derive(Clone, Copy, Debug)]
pub struct KillTree<'a> {
    /// The home, as its tokens have it.
    pub home: &'a Path,
    /// The agent; `None`: every agent of the home (a system stop).
    pub agent: Option<&'a str>,
    /// Which of its incarnations.
    pub incarnations: Incarnations,
    /// The process that was spawned, if known, dead or alive: it leads the
    /// process group, and it counts even if it lost its token.
    pub leader: Option<ProcessId>,
    /// The agent's cgroup, if it has one. All of it is ended.
    pub cgroup: Option<&'a Cgroup>,
}

/// What [`kill_tree`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Ended, and gone when it returned.
    pub killed: Vec<ProcessId>,
    /// Still there: not ours to kill, or held by the kernel.
    pub survived: Vec<ProcessId>,
}

/// SIGKILL a whole tree. Blocks, usually a few milliseconds and at most about a
/// second; call it on a thread that may.
///
/// Looks again until a pass finds nothing, because what is killed may have
/// forked in between. Stopped processes die too.
pub fn kill_tree(target: &KillTree<'_>) -> Report {
    kill_trees(std::slice::from_ref(target))
}

/// [`kill_tree`] for many agents with one scan a pass.
pub fn kill_trees(targets: &[KillTree<'_>]) -> Report {
    let mut hunt = Hunt::new(targets);
    let mut killed: HashSet<ProcessId> = HashSet::new();
    let mut survived = Vec::new();
    let mut doubts = 0;
    for _ in 0..MAX_PASSES {
        for cgroup in targets.iter().filter_map(|target| target.cgroup) {
            // A cgroup that is gone has nobody in it.
            let _ = cgroup.kill();
        }
        let found = hunt.look();
        survived = found.iter().map(ProcessId::from_stat).collect();
        if found.is_empty() {
            doubts += 1;
            if hunt.complete || doubts == MAX_DOUBTS {
                break;
            }
            continue;
        }
        hunt.kill_groups();
        let struck = strike(&found);
        killed.extend(&survived);
        if struck.refused == found.len() {
            // All that is left is not ours to kill; more passes change nothing.
            break;
        }
        await_deaths(&struck.pidfds);
    }
    let left: HashSet<ProcessId> = survived.iter().copied().collect();
    Report { killed: killed.difference(&left).copied().collect(), survived }
}

/// Who would be killed now by [`kill_trees`].
pub fn stragglers(targets: &[KillTree<'_>]) -> Vec<ProcessId> {
    let found = Hunt::new(targets).look();
    found.iter().map(ProcessId::from_stat).collect()
}

/// What a process's token says about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// A token of a target.
    Target,
    /// A token of the same home, but of somebody who is no target.
    Other,
    /// No token, or one of another home.
    None,
}

/// One search, which remembers over its passes whom it has attributed: the dead
/// still own the groups and sessions that they founded.
struct Hunt<'a> {
    targets: &'a [KillTree<'a>],
    by_agent: HashMap<&'a str, Vec<&'a KillTree<'a>>>,
    whole_home: Vec<&'a KillTree<'a>>,
    own_pid: i32,
    own_group: i32,
    own_session: i32,
    /// No attributed process can have started before this.
    earliest: u64,
    /// pid and start time of all attributed so far.
    founders: HashMap<i32, u64>,
    /// The groups that the last pass found to be all the target's.
    groups: HashSet<i32>,
    /// Whether the last pass saw every process.
    complete: bool,
    buffer: Vec<u8>,
}

impl<'a> Hunt<'a> {
    fn new(targets: &'a [KillTree<'a>]) -> Self {
        let mut by_agent: HashMap<&str, Vec<&KillTree<'_>>> = HashMap::new();
        for target in targets {
            if let Some(agent) = target.agent {
                by_agent.entry(agent).or_default().push(target);
            }
        }
        let boot_id = crate::host::boot_id();
        let leaders = targets
            .iter()
            .filter_map(|target| target.leader)
            .filter(|leader| leader.boot_id == boot_id && leader.start_time != 0);
        let own_pid = rustix::process::getpid().as_raw_pid();
        // Read like everyone else's, for in a container the group and session of
        // its first processes were made outside and are 0 here, a number that
        // `getsid` of rustix does not expect. Without an answer, numbers that
        // none has.
        let (own_group, own_session) = Stat::read(own_pid).map_or((-1, -1), |own| (own.pgid, own.session));
        Hunt {
            targets,
            by_agent,
            whole_home: targets.iter().filter(|t| t.agent.is_none()).collect(),
            own_pid,
            own_group,
            own_session,
            earliest: earliest_start(targets),
            founders: leaders.map(|id| (id.pid, id.start_time)).collect(),
            groups: HashSet::new(),
            complete: true,
            buffer: Vec::new(),
        }
    }

    /// One pass: the living processes that are attributed now.
    fn look(&mut self) -> Vec<Stat> {
        let (mut stats, mut marks) = (Vec::new(), Vec::new());
        // The token is read at once: what forks and exits all the time does not
        // live long enough for a second look.
        self.complete = procfs::each(|stat| {
            marks.push(self.mark(&stat));
            stats.push(stat);
        });
        let by_pid: HashMap<i32, usize> = stats.iter().enumerate().map(|(i, s)| (s.pid, i)).collect();
        self.forget_reused(&stats, &by_pid);

        let mut attributed = vec![false; stats.len()];
        let mut adopted: HashSet<i32> = HashSet::new();
        self.seed(&stats, &by_pid, &marks, &mut attributed);
        self.adopt_groups(&stats, &by_pid, &marks, &mut adopted);
        // To the fixed point: an attributed process brings in its children and
        // the groups and sessions that it founded.
        loop {
            let mut grew = false;
            for (i, stat) in stats.iter().enumerate() {
                if attributed[i] || marks[i] == Mark::Other || !self.may_touch(stat) {
                    continue;
                }
                let parent = by_pid.get(&stat.ppid).is_some_and(|p| attributed[*p]);
                let belongs = parent
                    || adopted.contains(&stat.pgid)
                    || self.founded(stat.pgid, stat)
                    || self.founded(stat.session, stat);
                if belongs {
                    attributed[i] = true;
                    self.founders.insert(stat.pid, stat.start_time);
                    grew = true;
                }
            }
            if !grew {
                break;
            }
        }
        self.groups = self.own_groups(&stats, &attributed, &adopted);
        stats
            .into_iter()
            .zip(attributed)
            .filter(|(stat, attributed)| *attributed && !stat.is_dead())
            .map(|(stat, _)| stat)
            .collect()
    }

    /// Attribute by token, cgroup and leader.
    fn seed(
        &mut self,
        stats: &[Stat],
        by_pid: &HashMap<i32, usize>,
        marks: &[Mark],
        attributed: &mut [bool],
    ) {
        let mut take = |hunt: &mut Self, i: usize| {
            if hunt.may_touch(&stats[i]) {
                attributed[i] = true;
                let (pid, start) = (stats[i].pid, stats[i].start_time);
                hunt.founders.insert(pid, start);
            }
        };
        for i in (0..stats.len()).filter(|i| marks[*i] == Mark::Target) {
            take(self, i);
        }
        for target in self.targets {
            let members = target.cgroup.map(Cgroup::pids).unwrap_or_default();
            for i in members.iter().filter_map(|pid| by_pid.get(pid)) {
                take(self, *i);
            }
            if let Some(leader) = target.leader
                && let Some(i) = by_pid.get(&leader.pid)
                && stats[*i].start_time == leader.start_time
                && leader.boot_id == crate::host::boot_id()
            {
                take(self, *i);
            }
        }
    }

    /// The groups of tagged processes whose founder is gone: every agent begins
    /// in a group of its own, so the other members descend from it as well.
    /// Not so when the founder lives and is somebody else, or when a process of
    /// another agent, or this one, is in it.
    fn adopt_groups(
        &self,
        stats: &[Stat],
        by_pid: &HashMap<i32, usize>,
        marks: &[Mark],
        groups: &mut HashSet<i32>,
    ) {
        let tagged = |wanted: Mark| {
            let all = stats.iter().zip(marks);
            all.filter(move |(_, mark)| **mark == wanted).map(|(stat, _)| stat.pgid)
        };
        groups.extend(tagged(Mark::Target).filter(|group| !by_pid.contains_key(group)));
        for foreign in tagged(Mark::Other) {
            groups.remove(&foreign);
        }
        groups.retain(|group| *group > 1 && *group != self.own_group);
    }

    fn mark(&mut self, stat: &Stat) -> Mark {
        if stat.start_time < self.earliest || stat.is_kernel_thread() || stat.is_dead() {
            return Mark::None;
        }
        let value = procfs::environment_value(stat.pid, TOKEN_VARIABLE, &mut self.buffer);
        let Some(token) = value.and_then(Token::parse) else {
            return Mark::None;
        };
        let named = self.by_agent.get(token.agent.as_str());
        let wanted = named
            .into_iter()
            .flatten()
            .chain(&self.whole_home)
            .any(|t| t.home == token.home && t.incarnations.contains(token.incarnation));
        if wanted {
            Mark::Target
        } else if self.targets.iter().any(|t| t.home == token.home) {
            Mark::Other
        } else {
            Mark::None
        }
    }

    /// Whether `id`, a group or session that `member` is in, was founded by an
    /// attributed process. The kernel gives no pid out again while a group or
    /// session has it, so a dead founder is still the founder.
    fn founded(&self, id: i32, member: &Stat) -> bool {
        id != self.own_group
            && id != self.own_session
            && self.founders.get(&id).is_some_and(|start| *start <= member.start_time)
    }

    /// A founder's pid that now belongs to another process says nothing more.
    fn forget_reused(&mut self, stats: &[Stat], by_pid: &HashMap<i32, usize>) {
        self.founders.retain(|pid, start| by_pid.get(pid).is_none_or(|i| stats[*i].start_time == *start));
    }

    fn may_touch(&self, stat: &Stat) -> bool {
        stat.pid > 1 && stat.pid != self.own_pid && !stat.is_kernel_thread()
    }

    /// The groups that may be struck as a whole: founded by an attributed
    /// process or adopted, and nobody else is in them.
    fn own_groups(&self, stats: &[Stat], attributed: &[bool], adopted: &HashSet<i32>) -> HashSet<i32> {
        let members = |wanted: bool| {
            let all = stats.iter().zip(attributed);
            all.filter(move |(_, is)| **is == wanted).map(|(stat, _)| stat.pgid)
        };
        let mut groups: HashSet<i32> = members(true)
            .filter(|group| adopted.contains(group) || self.founders.contains_key(group))
            .filter(|group| *group > 1 && *group != self.own_group)
            .collect();
        for foreign in members(false) {
            groups.remove(&foreign);
        }
        groups
    }

    /// Strike whole groups first: unlike a list of pids, that reaches what is
    /// being forked right now, and a process that hands itself on faster than
    /// it can be looked up.
    fn kill_groups(&self) {
        for group in &self.groups {
            // The founder is still who it was, or dead, and then its number
            // stays taken as long as the group has members.
            let holder = Stat::read(*group).map(|stat| stat.start_time);
            let held = holder.is_none_or(|start| self.founders.get(group) == Some(&start));
            if let Some(group) = Pid::from_raw(*group).filter(|_| held) {
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
    }
}

/// When exactly one incarnation is meant and its leader is known, nothing older
/// than the leader descends from it, and need not be read.
fn earliest_start(targets: &[KillTree<'_>]) -> u64 {
    let boot_id = crate::host::boot_id();
    let start = |target: &KillTree<'_>| match (target.incarnations, target.leader) {
        (Incarnations::Exactly(_), Some(leader)) if leader.boot_id == boot_id => leader.start_time,
        _ => 0,
    };
    targets.iter().map(start).min().unwrap_or(0)
}

/// What one round of signals did.
struct Struck {
    refused: usize,
    pidfds: Vec<OwnedFd>,
}

/// SIGKILL each of these very processes.
fn strike(found: &[Stat]) -> Struck {
    let mut struck = Struck { refused: 0, pidfds: Vec::new() };
    for stat in found {
        let Ok(pidfd) = pidfd::open(stat.pid) else {
            continue;
        };
        // Opened first, checked second: the pidfd cannot be a stranger's.
        if ProcessId::from_stat(stat).stat().is_none() {
            continue;
        }
        if pidfd_send_signal(&pidfd, Signal::KILL) == Err(Errno::PERM) {
            struck.refused += 1;
        }
        if struck.pidfds.len() < MAX_WAITS {
            struck.pidfds.push(pidfd);
        }
    }
    struck
}

/// Wait for the end of what was killed, for a moment.
fn await_deaths(pidfds: &[OwnedFd]) {
    let started = Instant::now();
    for pidfd in pidfds {
        let left = PASS_PATIENCE.saturating_sub(started.elapsed());
        pidfd::wait_dead(pidfd.as_fd(), left);
    }
}
