//! What the end-to-end tests share: a home of their own, the real command line, the real processes.
//!
//! Nothing is simulated here. A [`Home`] runs `codex-hms` as a user would, [`Events`] is a second terminal
//! with `monitor events --json`, and [`processes`] looks into `/proc` for what carries the home's token, so
//! that what the system says of itself can be compared with what is.
//!
//! Waiting is always for a condition, with a deadline that is generous ([`PATIENCE`]) because machines are
//! slow; where a deadline is the claim itself, the test names it.

mod answer;
pub mod codex;
mod events;
mod home;
pub mod install;
pub mod mcp_http;
pub mod processes;
mod program;
mod wait;

pub use answer::{Answer, Failure};
pub use events::Events;
pub use home::Home;
pub use program::{child_program, free_port, hms_program, mcp_program, text};
pub use wait::{PATIENCE, until, while_it_holds};
