//! Faults of an MCP server under the real Codex: each scenario once bare, which must show the failure that it is
//! known for, and once through `mcp wrap`, which must hold.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use hms_tests::{
    Home, PATIENCE,
    codex::{Codex, Handle, Model, Say, Seen, Server, Session, server_table, wrapped},
    processes, text, until, while_it_holds,
};
use rustix::process::Signal;

/// What Codex says, once a stdio server is dead, to every call.
const DEAD: &str = "Transport closed";

/// Codex's own limit of a call in these tests.
const TOOL_TIMEOUT: Duration = Duration::from_secs(4);

/// What stands between Codex and the server.
#[derive(Clone, Copy)]
enum Way<'a> {
    Bare,
    Wrapped(&'a [&'a str]),
}

/// A home for wrappers, a server, and Codex in front of it.
struct Scene {
    home: Home,
    server: Server,
    startup: Duration,
}

impl Scene {
    fn new(options: &[&str]) -> Self {
        Self { home: Home::new(), server: Server::new(options), startup: Duration::from_secs(20) }
    }

    fn codex(&self, way: Way<'_>, model: Model) -> Codex {
        Codex::new(model, &self.table(way))
    }

    /// The server in Codex's configuration.
    fn table(&self, way: Way<'_>) -> String {
        let command = match way {
            Way::Bare => self.server.command(),
            Way::Wrapped(options) => wrapped(options, self.server.command()),
        };
        let (startup, tool) = (self.startup.as_secs_f64(), TOOL_TIMEOUT.as_secs_f64());
        let home = text(self.home.path());
        let options = format!(
            "startup_timeout_sec = {startup:?}\ntool_timeout_sec = {tool:?}\nenv = {{ HMS_HOME = {home:?} }}"
        );
        server_table("x", &command, &options)
    }

    /// A session with this script, to its end.
    #[track_caller]
    fn run(&self, way: Way<'_>, mut script: impl FnMut(usize, &Handle) -> Say + Send + 'static) -> Seen {
        let server = self.server.handle();
        let mut turn = 0;
        let model = Model::new(move |_| {
            turn += 1;
            script(turn, &server)
        });
        self.codex(way, model).run()
    }
}

fn call(tool: &str) -> Say {
    Say::call("x", tool, "")
}

#[track_caller]
fn says(seen: &Seen, number: usize, what: &str) {
    let output = &seen.outputs[number - 1];
    assert!(output.text.contains(what), "output {number} does not say `{what}`: {:#?}", seen.outputs);
}

/// whoami; kill -9; whoami; whoami.
fn killed_idle(turn: usize, server: &Handle) -> Say {
    if turn == 2 {
        server.kill();
    }
    if turn > 3 { Say::Done } else { call("whoami") }
}

#[test]
fn bare_codex_loses_a_server_that_is_killed_idle() {
    let scene = Scene::new(&[]);
    let seen = scene.run(Way::Bare, killed_idle);
    says(&seen, 1, "life 1");
    says(&seen, 2, DEAD);
    says(&seen, 3, DEAD);
    assert_eq!(scene.server.handle().lives().len(), 1, "nobody starts it again");
}

#[test]
fn a_wrapped_server_that_is_killed_idle_is_back_for_the_next_call() {
    let scene = Scene::new(&[]);
    let seen = scene.run(Way::Wrapped(&[]), killed_idle);
    says(&seen, 1, "life 1");
    says(&seen, 2, "life 2");
    says(&seen, 3, "life 2");
}

/// A read-only call that kills its server once, then one that writes and is killed after it wrote.
fn crashes_in_flight(turn: usize, server: &Handle) -> Say {
    match turn {
        1 => {
            server.vice("die-before", "");
            call("flaky")
        }
        2 => call("whoami"),
        3 => {
            server.vice("die-after", "");
            Say::call("x", "append", "once")
        }
        4 => call("whoami"),
        _ => Say::Done,
    }
}

#[test]
fn bare_codex_loses_a_server_that_crashes_in_flight() {
    let scene = Scene::new(&[]);
    let seen = scene.run(Way::Bare, crashes_in_flight);
    assert!(!seen.outputs[0].text.contains("survived"), "{seen:?}");
    for call in 2..=4 {
        says(&seen, call, DEAD);
    }
}

#[test]
fn a_wrapped_server_that_crashes_in_flight_loses_no_read_and_writes_once() {
    let scene = Scene::new(&[]);
    let seen = scene.run(Way::Wrapped(&[]), crashes_in_flight);
    says(&seen, 1, "survived in life 2");
    says(&seen, 2, "life 2");
    assert!(!seen.outputs[2].text.contains(DEAD), "the error says what happened: {seen:?}");
    assert!(!seen.outputs[2].text.contains("appended once"), "what was lost is not made up: {seen:?}");
    says(&seen, 4, "life 3");
    assert_eq!(scene.server.handle().lines("appended"), ["once"], "it is not sent again");
}

/// whoami; SIGSTOP; whoami; whoami.
fn stopped(turn: usize, server: &Handle) -> Say {
    if turn == 2 {
        processes::signal(server.pid(), Signal::STOP);
    }
    if turn > 3 { Say::Done } else { call("whoami") }
}

#[test]
fn bare_codex_burns_its_timeout_on_each_call_of_a_stopped_server() {
    let scene = Scene::new(&[]);
    let seen = scene.run(Way::Bare, stopped);
    for call in [2, 3] {
        says(&seen, call, "timed out");
        assert!(seen.outputs[call - 1].took >= TOOL_TIMEOUT, "{seen:?}");
    }
}

#[test]
fn a_wrapped_server_that_is_stopped_is_replaced_before_the_client_gives_up() {
    let scene = Scene::new(&[]);
    let seen = scene.run(Way::Wrapped(&["--hang-timeout", "500ms"]), stopped);
    says(&seen, 2, "life 2");
    says(&seen, 3, "life 2");
    assert!(seen.outputs[1].took < TOOL_TIMEOUT, "{seen:?}");
    let first = scene.server.handle().lives()[0];
    assert!(!processes::lives(first), "what hung is gone");
}

#[test]
fn a_slow_tool_that_reports_progress_is_let_live() {
    let scene = Scene::new(&[]);
    let seen = scene.run(Way::Wrapped(&["--hang-timeout", "500ms"]), |turn, _| match turn {
        1 => Say::call("x", "nap", "1500"),
        2 => call("whoami"),
        _ => Say::Done,
    });
    says(&seen, 1, "woke in life 1");
    says(&seen, 2, "life 1");
}

/// A session in which the server is as quick as ever, then one in which it takes longer than Codex waits.
fn starts_slowly(way: Way<'_>) -> (Scene, Seen) {
    let mut scene = Scene::new(&[]);
    let one_call = || Model::saying(vec![call("whoami")]);
    let mut codex = scene.codex(way, one_call());
    says(&codex.run(), 1, "life 1");
    scene.startup = Duration::from_secs(1);
    scene.server.handle().vice("start-after", "2500");
    codex.again(one_call(), &scene.table(way));
    let seen = codex.run();
    (scene, seen)
}

#[test]
fn bare_codex_gives_up_a_server_that_starts_slowly() {
    let (_scene, seen) = starts_slowly(Way::Bare);
    assert!(!seen.tools.iter().any(|tool| tool.starts_with("x/")), "{:?}", seen.tools);
    says(&seen, 1, "unsupported call");
}

#[test]
fn a_wrapped_server_that_starts_slowly_is_there_from_the_start() {
    let (_scene, seen) = starts_slowly(Way::Wrapped(&["--warm", "--hang-timeout", "10s"]));
    assert!(seen.tools.iter().any(|tool| tool == "x/whoami"), "{:?}", seen.tools);
    says(&seen, 1, "life 2");
}

/// Codex is killed while it waits for its model; the server ignores the end of its input and has a grandchild
/// in a session of its own.
fn codex_is_killed(way: Way<'_>) -> Scene {
    let scene = Scene::new(&["--litter", "--ignore-eof"]);
    let (reached, at_second_turn) = mpsc::channel();
    let mut turn = 0;
    let model = Model::new(move |_| {
        turn += 1;
        if turn == 2 {
            let _ = reached.send(());
            thread::sleep(PATIENCE);
        }
        if turn == 1 { call("whoami") } else { Say::Done }
    });
    let codex = scene.codex(way, model);
    let session: Session = codex.start();
    at_second_turn.recv_timeout(PATIENCE).expect("the session comes to its second turn");
    let server = scene.server.handle();
    assert!(server.left().len() >= 2, "the server and its litter run: {:?}", server.left());
    session.kill();
    scene
}

#[test]
fn bare_codex_killed_leaves_its_servers_behind() {
    let scene = codex_is_killed(Way::Bare);
    let server = scene.server.handle();
    while_it_holds("what outlives codex", Duration::from_millis(1500), || server.left().len() >= 2);
}

#[test]
fn codex_killed_takes_its_wrapped_servers_with_it() {
    let scene = codex_is_killed(Way::Wrapped(&[]));
    let (server, begun) = (scene.server.handle(), Instant::now());
    until("the end of the tree", Duration::from_secs(1), || server.left().is_empty().then_some(()));
    eprintln!("gone after {:?}", begun.elapsed());
}
