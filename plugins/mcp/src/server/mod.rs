//! The process of a stdio server, and the threads between it and its client.
//!
//! | file | what |
//! | --- | --- |
//! | `process` | one life: spawned with pipes and a token, measured, ended with all that it started |
//! | `guard` | the process that ends the tree when ours is killed |
//! | `pipe` | what waits to be written to one side |
//! | `supervised` | all together: a relay, its server, its client |
//! | `supervisor` | the task that carries out what the relay decides |

mod guard;
mod pipe;
mod process;
mod supervised;
mod supervisor;

pub(crate) use self::{
    guard::run as run_guard,
    process::Program,
    supervised::{Client, Launch, Order, Supervised},
};
