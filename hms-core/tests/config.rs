//! The configuration file: what is accepted, what is refused and where, what a change leaves as it was.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use hms_core::{
    ErrorKind,
    config::{Change, Config, Origin, Section},
};
use serde_json::json;

struct Home {
    _dir: tempfile::TempDir,
    file: PathBuf,
}

fn home(text: &str) -> Home {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(&file, text).unwrap();
    Home { _dir: dir, file }
}

fn sections() -> Vec<Section> {
    let healing = json!({
        "type": "object",
        "properties": {
            "enabled": {"type": "boolean", "default": true, "x-live": true, "description": "Heal at all."},
            "budget": {"type": "integer", "minimum": 1, "default": 5, "x-live": true,
                       "description": "Steps per incident."},
            "window": {"type": "string", "format": "hms-duration", "default": "10s"},
            "memory": {"type": "string", "format": "hms-bytes"},
            "strategies": {"type": "array", "items": {"type": "string"}, "default": ["restart"]},
            "ladder": {
                "type": "object",
                "properties": {"max": {"type": "integer", "default": 3}, "mode": {"enum": ["calm", "brisk"]}}
            },
            "env": {"type": "object", "additionalProperties": {"type": "string"}, "default": {}}
        }
    });
    let store = json!({
        "type": "object",
        "properties": {"path": {"type": "string"}, "keep": {"type": ["integer", "string"], "default": 7}}
    });
    vec![Section { name: "healing".into(), schema: healing }, Section { name: "store".into(), schema: store }]
}

fn load(home: &Home) -> hms_core::Result<Config> {
    Config::load(&home.file, sections())
}

/// The error of a file with this text, without the folder before its name.
fn refusal(text: &str) -> (ErrorKind, String) {
    let home = home(text);
    let e = load(&home).expect_err(text);
    assert_eq!(fs::read_to_string(&home.file).unwrap(), text, "nothing changes");
    let folder = format!("{}/", home.file.parent().unwrap().display());
    (e.kind, e.to_string().replace(&folder, ""))
}

#[derive(Debug, PartialEq, serde::Deserialize)]
struct Healing {
    enabled: bool,
    budget: u32,
    #[serde(with = "hms_core::duration::text")]
    window: Duration,
    #[serde(default, with = "hms_core::bytesize::option")]
    memory: Option<u64>,
    ladder: Ladder,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
struct Ladder {
    max: u32,
}

#[test]
fn defaults_fill_what_the_file_leaves_out() {
    let home = home("[healing]\nwindow = \"1m\"\nmemory = \"64MB\"\n");
    let config = load(&home).unwrap();
    let healing: Healing = config.section("healing").unwrap();
    let expected = Healing {
        enabled: true,
        budget: 5,
        window: Duration::from_secs(60),
        memory: Some(64_000_000),
        ladder: Ladder { max: 3 },
    };
    assert_eq!(healing, expected);
    assert_eq!(config.origin("healing.window").unwrap(), Origin::File(2));
    assert_eq!(config.origin("healing.budget").unwrap(), Origin::Default);
    assert_eq!(config.get("nothing"), None);
}

#[test]
fn a_missing_file_is_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::load(dir.path().join("config.toml"), sections()).unwrap();
    assert_eq!(config.value("healing.budget").unwrap(), json!(5));
}

#[test]
fn wrong_values_are_named_with_file_line_and_column() {
    let cases = [
        (
            "# note\n[healing]\n  budget = \"x\"\n",
            "config.toml:3:12: healing.budget: expected integer, found string \"x\"",
        ),
        ("[healing]\nbudget = 0\n", "config.toml:2:10: healing.budget: 0 is less than the minimum of 1"),
        (
            "[healing]\nwindow = \"5 parsecs\"\n",
            "config.toml:2:10: healing.window: `5 parsecs` is not a duration (write it as 500ms, 2s, 1m or 1h)",
        ),
        (
            "healing.memory = \"lots\"\n",
            "config.toml:1:18: healing.memory: `lots` is not a size \
             (write it as 512B, 64KiB, 64MB, 64MiB or 1GiB)",
        ),
        (
            "[healing]\nstrategies = [\"restart\", 7]\n",
            "config.toml:2:26: healing.strategies.1: expected string, found number 7",
        ),
        (
            "[healing.ladder]\nmax = true\n",
            "config.toml:2:7: healing.ladder.max: expected integer, found boolean true",
        ),
        ("[healing]\nladder = 3\n", "config.toml:2:10: healing.ladder: expected object, found number 3"),
        ("healing = 3\n", "config.toml:1:11: healing: expected object, found number 3"),
        ("[healing]\nbudget = inf\n", "config.toml:2:10: `inf` is not a finite number"),
    ];
    for (text, expected) in cases {
        let (kind, message) = refusal(text);
        assert_eq!((kind, message.as_str()), (ErrorKind::InvalidConfig, expected), "{text}");
    }
}

#[test]
fn the_first_problem_in_the_file_is_the_one_reported() {
    let (_, message) = refusal("[store]\npath = 1\n\n[healing]\nwindow = 2\nbudget = \"x\"\n");
    assert!(message.starts_with("config.toml:2:8: store.path:"), "{message}");
    let (_, message) = refusal("[healing]\nwindow = 2\nbudget = \"x\"\n[store]\npath = 1\n");
    assert!(message.starts_with("config.toml:2:10: healing.window:"), "{message}");
}

#[test]
fn unknown_names_come_with_a_suggestion() {
    let cases = [
        ("[heeling]\n", "config.toml:1:2: unknown section `heeling` (did you mean `healing`?)"),
        ("[healing]\nbudgte = 3\n", "config.toml:2:1: unknown key `healing.budgte` (did you mean `budget`?)"),
        (
            "[healing.ladder]\nmaxx = 3\n",
            "config.toml:2:1: unknown key `healing.ladder.maxx` (did you mean `max`?)",
        ),
        ("[zebra]\n", "config.toml:1:2: unknown section `zebra`"),
        ("[healing.env]\nANY = \"thing\"\n[store]\nx = 1\n", "config.toml:4:1: unknown key `store.x`"),
    ];
    for (text, expected) in cases {
        assert_eq!(refusal(text), (ErrorKind::InvalidConfig, expected.to_owned()), "{text}");
    }
    let config = load(&home("")).unwrap();
    let e = config.value("healing.budgt").unwrap_err();
    assert_eq!(e.to_string(), "no configuration key `healing.budgt` (did you mean `healing.budget`?)");
}

#[test]
fn malformed_toml_is_shown_with_its_line() {
    let (kind, message) = refusal("[healing]\nbudget = = 3\n");
    assert_eq!(kind, ErrorKind::InvalidConfig);
    assert!(message.starts_with("config.toml:2:"), "{message}");
    assert!(message.ends_with("in `budget = = 3`"), "{message}");

    let home = home("");
    fs::write(&home.file, b"[healing]\n# \xff\n").unwrap();
    let e = load(&home).unwrap_err();
    assert!(e.message.ends_with("config.toml:2: not UTF-8 text"), "{e}");
}

#[test]
fn setting_keeps_comments_and_order() {
    let home = home("# mine\n[store]\n\n# steps\n[healing]\nbudget = 4 # few\nenabled = false\n");
    let mut config = load(&home).unwrap();
    let change = config.set("healing.budget", "9").unwrap();
    let expected = Change { key: "healing.budget".into(), old: json!(4), new: json!(9), live: true };
    assert_eq!(change, expected);
    config.set("healing.ladder.max", "8").unwrap();
    config.set("store.path", "/a b").unwrap();
    assert_eq!(
        fs::read_to_string(&home.file).unwrap(),
        "# mine\n[store]\npath = \"/a b\"\n\n# steps\n[healing]\nbudget = 9 # few\nenabled = false\n\
         \n[healing.ladder]\nmax = 8\n"
    );
    let mode = fs::metadata(&home.file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = load(&home).unwrap();
    assert_eq!(again.get("healing"), config.get("healing"));
    assert_eq!(config.origin("healing.ladder.max").unwrap(), Origin::File(11));
}

#[test]
fn text_becomes_what_the_schema_wants() {
    let home = home("");
    let mut config = load(&home).unwrap();
    for (key, text, value) in [
        ("healing.enabled", "false", json!(false)),
        ("healing.window", "2s", json!("2s")),
        ("healing.strategies", "[\"a\", \"b\"]", json!(["a", "b"])),
        ("healing.env", "{\"A\": \"1\"}", json!({"A": "1"})),
        ("healing.ladder.mode", "brisk", json!("brisk")),
        ("store.path", "17", json!("17")),
        ("store.keep", "17", json!(17)),
        ("store.keep", "all", json!("all")),
    ] {
        assert_eq!(config.set(key, text).unwrap().new, value, "{key} {text}");
    }
    let again = load(&home).unwrap();
    assert_eq!(again.get("healing"), config.get("healing"));
    assert_eq!(again.get("store"), config.get("store"));
}

#[test]
fn a_bad_value_is_refused_before_anything_is_written() {
    let text = "[healing]\nbudget = 4\n";
    let home = home(text);
    let mut config = load(&home).unwrap();
    for (key, value, expected) in [
        ("healing.budget", "x", "healing.budget: expected integer, found string \"x\""),
        ("healing.budget", "0", "healing.budget: 0 is less than the minimum of 1"),
        (
            "healing.window",
            "soon",
            "healing.window: `soon` is not a duration (write it as 500ms, 2s, 1m or 1h)",
        ),
    ] {
        let e = config.set(key, value).unwrap_err();
        assert_eq!((e.kind, e.to_string().as_str()), (ErrorKind::InvalidArgument, expected));
    }
    assert_eq!(config.set("healing.nothing", "1").unwrap_err().kind, ErrorKind::InvalidArgument);
    assert_eq!(fs::read_to_string(&home.file).unwrap(), text);
    assert_eq!(config.value("healing.budget").unwrap(), json!(4));
}

#[test]
fn unset_brings_the_default_back() {
    let home = home("[healing]\nbudget = 4\nenabled = false # so\n");
    let mut config = load(&home).unwrap();
    let change = config.unset("healing.budget").unwrap();
    assert_eq!((change.old, change.new), (json!(4), json!(5)));
    assert_eq!(fs::read_to_string(&home.file).unwrap(), "[healing]\nenabled = false # so\n");
    let nothing = config.unset("store.path").unwrap();
    assert_eq!(nothing.old, nothing.new);
}

#[test]
fn unset_leaves_no_empty_table_but_those_that_say_something() {
    for (text, key, left) in [
        ("[store]\nkeep = 1\n\n[healing.ladder]\nmax = 4\n", "healing.ladder.max", "[store]\nkeep = 1\n"),
        ("[healing]\nbudget = 4\n", "healing.budget", ""),
        ("healing = { budget = 4 }\n", "healing.budget", ""),
        ("# mine\n[healing]\nbudget = 4\n", "healing.budget", "# mine\n[healing]\n"),
        ("[healing]\n", "healing.budget", "[healing]\n"),
    ] {
        let home = home(text);
        load(&home).unwrap().unset(key).unwrap();
        assert_eq!(fs::read_to_string(&home.file).unwrap(), left, "{text}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let (kind, message) =
        refusal("[healing]\nwindow = 2\nbudgt = 3\nbudget = 0\n[nonsense]\n[store]\npath = 1\n");
    assert_eq!(kind, ErrorKind::InvalidConfig);
    let lines: Vec<&str> = message.lines().collect();
    let starts = [
        "config.toml:2:10: healing.window:",
        "config.toml:3:1: unknown key `healing.budgt` (did you mean `budget`?)",
        "config.toml:4:10: healing.budget:",
        "config.toml:5:2: unknown section `nonsense`",
        "config.toml:7:8: store.path:",
    ];
    assert_eq!(lines.len(), starts.len(), "{message}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn an_override_stands_above_the_file_and_is_not_written() {
    let text = "[healing]\nbudget = 4\n";
    let home = home(text);
    let mut config = load(&home).unwrap();
    assert_eq!(config.set_override("healing.budget", "7").unwrap().new, json!(7));
    assert_eq!(config.origin("healing.budget").unwrap(), Origin::Override);
    let e = config.set_override("healing.budget", "x").unwrap_err();
    assert_eq!(e.message, "healing.budget: expected integer, found string \"x\"");
    // The file changes; what is in force does not.
    let change = config.set("healing.budget", "6").unwrap();
    assert_eq!((change.old, change.new), (json!(7), json!(7)));
    assert_eq!(fs::read_to_string(&home.file).unwrap(), "[healing]\nbudget = 6\n");
}

#[test]
fn an_edit_by_hand_is_neither_lost_nor_adopted_unannounced() {
    let home = home("[healing]\nbudget = 4\n");
    let mut config = load(&home).unwrap();
    fs::write(&home.file, "[healing]\nbudget = 8\n").unwrap();
    let e = config.set("store.path", "x").unwrap_err();
    assert_eq!(e.kind, ErrorKind::InvalidState);
    let changes = config.reload().unwrap();
    let expected = Change { key: "healing.budget".into(), old: json!(4), new: json!(8), live: true };
    assert_eq!(changes, [expected]);
    config.set("store.path", "x").unwrap();

    fs::write(&home.file, "[healing]\nbudget = \n").unwrap();
    assert_eq!(config.reload().unwrap_err().kind, ErrorKind::InvalidConfig);
    assert_eq!(config.value("healing.budget").unwrap(), json!(8), "what was in force stays");
}

#[test]
fn the_list_shows_every_key() {
    let home = home("[healing]\nbudget = 4\n");
    let list = load(&home).unwrap().list();
    let keys: Vec<&str> = list.iter().map(|entry| entry.key.as_str()).collect();
    let expected = [
        "healing.enabled",
        "healing.budget",
        "healing.window",
        "healing.memory",
        "healing.strategies",
        "healing.ladder.max",
        "healing.ladder.mode",
        "healing.env",
        "store.path",
        "store.keep",
    ];
    assert_eq!(keys, expected);
    let shown = serde_json::to_value(&list[1]).unwrap();
    assert_eq!(
        shown,
        json!({"key": "healing.budget", "value": 4, "default": 5, "origin": {"file": 2},
               "description": "Steps per incident.", "live": true})
    );
}

#[test]
fn a_linked_file_stays_a_link() {
    let home = home("");
    let dir = home.file.parent().unwrap();
    let real = dir.join("real.toml");
    fs::rename(&home.file, &real).unwrap();
    std::os::unix::fs::symlink(&real, &home.file).unwrap();
    load(&home).unwrap().set("healing.budget", "2").unwrap();
    assert!(fs::symlink_metadata(&home.file).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&real).unwrap(), "[healing]\nbudget = 2\n");
}
