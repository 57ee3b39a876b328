//! `cargo xtask npm`: the npm package `codex-hms` and the package of its program for this platform, as tarballs.
//!
//! Nothing is uploaded and nothing is downloaded: the packages in `npm/` are copied, given the workspace's
//! version, the licences and the program, and packed by npm.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{Outcome, root};

/// The package that users install.
const LAUNCHER: &str = "codex-hms";
/// The package with the program, by what Rust calls the platform it was built on.
const PLATFORMS: [(&str, &str, &str); 1] = [("linux", "x86_64", "codex-hms-linux-x64")];

const USAGE: &str = "usage: cargo xtask npm [--program FILE] [--out FOLDER]";

/// Where the program comes from, and where the tarballs go to.
struct Options {
    program: Option<PathBuf>,
    out: PathBuf,
}

/// Packs both packages; prints the tarballs' paths.
pub(crate) fn run(args: &[String]) -> Outcome {
    let options = Options::parse(args)?;
    let platform = platform()?;
    let program = match options.program {
        Some(program) => program,
        None => build()?,
    };
    fs::create_dir_all(&options.out)?;
    let staging = tempfile::tempdir_in(&options.out)?;
    for name in [platform, LAUNCHER] {
        let stage = staging.path().join(name);
        copy(&root().join("npm").join(name), &stage)?;
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            fs::copy(root().join(licence), stage.join(licence))?;
        }
        set_version(&stage.join("package.json"))?;
        if name == platform {
            fs::create_dir_all(stage.join("bin"))?;
            // Copied with its mode: npm packs it as the executable that it is.
            fs::copy(&program, stage.join("bin").join("codex-hms"))
                .map_err(|e| format!("copying {}: {e}", program.display()))?;
        }
        println!("{}", pack(&stage, &options.out)?.display());
    }
    Ok(())
}

impl Options {
    fn parse(args: &[String]) -> Result<Self, Box<dyn std::error::Error>> {
        let mut options = Self { program: None, out: root().join("target/npm") };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().map(PathBuf::from).ok_or(USAGE);
            match arg.as_str() {
                "--program" => options.program = Some(value()?),
                "--out" => options.out = value()?,
                other => return Err(format!("there is no option {other}; {USAGE}").into()),
            }
        }
        Ok(options)
    }
}

/// The package of this platform.
fn platform() -> Result<&'static str, String> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let found = PLATFORMS.iter().find(|(its_os, its_arch, _)| (*its_os, *its_arch) == (os, arch));
    found.map(|(_, _, name)| *name).ok_or_else(|| format!("npm/ has no package for {os} on {arch}"))
}

/// Builds the program as it is shipped.
fn build() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let status = Command::new("cargo")
        .args(["build", "--profile", "dist", "--package", "codex-hms"])
        .current_dir(root())
        .status()?;
    if !status.success() {
        return Err(format!("building codex-hms failed ({status})").into());
    }
    Ok(root().join("target/dist/codex-hms"))
}

fn copy(from: &Path, to: &Path) -> Outcome {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).map_err(|e| format!("{}: {e}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The workspace's version, for the package and for what it depends on, which are always of one version.
fn set_version(manifest: &Path) -> Outcome {
    let version = Value::from(env!("CARGO_PKG_VERSION"));
    let mut package: Value = serde_json::from_slice(&fs::read(manifest)?)?;
    for dependency in package["optionalDependencies"].as_object_mut().into_iter().flatten() {
        *dependency.1 = version.clone();
    }
    package["version"] = version;
    fs::write(manifest, serde_json::to_string_pretty(&package)? + "\n")?;
    Ok(())
}

/// The tarball that npm makes of a folder.
fn pack(folder: &Path, out: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let out = out.canonicalize()?;
    let npm = Command::new("npm")
        .args(["pack", "--json", "--ignore-scripts", "--pack-destination"])
        .arg(&out)
        .current_dir(folder)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("npm: {e}"))?;
    if !npm.status.success() {
        return Err(format!("npm pack failed ({})", npm.status).into());
    }
    let packed: Value = serde_json::from_slice(&npm.stdout)?;
    let name = packed[0]["filename"].as_str().ok_or("npm pack names no file")?;
    Ok(out.join(name))
}
