//! Every dependency may be shipped under this project's terms: its licence expression has only parts that are
//! on the list. The list is the decision; a new entry wants a reason.

use std::process::Command;

use serde_json::Value;

const ALLOWED: [&str; 12] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "CC0-1.0",
    // cbindgen: a build tool, no part of it is shipped.
    "MPL-2.0",
];

/// Whether each part that is joined by AND offers an allowed alternative.
fn allowed(expression: &str) -> bool {
    // `/` is how old manifests write OR.
    let text = expression.replace(['(', ')'], " ").replace('/', " OR ");
    text.split(" AND ").all(|part| part.split(" OR ").any(|licence| ALLOWED.contains(&licence.trim())))
}

#[test]
fn expressions_are_read() {
    assert!(
        allowed("MIT OR Apache-2.0")
            && allowed("(MIT OR Apache-2.0) AND Unicode-3.0")
            && allowed("Unlicense/MIT")
    );
    assert!(!allowed("GPL-3.0-only") && !allowed("MIT AND GPL-3.0-only") && !allowed(""));
}

#[test]
fn every_dependency_is_under_an_allowed_licence() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 50, "only {} packages were seen", packages.len());
    let refused: Vec<String> = packages
        .iter()
        .filter(|p| !p["license"].as_str().is_some_and(allowed))
        .map(|p| format!("{} {}: {}", p["name"], p["version"], p["license"]))
        .collect();
    assert!(refused.is_empty(), "not on the list:\n{}", refused.join("\n"));
}
