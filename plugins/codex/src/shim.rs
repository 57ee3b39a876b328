//! `codex shim`: a `codex` on `PATH` that hands `codex hms …` to codex-hms and everything else to the real codex.
//!
//! Codex has no subcommands of others. The shim is a few lines of POSIX shell that end in `exec`: signals, exit codes
//! and the terminal are the real program's. It looks for the real codex at each start, in the order of `PATH`, and
//! passes over every file that is a shim, itself included: so it follows upgrades, moves and a `PATH` in another
//! order, and cannot call itself.

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use hms_core::{Error, ErrorKind, Result, os};
use serde_json::{Value, json};

use crate::{
    places::{Hms, Places, SHIM_MARK, is_shim},
    plugin_files::quoted,
};

/// The script. `@PROGRAM@`: codex-hms; `@KNOWN@`: where the real codex was when the shim was made.
const SCRIPT: &str = r#"#!/bin/sh
@MARK@ (made by `codex-hms codex shim`; `codex-hms codex shim --remove` removes it)
# `codex hms ...` is codex-hms; everything else is the real codex, which is found anew each time.
if [ "${1-}" = hms ]; then
  shift
  program=@PROGRAM@
  if [ ! -x "$program" ]; then
    program=$(command -v codex-hms) || {
      echo "codex hms: codex-hms is gone from @PROGRAM@ and is not on PATH; install it, or run: rm \"$0\"" >&2
      exit 127
    }
  fi
  exec "$program" "$@"
fi
is_real() {
  [ -f "$1" ] && [ -x "$1" ] || return 1
  IFS= read -r first < "$1" 2> /dev/null || return 0
  [ "$first" = '#!/bin/sh' ] || return 0
  { IFS= read -r first; IFS= read -r second; } < "$1"
  case $second in "@MARK@"*) return 1 ;; esac
}
rest=$PATH:
while [ -n "$rest" ]; do
  folder=${rest%%:*}
  rest=${rest#*:}
  if is_real "${folder:-.}/codex"; then
    exec "${folder:-.}/codex" "$@"
  fi
done
if is_real @KNOWN@; then
  exec @KNOWN@ "$@"
fi
echo "codex: there is only the shim of HMS on PATH ($0), and no codex behind it; install it: npm install -g @openai/codex" >&2
exit 127
"#;

/// Makes the shim in `folder`, or where it comes before the real codex.
///
/// # Errors
/// `already-exists` when there is a `codex` that is no shim; what writing says.
pub(crate) fn make(places: &Places, hms: &Hms, folder: Option<&Path>) -> Result<Value> {
    let real = places.real_codex();
    let folder =
        folder.map_or_else(|| best_folder(places, real.as_deref()), |folder| places.cwd.join(folder));
    let file = folder.join("codex");
    let taken = fs::symlink_metadata(&file).is_ok() && !is_shim(&file);
    if taken {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("{} is there and is no shim of ours", file.display()),
        )
        .hint("name another folder with --dir, one that comes before it on PATH"));
    }
    let failed = |e: &io::Error| Error::io(format!("cannot write {}", file.display()), e);
    fs::create_dir_all(&folder).map_err(|e| failed(&e))?;
    let known = real.clone().unwrap_or_else(|| PathBuf::from("/nonexistent/codex"));
    let text = script(&hms.program, &known);
    os::files::write_private(&file, text.as_bytes()).map_err(|e| failed(&e))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).map_err(|e| failed(&e))?;
    let first = places.find("codex", |_| true);
    let mut notes = Vec::new();
    if first.as_deref() != Some(file.as_path()) {
        let folder = quoted(&folder.to_string_lossy());
        notes.push(format!("another codex comes first on PATH; put this into your shell's profile: export PATH={folder}:\"$PATH\""));
    }
    if real.is_none() {
        notes.push("there is no real codex on PATH yet; the shim looks for it each time".into());
    }
    Ok(
        json!({"shim": file, "real": real, "program": hms.program, "active": notes.is_empty(), "notes": told(&notes)}),
    )
}

/// Removes the shim in `folder`, or every one on `PATH`.
///
/// # Errors
/// `not-found` when there is none; what removing says.
pub(crate) fn remove(places: &Places, folder: Option<&Path>) -> Result<Value> {
    let folders: Vec<PathBuf> = match folder {
        Some(folder) => vec![places.cwd.join(folder)],
        None => {
            let usual = places.user.join(".local/bin");
            env::split_paths(&places.path).chain([usual]).collect()
        }
    };
    let mut removed = Vec::new();
    for file in folders.iter().map(|folder| folder.join("codex")).filter(|file| is_shim(file)) {
        match fs::remove_file(&file) {
            Ok(()) => removed.push(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(format!("cannot remove {}", file.display()), &e)),
        }
    }
    if removed.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "there is no shim to remove"));
    }
    Ok(json!({"removed": removed, "notes": null}))
}

/// No notes are none, for the view.
fn told(notes: &[String]) -> Value {
    if notes.is_empty() { Value::Null } else { json!(notes) }
}

fn script(program: &Path, known: &Path) -> String {
    let word = |path: &Path| quoted(&path.to_string_lossy());
    SCRIPT
        .replace("@MARK@", SHIM_MARK)
        .replace("\"codex hms: codex-hms is gone from @PROGRAM@", "\"codex hms: codex-hms is gone")
        .replace("@PROGRAM@", &word(program))
        .replace("@KNOWN@", &word(known))
}

/// A folder of the user's own that comes before the real codex; else `~/.local/bin`.
fn best_folder(places: &Places, real: Option<&Path>) -> PathBuf {
    let real = real.and_then(Path::parent);
    let usual = places.user.join(".local/bin");
    let before: Vec<PathBuf> =
        env::split_paths(&places.path).take_while(|folder| Some(folder.as_path()) != real).collect();
    if before.contains(&usual) {
        return usual;
    }
    let own = |folder: &&PathBuf| {
        folder.starts_with(&places.user) && folder.is_dir() && !folder.join("codex").exists()
    };
    before.iter().find(own).cloned().unwrap_or(usual)
}
