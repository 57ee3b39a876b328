//! The npm package: packed, installed where there is no Rust, run by the Node of the distribution and by one that
//! can become the program.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
};

use hms_tests::{
    Answer, Home, PATIENCE,
    codex::{Codex, Model, Say, codex_launcher, codex_program, new_node},
    hms_program,
    install::{e2e_folder, file_lock},
    processes, text, until,
};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

/// The packages, packed once for all tests here, with the program under test in them.
fn tarballs() -> &'static [PathBuf] {
    static PACKED: OnceLock<Vec<PathBuf>> = OnceLock::new();
    PACKED.get_or_init(|| {
        let _one_at_a_time = file_lock("npm");
        let out = Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--package", "xtask", "--", "npm", "--program"])
            .arg(hms_program())
            .arg("--out")
            .arg(e2e_folder().join("npm"))
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .output()
            .expect("cargo runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let paths: Vec<PathBuf> = String::from_utf8_lossy(&out.stdout).lines().map(PathBuf::from).collect();
        assert_eq!(paths.len(), 2, "{paths:?}");
        paths
    })
}

/// What `npm install --global` left in a prefix of its own.
struct Installed {
    prefix: TempDir,
    node: PathBuf,
}

/// A `PATH` without a Rust toolchain: where node and npm are, and the system's.
fn path_without_rust() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let has = |folder: &Path, name: &str| folder.join(name).is_file();
    let folders = env::split_paths(&path)
        .filter(|folder| !has(folder, "cargo") && !has(folder, "rustc"))
        .filter(|folder| has(folder, "node") || has(folder, "npm") || folder.starts_with("/usr"));
    let path = env::join_paths(folders.chain(["/usr/bin".into(), "/bin".into()])).expect("they were one");
    assert!(env::split_paths(&path).all(|folder| !has(&folder, "cargo")), "{}", path.display());
    path
}

impl Installed {
    fn new(tarballs: &[PathBuf]) -> Self {
        let prefix = tempfile::Builder::new().prefix("hms-npm-").tempdir().expect("a folder can be made");
        let npm = Command::new("npm")
            .args(["install", "--global", "--offline", "--no-audit", "--no-fund", "--prefix"])
            .arg(prefix.path())
            .args(tarballs)
            .env("PATH", path_without_rust())
            .stdin(Stdio::null())
            .output()
            .expect("npm is installed; .ci/run installs it");
        assert!(npm.status.success(), "{}", String::from_utf8_lossy(&npm.stderr));
        Self { prefix, node: "node".into() }
    }

    /// The same, run by another Node.
    fn by(self, node: PathBuf) -> Self {
        Self { node, ..self }
    }

    fn launcher(&self) -> PathBuf {
        self.prefix.path().join("bin/codex-hms")
    }

    /// The program itself.
    fn program(&self) -> PathBuf {
        let module = self.prefix.path().join("lib/node_modules/codex-hms-linux-x64");
        module.join("bin/codex-hms").canonicalize().expect("it is installed")
    }

    fn command(&self, home: &Home, args: &[&str]) -> Command {
        let mut command = Command::new(&self.node);
        command.arg(self.launcher()).args(args).env("HMS_HOME", home.path()).env("NO_COLOR", "1");
        command.env("PATH", path_without_rust()).stdin(Stdio::null());
        command
    }

    fn run(&self, home: &Home, args: &[&str]) -> Output {
        self.command(home, args).output().expect("node runs")
    }
}

/// What the launcher owes under each Node.
fn launches(installed: &Installed) {
    let home = Home::new();
    let version = installed.run(&home, &["--version"]);
    assert_eq!(String::from_utf8_lossy(&version.stdout).trim(), "codex-hms 0.1.0", "{version:?}");

    let (bare, launched) =
        (home.run(&["no", "such", "command"]), installed.run(&home, &["no", "such", "command"]));
    assert_eq!(launched.status.code(), bare.code, "the exit code passes");
    assert_eq!(String::from_utf8_lossy(&launched.stderr), bare.err, "and nothing is added");

    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut watching = Watching::new(installed, &home);
        processes::signal(i32::try_from(watching.0.id()).expect("a pid"), signal);
        let ended = until("the end by a signal", PATIENCE, || watching.0.try_wait().expect("it is ours"));
        let seen = ended.code().or(ended.signal().map(|number| 128 + number));
        assert_eq!(seen, Some(code), "{signal:?}: {ended:?}");
    }
    home.stop();
}

/// `monitor events` by the launcher, subscribed. Killed when dropped.
struct Watching(Child);

impl Watching {
    fn new(installed: &Installed, home: &Home) -> Self {
        let subscriptions =
            || home.json(&["system", "info"])["events"]["subscriptions"].as_array().map_or(0, Vec::len);
        let before = subscriptions();
        let mut command = installed.command(home, &["monitor", "events", "--json"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("node runs");
        let this = Self(child);
        until("a subscription", PATIENCE, || (subscriptions() > before).then_some(()));
        this
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_is_installed_and_launched_without_rust() {
    launches(&Installed::new(tarballs()));
}

#[test]
fn a_newer_node_becomes_the_program() {
    let installed = Installed::new(tarballs()).by(new_node());
    launches(&installed);
    let home = Home::new();
    let watching = Watching::new(&installed, &home);
    let runs = fs::read_link(format!("/proc/{}/exe", watching.0.id())).expect("it runs");
    assert_eq!(runs, installed.program(), "no Node is left");
}

#[test]
fn a_missing_platform_package_is_said_so() {
    let launcher: Vec<PathBuf> =
        tarballs().iter().filter(|path| !text(path).contains("linux-x64")).cloned().collect();
    let installed = Installed::new(&launcher);
    let out = installed.run(&Home::new(), &["--version"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains("codex-hms-linux-x64 is not installed") && said.contains("--omit=optional"),
        "{said}"
    );
    assert!(out.stdout.is_empty());
}

/// The whole way of a user without Rust: npm, `codex install`, a session of Codex.
#[test]
fn installed_by_npm_it_installs_itself_into_codex() {
    let (installed, home) = (Installed::new(tarballs()), Home::new());
    let codex = Codex::new(Model::saying(vec![Say::with("hms", "agent_types", json!({}))]), "");
    let mut install = codex.command(&installed.launcher());
    let bin = installed.prefix.path().join("bin");
    let folders =
        [bin, codex_launcher()].into_iter().chain(env::split_paths(&path_without_rust()).collect::<Vec<_>>());
    install.args(["codex", "install"]).env("HMS_HOME", home.path());
    install.env("PATH", env::join_paths(folders).expect("they are folders"));
    Answer::of(install, PATIENCE).ok();

    let mut list = codex.command(&codex_program());
    list.args(["mcp", "list", "--json"]);
    let servers = Answer::of(list, PATIENCE).ok().json();
    let hms = servers.as_array().into_iter().flatten().find(|server| server["name"] == "hms");
    let command = hms.and_then(|hms| hms["transport"]["command"].as_str());
    assert_eq!(command, Some(text(&installed.program())), "no Node stands in between: {servers:#}");

    let seen = codex.run();
    assert!(seen.last().text.contains("process"), "the model is answered: {seen:?}");
    home.stop();
}
