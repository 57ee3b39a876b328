//! A user's folder of a test's own, and the commands run as a command line runs them.
#![allow(dead_code)] // each test file uses its part

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use hms_codex::CodexPlugin;
use hms_core::{
    Kernel, Result,
    command::{Caller, CommandContext, Surroundings},
    peer::{Attach, HostCommand},
};
use serde_json::Value;
use tempfile::TempDir;

/// No test waits longer for what must happen.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The folders, and the environment that leads to them.
pub(crate) struct Lab {
    pub(crate) dir: TempDir,
    pub(crate) path: String,
    pub(crate) stdio: [i32; 3],
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder can be made");
        for folder in ["user/.codex", "bin", "run", "home"] {
            fs::create_dir_all(dir.path().join(folder)).expect("the folder is ours");
        }
        let lab = Self { path: dir.path().join("bin").display().to_string(), dir, stdio: [-1; 3] };
        lab.program("bin/codex-hms", "#!/bin/sh\necho \"hms:$*\"\n");
        lab
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a program.
    pub(crate) fn program(&self, name: &str, text: &str) -> PathBuf {
        let file = self.at(name);
        fs::create_dir_all(file.parent().expect("it is in a folder")).expect("the folder is ours");
        fs::write(&file, text).expect("the folder is ours");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("it is ours");
        file
    }

    /// Codex's configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.at("user/.codex/config.toml")
    }

    /// Runs a command; its result and what the process would end with.
    pub(crate) async fn run(&self, path: &str, args: Value) -> (Result<Value>, i32) {
        let kernel = Kernel::describe(vec![Arc::new(CodexPlugin::new())]).expect("it fits");
        let command = kernel.commands().get(path).expect("it is registered");
        let env = [("HOME", self.at("user")), ("PATH", PathBuf::from(&self.path))];
        let env: BTreeMap<String, String> =
            env.into_iter().map(|(name, value)| (name.to_owned(), value.display().to_string())).collect();
        let caller = Caller {
            source: "test".into(),
            cwd: Some(self.at("user").display().to_string()),
            env: Some(env),
        };
        let exit_code = Arc::new(AtomicI32::new(0));
        let surroundings = Surroundings {
            program: "codex-hms".into(),
            home: self.at("home"),
            attach: Attach {
                runtime_dir: self.at("run"),
                name: "test".into(),
                start: Some(HostCommand {
                    program: self.at("bin/codex-hms"),
                    args: Vec::new(),
                    log: self.at("log"),
                }),
                deadline: SOON,
            },
            stdio: self.stdio,
            terminal: false,
            color: false,
            json: true,
            signal: Arc::default(),
            exit_code: exit_code.clone(),
        };
        let (cx, _canceller) = CommandContext::new(caller, None);
        let result = command.run(cx.within(surroundings), args).await;
        kernel.discard();
        (result, exit_code.load(Ordering::SeqCst))
    }

    #[track_caller]
    pub(crate) fn write(&self, file: &Path, text: &str) {
        fs::write(file, text).expect("the folder is ours");
    }
}
