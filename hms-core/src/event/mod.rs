//! Events: what happened, to whom it matters, in which order, and after which crash it is still known.
//!
//! An [`Event`] carries the CloudEvents attributes; its `kind` (CloudEvents `type`) is the subject by
//! which it is routed, `agent.health.updated`. The [`Bus`] stamps what is published and puts it into the
//! bounded queue of every [`Subscription`] whose patterns and filter it meets; consumers take it from
//! there, so that a publisher never waits for a subscriber and no subscriber's code runs in a publisher.
//!
//! | file | room |
//! | --- | --- |
//! | `subject.rs`, `trie.rs` | names and patterns of events; finding who wants one |
//! | `model.rs`, `cloud.rs` | the event, and its CloudEvents JSON form |
//! | `filter.rs` | conditions in CEL |
//! | `journal.rs` | what the store offers the bus |
//! | `bus.rs`, `sink.rs` | numbering and fan-out |
//! | `subscription.rs`, `follow.rs` | the consumer's end; reading the journal and going live without a gap |

mod bus;
mod cloud;
mod filter;
mod follow;
mod journal;
mod model;
mod queue;
mod sink;
mod subject;
mod subscription;
mod trie;

#[cfg(test)]
mod tests;

pub use bus::{Bus, BusStats, REFUSED};
pub use filter::{Filter, MAX_FILTER_BYTES};
pub use journal::{Ack, BoxFuture, Journal};
pub use model::{Data, Event, EventDraft, EventId, Extensions};
pub use queue::{Overflow, Queue, RecvError};
pub use sink::SubscriptionStats;
pub use subject::{IntoSubject, Pattern, Subject};
pub use subscription::{Batch, DEFAULT_CAPACITY, MAX_CAPACITY, MAX_WAITING, Subscribe, Subscription};
pub use trie::Matcher;
