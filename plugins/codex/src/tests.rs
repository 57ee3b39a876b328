//! Configurations of every shape: wrapped, given a plugin, and put back byte for byte.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use hms_core::ErrorKind;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    backup::{self, Records},
    clients::{self, Client},
    edit::{Format, How},
    install::{Choices, Site, install, status, uninstall},
    places::{Hms, Places},
    wrapping,
};

/// A user's folder of a test's own.
struct Lab {
    dir: TempDir,
    site: Site,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder can be made");
        let user = dir.path().join("user");
        let bin = dir.path().join("bin");
        for folder in [&user.join(".codex"), &bin] {
            fs::create_dir_all(folder).expect("the folder is ours");
        }
        let program = bin.join("codex-hms");
        fs::write(&program, "#!/bin/sh\n").expect("the folder is ours");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let places = Places {
            codex: user.join(".codex"),
            claude: user.clone(),
            config: user.join(".config"),
            cwd: user.clone(),
            path: bin.into_os_string(),
            user,
        };
        let home = dir.path().join("home");
        fs::create_dir(&home).expect("the folder is ours");
        let hms = Hms { program, home: Some(home.clone()), starts_host: None };
        Self { site: Site { places, hms, records: Records::of(&home) }, dir }
    }

    fn write(&self, client: &Client, text: &str) -> PathBuf {
        let file = client.file(&self.site.places);
        fs::create_dir_all(file.parent().expect("it is in a folder")).expect("the folder is ours");
        fs::write(&file, text).expect("the folder is ours");
        file
    }

    #[track_caller]
    fn install(&self, client: &Client, choices: &Choices) -> Value {
        install(&self.site, client, choices).unwrap_or_else(|e| panic!("{e}"))
    }

    #[track_caller]
    fn uninstall(&self, client: &Client) -> Value {
        uninstall(&self.site, client, None, false).unwrap_or_else(|e| panic!("{e}"))
    }

    /// What is left in the user's folder, by name.
    fn left(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.site.places.user.clone()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder).expect("it is there").flatten() {
                if entry.path().is_dir() {
                    open.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }
}

fn client(id: &str) -> &'static Client {
    clients::CLIENTS.iter().find(|client| client.id == id).expect("it is known")
}

fn wrap() -> Choices {
    Choices { wrap: Some(true), ..Choices::default() }
}

#[track_caller]
fn argv(format: Format, file: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(file).expect("it is there");
    let servers = format.servers(file, &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let server = servers.into_iter().find(|server| server.name == name).expect("it is in the file");
    match server.how {
        How::Stdio(stdio) => stdio.argv(),
        other => panic!("{name}: {other:?}"),
    }
}

const CONFIG: &str = r#"# my settings
model = "gpt-5"   # keep me

notify = ["say",  'done']  # and me

[mcp_servers.time]   # a clock
command = "uvx" # the tool
args = [
  "mcp-server-time", # inside
  '--local', ]
tool_timeout_sec = 10.5
env = { TZ = "UTC" }

[mcp_servers.bare]
command = 'server'

[mcp_servers.web]
url = "https://key@example.com/mcp?token=1"

[mcp_servers]
inline = { command = "node", args = ["x.js"], enabled = false }
tight = {command="tight"}
dotted.command = "dot"
dotted.cwd = "/tmp"

# the end, without a line end"#;

#[test]
fn codex_gets_its_file_back_byte_for_byte() {
    for text in [
        CONFIG.to_owned(),
        CONFIG.replace('\n', "\r\n"),
        format!("\u{feff}{CONFIG}\n"),
        String::new(),
        "\n".into(),
    ] {
        let lab = Lab::new();
        let codex = client("codex");
        let file = lab.write(codex, &text);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("it is ours");
        let done = lab.install(codex, &wrap());
        assert_eq!(done["changed"], true);
        let now = fs::read_to_string(&file).expect("it is there");
        assert!(now.contains("[plugins.\"hms@hms\"]") && now.contains("--notify"), "{now}");
        assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o640);
        assert_eq!(lab.install(codex, &wrap())["changed"], false, "a second time changes nothing");
        let done = lab.uninstall(codex);
        assert_eq!(
            (&done["how"], &done["diff"].as_str().is_some_and(|d| !d.is_empty())),
            (&json!("restored"), &true)
        );
        assert_eq!(fs::read_to_string(&file).expect("it is there"), text);
        assert_eq!(lab.left(), [file], "nothing else is left");
    }
}

#[test]
fn servers_are_wrapped_in_the_ways_they_are_written() {
    let lab = Lab::new();
    let codex = client("codex");
    let file = lab.write(codex, CONFIG);
    let done = lab.install(codex, &wrap());
    assert_eq!(done["wrapped"], json!(["time", "bare", "inline", "tight", "dotted"]));
    assert_eq!(done["left"][0]["server"], "web");
    assert!(!done["left"][0]["why"].to_string().contains("key@"), "{done}");
    let program = lab.site.hms.program().expect("a text");
    let home = lab.dir.path().join("home").display().to_string();
    let start = [program.as_str(), "--home", &home, "mcp", "wrap", "--name"];
    for (name, options, inner) in [
        ("time", &["--hang-timeout", "8s400ms"][..], &["uvx", "mcp-server-time", "--local"][..]),
        ("bare", &[], &["server"]),
        ("inline", &[], &["node", "x.js"]),
        ("tight", &[], &["tight"]),
        ("dotted", &[], &["dot"]),
    ] {
        let mut expected: Vec<&str> = start.to_vec();
        expected.push(name);
        expected.extend(options);
        expected.push("--");
        expected.extend(inner);
        assert_eq!(argv(Format::Toml, &file, name), expected, "{name}");
    }
    let now = fs::read_to_string(&file).expect("it is there");
    for kept in [
        "# my settings\n",
        "# keep me\n",
        "# and me\n",
        "# a clock\n",
        "# the tool\n",
        "env = { TZ = \"UTC\" }\n",
        "enabled = false",
        "dotted.cwd",
        "# the end",
    ] {
        assert!(now.contains(kept), "{kept:?} is gone:\n{now}");
    }
    assert!(now.contains(r#"codex", "hook", "--notify", "--", "say", "done"]"#), "{now}");
}

#[test]
fn what_the_user_and_codex_changed_since_stays() {
    let lab = Lab::new();
    let codex = client("codex");
    let file = lab.write(codex, CONFIG);
    lab.install(codex, &wrap());
    let mut now = fs::read_to_string(&file).expect("it is there");
    now = now.replace("gpt-5", "gpt-6");
    now.push_str("\n[hooks.state]\n\n[hooks.state.\"hms@hms:hooks/hooks.json:stop:0:0\"]\ntrusted_hash = \"sha256:1\"\n");
    now.push_str("\n[hooks.state.\"other@x:hooks/hooks.json:stop:0:0\"]\ntrusted_hash = \"sha256:2\"\n");
    fs::write(&file, &now).expect("it is ours");
    assert_eq!(lab.install(codex, &Choices::default())["wrapped"], json!([]));
    let done = lab.uninstall(codex);
    assert_eq!(done["how"], "restored", "to what the second installation found");
    let expected = format!(
        "{}\n\n[hooks.state]\n\n[hooks.state.\"other@x:hooks/hooks.json:stop:0:0\"]\ntrusted_hash = \"sha256:2\"\n",
        CONFIG.replace("gpt-5", "gpt-6")
    );
    let after = fs::read_to_string(&file).expect("it is there");
    assert_eq!(after, expected);
}

#[test]
fn what_codex_remembers_of_our_hooks_goes_with_them() {
    let lab = Lab::new();
    let codex = client("codex");
    let file = lab.write(codex, CONFIG);
    lab.install(codex, &Choices::default());
    let mut now = fs::read_to_string(&file).expect("it is there");
    now.push_str("\n[hooks.state]\n\n[hooks.state.\"hms@hms:hooks/hooks.json:stop:0:0\"]\ntrusted_hash = \"sha256:1\"\ntrusted_content_hash = \"sha256:2\"\n");
    fs::write(&file, &now).expect("it is ours");
    assert_eq!(lab.uninstall(codex)["how"], "edited");
    assert_eq!(fs::read_to_string(&file).expect("it is there"), CONFIG);
}

#[test]
fn whether_a_host_may_be_started_is_kept() {
    let mut lab = Lab::new();
    let codex = client("codex");
    let file = lab.write(codex, CONFIG);
    lab.site.hms.starts_host = Some(true);
    lab.install(codex, &wrap());
    let first = fs::read_to_string(&file).expect("it is there");
    assert!(argv(Format::Toml, &file, "bare").windows(2).any(|two| two == ["--host", "auto"]));
    lab.site.hms.starts_host = None;
    assert_eq!(lab.install(codex, &Choices::default())["changed"], false);
    let shown = status(&lab.site, codex, None).expect("it can be read");
    assert_eq!(
        (shown["plugin"].as_str(), fs::read_to_string(&file).expect("it is there")),
        (Some("enabled, hooks not trusted"), first)
    );
}

#[test]
fn a_lost_record_does_not_keep_servers_wrapped() {
    let lab = Lab::new();
    let codex = client("codex");
    let file = lab.write(codex, CONFIG);
    lab.install(codex, &wrap());
    fs::remove_dir_all(lab.dir.path().join("home/codex")).expect("it is ours");
    lab.uninstall(codex);
    for (name, inner) in
        [("time", &["uvx", "mcp-server-time", "--local"][..]), ("bare", &["server"]), ("tight", &["tight"])]
    {
        assert_eq!(argv(Format::Toml, &file, name), inner);
    }
    let now = fs::read_to_string(&file).expect("it is there");
    assert!(!now.contains("hms"), "{now}");
    assert!(now.contains(r#"notify = ["say", "done"]"#), "{now}");
}

#[test]
fn a_chosen_server_is_wrapped_alone_and_unwrapped_again() {
    let lab = Lab::new();
    let codex = client("codex");
    let file = lab.write(codex, CONFIG);
    let one = |name: &str| Choices { servers: vec![name.into()], plugin: Some(false), ..Choices::default() };
    assert_eq!(lab.install(codex, &one("bare"))["wrapped"], json!(["bare"]));
    let done = lab.install(codex, &one("tight"));
    assert_eq!((&done["wrapped"], &done["already"]), (&json!(["tight"]), &json!(["bare"])));
    assert!(!lab.site.places.codex.join("plugins").exists());
    let e = install(&lab.site, codex, &one("nobody")).expect_err("there is none");
    assert_eq!(e.kind, ErrorKind::NotFound);
    let no = Choices { wrap: Some(false), plugin: Some(false), ..Choices::default() };
    assert_eq!(lab.install(codex, &no)["unwrapped"], json!(["bare", "tight"]));
    assert_eq!(fs::read_to_string(&file).expect("it is there"), CONFIG);
}

#[test]
fn a_moved_program_is_named_anew_and_options_stay() {
    let mut lab = Lab::new();
    let codex = client("codex");
    let file = lab.write(codex, CONFIG);
    lab.install(codex, &wrap());
    let text = fs::read_to_string(&file)
        .expect("it is there")
        .replace("\"bare\", \"--\"", "\"bare\", \"--stateful\", \"--\"");
    fs::write(&file, &text).expect("it is ours");
    let elsewhere = lab.dir.path().join("else/codex-hms");
    lab.site.hms.program.clone_from(&elsewhere);
    lab.install(codex, &Choices::default());
    let words = argv(Format::Toml, &file, "bare");
    assert_eq!(words[0], elsewhere.display().to_string());
    assert!(words.contains(&"--stateful".to_owned()), "{words:?}");
    lab.uninstall(codex);
    assert_eq!(fs::read_to_string(&file).expect("it is there"), CONFIG);
}

#[test]
fn a_dry_run_shows_the_change_and_makes_none() {
    let lab = Lab::new();
    let codex = client("codex");
    let file = lab.write(codex, CONFIG);
    let done = lab.install(codex, &Choices { dry_run: true, ..wrap() });
    let diff = done["diff"].as_str().expect("a text");
    assert!(
        diff.contains("\n-command = 'server'\n") && diff.contains("\n+[plugins.\"hms@hms\"]\n"),
        "{diff}"
    );
    assert_eq!(fs::read_to_string(&file).expect("it is there"), CONFIG);
    assert_eq!(lab.left(), [file]);
    assert!(!lab.dir.path().join("home/codex").exists());
}

#[test]
fn malformed_files_are_refused_with_their_place() {
    for (id, text, place) in [
        ("codex", "model = \"x\"\n[mcp_servers.a\ncommand = 1\n", ":2:"),
        ("codex", "a = 1\na = 2\n", ":2:"),
        ("codex", "mcp_servers = 3\n", ":1:"),
        ("cursor", "{\n  \"mcpServers\": {\n    \"a\": }\n}", ":3:"),
        ("cursor", "[1]", ":1:1:"),
        ("cursor", "{\"mcpServers\": []}", ":1:16:"),
    ] {
        let lab = Lab::new();
        let file = lab.write(client(id), text);
        let e = install(&lab.site, client(id), &wrap()).expect_err("it is malformed");
        assert_eq!(e.kind, ErrorKind::InvalidConfig, "{e}");
        assert!(e.message.contains(place) && e.message.contains(file.to_str().expect("a text")), "{e}");
        assert_eq!(fs::read_to_string(&file).expect("it is there"), text);
        assert_eq!(lab.left(), [file]);
    }
    let lab = Lab::new();
    let file = lab.write(client("codex"), "");
    fs::write(&file, b"a = 1\n\xff").expect("it is ours");
    let e = install(&lab.site, client("codex"), &wrap()).expect_err("it is no text");
    assert!(e.message.contains(":2:"), "{e}");
}

#[test]
fn a_link_stays_a_link() {
    let lab = Lab::new();
    let codex = client("codex");
    let file = codex.file(&lab.site.places);
    let real = lab.dir.path().join("dotfiles.toml");
    fs::write(&real, CONFIG).expect("the folder is ours");
    symlink(&real, &file).expect("the folder is ours");
    lab.install(codex, &wrap());
    assert!(fs::symlink_metadata(&file).expect("it is there").is_symlink());
    assert!(fs::read_to_string(&real).expect("it is there").contains("hms@hms"));
    lab.uninstall(codex);
    assert_eq!(fs::read_to_string(&real).expect("it is there"), CONFIG);
    assert!(fs::symlink_metadata(&file).expect("it is there").is_symlink());
}

#[test]
fn a_link_to_nothing_is_written_through() {
    let lab = Lab::new();
    let cursor = client("cursor");
    let file = lab.write(cursor, "");
    let real = lab.dir.path().join("later.json");
    fs::remove_file(&file).expect("it is ours");
    symlink(&real, &file).expect("the folder is ours");
    lab.install(cursor, &Choices::default());
    assert!(real.is_file() && fs::symlink_metadata(&file).expect("it is there").is_symlink());
    lab.uninstall(cursor);
    assert!(!real.exists());
}

#[test]
fn an_edit_between_reading_and_writing_is_not_lost() {
    let dir = tempfile::tempdir().expect("a folder can be made");
    let file = dir.path().join("config.toml");
    fs::write(&file, "a = 1\n").expect("the folder is ours");
    let e = backup::replace(&file, Some("a = 0\n"), Some("b = 1\n")).expect_err("it was changed");
    assert_eq!(e.kind, ErrorKind::InvalidState);
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "a = 1\n");
    let e = backup::replace(&file, None, Some("b = 1\n")).expect_err("it was made");
    assert_eq!(e.kind, ErrorKind::InvalidState);
    assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 1, "no file of ours is left");
}

#[test]
fn a_file_that_cannot_be_written_is_left_and_said() {
    let lab = Lab::new();
    let vscode = client("vscode");
    // A file where a folder must be: refused to root as well.
    fs::write(&lab.site.places.config, "").expect("the folder is ours");
    let e = install(&lab.site, vscode, &Choices::default()).expect_err("it cannot be written");
    assert!(e.message.contains("mcp.json"), "{e}");
}

const CLAUDE: &str = r#"{
  // mine
  "theme": "dark",
  "mcpServers": {
    "git": {"command": "uvx", "args": ["mcp-server-git",   "--repository", "."], "timeout": 20000}, /* one */
    "bare": {
      "command": "server"
    },
    "web": {"type": "http", "url": "https://example.com/mcp"},
  },
  "projects": {"/work": {"mcpServers": {"git": {"command": "other", "args": []}}}}
}
"#;

#[test]
fn json_keeps_its_order_comments_and_commas() {
    let lab = Lab::new();
    let claude = client("claude-code");
    let file = lab.write(claude, CLAUDE);
    let done = lab.install(claude, &wrap());
    assert_eq!(done["wrapped"], json!(["git", "bare", "git"]));
    let now = fs::read_to_string(&file).expect("it is there");
    for kept in ["// mine", "/* one */", "\"timeout\": 20000", "\"theme\": \"dark\""] {
        assert!(now.contains(kept), "{kept} is gone:\n{now}");
    }
    let words = argv(claude.format, &file, "git");
    assert_eq!(words[words.len() - 4..], ["uvx", "mcp-server-git", "--repository", "."]);
    assert!(words.windows(2).any(|two| two == ["--hang-timeout", "16s"]), "{words:?}");
    assert_eq!(argv(claude.format, &file, "hms")[1..], ["mcp", "serve"]);
    let shown = status(&lab.site, claude, None).expect("it can be read");
    assert_eq!((&shown["plugin"], &shown["servers"][0]["guarded"]), (&json!("server"), &json!(true)));
    // Not untouched: the structure tells what is ours.
    fs::write(&file, now.replace("dark", "light")).expect("it is ours");
    lab.uninstall(claude);
    assert_eq!(fs::read_to_string(&file).expect("it is there"), CLAUDE.replace("dark", "light"));
}

#[test]
fn clients_without_a_configuration_get_one_and_lose_it() {
    for id in ["claude-code", "cursor", "vscode", "gemini", "codex"] {
        let lab = Lab::new();
        lab.install(client(id), &Choices::default());
        let file = client(id).file(&lab.site.places);
        assert!(file.is_file(), "{id}");
        lab.uninstall(client(id));
        assert_eq!(lab.left(), Vec::<PathBuf>::new(), "{id}");
    }
}

#[test]
fn json_without_servers_gets_the_object_and_somebody_elses_hms_stays() {
    for text in [
        "{}",
        "{\n}\n",
        "{\n\t\"a\": 1\n}\n",
        "{\"servers\": {}}",
        "{\"servers\": {\"x\": {\"command\": \"x\"}}}",
    ] {
        let lab = Lab::new();
        let file = lab.write(client("vscode"), text);
        lab.install(client("vscode"), &Choices::default());
        assert_eq!(argv(Format::Json("servers"), &file, "hms")[1..], ["mcp", "serve"], "{text}");
        lab.uninstall(client("vscode"));
        assert_eq!(fs::read_to_string(&file).expect("it is there"), text);
    }
    let lab = Lab::new();
    let text = "{\"mcpServers\": {\"hms\": {\"command\": \"another\"}}}";
    let file = lab.write(client("cursor"), text);
    lab.uninstall(client("cursor"));
    assert_eq!(fs::read_to_string(&file).expect("it is there"), text);
}

// ---- any configuration --------------------------------------------------------------------------------

/// A TOML file as people write them: servers in several shapes, comments and blank lines anywhere.
fn any_toml() -> impl Strategy<Value = String> {
    let word = "[a-zA-Z0-9_./@ -]{1,12}";
    let comment = prop_oneof![Just(String::new()), "[ \t]*#[a-z \"'\\[\\]=]{0,20}".prop_map(|c| c)];
    let quoted = (word, any::<bool>())
        .prop_map(|(w, single)| if single { format!("'{w}'") } else { format!("\"{w}\"") });
    let list = (prop::collection::vec(quoted.clone(), 0..4), any::<bool>()).prop_map(|(words, lines)| {
        if lines {
            format!("[\n  {} # in\n]", words.iter().map(|w| format!("{w},")).collect::<Vec<_>>().join("\n  "))
        } else {
            format!("[{}]", words.join(" , "))
        }
    });
    let list = list.prop_map(|l| if l.starts_with("[\n   #") { "[]".into() } else { l });
    let server = (
        quoted,
        prop::option::of(list),
        comment.clone(),
        0..4_u8,
        any::<bool>(),
        prop::option::of(1..500_u32),
    );
    let servers = prop::collection::vec(server, 0..5);
    (servers, comment, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(servers, comment, crlf, notify, ends)| {
            let mut text = format!("{comment}\nmodel = \"m\"{comment}\n");
            if notify {
                text.push_str("notify = [ 'a', \"b\" ]\n");
            }
            let mut inline = String::new();
            for (n, (command, args, comment, shape, first, timeout)) in servers.into_iter().enumerate() {
                let plain = args.clone().filter(|args| !args.contains('\n'));
                match shape {
                    0 => {
                        let args = plain.map(|args| format!(", args = {args}")).unwrap_or_default();
                        inline.push_str(&format!("s{n} = {{ command = {command}{args} }}{comment}\n"));
                    }
                    1 => {
                        inline.push_str(&format!("s{n}.command = {command}{comment}\n"));
                        if let Some(args) = args {
                            inline.push_str(&format!("s{n}.args = {args}{comment}\n"));
                        }
                    }
                    _ => {
                        text.push_str(&format!("\n[mcp_servers.s{n}]{comment}\n"));
                        let command = format!("  command = {command}{comment}\n");
                        let args = args.map(|args| format!("args={args}{comment}\n")).unwrap_or_default();
                        text.push_str(&if first {
                            format!("{args}{command}")
                        } else {
                            format!("{command}{args}")
                        });
                        if let Some(timeout) = timeout {
                            text.push_str(&format!("tool_timeout_sec = {timeout}\n"));
                        }
                        if shape == 3 {
                            text.push_str(&format!("[mcp_servers.s{n}.env]\nA = \"b\"{comment}\n"));
                        }
                    }
                }
            }
            if !inline.is_empty() {
                text.push_str(&format!("\n[mcp_servers]\n{inline}"));
            }
            if !ends {
                text.truncate(text.trim_end_matches('\n').len());
            }
            if crlf { text.replace('\n', "\r\n") } else { text }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_codex_configuration_comes_back(text in any_toml(), edited in any::<bool>()) {
        let file = Path::new("config.toml");
        let before = Format::Toml.servers(file, &text);
        prop_assume!(before.is_ok());
        let before = before.expect("it was parsed");
        let lab = Lab::new();
        let codex = client("codex");
        let file = lab.write(codex, &text);
        let done = lab.install(codex, &wrap());
        prop_assert_eq!(done["wrapped"].as_array().map(Vec::len), Some(before.len()));
        let mut now = fs::read_to_string(&file).expect("it is there");
        for (old, new) in before.iter().zip(Format::Toml.servers(&file, &now).expect("it can be read")) {
            let (How::Stdio(old), How::Stdio(new)) = (&old.how, &new.how) else { panic!("not programs") };
            let (old, new) = (old.argv(), new.argv());
            prop_assert_eq!(wrapping::inner(&new), Some(&old[..]));
        }
        let mut expected = text.clone();
        if edited {
            // Somebody's edit takes the way by the structure.
            now = now.replacen("model = \"m\"", "model = \"n\"", 1);
            expected = expected.replacen("model = \"m\"", "model = \"n\"", 1);
            fs::write(&file, &now).expect("it is ours");
        }
        lab.uninstall(codex);
        let after = fs::read_to_string(&file).expect("it is there");
        // Of a last line without an end that was edited itself, nobody knows that it had none.
        let last_was_edited = edited && expected.lines().last().is_some_and(|line| line.starts_with("model"));
        if last_was_edited {
            prop_assert_eq!(after.trim_end(), expected.trim_end());
        } else {
            prop_assert_eq!(after, expected);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_come_back(text in "\\PC{0,80}", id in prop::sample::select(vec!["codex", "cursor"])) {
        let lab = Lab::new();
        let file = lab.write(client(id), &text);
        if install(&lab.site, client(id), &wrap()).is_ok() {
            lab.uninstall(client(id));
        }
        prop_assert_eq!(fs::read_to_string(&file).expect("it is there"), text);
    }
}

#[test]
fn what_is_shown_of_a_change_has_no_secrets_in_it() {
    let toml = "[mcp_servers]\na = { command = \"x\", env = { KEY = \"s3cret\" } }\n[mcp_servers.b]\ncommand = \"y\"\n[mcp_servers.b.env]\nKEY = 's3cret'\n[mcp_servers.c]\nurl = \"http://h/\"\nhttp_headers.Authorization = \"s3cret\"\n";
    let json = r#"{"mcpServers": {"a": {"command": "x", "env": {"KEY": "s3cret"}}},
        "projects": {"/p": {"mcpServers": {"h": {"url": "http://h/", "headers": {"K": "s3cret"}}}}}}"#;
    for (id, text) in [("codex", toml), ("claude-code", json)] {
        let lab = Lab::new();
        let file = lab.write(client(id), text);
        for done in [lab.install(client(id), &wrap()), lab.uninstall(client(id))] {
            let diff = done["diff"].as_str().expect("it changed");
            assert!(diff.contains("(hidden)") && diff.contains("wrap"), "{diff}");
            assert!(!done.to_string().contains("s3cret"), "{done}");
        }
        assert_eq!(fs::read_to_string(file).expect("it is there"), text);
    }
}

#[test]
fn json_behind_a_byte_order_mark_is_read_and_put_back() {
    let lab = Lab::new();
    let text = "\u{feff}{\r\n  // \u{e4}\r\n  \"mcpServers\": {\r\n    \"a\": {\"command\": \"npx\", \"args\": [\"x\"]}\r\n  }\r\n}";
    let code = client("claude-code");
    let file = lab.write(code, text);
    lab.install(code, &wrap());
    assert!(argv(code.format, &file, "a").ends_with(&["npx".into(), "x".into()]));
    lab.uninstall(code);
    assert_eq!(fs::read_to_string(file).expect("it is there"), text);
}

#[test]
fn one_file_by_two_names_is_one_file() {
    let lab = Lab::new();
    let user = &lab.site.places.user;
    symlink(user.join(".codex"), user.join("link")).expect("the folder is ours");
    let file = lab.write(client("codex"), CONFIG);
    let by = |name: &str| Choices { config: Some(name.into()), ..wrap() };
    lab.install(client("codex"), &by("link/config.toml"));
    lab.install(client("codex"), &by("link/../.codex/./config.toml"));
    let done = lab.uninstall(client("codex"));
    assert_eq!(done["how"], "restored");
    assert_eq!(fs::read_to_string(file).expect("it is there"), CONFIG);
}
