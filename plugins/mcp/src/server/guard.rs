//! The guard: a process that ends the server's tree when ours is killed with no chance to do so.
//!
//! It leads a process group of its own, holds nothing but the reading end of a pipe whose other end only we
//! have, and ends the tree when that pipe closes. A word through the pipe sends it home with nothing to do.
//!
//! What waits is a shell, which is a tenth of us in memory and in the time it takes from the server that is just
//! starting; it becomes `mcp guard` when there is something to do.

use std::{
    fs::File,
    io::{self, PipeWriter, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use hms_core::{
    Error, Result,
    command::{CommandContext, CommandSpec, handler},
    os::{Incarnations, TOKEN_VARIABLE},
    plugin::Registrar,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::process::{self, Program};

/// What sends it home.
const HOME: &[u8] = b"done\n";

/// What waits instead of us.
const SHELL: &str = "/bin/sh";
/// Its part: to wait for a line or for the end, deaf to what ends others. It holds our program as its standard
/// output, so as to become it even when the file has been replaced or removed meanwhile.
const WAIT: &str = r#"trap '' HUP INT TERM; read -r word && exit; exec /proc/self/fd/1 "$@""#;

/// A guard that stands.
pub(crate) struct Guard {
    child: Child,
    word: PipeWriter,
}

impl Guard {
    /// Sets a guard for all lives of a program.
    ///
    /// # Errors
    /// When `hms`, the program of our command line, cannot be started.
    pub(crate) fn set(hms: &Path, program: &Program) -> io::Result<Self> {
        let (read, word) = io::pipe()?;
        // Not every container has a shell, and only Linux runs what a descriptor holds.
        let mut command = if Path::new(SHELL).exists() && Path::new("/proc/self/fd").exists() {
            let mut shell = Command::new(SHELL);
            shell.args(["-c", WAIT]).arg(hms).stdout(File::open(hms)?);
            shell
        } else {
            let mut direct = Command::new(hms);
            direct.stdout(Stdio::null());
            direct
        };
        let child = command
            .args(["mcp", "guard", "--realm"])
            .arg(&program.realm)
            .args(["--id", &program.id])
            .stdin(read)
            .stderr(Stdio::null())
            .env_remove(TOKEN_VARIABLE)
            .current_dir("/")
            .process_group(0)
            .spawn()?;
        Ok(Self { child, word })
    }

    /// The tree is gone: so may the guard be.
    pub(crate) fn relieve(mut self) {
        let _ = self.word.write_all(HOME);
        drop(self.word);
        // It ends within milliseconds; when it is killed meanwhile that is as well.
        let _ = self.child.wait();
    }
}

#[derive(Deserialize)]
struct Args {
    realm: PathBuf,
    id: String,
}

/// Registers `mcp guard`, which only we run.
pub(crate) fn run(to: &Registrar) -> Result<()> {
    let mut spec = CommandSpec::new("mcp guard", "End the processes of a wrapped server when its wrapper is killed")
            .about("Run by `mcp wrap` and `mcp pool` for themselves.")
            .args(
                json!({
                    "realm": {"type": "string", "x-value": "DIR", "description": "first part of the token of the processes"},
                    "id": {"type": "string", "x-value": "ID", "description": "second part of the token"},
                }),
                &["realm", "id"],
            )
            .caller()
            .destructive()
            .example("mcp guard --realm /srv/hms/wrap --id a1b2c3")
            .hidden();
    spec.args["x-homeless"] = true.into();
    to.command(
        spec,
        handler(|_: CommandContext, args: Args| async move {
            let stand = move || {
                // It does nothing but wait, as long as the server lives.
                hms_core::os::host::trim_code();
                let mut word = Vec::new();
                // An error of the pipe is as good as its end.
                let _ = io::stdin().lock().take(64).read_to_end(&mut word);
                if word != HOME {
                    process::end(&args.realm, &args.id, Incarnations::All, None);
                }
            };
            tokio::task::spawn_blocking(stand)
                .await
                .map_err(|e| Error::internal(format!("the guard: {e}")))?;
            Ok(Value::Null)
        }),
    )
}
