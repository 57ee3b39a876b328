//! `system install`: a systemd user unit, so that nobody needs to type anything at 3 a.m.

use std::path::PathBuf;

use hms_core::{Error, ErrorKind, Result, command::CommandContext};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
pub(crate) struct Install {
    #[serde(default)]
    print: bool,
    #[serde(default)]
    enable: bool,
    #[serde(default)]
    remove: bool,
}

pub(crate) async fn install(cx: CommandContext, args: Install) -> Result<Value> {
    let around = cx.surroundings()?;
    let path = unit_path()?;
    if args.remove {
        return match std::fs::remove_file(&path) {
            Ok(()) => Ok(
                json!({"path": path, "text": format!("removed {}; `systemctl --user daemon-reload` makes systemd forget it", path.display())}),
            ),
            Err(e) => Err(Error::io(path.display(), &e)),
        };
    }
    let program = around.attach.start.as_ref().map(|c| c.program.clone());
    let program =
        program.ok_or_else(|| Error::new(ErrorKind::NotSupported, "this program cannot run hosts"))?;
    let unit = unit(&program.display().to_string(), &around.home.display().to_string());
    if args.print {
        return Ok(json!({"path": path, "text": unit}));
    }
    let io = |e: std::io::Error| Error::io(path.display(), &e);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(io)?;
    }
    std::fs::write(&path, unit).map_err(io)?;
    if args.enable {
        systemctl(&["--user", "daemon-reload"]).await?;
        systemctl(&["--user", "enable", "--now", "hms.service"]).await?;
        return Ok(json!({"path": path, "text": format!("wrote {} and started it", path.display())}));
    }
    let text = format!("wrote {}\nnext: systemctl --user enable --now hms.service", path.display());
    Ok(json!({"path": path, "text": text}))
}

/// `KillMode=process`: systemd ends the host alone, and the next one adopts the agents.
fn unit(program: &str, home: &str) -> String {
    let quoted = |s: &str| {
        format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$"))
    };
    format!(
        "[Unit]\n\
         Description=HMS host\n\
         Documentation=man:codex-hms(1)\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         ExecStart={} system run --home {}\n\
         Restart=always\n\
         RestartSec=100ms\n\
         KillMode=process\n\
         Delegate=yes\n\
         \n\
         [Install]\n\
         WantedBy=default.target\n",
        quoted(program),
        quoted(home)
    )
}

fn unit_path() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|h| h.join(".config")));
    config
        .map(|c| c.join("systemd/user/hms.service"))
        .ok_or_else(|| Error::new(ErrorKind::InvalidConfig, "neither XDG_CONFIG_HOME nor HOME is set"))
}

async fn systemctl(args: &'static [&'static str]) -> Result<()> {
    let run = move || std::process::Command::new("systemctl").args(args).output();
    let output = tokio::task::spawn_blocking(run)
        .await
        .map_err(|e| Error::internal(e.to_string()))?
        .map_err(|e| Error::io("systemctl", &e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(ErrorKind::HandlerFailed, format!("systemctl {}: {}", args.join(" "), said.trim()))
        .hint("is there a systemd of this user? `loginctl enable-linger` starts one without a login"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_unit_keeps_agents_and_quotes_paths() {
        let unit = super::unit("/opt/my tools/codex-hms", "/home/a b/50%");
        assert!(
            unit.contains("ExecStart=\"/opt/my tools/codex-hms\" system run --home \"/home/a b/50%%\"\n")
        );
        assert!(unit.contains("Restart=always\n") && unit.contains("KillMode=process\n"));
    }
}
