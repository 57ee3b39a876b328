//! A child's environment and user.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::Path,
};

use hms_core::{Error, ErrorKind, Result, agent::AgentContext, os::token::Token};

use super::config::{Config, EnvBase};

/// The whole environment of a child, in the order: base, file, variables, ours.
pub(super) fn build(
    config: &Config,
    cx: &AgentContext,
    notify: Option<&Path>,
) -> Result<Vec<(OsString, OsString)>> {
    let mut env = of_user(config, cx.inherited_env().as_deref())?;
    if let Some(socket) = notify {
        env.insert("NOTIFY_SOCKET".into(), socket.into());
    }
    if let Some(watchdog) = config.watchdog {
        env.insert("WATCHDOG_USEC".into(), watchdog.as_micros().to_string().into());
    }
    let token = Token::new(&cx.kernel().dirs().home, cx.id(), cx.incarnation());
    let mut env: Vec<_> = env.into_iter().collect();
    env.retain(|(name, _)| *name != token.to_env().0);
    env.push(token.to_env());
    Ok(env)
}

/// What of it the user decides. `inherited`: the environment of whoever creates the agent.
pub(super) fn of_user(
    config: &Config,
    inherited: Option<&BTreeMap<String, String>>,
) -> Result<BTreeMap<OsString, OsString>> {
    let mut env: BTreeMap<OsString, OsString> = match (config.env, inherited) {
        (EnvBase::Clean, _) => BTreeMap::new(),
        (EnvBase::Inherit, Some(kept)) => kept.iter().map(|(k, v)| (k.into(), v.into())).collect(),
        (EnvBase::Inherit, None) => std::env::vars_os().collect(),
    };
    if let Some(file) = &config.env_file {
        for (name, value) in read_file(file)? {
            env.insert(name.into(), value.into());
        }
    }
    env.extend(config.vars.iter().map(|(k, v)| (k.into(), v.into())));
    // A child must not report to whoever supervises us.
    for ours in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        env.remove(&OsString::from(ours));
    }
    Ok(env)
}

/// The environment of a child that an earlier host started: as it would be built now, or, when what that takes
/// has gone since (an `env_file`), the one that the child was started with.
pub(super) fn of_adopted(
    config: &Config,
    cx: &AgentContext,
    notify: Option<&Path>,
    pid: i32,
) -> Vec<(OsString, OsString)> {
    build(config, cx, notify).unwrap_or_else(|e| {
        tracing::warn!(agent = cx.id(), error = %e, "its probes get the environment that the process has");
        of_running(pid)
    })
}

/// The environment that a process was started with; empty where the system does not tell.
fn of_running(pid: i32) -> Vec<(OsString, OsString)> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let text = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let split = |var: &[u8]| {
        let at = var.iter().position(|b| *b == b'=').filter(|at| *at > 0)?;
        Some((OsString::from_vec(var[..at].to_vec()), OsStr::from_bytes(&var[at + 1..]).to_owned()))
    };
    text.split(|b| *b == 0).filter_map(split).collect()
}

/// `NAME=value` lines; `#` begins a comment, quotes around a value are taken off, `export ` is allowed.
fn read_file(path: &Path) -> Result<Vec<(String, String)>> {
    let text =
        std::fs::read_to_string(path).map_err(|e| Error::io(format!("env_file {}", path.display()), &e))?;
    let mut vars = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else {
            let place = format!("{}:{}", path.display(), number + 1);
            return Err(Error::new(ErrorKind::InvalidConfig, format!("{place}: expected NAME=value")));
        };
        let value = value.trim();
        let unquoted =
            ['"', '\''].iter().find_map(|&q| value.strip_prefix(q).and_then(|v| v.strip_suffix(q)));
        vars.push((name.trim().to_owned(), unquoted.unwrap_or(value).to_owned()));
    }
    Ok(vars)
}

/// Resolves `name`, `uid` or `uid:gid` to ids.
pub(super) fn user(text: &str) -> Result<(u32, u32)> {
    let bad = || {
        Error::new(ErrorKind::InvalidConfig, format!("`user`: no user `{text}`"))
            .hint("use a name, a uid or uid:gid")
    };
    if let Some((uid, gid)) = text.split_once(':') {
        return Ok((uid.parse().map_err(|_| bad())?, gid.parse().map_err(|_| bad())?));
    }
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(|e| Error::io("/etc/passwd", &e))?;
    let uid: Option<u32> = text.parse().ok();
    for line in passwd.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(Ok(id)), Some(Ok(group))) =
            (fields.next(), fields.nth(1).map(str::parse::<u32>), fields.next().map(str::parse::<u32>))
        else {
            continue;
        };
        if name == text || Some(id) == uid {
            return Ok((id, group));
        }
    }
    uid.map(|uid| (uid, uid)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_are_read_as_people_write_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        std::fs::write(&path, "# comment\nA=1\nexport B=\"two words\"\n\nC='x=y'\n").unwrap();
        let vars = read_file(&path).unwrap();
        assert_eq!(
            vars,
            [("A", "1"), ("B", "two words"), ("C", "x=y")].map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
        std::fs::write(&path, "A=1\nnonsense\n").unwrap();
        let e = read_file(&path).unwrap_err();
        assert!(e.message.ends_with("env:2: expected NAME=value"), "{e}");
    }

    #[test]
    fn users_resolve() {
        assert_eq!(user("root").unwrap(), (0, 0));
        assert_eq!(user("0").unwrap(), (0, 0));
        assert_eq!(user("12:34").unwrap(), (12, 34));
        assert!(user("no-such-user").unwrap_err().message.contains("no user"));
    }
}
