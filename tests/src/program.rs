//! Where the programs under test are.

use std::{
    env,
    net::TcpListener,
    path::{Path, PathBuf},
};

/// The command line under test: `HMS_TEST_BIN`, else `codex-hms` beside the tests in the target folder.
///
/// Panics when it is not there: a test that does not run is not a test that passes.
pub fn hms_program() -> PathBuf {
    if let Some(named) = env::var_os("HMS_TEST_BIN") {
        let program = PathBuf::from(named);
        assert!(program.is_file(), "HMS_TEST_BIN names {}, which is not there", program.display());
        return program;
    }
    built("codex-hms", "build it first: cargo build -p codex-hms")
}

/// The child of many vices, `src/bin/hms-test-child.rs`.
pub fn child_program() -> PathBuf {
    built("hms-test-child", "cargo builds it with these tests")
}

/// The MCP server of many vices, `src/bin/hms-test-mcp.rs`.
pub fn mcp_program() -> PathBuf {
    built("hms-test-mcp", "cargo builds it with these tests")
}

/// A path as text; those of tests always are.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// A port of the loopback that nobody listens at just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has free ports");
    listener.local_addr().expect("a listener has an address").port()
}

fn built(name: &str, hint: &str) -> PathBuf {
    // A test runs as <target>/<profile>/deps/<test>-<hash>.
    let this = env::current_exe().expect("a running program has a path");
    let profile = this.ancestors().nth(2).expect("tests run in a target folder");
    let program = profile.join(name);
    assert!(program.is_file(), "{} is not there; {hint}", program.display());
    program
}
