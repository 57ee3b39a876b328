//! Process trees that do everything to get away.
#![cfg(target_os = "linux")]

mod common;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{LONG, args, await_line, await_some, folder, sh, tell};
use hms_os::{
    Cgroup, Incarnations, KillTree, Process, ProcessId, Signal, Spawn, Token, descendants, kill_tree,
    kill_trees, scan, stragglers,
};

/// A home of its own for each test: the tests run at the same time and must
/// not see each other's processes.
struct Home {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Home {
    fn new() -> Self {
        let folder = folder();
        let path = fs::canonicalize(folder.path()).expect("canonical");
        Home { folder, path }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn env(&self, agent: &str, incarnation: u64) -> [(OsString, OsString); 2] {
        let folder = self.folder.path().as_os_str().to_owned();
        [Token::new(&self.path, agent, incarnation).to_env(), ("DIR".into(), folder)]
    }

    /// Start `script` as this incarnation of the agent, with `$DIR` as a place
    /// to write pids to.
    fn start(&self, agent: &str, incarnation: u64, script: &str) -> Process {
        let (args, env) = (args(script), self.env(agent, incarnation));
        Process::spawn(&Spawn { env: &env, ..sh(&args) }).expect("spawn")
    }

    /// Who wrote its pid to `name`.
    fn pid(&self, name: &str) -> ProcessId {
        let pid = await_line(&self.file(name)).parse().expect("pid");
        ProcessId::of(pid).expect("runs")
    }

    fn target<'a>(&'a self, agent: &'a str) -> KillTree<'a> {
        KillTree {
            home: &self.path,
            agent: Some(agent),
            incarnations: Incarnations::All,
            leader: None,
            cgroup: None,
        }
    }

    fn tagged(&self) -> usize {
        scan(&self.path).len()
    }
}

/// Whatever a failing test leaves behind goes with its home.
impl Drop for Home {
    fn drop(&mut self) {
        kill_trees(&[KillTree {
            home: &self.path,
            agent: None,
            incarnations: Incarnations::All,
            leader: None,
            cgroup: None,
        }]);
    }
}

fn killed_at_least(target: &KillTree<'_>, ids: &[ProcessId]) {
    let expected = stragglers(std::slice::from_ref(target));
    for id in ids {
        assert!(expected.contains(id), "{id} is not in {expected:?}");
    }
    let report = kill_tree(target);
    assert_eq!(report.survived, []);
    for id in ids {
        assert!(report.killed.contains(id), "{id} is not in {report:?}");
        assert!(!id.is_alive());
    }
    assert_eq!(stragglers(std::slice::from_ref(target)), []);
}

fn end(process: &Process) {
    assert!(process.signal(Signal::KILL).expect("signal"));
    assert!(process.wait_timeout(LONG).expect("asks").is_some());
}

#[test]
fn daemons_are_found_by_their_token_after_the_leader_died() {
    let home = Home::new();
    let leader = home.start(
        "web",
        3,
        "setsid sh -c '(setsid sleep 1000 & echo $! >$DIR/deep) & sleep 1000 & echo $! >$DIR/mid; exit' &
         (sleep 1000 & echo $! >$DIR/near) & sleep 1000",
    );
    let ids = [home.pid("deep"), home.pid("mid"), home.pid("near")];
    let seen = await_some(|| (home.tagged() >= 5).then(|| scan(&home.path)));
    assert!(seen.iter().all(|tagged| tagged.token.agent == "web"));
    assert!(seen.iter().all(|tagged| tagged.token.incarnation == 3));
    end(&leader);
    killed_at_least(&home.target("web"), &ids);
    assert_eq!(home.tagged(), 0);
}

#[test]
fn a_cleared_environment_is_found_by_its_session() {
    let home = Home::new();
    // The tagged daemon founds a session; what it starts there has no token, a
    // group of its own, and no living parent of ours.
    let leader = home.start(
        "web",
        1,
        "setsid sh -c 'echo $$ >$DIR/daemon; (set -m; env -i sleep 1000 & echo $! >$DIR/clear); exec sleep 1000' &
         sleep 1000",
    );
    let (daemon, clear) = (home.pid("daemon"), home.pid("clear"));
    await_some(|| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", clear.pid)).ok()?;
        (stat.contains("(sleep)") && stat.contains(") S 1 ")).then_some(())
    });
    assert!(scan(&home.path).iter().all(|tagged| tagged.id != clear));
    end(&leader);
    killed_at_least(&home.target("web"), &[daemon, clear]);
}

#[test]
fn a_cleared_environment_is_found_by_its_group_and_by_ancestry() {
    let home = Home::new();
    let leader = home.start(
        "web",
        1,
        "(env -i sleep 1000 & echo $! >$DIR/group) & (sleep 1000 & echo $! >$DIR/tagged) &
         env -i setsid sh -c 'echo $$ >'$DIR'/session; sleep 1000; true' & sleep 1000",
    );
    let (group, tagged, session) = (home.pid("group"), home.pid("tagged"), home.pid("session"));
    assert!(descendants(leader.pid()).contains(&session));

    // While the leader lives, by ancestry and by its group.
    let all = stragglers(&[home.target("web")]);
    assert!(all.contains(&session) && all.contains(&group), "{all:?}");
    let by_leader =
        KillTree { incarnations: Incarnations::Exactly(1), leader: Some(leader.id()), ..home.target("web") };
    let same = stragglers(&[by_leader]);
    assert!(all.iter().all(|id| same.contains(id)), "{same:?}");

    killed_at_least(&by_leader, &[leader.id(), group, tagged, session]);
}

#[test]
fn the_group_of_a_dead_leader_is_still_known() {
    let home = Home::new();
    let leader = home.start(
        "web",
        1,
        "(env -i sleep 1000 & echo $! >$DIR/group) & (sleep 1000 & echo $! >$DIR/tagged) & sleep 1000",
    );
    let (group, tagged) = (home.pid("group"), home.pid("tagged"));
    end(&leader);
    // By the tagged member of it, and by the leader's identity alone.
    assert!(stragglers(&[home.target("web")]).contains(&group));
    let by_leader = KillTree { leader: Some(leader.id()), ..home.target("nobody") };
    assert!(stragglers(&[by_leader]).contains(&group));
    killed_at_least(&home.target("web"), &[group, tagged]);
}

#[test]
fn a_cgroup_holds_even_those_that_leave_no_trace() {
    let Some(cgroup) = Cgroup::create(&format!("hms-os-test-{}", std::process::id())) else {
        // No cgroup is delegated to this process.
        return;
    };
    let home = Home::new();
    hms_os::files::mkfifo(&home.file("go")).expect("fifo");
    let leader = home.start(
        "web",
        1,
        "read line <$DIR/go; env -i DIR=$DIR setsid sh -c 'echo $$ >$DIR/gone; exec sleep 1000' & exit",
    );
    cgroup.add(leader.pid()).expect("add");
    tell(&home.file("go"), "go");
    let gone = home.pid("gone");
    assert!(leader.wait_timeout(LONG).expect("asks").is_some());

    // Nothing but the cgroup knows it.
    assert_eq!(stragglers(&[home.target("web")]), []);
    let again = Cgroup::open(cgroup.path()).expect("open");
    assert_eq!(again.pids(), [gone.pid]);
    let target = KillTree { cgroup: Some(&again), ..home.target("web") };
    assert_eq!(stragglers(&[target]), [gone]);
    assert_eq!(kill_tree(&target).survived, []);
    assert!(!gone.is_alive());
    await_some(|| cgroup.remove().ok());
    cgroup.remove().expect("again");
    assert_eq!(Cgroup::open(cgroup.path()), None);
}

#[test]
fn only_the_incarnations_that_are_meant_die() {
    let home = Home::new();
    let lives: Vec<Process> = (1..=3).map(|n| home.start("web", n, "sleep 1000")).collect();
    let other = home.start("web-2", 1, "sleep 1000");
    let alive = || lives.iter().map(|p| p.id().is_alive()).collect::<Vec<_>>();
    await_some(|| (home.tagged() >= 4).then_some(()));

    let mut target = home.target("web");
    target.incarnations = Incarnations::Below(2);
    kill_tree(&target);
    assert_eq!(alive(), [false, true, true]);
    target.incarnations = Incarnations::Exactly(2);
    kill_tree(&target);
    assert_eq!(alive(), [false, false, true]);
    target.incarnations = Incarnations::All;
    kill_tree(&target);
    assert_eq!(alive(), [false, false, false]);
    assert!(other.id().is_alive());
    end(&other);
}

#[test]
fn a_newer_life_that_descends_from_an_older_one_is_spared() {
    let home = Home::new();
    let old = home.start(
        "web",
        1,
        "HMS_AGENT=${HMS_AGENT%/*}/2 sh -c 'echo $$ >$DIR/new; sleep 1000; true' & sleep 1000",
    );
    let new = home.pid("new");
    await_some(|| {
        let seen = scan(&home.path);
        seen.iter().any(|t| t.id == new && t.token.incarnation == 2).then_some(())
    });
    let target =
        KillTree { incarnations: Incarnations::Below(2), leader: Some(old.id()), ..home.target("web") };
    assert!(kill_tree(&target).killed.contains(&old.id()));
    assert!(new.is_alive());
}

#[test]
fn a_whole_home_ends_in_one_go_and_others_stay() {
    let (home, elsewhere) = (Home::new(), Home::new());
    let agents: Vec<Process> =
        (0..30).map(|n| home.start(&format!("a{n}"), 1, "sleep 1000 & sleep 1000")).collect();
    let neighbour = elsewhere.start("a0", 1, "sleep 1000");
    await_some(|| (home.tagged() >= 60).then_some(()));

    // Ten by name in one scan, the rest as the home.
    let names: Vec<String> = (0..10).map(|n| format!("a{n}")).collect();
    let targets: Vec<KillTree<'_>> = names.iter().map(|name| home.target(name)).collect();
    let report = kill_trees(&targets);
    assert_eq!(report.survived, []);
    assert!(agents[..10].iter().all(|agent| !agent.id().is_alive()));
    assert!(agents[10..].iter().all(|agent| agent.id().is_alive()));
    assert!(report.killed.len() >= 20, "{report:?}");

    let all = KillTree { agent: None, ..home.target("") };
    assert_eq!(kill_tree(&all).survived, []);
    assert!(agents.iter().all(|agent| !agent.id().is_alive()));
    assert_eq!(home.tagged(), 0);
    assert!(neighbour.id().is_alive());
    end(&neighbour);
}

#[test]
fn stopped_processes_die_too() {
    let home = Home::new();
    let leader = home.start("web", 1, "sleep 1000");
    assert!(leader.signal(Signal::STOP).expect("stop"));
    await_some(|| leader.usage().filter(|usage| usage.state == 'T'));
    killed_at_least(&home.target("web"), &[leader.id()]);
}

#[test]
fn a_process_that_hands_itself_on_is_caught() {
    let home = Home::new();
    let relay = home.file("relay");
    fs::write(&relay, "#!/bin/sh\necho hop >$DIR/hop\n(\"$0\" &)\n").expect("write");
    fs::set_permissions(&relay, fs::Permissions::from_mode(0o755)).expect("chmod");
    let leader = home.start("web", 1, "exec $DIR/relay");
    assert!(leader.wait_timeout(LONG).expect("asks").is_some());

    let report = kill_tree(&KillTree { leader: Some(leader.id()), ..home.target("web") });
    assert_eq!(report.survived, []);
    assert_eq!(home.tagged(), 0);
    // Nobody writes any more.
    let hop = home.file("hop");
    fs::remove_file(&hop).expect("it had hopped");
    assert_eq!(home.tagged(), 0);
    assert!(!hop.exists());
}

#[test]
fn the_caller_and_init_are_never_touched() {
    let own = ProcessId::of(std::process::id() as i32).expect("own");
    let init = ProcessId::of(1).expect("init");
    for leader in [own, init] {
        let target = KillTree {
            home: Path::new("/no/such/home"),
            agent: Some("nobody"),
            incarnations: Incarnations::All,
            leader: Some(leader),
            cgroup: None,
        };
        assert_eq!(stragglers(&[target]), []);
    }
}

#[test]
fn a_leader_from_another_boot_means_nobody() {
    let home = Home::new();
    let process = home.start("web", 1, "sleep 1000");
    let rebooted = ProcessId { boot_id: hms_os::BootId(process.id().boot_id.0 ^ 1), ..process.id() };
    let target = KillTree { leader: Some(rebooted), ..home.target("nobody") };
    assert_eq!(stragglers(&[target]), []);
    end(&process);
}
