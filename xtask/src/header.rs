//! `cargo xtask header [--check]`: include/hms.h by cbindgen, from the files of the ABI.
//!
//! What cbindgen declares is kept as it is. Only its order is changed, from all constants, all types, all
//! functions to one section a noun, so that the header reads like one that was written by hand.

use std::fs;

use crate::{Outcome, root};

/// A file of the ABI, and its section of the header.
struct Section {
    /// `hms-ffi/src/<file>.rs`.
    file: &'static str,
    title: &'static str,
    /// How the names that belong here begin.
    prefixes: &'static [&'static str],
}

/// The sections, in the order in which a reader, and a compiler, needs them.
const SECTIONS: [Section; 16] = [
    Section { file: "version", title: "Versions", prefixes: &["HMS_ABI_", "hms_abi_", "hms_version"] },
    Section {
        file: "status",
        title: "Statuses and messages",
        prefixes: &["hms_status_", "HMS_OK", "HMS_ERR_", "hms_last_error_"],
    },
    Section { file: "text", title: "Memory", prefixes: &["hms_string_", "hms_drop_"] },
    Section { file: "system", title: "Systems", prefixes: &["hms_system_", "HMS_SYSTEM_"] },
    Section { file: "operation", title: "Operations", prefixes: &["hms_operation_", "hms_completion_"] },
    Section { file: "registration", title: "Registrations", prefixes: &["hms_registration_"] },
    Section { file: "reply", title: "Replies", prefixes: &["hms_reply_"] },
    Section { file: "service", title: "Services", prefixes: &["hms_service_"] },
    Section {
        file: "agent_type",
        title: "Agent types",
        prefixes: &[
            "hms_agent_type_",
            "hms_agent_info_",
            "hms_agent_vtable_",
            "hms_life_",
            "hms_message_",
            "hms_stop_",
            "HMS_AGENT_VTABLE_",
            "HMS_STOP_",
        ],
    },
    Section { file: "agent", title: "Agents", prefixes: &["hms_agent_"] },
    Section { file: "command", title: "Commands", prefixes: &["hms_command_", "HMS_COMMAND_"] },
    Section { file: "event", title: "Events", prefixes: &["hms_event_t", "hms_event_publish", "HMS_EVENT_"] },
    Section {
        file: "subscription",
        title: "Subscriptions",
        prefixes: &[
            "hms_subscription_",
            "hms_event_",
            "hms_queue_",
            "HMS_SUBSCRIPTION_",
            "HMS_QUEUE_",
            "HMS_WAIT_",
        ],
    },
    Section { file: "config", title: "Configuration", prefixes: &["hms_config_"] },
    Section { file: "metric", title: "Metrics", prefixes: &["hms_metric_"] },
    Section { file: "cli", title: "Command line", prefixes: &["hms_cli_", "HMS_CLI_"] },
];

const WIDTH: usize = 110;

pub(crate) fn run(args: &[String]) -> Outcome {
    let check = match args {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => return Err("usage: cargo xtask header [--check]".into()),
    };
    let path = root().join("include/hms.h");
    let header = generate()?;
    if !check {
        return Ok(fs::write(path, header)?);
    }
    if fs::read_to_string(&path).unwrap_or_default() != header {
        return Err("include/hms.h is stale: run `cargo xtask header` and review the difference".into());
    }
    Ok(())
}

fn generate() -> Result<String, Box<dyn std::error::Error>> {
    let ffi = root().join("hms-ffi");
    let config = cbindgen::Config::from_file(ffi.join("cbindgen.toml"))?;
    let builder = SECTIONS.iter().fold(cbindgen::Builder::new().with_config(config), |builder, section| {
        builder.with_src(ffi.join("src").join(section.file).with_extension("rs"))
    });
    let mut text = Vec::new();
    builder.generate()?.write(&mut text);
    arrange(&String::from_utf8(text)?)
}

/// What a block of cbindgen's output declares; in this order within a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Type,
    Constant,
    Struct,
    Initial,
    Function,
}

/// Sorts the blocks, which stand between empty lines, into the sections.
fn arrange(header: &str) -> Result<String, Box<dyn std::error::Error>> {
    let mut sections: [Vec<(Kind, String)>; SECTIONS.len()] = Default::default();
    let (mut front, mut back) = (Vec::new(), Vec::new());
    for block in header.split("\n\n").map(|block| block.trim_matches('\n')).filter(|block| !block.is_empty())
    {
        match declared(block) {
            Some((kind, name)) => {
                let fits = |section: &Section| section.prefixes.iter().any(|prefix| name.starts_with(prefix));
                let at = SECTIONS
                    .iter()
                    .position(fits)
                    .ok_or(format!("`{name}` has no section in xtask/src/header.rs"))?;
                sections[at].push((kind, tidied(kind, block)));
            }
            // The comment at the top, the guard, the includes, and the opening of extern "C" come before.
            None if block.contains("#endif  /*") || block.contains("}  // extern") => back.push(block),
            None => front.push(block),
        }
    }
    let mut out = front.join("\n\n");
    for (section, mut blocks) in SECTIONS.iter().zip(sections) {
        // Stable: within a kind the order is that of the source.
        blocks.sort_by_key(|(kind, _)| *kind);
        let dashes = WIDTH - "/* ----  ".len() - section.title.len() - " */".len();
        out += &format!("\n\n/* ---- {} {:-<dashes$} */", section.title, "");
        let mut last = None;
        for (kind, block) in blocks {
            let listed = kind == Kind::Constant && last == Some(kind);
            out += if listed { "\n" } else { "\n\n" };
            out += &block;
            last = Some(kind);
        }
    }
    Ok(format!("{out}\n\n{}\n", back.join("\n\n")))
}

/// The kind and the name of what a block declares, if it declares something.
fn declared(block: &str) -> Option<(Kind, &str)> {
    let line = block.lines().find(|line| !line.starts_with("/*") && !line.starts_with(" *"))?;
    if let Some(rest) = line.strip_prefix("#define ") {
        let name = rest.split_whitespace().next()?;
        let kind = if name.ends_with("_INIT") { Kind::Initial } else { Kind::Constant };
        return (name != "HMS_H").then_some((kind, name));
    }
    if let Some((_, rest)) = line.split_once(" (*").filter(|_| line.starts_with("typedef ")) {
        // Among the structures: they need each other, in the order in which they come.
        return Some((Kind::Struct, rest.split_once(')')?.0));
    }
    if line.starts_with("typedef ") {
        let kind = if line.ends_with('{') { Kind::Struct } else { Kind::Type };
        let name = line.trim_end_matches([';', '{', ' ']).rsplit(' ').next()?;
        return Some((kind, name));
    }
    let name = line.split_once('(')?.0.rsplit([' ', '*']).next()?;
    name.starts_with("hms_").then_some((Kind::Function, name))
}

/// The block as a person would lay it out: a comment of one line stands on one line, the sections of a
/// function's comment stand together, and its arguments use the short names of the types.
fn tidied(kind: Kind, block: &str) -> String {
    let lines: Vec<&str> = block.lines().collect();
    let mut out: Vec<String> = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if let [open, text, close, ..] = lines[at..]
            && (open.trim(), close.trim()) == ("/**", "*/")
            && let Some(text) = text.trim_start().strip_prefix("* ")
        {
            out.push(format!("{open} {text} */"));
            at += 3;
            continue;
        }
        let next = lines.get(at + 1).copied().unwrap_or_default();
        let between =
            [" * Threads: ", " * Errors: ", " * Since: "].iter().any(|title| next.starts_with(title));
        if kind != Kind::Function {
            // A function's type, by its first line or a later one, uses the short names too.
            let short = block.contains("\ntypedef void (*") && !lines[at].starts_with(" *");
            out.push(if short { lines[at].replace("struct hms_", "hms_") } else { lines[at].to_owned() });
        } else if !(lines[at] == " *" && between) {
            out.push(lines[at].replace("struct hms_", "hms_"));
        }
        at += 1;
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_that_is_checked_in_is_the_one_the_sources_make() {
        run(&["--check".to_owned()]).unwrap();
    }

    #[test]
    fn blocks_are_known_by_what_they_declare() {
        assert_eq!(declared("#ifndef HMS_H\n#define HMS_H"), None);
        assert_eq!(declared("/**\n * One.\n */\n#define HMS_OK 0"), Some((Kind::Constant, "HMS_OK")));
        assert_eq!(declared("typedef int32_t hms_status_t;"), Some((Kind::Type, "hms_status_t")));
        assert_eq!(
            declared("typedef struct hms_a_t {\n    int x;\n} hms_a_t;"),
            Some((Kind::Struct, "hms_a_t"))
        );
        assert_eq!(
            declared("/**\n * One.\n */\ntypedef void (*hms_a_cb_t)(void *user_data);"),
            Some((Kind::Struct, "hms_a_cb_t"))
        );
        assert_eq!(declared("const char *hms_version(void);"), Some((Kind::Function, "hms_version")));
        assert_eq!(declared("#ifdef __cplusplus\nextern \"C\" {\n#endif // __cplusplus"), None);
    }

    #[test]
    fn nothing_is_lost_in_the_arrangement() {
        let source = "/* top */\n\n#define HMS_H\n\n#define HMS_CLI_X_INIT { 0 }\n\nvoid hms_cli_b(void);\n\n\
                      typedef struct hms_cli_t hms_cli_t;\n\nvoid hms_version(void);\n\n#endif  /* HMS_H */\n";
        let arranged = arrange(source).unwrap();
        let order = [
            "/* top */",
            "#define HMS_H",
            "hms_version",
            "hms_cli_t;",
            "HMS_CLI_X_INIT",
            "hms_cli_b",
            "#endif",
        ];
        let places: Vec<_> = order.iter().map(|text| arranged.find(text).unwrap()).collect();
        assert!(places.is_sorted(), "{arranged}");
        assert!(arrange("void hms_unheard_of(void);").is_err());
    }
}
