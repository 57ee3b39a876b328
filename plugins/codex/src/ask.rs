//! Asking Codex itself, by its app server: what it thinks of the hooks. Bounded; no session is started.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use hms_core::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

/// How long Codex may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A hook as Codex sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    /// The plugin it comes from; empty: none.
    pub(crate) plugin: String,
    /// By what its state is kept.
    pub(crate) key: String,
    /// What it is now.
    pub(crate) hash: String,
    /// `trusted`, `untrusted`, `modified` or `managed`.
    pub(crate) trust: String,
}

/// A conversation with an app server. Dropped, it is ended.
pub(crate) struct Asked {
    child: Child,
    lines: mpsc::Receiver<String>,
    until: Instant,
    next: u64,
}

impl Asked {
    /// The hooks that Codex finds with this `CODEX_HOME`.
    ///
    /// # Errors
    /// When Codex cannot be started, does not answer in time or not as expected.
    pub(crate) fn hooks(codex: &Path, home: &Path) -> Result<Vec<Hook>> {
        Self::greeted(codex, home)?.list(home)
    }

    /// Trusts the hooks of a plugin as they are now, as a person does with `/hooks`; how many there are.
    ///
    /// Codex writes that down itself: what it keeps, and where, is its own affair.
    ///
    /// # Errors
    /// As [`Asked::hooks`], and when Codex does not trust them then.
    pub(crate) fn trust(codex: &Path, home: &Path, plugin: &str) -> Result<usize> {
        let mut asked = Self::greeted(codex, home)?;
        let ours =
            |hooks: Vec<Hook>| hooks.into_iter().filter(|hook| hook.plugin == plugin).collect::<Vec<_>>();
        let hooks = ours(asked.list(home)?);
        if hooks.is_empty() {
            return Err(Error::not_found("hooks of the plugin", plugin));
        }
        let states: Map<String, Value> =
            hooks.iter().map(|hook| (hook.key.clone(), json!({"trusted_hash": hook.hash}))).collect();
        let edit = json!({"keyPath": "hooks.state", "mergeStrategy": "upsert", "value": states});
        asked.request("config/batchWrite", json!({"edits": [edit], "reloadUserConfig": true}))?;
        let left = ours(asked.list(home)?).into_iter().filter(|hook| hook.trust != "trusted").count();
        if left > 0 {
            return Err(Error::new(
                ErrorKind::NotSupported,
                format!("codex does not trust {left} of the hooks yet"),
            ));
        }
        Ok(hooks.len())
    }

    fn greeted(codex: &Path, home: &Path) -> Result<Self> {
        let mut asked = Self::start(codex, home)?;
        let client = json!({"name": "codex-hms", "version": env!("CARGO_PKG_VERSION")});
        asked.request("initialize", json!({"clientInfo": client}))?;
        asked.send(&json!({"method": "initialized"}))?;
        Ok(asked)
    }

    fn list(&mut self, home: &Path) -> Result<Vec<Hook>> {
        let answer = self.request("hooks/list", json!({"cwds": [home]}))?;
        let all = answer["data"].as_array().into_iter().flatten();
        let hooks = all.flat_map(|folder| folder["hooks"].as_array().into_iter().flatten());
        let text = |hook: &Value, key: &str| hook[key].as_str().unwrap_or_default().to_owned();
        Ok(hooks
            .map(|hook| Hook {
                plugin: text(hook, "pluginId"),
                key: text(hook, "key"),
                hash: text(hook, "currentHash"),
                trust: text(hook, "trustStatus"),
            })
            .collect())
    }

    fn start(codex: &Path, home: &Path) -> Result<Self> {
        let mut child = Command::new(codex)
            .arg("app-server")
            .env("CODEX_HOME", home)
            .current_dir(home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Error::io(format!("cannot start {}", codex.display()), &e))?;
        let (tell, lines) = mpsc::sync_channel(64);
        let out = child.stdout.take();
        thread::spawn(move || read(out, &tell));
        Ok(Self { child, lines, until: Instant::now() + PATIENCE, next: 0 })
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        let input = self.child.stdin.as_mut().ok_or_else(gone)?;
        writeln!(input, "{message}").and_then(|()| input.flush()).map_err(|_| gone())
    }

    fn request(&mut self, method: &str, params: Value) -> Result<Value> {
        self.next += 1;
        let id = self.next;
        self.send(&json!({"id": id, "method": method, "params": params}))?;
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).map_err(|e| match e {
                mpsc::RecvTimeoutError::Timeout => {
                    Error::new(ErrorKind::Timeout, format!("codex did not answer `{method}` in time"))
                }
                mpsc::RecvTimeoutError::Disconnected => gone(),
            })?;
            let Ok(mut message) = serde_json::from_str::<Value>(&line) else { continue };
            if message["id"] != json!(id) {
                continue;
            }
            if let Some(why) = message["error"]["message"].as_str() {
                return Err(Error::new(ErrorKind::NotSupported, format!("codex refused `{method}`: {why}")));
            }
            return Ok(message["result"].take());
        }
    }
}

fn read(out: Option<ChildStdout>, tell: &mpsc::SyncSender<String>) {
    for line in
        out.map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(std::result::Result::ok)
    {
        if tell.send(line).is_err() {
            return;
        }
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Protocol, "codex ended before it answered")
}

impl Drop for Asked {
    fn drop(&mut self) {
        // The end of its input ends it; a launcher's child has that input too.
        drop(self.child.stdin.take());
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
