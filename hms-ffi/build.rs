//! Gives the shared library its name (`libhms.so.<major>`) and keeps it loaded: its threads would
//! otherwise run in unmapped memory after a `dlclose`.

/// The ABI major: `HMS_ABI_VERSION_MAJOR` in `src/version.rs`, held equal by a test.
const ABI_MAJOR: u32 = 0;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    match target.as_str() {
        "macos" => println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libhms.{ABI_MAJOR}.dylib"),
        "windows" => {}
        _ => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libhms.so.{ABI_MAJOR}");
            println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
        }
    }
}
