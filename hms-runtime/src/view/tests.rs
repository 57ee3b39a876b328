//! Each view as exact text, plain and on a terminal, and that nothing breaks one.

use hms_core::{
    Error, ErrorKind,
    command::{
        Column,
        Format::{self, Age, Bytes, Millis, Number, Percent, State, Text, Time},
        View,
    },
};
use jiff::tz::{Offset, TimeZone};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Redraw, Style, error_json, render, render_error, text};

const NOW: u64 = 1_767_323_045_000;

fn plain() -> Style {
    Style { zone: TimeZone::fixed(Offset::constant(2)), ..Style::plain("codex-hms", NOW) }
}

fn coloured(width: usize) -> Style {
    Style { terminal: true, color: true, width, ..plain() }
}

fn narrow(width: usize) -> Style {
    Style { color: false, ..coloured(width) }
}

fn agents() -> Value {
    json!([
        { "name": "web", "status": "running", "restarts": 3, "memory": 12_900_000, "since": NOW - 3_000, "command": "python3 -m http.server" },
        { "name": "数据库", "status": "quarantined", "restarts": 12, "since": NOW - 7_200_000, "command": "db" },
    ])
}

fn agent_table() -> View {
    View::table(
        "no agents; `{program} agent create` makes one",
        &[
            ("Name", "/name", Text),
            ("Status", "/status", State),
            ("Restarts", "/restarts", Number),
            ("Memory", "/memory", Bytes),
            ("Since", "/since", Age),
            ("Command", "/command", Text),
        ],
    )
}

/// One cell of this format.
fn cell(format: Format, value: Value) -> String {
    let view = View::record(&[("k", "/v", format)]);
    render(&view, &json!({ "v": value }), &plain())["k  ".len()..].trim_end().to_owned()
}

#[test]
fn a_plain_table_is_aligned_and_whole() {
    assert_eq!(
        render(&agent_table(), &agents(), &plain()),
        "\
NAME    STATUS       RESTARTS    MEMORY  SINCE   COMMAND
web     running             3  12.3 MiB  3s ago  python3 -m http.server
数据库  quarantined        12         -  2h ago  db
"
    );
}

#[test]
fn a_table_on_a_terminal_has_colours_that_take_no_width() {
    assert_eq!(
        render(&agent_table(), &agents(), &coloured(120)),
        "\
\x1b[1mNAME\x1b[0m    \x1b[1mSTATUS\x1b[0m       \x1b[1mRESTARTS\x1b[0m    \x1b[1mMEMORY\x1b[0m  \x1b[1mSINCE\x1b[0m   \x1b[1mCOMMAND\x1b[0m
web     \x1b[32mrunning\x1b[0m             3  12.3 MiB  3s ago  python3 -m http.server
数据库  \x1b[31mquarantined\x1b[0m        12         \x1b[2m-\x1b[0m  2h ago  db
"
    );
}

#[test]
fn a_table_is_cut_to_the_terminal_where_it_is_text() {
    assert_eq!(
        render(&agent_table(), &agents(), &narrow(58)),
        "\
NAME    STATUS       RESTARTS    MEMORY  SINCE   COMMAND
web     running             3  12.3 MiB  3s ago  python3…
数据库  quarantined        12         -  2h ago  db
"
    );
    // Too narrow to be read in columns: whole lines, which the terminal wraps.
    assert_eq!(render(&agent_table(), &agents(), &narrow(20)), render(&agent_table(), &agents(), &plain()));
    for width in 48..80 {
        let drawn = render(&agent_table(), &agents(), &narrow(width));
        assert_eq!(drawn.lines().count(), 3, "{width}: {drawn}");
        for line in drawn.lines() {
            assert!(text::width(line) <= width, "{width}: {line}");
        }
    }
}

#[test]
fn an_empty_table_says_so_with_the_programs_name() {
    for empty in [json!([]), json!(null), json!("text")] {
        assert_eq!(
            render(&agent_table(), &empty, &plain()),
            "no agents; `codex-hms agent create` makes one\n"
        );
    }
    let other = Style { program: "mycli hms".into(), ..coloured(0) };
    assert_eq!(
        render(&agent_table(), &json!([]), &other),
        "\x1b[2mno agents; `mycli hms agent create` makes one\x1b[0m\n"
    );
    let nested = View::table_at("/agents", "none", &[("Name", "/name", Text)]);
    assert_eq!(render(&nested, &json!({ "agents": agents() }), &plain()), "NAME\nweb\n数据库\n");
}

#[test]
fn a_record_has_its_keys_aligned_and_its_tables_below() {
    let view = View::record(&[
        ("Name", "/name", Text),
        ("Health", "/health/status", State),
        ("Started", "/at", Time),
    ])
    .with("Steps", View::table_at("/steps", "none yet", &[("Step", "/name", Text), ("Took", "/ms", Millis)]))
    .with("Alerts", View::table_at("/alerts", "", &[("Alert", "/name", Text)]));
    let value = json!({
        "name": "web", "health": { "status": "degraded" }, "at": NOW,
        "steps": [{ "name": "restart", "ms": 63_000 }],
    });
    assert_eq!(
        render(&view, &value, &plain()),
        "\
Name     web
Health   degraded
Started  2026-01-02 05:04:05

Steps
STEP      TOOK
restart  1m 3s
"
    );
    assert_eq!(
        render(&view, &json!({ "name": "web" }), &coloured(80)),
        "\
\x1b[2mName\x1b[0m     web
\x1b[2mHealth\x1b[0m   \x1b[2m-\x1b[0m
\x1b[2mStarted\x1b[0m  \x1b[2m-\x1b[0m

\x1b[1mSteps\x1b[0m
\x1b[2mnone yet\x1b[0m
"
    );
}

#[test]
fn a_tree_has_guides() {
    let view = View::Tree {
        roots: "/roots".into(),
        children: "/children".into(),
        columns: vec![
            Column { title: "Name".into(), pointer: "/name".into(), format: Text },
            Column { title: "Status".into(), pointer: "/status".into(), format: State },
        ],
    };
    let leaf = |name: &str, status: &str| json!({ "name": name, "status": status });
    let value = json!({ "roots": [
        { "name": "system", "status": "running", "children": [
            { "name": "api", "status": "degraded", "children": [leaf("db", "failed")] },
            leaf("web", "running"),
        ] },
        { "name": "other" },
    ] });
    assert_eq!(
        render(&view, &value, &plain()),
        "\
system    running
├─ api    degraded
│  └─ db  failed
└─ web    running
other     -
"
    );
    assert!(render(&view, &value, &coloured(80)).contains("│  └─ db  \x1b[31mfailed\x1b[0m\n"));
    assert_eq!(render(&view, &json!({}), &plain()), "-\n");
}

#[test]
fn a_series_is_a_sparkline_with_figures() {
    let view = View::Series { rows: "/series".into(), name: "/name".into(), points: "/points".into() };
    let points = |values: &[f64]| values.iter().enumerate().map(|(t, v)| json!([t, v])).collect::<Vec<_>>();
    let value = json!({ "series": [
        { "name": "cpu", "points": points(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) },
        { "name": "flat", "points": [[0, 1500], [1, null], [2, 1500]] },
        { "name": "none", "points": [] },
    ] });
    assert_eq!(
        render(&view, &value, &plain()),
        "\
NAME             MIN   AVG   MAX  LAST
cpu   ▁▂▃▄▅▆▇█     0   3.5     7     7
flat  ▄▄        1500  1500  1500  1500
none               -     -     -     -
"
    );
    // More points than columns: each bar is the mean of its share.
    let many = json!({ "series": [{ "name": "m", "points": points(&(0..1000).map(f64::from).collect::<Vec<_>>()) }] });
    let drawn = render(&view, &many, &narrow(70));
    assert_eq!(
        drawn,
        "\
NAME                        MIN  AVG  MAX  LAST
m     ▁▁▂▂▂▃▃▄▄▄▅▅▅▆▆▇▇▇██    0  500  999   999
"
    );
    assert_eq!(render(&view, &json!({}), &plain()), "-\n");
}

#[test]
fn text_and_messages_are_shown_as_they_are() {
    let value =
        json!({ "log": "one\ntwo\tthree\u{1b}[2J\n", "lines": ["a", "b"], "n": 2, "at": NOW - 5_000 });
    assert_eq!(render(&View::text("/log"), &value, &plain()), "one\ntwo\tthree\\x1b[2J\n");
    assert_eq!(render(&View::text("/lines"), &value, &plain()), "a\nb\n");
    assert_eq!(render(&View::text("/missing"), &value, &plain()), "-\n");
    assert_eq!(render(&View::text(""), &json!(null), &plain()), "");
    assert_eq!(render(&View::text(""), &json!({ "a": [1] }), &plain()), "{\n  \"a\": [\n    1\n  ]\n}\n");
    let view =
        View::message("took {/n} {/lines} {/at|age}; see `{program} agent list` {/gone} {other} {/open");
    assert_eq!(
        render(&view, &value, &plain()),
        "took 2 a, b 5s ago; see `codex-hms agent list` - {other} {/open\n"
    );
    assert_eq!(
        render(&View::message("{/s|state}"), &json!({ "s": "verified" }), &coloured(0)),
        "\x1b[32mverified\x1b[0m\n"
    );
}

#[test]
fn each_format_reads_as_people_write_it() {
    for (format, value, expected) in [
        (Text, json!("a\nb\u{1b}]0;x\u{7}\u{202e}"), r"a\nb\x1b]0;x\x07\u{202e}"),
        (Text, json!(""), "-"),
        (Text, json!([]), "-"),
        (Text, json!(["a", 1, null]), "a, 1, null"),
        (Text, json!({ "tier": "1", "x": { "y": 2 } }), r#"tier=1, x={"y":2}"#),
        (Text, json!(true), "true"),
        (Age, json!(NOW), "now"),
        (Age, json!(NOW - 59_999), "59s ago"),
        (Age, json!(NOW - 60_000), "1m ago"),
        (Age, json!(NOW - 86_400_000 * 3), "3d ago"),
        (Age, json!(NOW + 90_000), "in 1m"),
        (Age, json!("yesterday"), "yesterday"),
        (Time, json!(NOW), "2026-01-02 05:04:05"),
        (Time, json!(1e300), &format!("{:.0}", 1e300)),
        (Millis, json!(0), "0ms"),
        (Millis, json!(0.349), "0.35ms"),
        (Millis, json!(350), "350ms"),
        (Millis, json!(999.9), "1s"),
        (Millis, json!(2_500), "2.5s"),
        (Millis, json!(59_990), "1m"),
        (Millis, json!(63_000), "1m 3s"),
        (Millis, json!(3_600_000), "1h"),
        (Millis, json!(93_784_000), "1d 2h"),
        (Millis, json!(-350), "-350ms"),
        (Bytes, json!(0), "0 B"),
        (Bytes, json!(1023), "1023 B"),
        (Bytes, json!(1024), "1.0 KiB"),
        (Bytes, json!(1024 * 1024 - 1), "1.0 MiB"),
        (Bytes, json!(12_900_000), "12.3 MiB"),
        (Percent, json!(0.1234), "12.3%"),
        (Percent, json!(1), "100%"),
        (Percent, json!(-0.0001), "0%"),
        (Number, json!(12_345), "12345"),
        (Number, json!(1.23456), "1.235"),
        (Number, json!(u64::MAX), "18446744073709551615"),
        (State, json!(null), "-"),
    ] {
        assert_eq!(cell(format, value.clone()), expected, "{format:?} {value}");
    }
}

#[test]
fn states_have_the_colour_of_their_meaning() {
    let view = View::record(&[("s", "/s", State)]);
    for (code, words) in [
        ("32", &["healthy", "running", "verified", "Running"][..]),
        ("33", &["degraded", "pending", "waiting", "starting", "waiting (type_unavailable)"]),
        ("31", &["critical", "failed", "firing", "quarantined"]),
        ("2", &["stopped", "unknown"]),
    ] {
        for word in words {
            let drawn = render(&view, &json!({ "s": word }), &coloured(80));
            assert_eq!(drawn, format!("\x1b[2ms\x1b[0m  \x1b[{code}m{word}\x1b[0m\n"));
        }
    }
    assert_eq!(render(&view, &json!({ "s": "purple" }), &coloured(80)), "\x1b[2ms\x1b[0m  purple\n");
}

#[test]
fn errors_say_what_and_then_what_to_do() {
    let error =
        Error::new(ErrorKind::NotFound, "no agent `we\u{1b}b`").hint("`{program} agent list` shows them");
    assert_eq!(
        render_error(&error, &plain()),
        "error: no agent `we\\x1bb`\n  hint: `codex-hms agent list` shows them\n"
    );
    assert_eq!(
        render_error(&error, &coloured(80)),
        "\x1b[1m\x1b[31merror\x1b[0m: no agent `we\\x1bb`\n  \x1b[1mhint\x1b[0m: `codex-hms agent list` shows them\n"
    );
    let lines = Error::new(ErrorKind::InvalidConfig, "hms.toml is not valid\n3 | restart = 7");
    assert_eq!(render_error(&lines, &plain()), "error: hms.toml is not valid\n       3 | restart = 7\n");
    assert_eq!(
        error_json(&error, "mycli hms"),
        json!({ "error": {
            "kind": "not-found", "message": "no agent `we\u{1b}b`", "hint": "`mycli hms agent list` shows them",
        } })
    );
}

#[test]
fn frames_are_drawn_over_each_other_on_a_terminal_only() {
    let mut redraw = Redraw::new(true);
    assert_eq!(redraw.frame("a\nb\n", 80, 24), "\x1b[?2026ha\x1b[K\nb\x1b[K\n\x1b[J\x1b[?2026l");
    assert_eq!(redraw.frame("c\n", 80, 24), "\x1b[?2026h\r\x1b[2Ac\x1b[K\n\x1b[J\x1b[?2026l");
    // A line of five columns takes two lines of four; colours take none, wide characters two.
    assert!(redraw.frame("\x1b[31mabcde\x1b[0m\n数据库\n", 4, 24).contains("\x1b[1A"));
    assert!(redraw.frame("x\n", 4, 24).contains("\x1b[4A"));
    // Taller than the terminal: what fits above the cursor.
    let tall: String = (0..50).map(|n| format!("{n}\n")).collect();
    let drawn = redraw.frame(&tall, 80, 10);
    assert!(drawn.contains("8\x1b[K") && !drawn.contains("9\x1b[K"), "{drawn:?}");
    assert!(redraw.frame("x", 80, 10).contains("\x1b[9A"));
    redraw.keep();
    assert!(!redraw.frame("x", 80, 10).contains("\x1b[1A"));
    let mut file = Redraw::new(false);
    assert_eq!(file.frame("a\n", 80, 24) + &file.frame("b\n", 80, 24), "a\nb\n");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
        Just(json!("\u{1f}|\u{0}e\u{301}👨‍👩‍👧")),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((prop_oneof![Just("a"), Just("b"), Just("")], inner), 0..4)
                .prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

fn any_view() -> impl Strategy<Value = View> {
    let pointer = || {
        prop_oneof![
            Just(String::new()),
            Just("/a".into()),
            Just("/b/0".into()),
            Just("/".into()),
            "\\PC{0,3}"
        ]
    };
    let format = prop_oneof![
        Just(Text),
        Just(State),
        Just(Time),
        Just(Age),
        Just(Millis),
        Just(Bytes),
        Just(Percent),
        Just(Number)
    ];
    let column =
        (".{0,6}", pointer(), format).prop_map(|(title, pointer, format)| Column { title, pointer, format });
    let columns = || proptest::collection::vec(column.clone(), 0..5);
    let table = (pointer(), columns(), ".{0,4}").prop_map(|(rows, columns, empty)| View::Table {
        rows,
        columns,
        empty,
    });
    prop_oneof![
        table.clone(),
        (columns(), proptest::collection::vec((".{0,4}", table), 0..2))
            .prop_map(|(fields, tables)| View::Record { fields, tables }),
        (pointer(), pointer(), columns()).prop_map(|(roots, children, columns)| View::Tree {
            roots,
            children,
            columns
        }),
        (pointer(), pointer(), pointer()).prop_map(|(rows, name, points)| View::Series {
            rows,
            name,
            points
        }),
        (pointer(), pointer()).prop_map(|(pointer, state)| View::Text { pointer, state }),
        "[{}/a|-]{0,12}".prop_map(|template| View::Message { template }),
    ]
}

proptest! {
    /// Any result under any view is drawn, and moves no terminal.
    #[test]
    fn any_value_is_drawn_safely(
        view in any_view(), value in any_json(), width in 0usize..200, terminal in any::<bool>(), color in any::<bool>(),
    ) {
        let style = Style { terminal, color, width, ..plain() };
        let drawn = render(&view, &value, &style);
        prop_assert!(drawn.is_empty() || drawn.ends_with('\n'));
        let values = text::without_ansi(&drawn);
        prop_assert!(!values.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{:?}", drawn);
    }
}
