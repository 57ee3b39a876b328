//! The proxies that people use today, as `tests/mcp/bench` pins them, installed below `target/bench/mcp`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Any, Contender, Way, http::Http};
use crate::{Outcome, root};

/// Where they are.
struct Kit {
    folder: PathBuf,
}

/// All of them in front of `server`, a command line.
pub(super) fn all(server: &[String]) -> Result<Vec<Contender>, Any> {
    let kit = install()?;
    let version = Command::new("node").arg("--version").output().map_err(|e| format!("node: {e}"))?;
    eprintln!("peers in {}, on Node {}", kit.folder.display(), String::from_utf8(version.stdout)?.trim());
    let module = |path: &str| kit.folder.join("node_modules").join(path);
    let (npm, gateway) = (module("mcp-proxy/dist/bin/mcp-proxy.mjs"), module("supergateway/dist/index.js"));
    let pypi = kit.folder.join("venv/bin/mcp-proxy");
    let line = server.join(" ");
    let (for_npm, for_pypi) = (server.to_vec(), server.to_vec());
    Ok(vec![
        contender("mcp-proxy (npm)", "/mcp", move |port| {
            let mut command = Command::new("node");
            command.arg(&npm).args([
                "--host",
                "127.0.0.1",
                "--server",
                "stream",
                "--port",
                &port.to_string(),
            ]);
            command.arg("--").args(&for_npm);
            command
        }),
        contender("mcp-proxy (PyPI)", "/mcp/", move |port| {
            let mut command = Command::new(&pypi);
            command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--"]).args(&for_pypi);
            command
        }),
        // Without --stateful it starts a server for every request.
        contender("supergateway (npm)", "/mcp", move |port| {
            let mut command = Command::new("node");
            command.arg(&gateway).args([
                "--stdio",
                &line,
                "--outputTransport",
                "streamableHttp",
                "--stateful",
            ]);
            command.args(["--logLevel", "none", "--port", &port.to_string()]);
            command
        }),
    ])
}

/// A contender that is reached over HTTP.
pub(super) fn contender(
    name: &str,
    path: &'static str,
    command: impl Fn(u16) -> Command + 'static,
) -> Contender {
    let begin = move || Ok(Box::new(Http::begin(path, &command)?) as Box<dyn Way>);
    Contender { name: name.to_owned(), begin: Box::new(begin) }
}

/// Installs what is pinned, unless that very thing is there already.
fn install() -> Result<Kit, Any> {
    let (pins, folder) = (root().join("tests/mcp/bench"), root().join("target/bench/mcp"));
    fs::create_dir_all(&folder)?;
    let read = |file: &str| fs::read_to_string(pins.join(file)).map_err(|e| format!("{file}: {e}"));
    let mut wanted = String::new();
    for file in ["package.json", "package-lock.json", "requirements.txt"] {
        let text = read(file)?;
        fs::write(folder.join(file), &text)?;
        wanted += &text;
    }
    let done = folder.join("installed");
    if fs::read_to_string(&done).is_ok_and(|text| text == wanted) {
        return Ok(Kit { folder });
    }
    eprintln!("installing the proxies to measure beside, into {}", folder.display());
    let at = |program: &Path, args: &[&str]| -> Outcome {
        let status = Command::new(program).args(args).current_dir(&folder).status();
        let problem = match status {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => status.to_string(),
            Err(e) => e.to_string(),
        };
        let command = format!("{} {}", program.display(), args.join(" "));
        Err(format!("`{command}` failed ({problem}): the peers come from the registries of npm and PyPI; without them, measure with --without-peers").into())
    };
    at(Path::new("npm"), &["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error"])?;
    at(Path::new("python3"), &["-m", "venv", "venv"])?;
    at(&folder.join("venv/bin/pip"), &["install", "--quiet", "--requirement", "requirements.txt"])?;
    fs::write(&done, wanted)?;
    Ok(Kit { folder })
}
