//! `mcp wrap` seen by the official clients of MCP: the SDKs of Python and TypeScript while the server is killed and
//! stopped at random instants, and MCP Inspector while all is well.
//!
//! The clients do the harm themselves, so that it falls where they are, and check what they get; the scripts are in
//! `tests/mcp/sdk`. `HMS_ROUNDS` says how many faults each test makes (100), `HMS_SEED` repeats their instants.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use hms_core::clock::Rng;
use hms_tests::{
    Home, hms_program,
    install::{self, NodeModules},
    mcp_program, text,
};
use serde_json::{Value, json};

const ROUNDS: u64 = 100;
/// Clients at the same time, each with a wrapper and a server of its own.
const SESSIONS: u64 = 16;
/// Half the time of a call, in microseconds.
const PACE: u64 = 4_000;
/// Which part of the faults are hangs. Each takes about two seconds to be found out, whatever the time-out is.
const HANGS: f64 = 0.25;

/// A read-only call is answered, and rightly, whatever happens to the server under it.
#[test]
fn no_read_is_lost_through_the_python_sdk() {
    for (mode, version) in [("legacy", "2025-11-25"), ("auto", "2026-07-28")] {
        let seen = python(&Plan { kind: "read", mode, rounds: rounds() / 2 });
        assert_eq!(seen["version"], version, "{seen}");
    }
}

#[test]
fn no_read_is_lost_through_the_typescript_sdk() {
    typescript(&Plan { kind: "read", mode: "legacy", rounds: rounds() });
}

/// A write is done once when it was acknowledged, at most once when it was not, and an error says so at once.
#[test]
fn nothing_is_appended_twice_through_the_python_sdk() {
    for mode in ["legacy", "auto"] {
        appended(&python(&Plan { kind: "append", mode, rounds: rounds() / 2 }));
    }
}

#[test]
fn nothing_is_appended_twice_through_the_typescript_sdk() {
    appended(&typescript(&Plan { kind: "append", mode: "legacy", rounds: rounds() }));
}

#[test]
fn the_inspector_sees_no_difference() {
    let modules = NodeModules::of("sdk");
    let home = Home::new();
    let (node, wrapper) = (modules.node(), hms_program());
    let everything = modules.file("@modelcontextprotocol/server-everything/dist/index.js");
    let folder = home.file("server");
    fs::create_dir(&folder).expect("the folder is the test's own");
    let (test, program) = (mcp_program(), text(&node));
    let servers = [
        ("test", vec![text(&test), text(&folder)], "text=hello"),
        ("everything", vec![program, text(&everything)], "message=hello"),
    ];
    let mut config = json!({ "mcpServers": {} });
    for (name, command, _) in &servers {
        config["mcpServers"][name] = json!({ "command": command[0], "args": command[1..] });
        let wrap: Vec<&str> =
            ["mcp", "wrap", "--host", "never", "--"].into_iter().chain(command.iter().copied()).collect();
        config["mcpServers"][format!("wrapped-{name}")] =
            json!({ "command": wrapper, "args": wrap, "env": { "HMS_HOME": home.path() } });
    }
    fs::write(home.file("mcp.json"), config.to_string()).expect("the folder is the test's own");

    let inspect = |server: &str, words: &[&str]| {
        let done = Command::new(&node)
            .arg(modules.file("@modelcontextprotocol/inspector/clients/launcher/build/index.js"))
            .args(["--cli", "--config", "mcp.json", "--server", server, "--method"])
            .args(words)
            .current_dir(home.around())
            .env("HOME", home.around())
            .stdin(Stdio::null())
            .output()
            .expect("node starts");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code(), said(&done.stdout), said(&done.stderr))
    };
    for (name, _, hello) in &servers {
        let calls: [(&[&str], i32, &str); 5] = [
            (&["tools/list"], 0, "\"inputSchema\""),
            (&["tools/call", "--tool-name", "echo", "--tool-arg", hello], 0, "hello"),
            (&["tools/call", "--tool-name", "nothing"], 5, ""),
            (&["resources/list"], 0, "\"resources\""),
            (&["prompts/list"], 0, "\"prompts\""),
        ];
        for (words, code, part) in calls {
            let other = format!("wrapped-{name}");
            let (bare, wrapped) = thread::scope(|scope| {
                let bare = scope.spawn(|| inspect(name, words));
                let wrapped = inspect(&other, words);
                (bare.join().expect("it does not panic"), wrapped)
            });
            assert!(bare.0 == Some(code) && bare.1.contains(part), "{name} {words:?}: {bare:?}");
            assert_eq!(wrapped, bare, "{name} {words:?}");
        }
    }
}

/// What a client is to do.
struct Plan {
    kind: &'static str,
    mode: &'static str,
    rounds: u64,
}

impl Plan {
    /// Lets a client do it, and says what it saw. It has checked all that it can check itself.
    #[track_caller]
    fn run(&self, mut client: Command) -> Value {
        let home = Home::new();
        let seed = number("HMS_SEED").unwrap_or_else(|| Rng::from_os().next_u64() % 1_000_000);
        println!("HMS_SEED={seed} HMS_ROUNDS={}: {} {}", rounds(), self.kind, self.mode);
        let servers = home.file("servers");
        fs::create_dir(&servers).expect("the folder is the test's own");
        // All these ends in a row would be too many for a server in earnest.
        let server = mcp_program();
        let wrap = ["mcp", "wrap", "--host", "never", "--silent", "--max-restarts", "0", "--hang-timeout"];
        let args = [&wrap[..], &["400ms", "--", text(&server)]].concat();
        let plan = json!({
            "command": hms_program(), "args": args,
            "folder": servers, "kind": self.kind, "mode": self.mode, "rounds": self.rounds,
            "sessions": SESSIONS, "seed": seed, "pace": PACE, "hangs": HANGS,
        });
        let done = client
            .arg(plan.to_string())
            .env("HMS_HOME", home.path())
            .env_remove("HMS_AGENT")
            .stdin(Stdio::null())
            .output()
            .expect("the client starts");
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{out}{err}");
        let seen: Value = serde_json::from_str(out.trim()).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
        println!("{seen}");
        let count = |name: &str| seen[name].as_u64().unwrap_or(0);
        assert_eq!(count("crashes") + count("hangs"), self.rounds, "{seen}");
        // Every fault cost a life: it hit the server, and only the server.
        assert_eq!(count("lives"), self.rounds + SESSIONS, "{seen}");
        seen
    }
}

fn python(plan: &Plan) -> Value {
    let mut client = Command::new(install::python_sdk());
    client.args(["-W", "ignore"]).arg(script("client.py"));
    plan.run(client)
}

fn typescript(plan: &Plan) -> Value {
    let modules = NodeModules::of("sdk");
    let mut client = Command::new(modules.node());
    client.arg(modules.script(&script("client.mjs")));
    plan.run(client)
}

/// Some appends did fail, some of those were carried out, and the others were not.
#[track_caller]
fn appended(seen: &Value) {
    let count = |name: &str| seen[name].as_u64().unwrap_or(0);
    let (written, acknowledged, failed) = (count("written"), count("acknowledged"), count("failed"));
    assert!(acknowledged < written && written < acknowledged + failed, "{seen}");
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mcp/sdk").join(name)
}

fn rounds() -> u64 {
    number("HMS_ROUNDS").unwrap_or(ROUNDS)
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}
