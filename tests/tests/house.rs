//! The invariants of the house that a machine can hold: who may know whom, who may print, what every command
//! and every error owes its reader.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use hms_core::{
    ErrorKind, Kernel,
    command::{CommandSpec, View},
};
use hms_runtime::argv::{EXIT_CODES, Parsed, exit_code};
use hms_tests::text;
use serde_json::Value;
use toml_edit::{DocumentMut, Item};

/// No file is longer: what is, is two rooms.
const LONGEST: usize = 700;

#[test]
fn the_kernel_names_no_organ() {
    let mut wrong = Wrong::default();
    let organs: Vec<String> =
        organs().into_iter().flat_map(|organ| [organ.replace('-', "_"), organ]).collect();
    assert!(organs.len() >= 6, "{organs:?}");
    for file in sources(&["hms-core", "hms-os", "hms-queue"]) {
        for organ in &organs {
            wrong.unless(!file.text.contains(organ.as_str()), || {
                format!("{}: the kernel names `{organ}`", file.name())
            });
        }
    }
    wrong.none();
}

#[test]
fn who_depends_on_whom() {
    let own = members();
    let ours = |of: &str| -> BTreeSet<String> {
        own[of].dependencies.iter().filter(|d| own.contains_key(*d)).cloned().collect()
    };
    let set = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|n| (*n).to_owned()).collect() };
    assert_eq!(ours("hms-os"), set(&[]));
    assert_eq!(ours("hms-queue"), set(&[]));
    assert_eq!(ours("hms-core"), set(&["hms-os", "hms-queue"]));
    for organ in organs() {
        assert_eq!(ours(&organ), set(&["hms-core"]), "`{organ}` meets others through events and services");
    }
    let runtime: BTreeSet<String> = organs().into_iter().chain(["hms-core".into()]).collect();
    assert_eq!(ours("hms-runtime"), runtime);
    assert!(ours("hms-ffi").is_subset(&set(&["hms-core", "hms-runtime"])));
    assert_eq!(ours("codex-hms"), set(&["hms-ffi"]), "the command line stands on the C ABI alone");
    for (name, member) in &own {
        assert!(member.lints, "{name} does not take the workspace's lints");
    }
}

#[test]
fn only_libhms_exports_and_little_is_unsafe() {
    let mut wrong = Wrong::default();
    for file in sources(&[]) {
        let is = |folder: &str| file.is_in(folder);
        let code = file.code();
        for export in ["no_mangle", "export_name", "pub extern \"C\" fn", "pub unsafe extern \"C\" fn"] {
            wrong.unless(is("hms-ffi") || is("tests") || !code.contains(export), || {
                format!("{}: exports C", file.name())
            });
        }
        let may_be_unsafe = ["hms-ffi", "hms-os", "codex-hms", "xtask", "examples", "tests"];
        let uses = code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl");
        wrong
            .unless(!uses || file.says_why_unsafe() || may_be_unsafe.iter().any(|folder| is(folder)), || {
                format!("{}: is unsafe", file.name())
            });
    }
    assert!(read(&root().join("hms-core/src/lib.rs")).contains("#![forbid(unsafe_code)]"));
    wrong.none();
}

#[test]
fn nothing_prints_but_who_may() {
    let mut wrong = Wrong::default();
    let may_print = ["codex-hms", "xtask", "examples", "tests"];
    for file in sources(&[]).into_iter().filter(|file| !may_print.iter().any(|folder| file.is_in(folder))) {
        for word in ["println!", "print!", "dbg!", "eprintln!", "eprint!"] {
            // A build script talks to cargo.
            let aside = |part: &str| matches!(part, "tests" | "benches" | "examples" | "build.rs");
            let is_test = file.name().split('/').any(aside);
            wrong.unless(is_test || !file.code().contains(word), || {
                format!("{}: prints with {word}", file.name())
            });
        }
    }
    wrong.none();
}

#[test]
fn every_file_is_a_room_with_a_sign() {
    let mut wrong = Wrong::default();
    for file in sources(&[]) {
        let lines = file.text.lines().count();
        wrong.unless(lines <= LONGEST, || format!("{}: {lines} lines are more than {LONGEST}", file.name()));
        wrong.unless(file.text.starts_with("//!"), || format!("{}: does not say what it is", file.name()));
        for word in ["todo!(", "unimplemented!(", "TODO", "FIXME", "XXX"] {
            wrong.unless(file.is_in("tests") || !file.text.contains(word), || {
                format!("{}: {word}", file.name())
            });
        }
    }
    wrong.none();
}

#[test]
fn every_error_has_its_kind_its_status_and_its_exit_code() {
    let source = read(&root().join("hms-core/src/error.rs"));
    let body =
        source.split("pub enum ErrorKind {").nth(1).and_then(|s| s.split("\n}").next()).expect("it is there");
    let variants: Vec<&str> = body
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//") && !line.starts_with('#'))
        .filter_map(|line| line.strip_suffix(','))
        .collect();
    assert!(variants.len() >= 26, "{variants:?}");
    let statuses = read(&root().join("hms-ffi/src/status.rs"));
    let header = read(&root().join("include/hms.h"));
    let codes: BTreeSet<i32> = EXIT_CODES.iter().map(|e| e.code).collect();
    assert_eq!(codes.len(), EXIT_CODES.len(), "an exit code means one thing");
    let mut mapped = BTreeSet::new();
    for variant in variants {
        let kind: ErrorKind = serde_json::from_value(kebab(variant).into()).expect("it reads its own name");
        assert_eq!(kind.as_str(), kebab(variant), "{variant} is shown by its name");
        let code = exit_code(kind);
        assert!(code != 0 && codes.contains(&code), "{variant}: exit code {code} is not documented");
        let arm = statuses.lines().map(str::trim).find_map(|l| l.strip_prefix(&format!("{variant} => ")));
        let status = arm.unwrap_or_else(|| panic!("{variant} has no status")).trim_end_matches(',');
        assert!(mapped.insert(status.to_owned()), "{status} is the status of two kinds");
        assert!(header.contains(&format!("#define {status} ")), "{status} is not in the header");
    }
}

#[test]
fn every_command_explains_itself() {
    let mut wrong = Wrong::default();
    let kernel = Kernel::describe(hms_runtime::organs()).expect("the organs fit together");
    kernel.commands().verify().expect("all schemas compile");
    let commands = kernel.commands().list();
    assert!(commands.len() >= 30, "{} commands", commands.len());
    let parser = hms_runtime::cli::parser("codex-hms", "0", &kernel);
    for command in &commands {
        let path = &command.path;
        let summary = &command.summary;
        let begins = summary.chars().next().is_some_and(char::is_uppercase);
        wrong.unless(begins && !summary.ends_with('.'), || {
            format!("`{path}`: `{summary}` is not a summary like the others")
        });
        properties(&command.args, path);
        let known = command.args["properties"].as_object().expect("an object's schema");
        for name in command.positional.iter().chain(&command.trailing).chain(&command.typed_by) {
            wrong.unless(known.contains_key(name), || format!("`{path}`: `{name}` is no argument"));
        }
        pointers(&command.view, path);
        for example in &command.examples {
            let words = words(example);
            let parsed = parser.parse(&words.iter().map(Into::into).collect::<Vec<_>>());
            wrong.unless(example.starts_with(path.as_str()), || {
                format!("`{path}`: the example is of another command: {example}")
            });
            match parsed {
                Parsed::Run(run) => assert_eq!(run.spec.path, *path, "{example}"),
                Parsed::Text { text, .. } => panic!("`{path}`: the example `{example}` is refused:\n{text}"),
            }
        }
        wrong.unless(!command.examples.is_empty() || simple(command) || command.hidden, || {
            format!("`{path}` takes arguments and shows no example")
        });
    }
    for kind in kernel.types().list() {
        assert!(!kind.summary.is_empty(), "type `{}` has no summary", kind.name);
        properties(&kind.schema, &kind.name);
        hms_core::schema::Schema::compile(&kind.schema).expect("a type's schema compiles");
    }
    wrong.none();
}

/// What does not hold, all of it, so that one run shows everything there is to mend.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }

    #[track_caller]
    fn none(self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}

/// Whether a command can be run without being shown how.
fn simple(command: &CommandSpec) -> bool {
    command.args["required"].as_array().is_none_or(Vec::is_empty)
}

/// Every property, at any depth, says what it is.
#[track_caller]
fn properties(schema: &Value, at: &str) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let at = format!("{at}: {name}");
        let grouped = property["properties"].is_object();
        let described = property["description"].as_str().is_some_and(|d| !d.is_empty());
        assert!(described || grouped, "{at} has no description");
        properties(property, &at);
    }
}

/// What a view points at is written as a JSON Pointer.
#[track_caller]
fn pointers(view: &View, path: &str) {
    let text = serde_json::to_value(view).expect("views are data");
    let mut left = vec![&text];
    while let Some(value) = left.pop() {
        for (key, inner) in value.as_object().into_iter().flatten() {
            if matches!(key.as_str(), "pointer" | "rows" | "roots" | "children" | "points")
                && inner.is_string()
            {
                let pointer = inner.as_str().unwrap_or_default();
                assert!(
                    pointer.is_empty() || pointer.starts_with('/'),
                    "`{path}`: `{pointer}` is no pointer"
                );
            }
            left.push(inner);
        }
        left.extend(value.as_array().into_iter().flatten());
    }
}

/// A command line as a shell splits it: quotes of both kinds.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut any) = (Vec::new(), String::new(), None, false);
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => (quote, any) = (Some(c), true),
            (c, Some(q)) if c == q => quote = None,
            (' ', None) => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            ('>', None) => return words, // where the shell takes over
            (c, _) => word.push(c),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

// ---- the workspace as files ---------------------------------------------------------------------------

struct Member {
    dependencies: BTreeSet<String>,
    lints: bool,
}

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn name(&self) -> &str {
        text(self.path.strip_prefix(root()).unwrap_or(&self.path))
    }

    fn is_in(&self, folder: &str) -> bool {
        self.path.strip_prefix(root().join(folder)).is_ok()
    }

    /// A function of a safe crate that cannot do without says so, and why.
    fn says_why_unsafe(&self) -> bool {
        self.text.contains("#[allow(unsafe_code, reason = ") && self.text.contains("// SAFETY: ")
    }

    /// Without comments.
    fn code(&self) -> String {
        self.text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn manifest(path: &Path) -> DocumentMut {
    read(path).parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn member_folders() -> Vec<String> {
    let workspace = manifest(&root().join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array().expect("a list").clone();
    members.iter().filter_map(|m| m.as_str().map(str::to_owned)).collect()
}

/// The crates of the workspace, with what they need to be built (not to be tested).
fn members() -> BTreeMap<String, Member> {
    let member = |folder: String| {
        let manifest = manifest(&root().join(folder).join("Cargo.toml"));
        let name = manifest["package"]["name"].as_str().expect("it has a name").to_owned();
        let mut dependencies = BTreeSet::new();
        let mut take = |table: &Item| {
            dependencies
                .extend(table.as_table().into_iter().flat_map(|t| t.iter().map(|(name, _)| name.to_owned())));
        };
        for key in ["dependencies", "build-dependencies"] {
            manifest.get(key).into_iter().for_each(&mut take);
            for (_, target) in
                manifest.get("target").and_then(Item::as_table).into_iter().flat_map(|t| t.iter())
            {
                target.get(key).into_iter().for_each(&mut take);
            }
        }
        let lints =
            manifest.get("lints").and_then(|l| l.get("workspace")).and_then(Item::as_bool) == Some(true);
        (name, Member { dependencies, lints })
    };
    member_folders().into_iter().map(member).collect()
}

/// The crates below `plugins/`.
fn organs() -> Vec<String> {
    let folders = member_folders().into_iter().filter(|f| f.starts_with("plugins/"));
    folders
        .map(|f| {
            manifest(&root().join(f).join("Cargo.toml"))["package"]["name"]
                .as_str()
                .expect("a name")
                .to_owned()
        })
        .collect()
}

/// The Rust files of the given folders, or of all members.
fn sources(folders: &[&str]) -> Vec<Source> {
    let folders: Vec<String> =
        if folders.is_empty() { member_folders() } else { folders.iter().map(|f| (*f).to_owned()).collect() };
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = folders.iter().map(|f| root().join(f)).collect();
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())).flatten() {
            let path = entry.path();
            if path.is_dir() && entry.file_name() != "target" {
                left.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(Source { text: read(&path), path });
            }
        }
    }
    assert!(found.len() >= folders.len());
    found
}

fn kebab(name: &str) -> String {
    let mut out = String::new();
    for (at, c) in name.char_indices() {
        if c.is_uppercase() && at > 0 {
            out.push('-');
        }
        out.extend(c.to_lowercase());
    }
    out
}
