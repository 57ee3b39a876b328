//! Whatever schema a plugin brings, the command line stands.

use proptest::prelude::*;

use super::*;

/// Schemas as a careless plugin author may write them.
fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({})),
        Just(json!(true)),
        Just(json!({ "type": "boolean", "default": true, "x-short": "h" })),
        Just(json!({ "type": ["integer", "null"], "x-short": "a" })),
        Just(json!({ "type": "string", "x-short": "é", "x-value": "" })),
        Just(json!({ "enum": ["a", "a", ""] })),
        Just(json!({ "enum": [] })),
        Just(json!({ "enum": [1, null] })),
        Just(json!({ "oneOf": [{ "const": 1 }] })),
        Just(json!({ "$ref": "#" })),
        Just(json!({ "$ref": "#/properties/config" })),
        Just(json!({ "$ref": "#/nowhere" })),
        Just(json!({ "anyOf": [] })),
        Just(json!({ "type": "array", "items": { "$ref": "#" } })),
        Just(json!({ "type": 7, "description": ["no"], "properties": [] })),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|items| json!({ "type": "array", "items": items })),
            inner.clone().prop_map(|values| json!({ "type": "object", "additionalProperties": values })),
            proptest::collection::hash_map("[a-zA-Z_. -]{0,6}", inner, 0..4)
                .prop_map(|properties| json!({ "type": "object", "properties": properties })),
        ]
    })
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("json".to_owned()),
        Just("help".to_owned()),
        Just("version".to_owned()),
        Just("config".to_owned()),
        Just("yes".to_owned()),
        Just("no-a".to_owned()),
        Just("as".to_owned()),
        "[a-c_A-C.=/ -]{0,5}",
        "\\PC{0,4}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a plugin declares, the command line is built (clap asserts a lot) and answers.
    #[test]
    fn no_schema_breaks_the_command_line(
        properties in proptest::collection::hash_map(any_name(), any_schema(), 0..8),
        required in proptest::collection::vec(any_name(), 0..3),
        positional in proptest::collection::vec(any_name(), 0..4),
        trailing in proptest::option::of(any_name()),
        typed in any::<bool>(),
        path in "[a-c -]{0,6}",
    ) {
        let required: Vec<&str> = required.iter().map(String::as_str).collect();
        let mut positional: Vec<String> = positional;
        if typed {
            positional.insert(0, "type".into());
        }
        let mut spec = CommandSpec::new("x y", "").args(json!(properties), &required).destructive().watchable();
        spec.args["properties"]["type"] = json!({ "type": "string" });
        spec.positional = positional;
        spec.trailing = trailing;
        spec.typed_by = typed.then(|| "type".into());
        let odd = CommandSpec { path, ..spec.clone() };
        let parser = Parser::new("p", "0", vec![Arc::new(spec), Arc::new(odd)], Arc::new(Types));
        for line in [
            &["x", "y", "--help"][..], &["x", "y", "process", "--", "a"], &["x", "y"], &["x", "y", "http", "a", "b", "--a=1"],
        ] {
            let _ = parser.parse(&words(line));
        }
        prop_assert!(parser.completions("bash").is_ok());
        prop_assert!(parser.man_page().is_ok());
        prop_assert!(parser.reference_markdown().contains("## Exit codes"));
    }
}
