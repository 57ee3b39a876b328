//! HMS inside the real Codex: installed as its plugin, used by the model, told by its hooks, behind its shim, and
//! taken out again without a trace.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hms_tests::{
    Answer, Home, PATIENCE,
    codex::{Codex, Handle, Model, Say, Seen, Server, Session, codex_launcher, codex_program, server_table},
    hms_program, text,
};
use serde_json::{Value, json};

/// Codex with one server of the user's own, and a host to ask.
struct Scene {
    home: Home,
    /// Kept for its end.
    _server: Server,
    codex: Codex,
}

/// The user's own configuration: comments and order are theirs.
fn own_table(server: &Server) -> String {
    let table = server_table("x", &server.command(), "# Mine.\nstartup_timeout_sec = 20");
    format!("# My servers.\n{table}# The end.\n")
}

impl Scene {
    fn new(mut script: impl FnMut(usize, &Seen, &Handle) -> Say + Send + 'static) -> Self {
        let (home, server) = (Home::new(), Server::new(&[]));
        let handle = server.handle();
        let mut turn = 0;
        let model = Model::new(move |seen| {
            turn += 1;
            script(turn, seen, &handle)
        });
        let codex = Codex::new(model, &own_table(&server));
        Self { home, _server: server, codex }
    }

    /// A command line of HMS in the environment of Codex's user, the real codex on its `PATH`.
    fn hms(&self, args: &[&str]) -> Answer {
        let mut command = self.codex.command(&hms_program());
        command.args(args).env("HMS_HOME", self.home.path()).env("PATH", path_with_codex(&[]));
        Answer::of(command, PATIENCE)
    }

    /// `codex-hms codex …`, with `--json`.
    #[track_caller]
    fn codex_hms(&self, args: &[&str]) -> Value {
        self.hms(&[&["--json", "codex"], args].concat()).ok().json()
    }

    fn config(&self) -> String {
        fs::read_to_string(self.codex.config()).expect("it is there")
    }
}

/// These folders, then the one of the real codex, then the usual ones.
fn path_with_codex(first: &[&Path]) -> std::ffi::OsString {
    let usual = env::var_os("PATH").unwrap_or_default();
    let first = first.iter().map(|folder| (*folder).to_owned());
    let all = first.chain([codex_launcher()]).chain(env::split_paths(&usual));
    env::join_paths(all).expect("they are folders")
}

/// The model asks HMS what there is, has an agent healed, uses the user's server, which is killed, and loses a
/// write.
fn asks_and_heals(turn: usize, _seen: &Seen, server: &Handle) -> Say {
    match turn {
        1 => Say::with("hms", "agent_list", json!({})),
        2 => Say::with("hms", "heal_trigger", json!({"agent": "web", "wait": false})),
        3 => Say::call("x", "whoami", ""),
        4 => {
            server.kill();
            Say::call("x", "whoami", "")
        }
        5 => {
            server.vice("die-before", "");
            Say::call("x", "append", "lost")
        }
        // Codex does not wait for every hook: what comes last in a session may go unheard.
        6 => Say::call("x", "nap", "1000"),
        _ => Say::Done,
    }
}

#[test]
fn installed_it_serves_the_model_and_hears_the_hooks() {
    let scene = Scene::new(asks_and_heals);
    let home = &scene.home;
    let first = home.process("web", &[], &[home.child(), "sleep"]);
    let done = scene.codex_hms(&["install", "--wrap", "--trust-hooks"]);
    assert_eq!(done["clients"][0]["wrapped"], json!(["x"]), "{done:#}");
    let mut events = home.events();
    let seen = scene.codex.run();

    assert!(seen.tools.iter().any(|tool| tool == "hms/monitor_health"), "{:?}", seen.tools);
    let says = |number: usize, what: &str| {
        let output = &seen.outputs[number - 1];
        assert!(output.text.contains(what), "output {number} does not say `{what}`: {output:?}");
    };
    says(1, "web");
    says(2, "web");
    says(3, "life 1");
    says(4, "life 2");
    assert!(!seen.outputs[4].text.contains("appended"), "{:?}", seen.outputs[4]);

    let restarted = events.of_agent("agent.restarted", "web");
    assert_eq!(restarted["data"]["by"], "healing", "{restarted}");
    assert_ne!(home.pid("web"), Some(first));
    for kind in ["codex.session.started", "codex.session.ended"] {
        events.wait(kind, PATIENCE, |event| event["type"] == kind);
    }
    for (server, tool) in [("hms", "agent_list"), ("x", "whoami")] {
        events.wait(&format!("the end of {tool}"), PATIENCE, |event| {
            let data = &event["data"];
            event["type"] == "codex.tool.finished" && data["server"] == server && data["tool"] == tool
        });
    }
    let failed = events.wait("the lost call", PATIENCE, |event| event["type"] == "codex.tool.failed");
    assert_eq!(
        (&failed["data"]["server"], &failed["data"]["tool"]),
        (&json!("x"), &json!("append")),
        "{failed}"
    );
    drop(events);
    home.stop();
}

#[test]
fn what_is_installed_is_what_codex_sees_and_is_taken_out_byte_for_byte() {
    let scene = Scene::new(|_, _, _| Say::Done);
    let before = scene.config();
    let files = files_below(&scene.codex.home());

    let dry = scene.codex_hms(&["install", "--wrap", "--dry-run"]);
    assert!(dry["diff"].as_str().is_some_and(|diff| diff.contains("mcp")), "{dry:#}");
    assert_eq!(scene.config(), before, "a dry run changes nothing");

    scene.codex_hms(&["install", "--wrap"]);
    let servers = servers_of(&scene.codex);
    let entry = |name: &str| {
        let all = servers.as_array().into_iter().flatten();
        all.clone()
            .find(|server| server["name"] == name)
            .unwrap_or_else(|| panic!("no {name} in {servers:#}"))
    };
    let hms = &entry("hms")["transport"];
    assert_eq!(hms["command"], text(&hms_program()), "{hms:#}");
    assert_eq!(hms["env"]["HMS_HOME"], text(scene.home.path()), "{hms:#}");
    let wrapped = &entry("x")["transport"];
    assert_eq!(wrapped["command"], text(&hms_program()), "{wrapped:#}");
    let installed = scene.config();
    assert!(installed.contains("# My servers.") && installed.contains("# Mine."), "{installed}");
    scene.codex_hms(&["install", "--wrap"]);
    assert_eq!(scene.config(), installed, "once more changes nothing");

    scene.codex_hms(&["uninstall"]);
    assert_eq!(scene.config(), before, "byte for byte");
    let left: Vec<PathBuf> =
        files_below(&scene.codex.home()).into_iter().filter(|file| !files.contains(file)).collect();
    let ours = |file: &&PathBuf| text(file).contains("hms/") || text(file).contains("plugins/");
    assert_eq!(left.iter().find(ours), None, "{left:?}");
}

#[test]
fn the_shim_is_codex_but_for_hms() {
    let scene = Scene::new(|_, _, _| Say::Done);
    let folder = scene.home.file("shims");
    fs::create_dir(&folder).expect("it is ours");
    scene.codex_hms(&["shim", "--dir", text(&folder)]);
    let shim = |args: &[&str]| -> Command {
        let mut command = scene.codex.command(&folder.join("codex"));
        command.args(args).env("HMS_HOME", scene.home.path()).env("PATH", path_with_codex(&[&folder]));
        command
    };
    let run = |args: &[&str]| Answer::of(shim(args), PATIENCE);

    let real = Answer::of(
        {
            let mut command = scene.codex.command(&codex_program());
            command.arg("--version");
            command
        },
        PATIENCE,
    );
    assert_eq!(run(&["--version"]).ok().out, real.out, "all but `hms` is the real codex");
    let unknown = run(&["no-such-command", "--at-all"]);
    assert!(unknown.code.is_some_and(|code| code != 0), "its exit code passes: {unknown:?}");

    let version = run(&["hms", "--version"]).ok().out;
    assert!(version.starts_with("codex-hms "), "{version}");
    assert_eq!(
        run(&["hms", "agent", "status", "nobody"]).code,
        scene.home.run(&["agent", "status", "nobody"]).code
    );

    // A whole session through the shim and npm's launcher.
    Session::of(shim(&scene.codex.exec_args())).finish();
    scene.codex.model().seen();
    scene.home.stop();
}

#[test]
fn the_doctor_finds_nothing_wrong_and_then_what_is() {
    let scene = Scene::new(|_, _, _| Say::Done);
    scene.codex_hms(&["install", "--wrap", "--trust-hooks"]);
    let well = scene.hms(&["--json", "codex", "doctor"]);
    assert_eq!(well.code, Some(0), "{well:?}");

    // The program that the configuration names is gone, as after an uninstallation by hand.
    let gone = scene.config().replace(text(&hms_program()), "/nowhere/codex-hms");
    fs::write(scene.codex.config(), gone).expect("it is ours");
    let ill = scene.hms(&["--json", "codex", "doctor"]);
    assert!(ill.out.contains("/nowhere/codex-hms") || ill.err.contains("/nowhere/codex-hms"), "{ill:?}");
}

/// Codex's servers as it lists them itself.
fn servers_of(codex: &Codex) -> Value {
    let mut command = codex.command(&codex_program());
    command.args(["mcp", "list", "--json"]);
    Answer::of(command, Duration::from_secs(30)).ok().json()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}
