//! The wrapped server as an agent of the host: what is told of it, and what is obeyed.

use std::{collections::BTreeMap, sync::Arc};

use hms_core::command::Surroundings;
use serde_json::{Map, Value, json};

use super::options::Args;
use crate::{
    agent::{self, Described, Order, Presence},
    relay::{Facts, Reporter, Settings, facts},
    server::{self, Supervised},
};

/// Where what happens is told, and where it is listened to; neither, when nobody is to hear of it.
pub(super) fn channel(presence: Presence) -> (Option<Reporter>, Option<Facts>) {
    if presence == Presence::Never {
        return (None, None);
    }
    let (reporter, facts) = facts();
    (Some(reporter), Some(facts))
}

/// Shows the server wherever a host runs, for as long as this process lives.
pub(super) fn show(
    args: &Args,
    around: &Surroundings,
    settings: &Settings,
    facts: Facts,
    supervised: &Arc<Supervised>,
) {
    let described = Described {
        by: "wrap",
        name: settings.name.clone(),
        command: args.command.clone(),
        labels: labels(),
        options: options(settings),
        budget: settings.intensity,
    };
    let mut orders = agent::link(around.attach.clone(), args.host, described, facts);
    let supervised = Arc::downgrade(supervised);
    tokio::spawn(async move {
        loop {
            let order = match orders.next().await {
                Order::Stop { kill } => server::Order::Halt { kill },
                Order::Start => server::Order::Resume,
            };
            match supervised.upgrade() {
                Some(supervised) => supervised.order(&order),
                None => return,
            }
        }
    });
}

/// Whose server it is: the program that started us, and its process, which is one session of it.
fn labels() -> BTreeMap<String, String> {
    let parent = std::os::unix::process::parent_id();
    let client = std::fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
    let client = client.trim();
    let mut labels = BTreeMap::from([("session".to_owned(), parent.to_string())]);
    if !client.is_empty() {
        labels.insert("client".into(), client.into());
    }
    labels
}

fn options(settings: &Settings) -> Map<String, Value> {
    let duration = hms_core::duration::format;
    let options = json!({
        "stateful": settings.stateful,
        "warm": settings.warm,
        "hang_timeout": settings.hang_timeout.map(duration),
        "memory_limit": settings.memory_limit.map(hms_core::bytesize::format),
        "max_restarts": settings.intensity.max,
        "within": duration(settings.intensity.window),
    });
    match options {
        Value::Object(options) => options,
        _ => Map::new(),
    }
}
