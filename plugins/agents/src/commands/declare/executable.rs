//! Whether a process could be started, found out before anything is changed.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::Path,
};

use hms_core::os::process::Spawn;
use serde_json::Value;

/// The problem with the executable or the working directory of a `process` configuration, if there is one.
/// What only a start can tell (the user, the loader, a `PATH` in a file of variables) is left to it.
pub(super) fn problem(config: &Value, env: Option<&BTreeMap<String, String>>) -> Option<String> {
    let program = config.pointer("/command/0")?.as_str()?;
    let search = path_of_child(config, env);
    if !program.contains('/') && search.is_none() {
        return None;
    }
    let vars: Vec<(OsString, OsString)> = search.into_iter().map(|path| ("PATH".into(), path)).collect();
    let mut spawn = Spawn::new(OsStr::new(program));
    spawn.clear_env = true;
    spawn.env = &vars;
    spawn.cwd = config["cwd"].as_str().map(Path::new);
    spawn.check().err().map(|e| e.to_string())
}

/// The `PATH` that the child will have; none when that cannot be said before it starts.
fn path_of_child(config: &Value, env: Option<&BTreeMap<String, String>>) -> Option<OsString> {
    if let Some(path) = config.pointer("/vars/PATH").and_then(Value::as_str) {
        return Some(path.into());
    }
    if !config["env_file"].is_null() {
        return None;
    }
    if config["env"] == "clean" {
        return Some("/bin:/usr/bin".into());
    }
    match env {
        Some(env) => Some(env.get("PATH").map_or("/bin:/usr/bin", String::as_str).into()),
        None => std::env::var_os("PATH"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_started_is_said() {
        let env = BTreeMap::from([("PATH".to_owned(), "/bin:/usr/bin".to_owned())]);
        let found = |config: Value| problem(&config, Some(&env));
        assert_eq!(found(json!({"command": ["sh"]})), None);
        assert_eq!(found(json!({"command": ["/bin/sh"], "cwd": "/"})), None);
        assert!(found(json!({"command": ["no-such-program"]})).unwrap().contains("no-such-program"));
        assert!(found(json!({"command": ["./gone"], "cwd": "/tmp"})).unwrap().contains("/tmp/gone"));
        assert!(
            found(json!({"command": ["sh"], "cwd": "/no/such/folder"})).unwrap().contains("/no/such/folder")
        );
        assert!(
            found(json!({"command": ["sh"], "vars": {"PATH": "/nowhere"}})).unwrap().contains("/nowhere")
        );
        assert_eq!(found(json!({"command": ["anything"], "env_file": "/some/file"})), None);
    }
}
