//! The guard: a process that ends the server's tree when ours is killed with no chance to do so.
//!
//! It leads a process group of its own, holds nothing but the reading end of a pipe whose other end only we
//! have, and ends the tree when that pipe closes. A word through the pipe sends it home with nothing to do.

use std::{
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
        let child = Command::new(hms)
            .args(["mcp", "guard", "--realm"])
            .arg(&program.realm)
            .args(["--id", &program.id])
            .stdin(Stdio::from(read))
            .stdout(Stdio::null())
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
