//! `up` and `down`: a file declares the agents, and running it twice changes nothing.

use std::fs;

use hms_tests::{Home, text};
use serde_json::{Value, json};

const SHOP: &str = r#"
[project]
name = "shop"

[agents.db]
type = "process"
command = ["sleep", "1000"]

[agents.web]
type = "process"
command = ["sleep", "1001"]
depends_on = ["db"]
"#;

#[test]
fn a_second_up_changes_nothing_and_a_third_the_difference() {
    let home = Home::new();
    let file = home.file("hms.toml");
    fs::write(&file, SHOP).expect("it can be written");
    let up = ["up", text(&file), "--wait"];

    let checked = home.json(&["up", text(&file), "--check"]);
    assert_eq!(
        (&checked["applied"], &checked["created"]),
        (&json!(false), &json!(["db", "web"])),
        "{checked}"
    );
    assert_eq!(home.json(&["agent", "list"]), json!([]));

    let first = home.json(&up);
    assert_eq!(first["created"], json!(["db", "web"]), "{first}");
    let pids = |home: &Home| ["db", "web"].map(|name| home.pid(name));
    let before = pids(&home);
    assert!(before.iter().all(Option::is_some));

    let second = home.json(&up);
    assert_eq!(second["unchanged"], json!(["db", "web"]), "{second}");
    assert_eq!(pids(&home), before);

    // `web` changes, `db` stays, `mail` is new.
    let changed = SHOP.replace("1001", "1002")
        + "\n[agents.mail]\ntype = \"process\"\ncommand = [\"sleep\", \"1003\"]\n";
    fs::write(&file, &changed).expect("it can be written");
    let third = home.json(&up);
    assert_eq!(
        (&third["created"], &third["updated"], &third["unchanged"]),
        (&json!(["mail"]), &json!(["web"]), &json!(["db"])),
        "{third}"
    );
    assert_eq!(home.pid("db"), before[0]);
    assert_ne!(home.pid("web"), before[1]);

    // What is declared no longer goes; what was never declared stays through all of it.
    let own = home.process("own", &[], &["sleep", "1000"]);
    fs::write(&file, SHOP).expect("it can be written");
    assert_eq!(home.json(&up)["removed"], json!(["mail"]));
    let down = home.json(&["down", text(&file), "--yes"]);
    assert_eq!(down["removed"], json!(["web", "db"]), "dependents first: {down}");
    let left: Vec<Value> =
        home.json(&["agent", "list"]).as_array().expect("rows").iter().map(|r| r["name"].clone()).collect();
    assert_eq!(left, ["own"]);
    assert_eq!(home.pid("own"), Some(own));
    assert_eq!(home.processes().len(), 1);
    home.stop();
}

#[test]
fn what_was_declared_survives_the_host() {
    let home = Home::new();
    let file = home.file("hms.toml");
    fs::write(&file, SHOP).expect("it can be written");
    home.ok(&["up", text(&file), "--wait"]);
    let pids = ["db", "web"].map(|name| home.pid(name));
    hms_tests::processes::kill(home.host());
    let again = home.json(&["up", text(&file), "--wait"]);
    assert_eq!(again["unchanged"], json!(["db", "web"]), "{again}");
    assert_eq!(["db", "web"].map(|name| home.pid(name)), pids);
    home.stop();
}
