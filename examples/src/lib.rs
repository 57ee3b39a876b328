//! Examples of using HMS, one a file, language beside language. The tests run each of them.
//!
//! In Rust: `cargo run --package hms-examples --example supervise` (or `own_agent`).
