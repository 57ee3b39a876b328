//! The ABI from outside: what the library exports, what the header says, and C programs that were compiled
//! as C11 and as C++17 against both.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const LANGUAGES: [(&str, &str, &str); 2] = [("gcc", "c", "c11"), ("g++", "c++", "c++17")];

/// The folder that cargo put this test and the libraries in.
fn built() -> PathBuf {
    let test = env::current_exe().unwrap();
    let deps = test.parent().unwrap().to_owned();
    assert!(deps.join("libhms.so").exists(), "no libhms.so beside {}", test.display());
    deps
}

fn succeed(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    output
}

/// A compiler at its strictest.
fn compiler((program, language, standard): (&str, &str, &str)) -> Command {
    let mut command = Command::new(program);
    command.args(["-x", language, &format!("-std={standard}"), "-D_GNU_SOURCE"]);
    command.args(["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror", "-g"]);
    command.arg("-I").arg(Path::new(ROOT).join("../include"));
    command
}

fn compile(language: (&str, &str, &str), source: &str, to: &Path, link: &[&OsStr]) {
    let source = Path::new(ROOT).join("tests/c").join(source);
    // After the source, so that the libraries are not taken for sources of the language.
    succeed(compiler(language).arg(source).args(["-x", "none"]).args(link).args(["-pthread", "-o"]).arg(to));
}

/// Compiles a program against the shared library, under the name the loader looks for, in `folder`.
fn compile_shared(language: (&str, &str, &str), source: &str, folder: &Path) -> PathBuf {
    let (library, program) = (folder.join("libhms.so.0"), folder.join("program"));
    symlink(built().join("libhms.so"), &library).unwrap();
    let search = format!("-Wl,-rpath,{}", folder.display());
    compile(language, source, &program, &[library.as_os_str(), search.as_ref()]);
    program
}

fn run_shared(source: &str) {
    for language in LANGUAGES {
        let folder = tempfile::tempdir().unwrap();
        let program = compile_shared(language, source, folder.path());
        assert_eq!(run(&program, folder.path()), "ok\n");
    }
}

/// Runs a program, which gets a folder to work in, and returns what it prints.
fn run(program: &Path, folder: &Path) -> String {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "120"]).arg(program).arg(folder).env_remove("HMS_HOME");
    String::from_utf8(succeed(&mut command).stdout).unwrap()
}

#[test]
fn misuse_gives_statuses_and_never_a_crash() {
    run_shared("misuse.c");
}

#[test]
fn a_system_of_ones_own() {
    run_shared("system.c");
}

#[test]
fn events_come_to_callbacks_until_these_are_ended() {
    run_shared("events.c");
}

#[test]
fn agents_are_handles() {
    run_shared("agents.c");
}

#[test]
fn services_and_commands_of_ones_own_answer() {
    run_shared("services.c");
}

#[test]
fn agent_types_of_ones_own_live_and_die() {
    run_shared("types.c");
}

#[test]
fn what_is_offered_to_a_shared_system_serves_all_who_are_attached() {
    run_shared("shared.c");
}

#[test]
fn configuration_is_changed_and_metrics_are_asked_for() {
    run_shared("config.c");
}

#[test]
fn the_static_library_serves_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    let library = built().join("libhms.a");
    compile(LANGUAGES[0], "system.c", &program, &[library.as_os_str(), "-lm".as_ref(), "-ldl".as_ref()]);
    assert_eq!(run(&program, folder.path()), "ok\n");
}

#[test]
fn the_header_stands_alone_and_twice_and_has_the_published_layouts() {
    let source = Path::new(ROOT).join("tests/c/layout.c");
    for language in LANGUAGES {
        succeed(compiler(language).arg("-fsyntax-only").arg(&source));
    }
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

fn pinned() -> String {
    fs::read_to_string(Path::new(ROOT).join("abi/symbols.txt")).unwrap()
}

fn header() -> String {
    fs::read_to_string(Path::new(ROOT).join("../include/hms.h")).unwrap()
}

#[test]
fn the_exports_are_those_that_are_pinned_and_nothing_else() {
    let output = succeed(
        Command::new("nm")
            .args(["-D", "--defined-only", "--format=just-symbols"])
            .arg(built().join("libhms.so")),
    );
    assert_eq!(lines(&String::from_utf8(output.stdout).unwrap()), lines(&pinned()));
}

#[test]
fn the_library_is_named_after_its_major_and_stays_loaded() {
    let output = succeed(Command::new("readelf").arg("-d").arg(built().join("libhms.so")));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("[libhms.so.{}]", hms::HMS_ABI_VERSION_MAJOR)), "{text}");
    assert!(text.contains("NODELETE"), "{text}");
}

/// The declarations of functions in the header, each with the comment before it.
fn declarations(header: &str) -> Vec<(String, &str)> {
    let is_type =
        |block: &str| block.split_once("*/\n").is_some_and(|(_, rest)| rest.starts_with("typedef "));
    let functions = header.split("\n\n/**\n").filter(|block| block.contains(");") && !is_type(block));
    functions
        .map(|block| {
            let declaration = block.split_once("*/\n").unwrap().1;
            let name = declaration.split('(').next().unwrap().rsplit([' ', '*']).next().unwrap();
            (name.to_owned(), block)
        })
        .collect()
}

#[test]
fn the_header_declares_every_export_with_its_four_sections() {
    let header = header();
    let declared = declarations(&header);
    let names: BTreeSet<&str> = declared.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, lines(&pinned()));
    for (name, comment) in &declared {
        for section in ["Ownership: ", "Threads: ", "Errors: ", "Since: "] {
            assert!(comment.contains(section), "{name} does not say its {section}");
        }
    }
}

#[test]
fn the_header_defines_no_macro_that_is_not_named_hms() {
    for line in header().lines().filter(|line| line.starts_with("#define ")) {
        assert!(line.starts_with("#define HMS_"), "{line}");
    }
}

fn guide() -> String {
    fs::read_to_string(Path::new(ROOT).join("../docs/c-abi.md")).unwrap()
}

#[test]
fn the_program_of_the_guide_works() {
    let guide = guide();
    let program = guide.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("guide.c");
    fs::write(&source, program).unwrap();
    let program = compile_shared(LANGUAGES[0], source.to_str().unwrap(), folder.path());
    let printed = run(&program, folder.path());
    assert!(printed.contains(r#""name":"web""#) && printed.contains(r#""status":"running""#), "{printed}");
}

#[test]
fn the_guide_names_every_export() {
    let guide = guide();
    for name in pinned().lines() {
        assert!(guide.contains(&format!("`{name}`")), "docs/c-abi.md does not name {name}");
    }
}
