//! What can be seen of processes: servers that are dead, hung, there twice, or left behind.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    path::Path,
};

use hms_core::os::{
    ProcessId, Token,
    list::{self, Listed},
};

use super::{Finding, Known, Severity};
use crate::{
    places::{Places, is_hms},
    wrapping,
};

/// Programs that run another one, which their first plain argument names.
const LAUNCHERS: [&str; 7] = ["npx", "bunx", "pnpx", "uvx", "pipx", "npm", "uv"];
/// Programs that run a script.
const INTERPRETERS: [&str; 3] = ["node", "bun", "deno"];
/// What Codex does besides sessions.
const NO_SESSION: [&str; 14] = [
    "mcp",
    "plugin",
    "login",
    "logout",
    "features",
    "doctor",
    "completion",
    "update",
    "sandbox",
    "debug",
    "apply",
    "cloud",
    "app-server",
    "help",
];
/// Clock ticks after which a session has started its servers (100 a second).
const SETTLED: u64 = 1_500;

/// How much there was to see.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Running clients.
    pub(super) sessions: usize,
    /// Processes of servers.
    pub(super) servers: usize,
}

/// A server's process, the topmost of its tree.
struct Instance<'p> {
    process: &'p Listed,
    /// Index into the known servers.
    known: usize,
    /// The client it belongs to, by pid.
    client: Option<i32>,
    wrapped: bool,
}

/// Looks at `all`; `lasting` says of each whether it was in its state a moment ago too.
pub(super) fn look(
    all: &[Listed],
    lasting: &[bool],
    known: &[Known],
    places: &Places,
    findings: &mut Vec<Finding>,
) -> Seen {
    let by_pid: HashMap<i32, &Listed> = all.iter().map(|p| (p.id.pid, p)).collect();
    let clients = sessions(all, known);
    let instances = instances(all, known, &by_pid, &clients);
    let lasts = |process: &Listed| all.iter().zip(lasting).any(|(p, lasts)| p.id == process.id && *lasts);
    hung(all, &instances, known, &by_pid, &lasts, findings);
    duplicated(&instances, known, findings);
    orphaned(&instances, known, &by_pid, findings);
    unwrapped(all, known, &by_pid, findings);
    dead(all, &clients, &instances, known, places, &lasts, findings);
    stale(all, findings);
    Seen { sessions: clients.len(), servers: instances.len() }
}

/// The running clients, by pid. A launcher whose child is the client is none.
fn sessions<'p>(all: &'p [Listed], known: &[Known]) -> BTreeMap<i32, (&'p Listed, &'static str)> {
    let clients: Vec<_> = crate::clients::CLIENTS.iter().collect();
    let mut found = BTreeMap::new();
    for process in all.iter().filter(|p| !p.is_zombie() && !is_ours(p)) {
        let names = names(process);
        let client =
            clients.iter().find(|client| names.iter().any(|name| client.processes.contains(&name.as_str())));
        // A server may be called like a client.
        let is_server = known.iter().any(|known| matches(process, &known.argv));
        if let Some(client) = client.filter(|_| !is_server) {
            found.insert(process.id.pid, (process, client.id));
        }
    }
    let launchers: Vec<i32> = found
        .values()
        .filter_map(|(process, client)| {
            found.get(&process.ppid).filter(|(_, c)| c == client).map(|(p, _)| p.id.pid)
        })
        .collect();
    found.retain(|pid, _| !launchers.contains(pid));
    found
}

fn is_ours(process: &Listed) -> bool {
    process.argv.first().is_some_and(|program| is_hms(program))
}

fn base(word: &OsStr) -> String {
    Path::new(word).file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned()
}

/// The names a process goes by: its program, and the script that an interpreter runs.
fn names(process: &Listed) -> Vec<String> {
    let mut names: Vec<String> = process.argv.first().map(|word| base(word)).into_iter().collect();
    names.extend(process.program.as_ref().map(|file| base(file.as_os_str())));
    if names.iter().any(|name| INTERPRETERS.contains(&name.as_str()))
        && let Some(script) = process.argv.get(1)
    {
        let script = base(script);
        names.push(script.strip_suffix(".js").map(str::to_owned).unwrap_or(script));
    }
    names
}

/// Whether the process is one that was started as `argv`.
fn matches(process: &Listed, argv: &[String]) -> bool {
    let Some((program, args)) = argv.split_first() else { return false };
    let words: Vec<&str> = process.argv.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let Some((first, rest)) = words.split_first() else { return false };
    let same_name = |word: &str| base(OsStr::new(word)) == base(OsStr::new(program));
    // A program without arguments, such as a shell, is no sign of anything unless its whole path is the same.
    if args.is_empty() && !program.contains('/') {
        return rest.is_empty() && same_name(first) && !is_common(program);
    }
    // As it was written; or through an interpreter, of which the file is then the first argument.
    if (same_name(first) && rest == args)
        || rest.split_first().is_some_and(|(script, rest)| same_name(script) && rest == args)
    {
        return true;
    }
    LAUNCHERS.contains(&base(OsStr::new(program)).as_str())
        && package(args).is_some_and(|package| runs(&words, package))
}

fn is_common(program: &str) -> bool {
    ["sh", "bash", "zsh", "fish", "dash", "node", "python", "python3", "cat", "bun", "deno", "ruby"]
        .contains(&program)
}

/// The package that a launcher is told to run, without its version.
fn package(args: &[String]) -> Option<&str> {
    let verbs = ["run", "exec", "x", "tool", "dlx"];
    let package = args.iter().find(|arg| !arg.starts_with('-') && !verbs.contains(&arg.as_str()))?;
    let end = package.rfind('@').filter(|at| *at > 0).unwrap_or(package.len());
    Some(&package[..end])
}

/// Whether a file of the package is among the words of a command line.
fn runs(words: &[&str], package: &str) -> bool {
    let name = package.rsplit('/').next().unwrap_or(package);
    // A short name is too common to mean anything.
    name.len() > 3
        && words
            .iter()
            .take(4)
            .any(|word| word.split('/').any(|part| part == name || part == format!("{name}.js")))
}

fn instances<'p>(
    all: &'p [Listed],
    known: &[Known],
    by_pid: &HashMap<i32, &Listed>,
    clients: &BTreeMap<i32, (&Listed, &'static str)>,
) -> Vec<Instance<'p>> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let which = |process: &Listed| {
        let wrapped = wrapping::inner(&texts(process)).map(<[String]>::to_vec);
        let matched = |known: &Known| {
            wrapped.as_ref().map_or_else(|| matches(process, &known.argv), |inner| *inner == known.argv)
        };
        let of_client =
            |client: &str| known.iter().position(|known| known.client.id == client && matched(known));
        let client = ancestors(process, by_pid).find_map(|p| clients.get(&p.id.pid));
        let index = client.and_then(|(_, id)| of_client(id)).or_else(|| known.iter().position(matched))?;
        Some((index, wrapped.is_some(), client.map(|(process, _)| process.id.pid)))
    };
    let mut found = Vec::new();
    for process in
        all.iter().filter(|p| !p.is_zombie() && p.id.pid != own && !clients.contains_key(&p.id.pid))
    {
        if is_ours(process) && wrapping::inner(&texts(process)).is_none() {
            continue;
        }
        let Some((index, wrapped, client)) = which(process) else { continue };
        // The topmost counts: a launcher's children are the same server.
        let nested = ancestors(process, by_pid)
            .take_while(|p| !clients.contains_key(&p.id.pid))
            .any(|p| which(p).is_some_and(|(above, ..)| known[above].argv == known[index].argv));
        if !nested {
            found.push(Instance { process, known: index, client, wrapped });
        }
    }
    found
}

fn texts(process: &Listed) -> Vec<String> {
    process.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Parent, grandparent and so on, as far as they are seen.
fn ancestors<'p>(process: &Listed, by_pid: &'p HashMap<i32, &'p Listed>) -> impl Iterator<Item = &'p Listed> {
    let mut next = process.ppid;
    let mut left = 64;
    std::iter::from_fn(move || {
        left -= 1;
        let parent = by_pid.get(&next).copied().filter(|_| left > 0)?;
        next = parent.ppid;
        Some(parent)
    })
}

fn hung(
    all: &[Listed],
    instances: &[Instance<'_>],
    known: &[Known],
    by_pid: &HashMap<i32, &Listed>,
    lasts: &dyn Fn(&Listed) -> bool,
    findings: &mut Vec<Finding>,
) {
    for process in all.iter().filter(|p| p.is_stopped() && lasts(p)) {
        let above = std::iter::once(process).chain(ancestors(process, by_pid));
        let of = above.filter_map(|p| instances.iter().find(|i| i.process.id == p.id)).next();
        let Some(instance) = of else { continue };
        let server = &known[instance.known];
        let pid = process.id.pid;
        let finding = if instance.wrapped {
            Finding::new(
                Severity::Warning,
                "hung",
                server.client.id,
                "it is stopped; its next call replaces it",
            )
            .remedy(format!("nothing, or at once: kill -9 {pid}"))
        } else {
            Finding::new(Severity::Critical, "hung", server.client.id, "it is stopped: calls wait for the client's whole deadline")
                .remedy(format!("kill -CONT {pid}, or end it and begin a new session; with `codex-hms codex install --wrap` it is replaced by itself"))
        };
        findings.push(finding.of(&server.name).at(pid));
    }
}

fn duplicated(instances: &[Instance<'_>], known: &[Known], findings: &mut Vec<Finding>) {
    let mut groups: BTreeMap<(i32, usize), Vec<&Instance<'_>>> = BTreeMap::new();
    for instance in instances {
        if let Some(client) = instance.client {
            groups.entry((client, instance.known)).or_default().push(instance);
        }
    }
    let mut sessions: BTreeMap<usize, usize> = BTreeMap::new();
    for ((client, index), group) in &groups {
        let server = &known[*index];
        *sessions.entry(*index).or_default() += 1;
        if let [_, .., last] = group.as_slice() {
            let pids: Vec<String> = group.iter().map(|i| i.process.id.pid.to_string()).collect();
            let found =
                format!("{} of it run in one session (pid {client}): {}", group.len(), pids.join(", "));
            findings.push(
                Finding::new(Severity::Warning, "duplicated", server.client.id, found)
                    .of(&server.name)
                    .at(last.process.id.pid)
                    .remedy("sub-agents start servers of their own: `codex-hms mcp pool` shares one; end the session to be rid of them"),
            );
        }
    }
    for (index, count) in sessions.into_iter().filter(|(_, count)| *count > 1) {
        let server = &known[index];
        let found = format!("{count} sessions have one each");
        findings.push(
            Finding::new(Severity::Info, "many", server.client.id, found)
                .of(&server.name)
                .remedy("`codex-hms mcp pool` lets them share one"),
        );
    }
}

fn orphaned(
    instances: &[Instance<'_>],
    known: &[Known],
    by_pid: &HashMap<i32, &Listed>,
    findings: &mut Vec<Finding>,
) {
    for instance in instances.iter().filter(|i| i.client.is_none()) {
        let parent = instance.process.ppid;
        // Somebody's shell or another supervisor may have started it: only what nobody cares for is an orphan.
        let left = parent <= 1 || by_pid.get(&parent).is_some_and(|p| is_reaper(p));
        // What carries a token is an agent, which the next host takes over, or a wrapped server: see below.
        if !left || (instance.process.token.is_some() && !instance.wrapped) {
            continue;
        }
        let (server, pid) = (&known[instance.known], instance.process.id.pid);
        findings.push(
            Finding::new(
                Severity::Warning,
                "orphaned",
                server.client.id,
                "its client is gone, and it runs on",
            )
            .of(&server.name)
            .at(pid)
            .remedy(format!("kill {pid}; with `codex-hms codex install --wrap` nothing is left behind")),
        );
    }
}

/// Processes of wrapped servers whose wrapper, and its guard, are gone: both were killed at once.
fn unwrapped(all: &[Listed], known: &[Known], by_pid: &HashMap<i32, &Listed>, findings: &mut Vec<Finding>) {
    let of_wrapper = |token: &Token| {
        let realm = token.home.file_name().and_then(OsStr::to_str);
        realm.is_some_and(|realm| realm.starts_with("mcp-"))
    };
    let cared_for = |token: &Token| {
        // By nothing but this word, which no other has: until it is needed it is a shell.
        let guard = |p: &Listed| p.argv.iter().any(|word| word == token.agent.as_str());
        let kept = |p: &Listed| {
            p.token.as_ref().is_some_and(|t| t.home == token.home && t.agent == token.agent)
                && ancestors(p, by_pid).any(is_ours)
        };
        all.iter().any(|p| guard(p) || kept(p))
    };
    for process in all.iter().filter(|p| !p.is_zombie()) {
        let Some(token) = process.token.as_ref().filter(|token| of_wrapper(token)) else { continue };
        let below = by_pid.get(&process.ppid).is_some_and(|parent| parent.token.as_ref() == Some(token));
        if is_ours(process) || below || cared_for(token) {
            continue;
        }
        let server = known.iter().find(|known| matches(process, &known.argv));
        let pid = process.id.pid;
        findings.push(
            Finding::new(
                Severity::Warning,
                "orphaned",
                server.map_or("", |s| s.client.id),
                "its wrapper was killed, and it runs on",
            )
            .of(server.map_or("", |server| &server.name))
            .at(pid)
            .remedy(format!("kill -9 {pid}")),
        );
    }
}

fn is_reaper(process: &Listed) -> bool {
    process
        .argv
        .first()
        .is_some_and(|program| matches!(base(program).as_str(), "systemd" | "init" | "tini" | "dumb-init"))
}

fn dead(
    all: &[Listed],
    clients: &BTreeMap<i32, (&Listed, &'static str)>,
    instances: &[Instance<'_>],
    known: &[Known],
    places: &Places,
    lasts: &dyn Fn(&Listed) -> bool,
    findings: &mut Vec<Finding>,
) {
    let now = all.iter().map(|p| p.id.start_time).max().unwrap_or_default();
    for (pid, (process, client)) in clients {
        let settled = now.saturating_sub(process.id.start_time) >= SETTLED;
        if !settled || !is_session(process) || !has_our_configuration(&process.id, client, places) {
            continue;
        }
        let runs = |index: usize| {
            instances.iter().any(|i| i.client == Some(*pid) && known[i.known].argv == known[index].argv)
        };
        let wanted = (0..known.len()).filter(|i| known[*i].client.id == *client && known[*i].always);
        let missing: Vec<&Known> = wanted.filter(|i| !runs(*i)).map(|i| &known[i]).collect();
        let zombies = all.iter().filter(|p| p.is_zombie() && p.ppid == *pid && lasts(p)).count();
        for server in missing {
            let zombie = if zombies > 0 { ", and the session has not noticed" } else { "" };
            let found = format!("it does not run in the session with pid {pid}{zombie}");
            findings.push(
                Finding::new(Severity::Critical, "dead", client, found).of(&server.name).at(*pid).remedy(
                    "begin a new session: this one does not get it back; with `codex-hms codex install --wrap` the next one does",
                ),
            );
        }
    }
}

/// Whether the client's process is one that starts servers.
fn is_session(process: &Listed) -> bool {
    let words = texts(process);
    // A script's own words begin behind its name.
    let script =
        words.first().is_some_and(|program| INTERPRETERS.contains(&base(OsStr::new(program)).as_str()));
    let plain = words.iter().skip(if script { 2 } else { 1 }).find(|word| !word.starts_with('-'));
    plain.is_none_or(|word| !NO_SESSION.contains(&word.as_str()))
}

/// Whether the client reads the configuration that was looked at.
fn has_our_configuration(id: &ProcessId, client: &str, places: &Places) -> bool {
    if client != "codex" {
        return true;
    }
    let home = list::variable(id, "CODEX_HOME").filter(|home| !home.is_empty());
    let home = home.or_else(|| list::variable(id, "HOME").map(|user| Path::new(&user).join(".codex").into()));
    home.is_some_and(|home| {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        real(Path::new(&home)) == real(&places.codex)
    })
}

/// Programs of ours that were replaced while they run.
fn stale(all: &[Listed], findings: &mut Vec<Finding>) {
    for process in all.iter().filter(|p| is_ours(p)) {
        let gone =
            process.program.as_ref().is_some_and(|file| file.to_string_lossy().ends_with(" (deleted)"));
        if gone {
            let pid = process.id.pid;
            findings.push(
                Finding::new(
                    Severity::Info,
                    "binary-replaced",
                    "",
                    "this codex-hms runs a program that was replaced since",
                )
                .at(pid)
                .remedy(
                    "it goes on with the old one: begin a new session (a host: codex-hms system restart)",
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use hms_core::os::BootId;

    use super::*;

    fn process(pid: i32, ppid: i32, line: &str) -> Listed {
        Listed {
            id: ProcessId { pid, start_time: 10, boot_id: BootId(1) },
            ppid,
            session: pid,
            state: 'S',
            argv: line.split(' ').filter(|word| !word.is_empty()).map(Into::into).collect(),
            program: None,
            token: None,
        }
    }

    fn known(client: &str, name: &str, line: &str) -> Known {
        let client = crate::clients::CLIENTS.iter().find(|c| c.id == client).expect("it is known");
        let argv = line.split(' ').map(String::from).collect();
        Known { client, name: name.into(), argv, always: true }
    }

    fn places() -> Places {
        let user = PathBuf::from("/nowhere");
        Places {
            codex: user.join(".codex"),
            claude: user.clone(),
            config: user.clone(),
            cwd: user.clone(),
            path: "/nowhere".into(),
            user,
        }
    }

    fn found(all: &[Listed], known: &[Known]) -> (Vec<(&'static str, String, i32)>, Seen) {
        let mut findings = Vec::new();
        let seen = look(all, &vec![true; all.len()], known, &places(), &mut findings);
        (findings.into_iter().map(|f| (f.code, f.server, f.pid)).collect(), seen)
    }

    #[test]
    fn one_tree_is_one_server_however_it_was_launched() {
        let known = [
            known("codex", "files", "npx -y @scope/server-files@1.2 /data"),
            known("codex", "git", "uvx mcp-server-git"),
        ];
        let all = [
            process(1, 0, "/sbin/init"),
            process(10, 1, "-bash"),
            process(11, 10, "node /usr/bin/codex"),
            process(12, 11, "/lib/vendor/codex"),
            process(20, 12, "npx -y @scope/server-files@1.2 /data"),
            process(21, 20, "node /home/u/.npm/_npx/1/node_modules/@scope/server-files/dist/index.js /data"),
            process(30, 12, "/opt/codex-hms --home /h mcp wrap --name git -- uvx mcp-server-git"),
            process(31, 30, "uvx mcp-server-git"),
            process(32, 31, "/home/u/.cache/uv/bin/python /home/u/.cache/uv/bin/mcp-server-git"),
        ];
        let (findings, seen) = found(&all, &known);
        assert_eq!((findings, seen), (vec![], Seen { sessions: 1, servers: 2 }));
    }

    #[test]
    fn what_is_left_behind_twice_there_or_stopped_is_found() {
        let known =
            [known("codex", "git", "uvx mcp-server-git"), known("claude-code", "db", "/opt/db --port 1")];
        let mut all = vec![
            process(1, 0, "/sbin/init"),
            process(12, 1, "codex"),
            process(20, 12, "uvx mcp-server-git"),
            process(21, 12, "uvx mcp-server-git"),
            process(40, 1, "/opt/db --port 1"),
            process(50, 1, "claude"),
            process(51, 50, "/bin/sh /opt/db --port 1"),
            process(52, 51, "db-worker"),
            process(60, 10, "uvx mcp-server-git"),
        ];
        all[7].state = 'T';
        let (findings, seen) = found(&all, &known);
        let expected = [("hung", "db", 52), ("duplicated", "git", 21), ("orphaned", "db", 40)];
        assert_eq!(findings, expected.map(|(code, server, pid)| (code, server.to_owned(), pid)));
        assert_eq!(seen, Seen { sessions: 2, servers: 5 });
        all.push(process(70, 1, "codex exec x"));
        all.push(process(71, 70, "uvx mcp-server-git"));
        assert!(found(&all, &known).0.contains(&("many", "git".into(), 0)));
    }

    #[test]
    fn a_wrapped_server_without_its_wrapper_is_an_orphan() {
        let known = [known("codex", "git", "uvx mcp-server-git")];
        let mut server = process(31, 1, "uvx mcp-server-git");
        server.token = Some(Token::new("/h/mcp-wrap", "id7", 1));
        let mut child = process(32, 31, "python mcp-server-git");
        child.token.clone_from(&server.token);
        let all = vec![process(1, 0, "/sbin/init"), server, child];
        assert_eq!(found(&all, &known).0, [("orphaned", "git".to_owned(), 31)]);
        // Its guard lives, and ends it in a moment; or its wrapper does.
        let guarded =
            [&all[..], &[process(40, 1, "/o/codex-hms mcp guard --realm /h/mcp-wrap --id id7")]].concat();
        assert_eq!(found(&guarded, &known).0, []);
        let mut wrapped = [
            &all[..],
            &[process(12, 1, "codex"), process(30, 12, "codex-hms mcp wrap -- uvx mcp-server-git")],
        ]
        .concat();
        wrapped[1].ppid = 30;
        assert_eq!(found(&wrapped, &known).0, []);
        // An agent of a home is none of a client's.
        let mut agent = all.clone();
        for process in &mut agent[1..] {
            process.token = Some(Token::new("/h", "a1", 1));
        }
        assert_eq!(found(&agent, &known).0, []);
    }

    #[test]
    fn a_server_that_is_gone_is_missed_in_a_session_that_has_settled() {
        let known = [
            known("claude-code", "db", "/opt/db --port 1"),
            known("claude-code", "git", "uvx mcp-server-git"),
        ];
        let mut zombie = process(52, 50, "");
        zombie.state = 'Z';
        let all = [process(50, 1, "node /usr/bin/claude"), process(51, 50, "uvx mcp-server-git"), zombie];
        assert_eq!(found(&all, &known).0, [], "it may be starting them");
        let mut all = all.to_vec();
        let mut now = process(99, 1, "ls");
        now.id.start_time = 10 + SETTLED;
        all.push(now);
        assert_eq!(found(&all, &known).0, [("dead", "db".to_owned(), 50)]);
        all[0] = process(50, 1, "node /usr/bin/claude mcp list");
        assert_eq!(found(&all, &known).0, [], "this is no session");
    }

    #[test]
    fn what_is_common_is_no_sign() {
        for (line, argv) in [
            ("bash", "bash"),
            ("sh x", "sh"),
            ("python3", "python3"),
            ("uvx a", "uvx b"),
            ("node /x/api/index.js", "npx api"),
        ] {
            let argv: Vec<String> = argv.split(' ').map(String::from).collect();
            assert!(!matches(&process(1, 0, line), &argv), "{line}");
        }
        for (line, argv) in [
            ("/usr/bin/server", "server"),
            ("/usr/bin/env.sh -x", "env.sh -x"),
            ("python3 /o/s.py a", "/o/s.py a"),
        ] {
            let argv: Vec<String> = argv.split(' ').map(String::from).collect();
            assert!(matches(&process(1, 0, line), &argv), "{line}");
        }
    }
}
