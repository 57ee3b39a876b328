//! The commands as a command line runs them, in folders of the test's own.

mod common;

use std::{
    fs,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::Command,
};

use common::Lab;
use serde_json::{Value, json};

#[tokio::test]
async fn install_status_uninstall() {
    let lab = Lab::new();
    let text = "[mcp_servers.clock]\ncommand = \"date\"\n";
    lab.write(&lab.config(), text);
    let (done, _) = lab.run("codex install", json!({"wrap": true})).await;
    let done = done.expect("it is installed");
    assert_eq!(done["clients"][0]["wrapped_names"], "clock");
    assert!(done["notes"].to_string().contains("/hooks"), "{done}");
    let cache = lab.at(&format!("user/.codex/plugins/cache/hms/hms/{}", env!("CARGO_PKG_VERSION")));
    for file in [".codex-plugin/plugin.json", ".mcp.json", "hooks/hooks.json"] {
        let text = fs::read(cache.join(file)).expect("it is there");
        serde_json::from_slice::<Value>(&text).expect("it is JSON");
    }
    let servers: Value =
        serde_json::from_slice(&fs::read(cache.join(".mcp.json")).expect("it is there")).expect("JSON");
    assert_eq!(servers["mcpServers"]["hms"]["env"]["HMS_HOME"], lab.at("home").display().to_string());

    let (status, _) = lab.run("codex status", json!({"client": "codex"})).await;
    let status = status.expect("it can be told");
    assert_eq!(status["clients"][0]["plugin"], "enabled, hooks not trusted");
    assert_eq!(status["servers"][0]["guarded"], true);

    let (done, _) = lab.run("codex uninstall", json!({})).await;
    assert_eq!(done.expect("it is taken out")["clients"][0]["how"], "restored");
    assert_eq!(fs::read_to_string(lab.config()).expect("it is there"), text);
    assert!(!cache.exists() && !lab.at("user/.codex/hms").exists());
}

#[tokio::test]
async fn all_clients_that_are_here_are_done_and_one_that_is_broken_is_told() {
    let lab = Lab::new();
    fs::create_dir_all(lab.at("user/.cursor")).expect("the folder is ours");
    lab.write(&lab.at("user/.cursor/mcp.json"), "{");
    lab.write(&lab.at("user/.claude.json"), "{}");
    let (done, _) = lab.run("codex install", json!({"client": "all"})).await;
    let done = done.expect("the others are done");
    let rows: Vec<(&str, bool)> = done["clients"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| (row["client"].as_str().expect("a text"), row["changed"] == true))
        .collect();
    assert_eq!(rows, [("codex", true), ("claude-code", true), ("cursor", false)]);
    assert!(done["notes"].to_string().contains("mcp.json:1:"), "{done}");
    assert_eq!(fs::read_to_string(lab.at("user/.cursor/mcp.json")).expect("it is there"), "{");
    let (refused, _) = lab.run("codex install", json!({"client": "cursor"})).await;
    assert!(refused.is_err());
    let (refused, _) = lab.run("codex install", json!({"client": "all", "config": "x"})).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn the_doctor_finds_what_is_wrong_in_configurations_and_ends_with_1() {
    let lab = Lab::new();
    lab.program("bin/tool", "#!/bin/sh\n");
    lab.write(
        &lab.config(),
        "[mcp_servers.gone]\ncommand = \"no-such-program\"\n[mcp_servers.fine]\ncommand = \"tool\"\nargs = [\"1\"]\n\
         [mcp_servers.stale]\ncommand = \"/no/codex-hms\"\nargs = [\"mcp\", \"wrap\", \"--\", \"tool\"]\n",
    );
    let (found, code) = lab.run("codex doctor", json!({"client": "codex"})).await;
    let found = found.expect("it looks");
    let codes = |found: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        // What else runs on this machine is not this test's affair.
        let all =
            found["findings"].as_array().expect("rows").iter().filter(|f| f["code"] != "binary-replaced");
        all.map(|f| (text(&f["code"]), text(&f["server"]))).collect()
    };
    let pair = |code: &str, server: &str| (code.to_owned(), server.to_owned());
    assert_eq!(
        codes(&found),
        [pair("command-missing", "gone"), pair("binary-missing", "stale"), pair("not-wrapped", "")],
        "{found}"
    );
    assert_eq!((code, &found["ill"]), (1, &json!(true)));
    for finding in found["findings"].as_array().expect("rows") {
        assert!(finding["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{finding}");
    }

    lab.write(&lab.config(), "[mcp_servers.fine]\ncommand = \"tool\"\nargs = [\"1\"]\n");
    let (found, code) = lab.run("codex doctor", json!({"client": "codex"})).await;
    assert_eq!(
        (codes(&found.expect("it looks")), code),
        (vec![pair("not-wrapped", "")], 0),
        "what could be better is not ill"
    );

    lab.run("codex install", json!({"wrap": true})).await.0.expect("it is installed");
    let (found, code) = lab.run("codex doctor", json!({"client": "codex"})).await;
    assert_eq!((codes(&found.expect("it looks")), code), (vec![pair("hooks-untrusted", "")], 1));

    lab.write(&lab.config(), "[");
    let (found, code) = lab.run("codex doctor", json!({"client": "codex"})).await;
    assert_eq!((codes(&found.expect("it looks")), code), (vec![pair("config-unreadable", "")], 1));
}

/// Ends what a test started, whatever becomes of the test.
struct Started(std::process::Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_doctor_sees_a_stopped_server_of_a_running_client() {
    let lab = Lab::new();
    let server = lab.program("bin/my-server", "#!/bin/sh\nkill -STOP $$\nread x\n");
    lab.write(&lab.config(), &format!("[mcp_servers.mine]\ncommand = {:?}\nargs = [\"--now\"]\n", server));
    // A client by its name: a shell that waits for its server.
    let client = lab.at("bin/codex");
    fs::copy("/bin/sh", &client).expect("there is a shell");
    let line = format!("{} --now & wait", server.display());
    let _client =
        Started(Command::new(client).args(["-c", &line]).process_group(0).spawn().expect("it runs"));
    let deadline = std::time::Instant::now() + common::SOON;
    let finding = loop {
        let (found, code) = lab.run("codex doctor", json!({"client": "codex"})).await;
        let found = found.expect("it looks");
        let hung = found["findings"].as_array().expect("rows").iter().find(|f| f["code"] == "hung").cloned();
        if let Some(hung) = hung {
            assert_eq!((code, &found["servers"]), (1, &json!(1)), "{found}");
            break hung;
        }
        assert!(std::time::Instant::now() < deadline, "{found}");
    };
    let pid = finding["pid"].as_i64().expect("a pid");
    // The server is stopped: only this ends it.
    Command::new("kill").args(["-9", &pid.to_string()]).status().expect("it runs");
    assert_eq!((&finding["client"], &finding["server"]), (&json!("codex"), &json!("mine")));
}

// ---- the shim -----------------------------------------------------------------------------------------

/// `codex ARGS` with the lab's `PATH`; what it printed and ended with.
fn codex(lab: &Lab, args: &[&str]) -> (String, Option<i32>) {
    let out = Command::new(lab.at("shims/codex"))
        .args(args)
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", lab.path))
        .output()
        .expect("it runs");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (text.trim().to_owned(), out.status.code())
}

#[tokio::test]
async fn the_shim_hands_everything_but_hms_to_the_real_codex() {
    let mut lab = Lab::new();
    let shims = lab.at("shims");
    lab.path = format!("{}:{}:{}", shims.display(), lab.path, lab.at("real").display());
    lab.program(
        "real/codex",
        "#!/bin/sh\n[ \"$1\" = die ] && kill -TERM $$\necho \"real:$#:$1:$2\"\nexit 7\n",
    );
    let (made, _) = lab.run("codex shim", json!({"dir": shims})).await;
    let made = made.expect("it is made");
    assert_eq!((&made["active"], &made["real"]), (&json!(true), &json!(lab.at("real/codex"))));

    assert_eq!(codex(&lab, &["hms", "agent", "list"]), ("hms:agent list".into(), Some(0)));
    assert_eq!(codex(&lab, &["a b", "*"]), ("real:2:a b:*".into(), Some(7)));
    assert_eq!(codex(&lab, &[]), ("real:0::".into(), Some(7)));
    let died = Command::new(lab.at("shims/codex"))
        .arg("die")
        .env("PATH", format!("{}:/usr/bin:/bin", lab.path))
        .status()
        .expect("it runs");
    assert_eq!(died.signal(), Some(15), "the end is the real one's");

    // Two shims do not call each other, whatever the order.
    let second = lab.at("second");
    lab.run("codex shim", json!({"dir": second})).await.0.expect("it is made");
    lab.path = format!("{}:{}", second.display(), lab.path);
    assert_eq!(codex(&lab, &["x"]), ("real:1:x:".into(), Some(7)));
    // Codex moves; and then is gone.
    fs::create_dir(lab.at("moved")).expect("the folder is ours");
    fs::rename(lab.at("real/codex"), lab.at("moved/codex")).expect("the folder is ours");
    let (text, code) = codex(&lab, &["x"]);
    assert!(text.contains("npm install") && code == Some(127), "{text}");
    lab.path = format!("{}:{}", lab.path, lab.at("moved").display());
    assert_eq!(codex(&lab, &["x"]), ("real:1:x:".into(), Some(7)));

    let (removed, _) = lab.run("codex shim", json!({"remove": true})).await;
    assert_eq!(removed.expect("they are removed")["removed"].as_array().map(Vec::len), Some(2));
    let (again, _) = lab.run("codex shim", json!({"remove": true})).await;
    assert!(again.is_err(), "there is none");
}

#[tokio::test]
async fn a_shim_does_not_overwrite_a_program() {
    let lab = Lab::new();
    let real = lab.program("real/codex", "#!/bin/sh\necho real\n");
    let (refused, _) = lab.run("codex shim", json!({"dir": lab.at("real")})).await;
    assert!(refused.expect_err("it is taken").to_string().contains("--dir"));
    assert!(fs::read_to_string(real).expect("it is there").contains("echo real"));
}
