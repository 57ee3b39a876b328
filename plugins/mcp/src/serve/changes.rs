//! What changed, for clients that want to know: events of the host become notifications.
//!
//! A listener has a set of what it was not told yet, so that a thousand events about one agent are one
//! notification, and its memory is bounded by what it listens to. After each telling it rests for a moment,
//! and what happens meanwhile is told together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hms_core::event::Event;
use rmcp::{
    RoleServer,
    model::ResourceUpdatedNotificationParam,
    service::{Peer, SubscriptionSink},
};
use tokio::sync::Notify;

use super::resources::Place;

/// The least time between two tellings.
const REST: Duration = Duration::from_millis(200);
/// Resources that one listener may subscribe to.
pub(crate) const SUBSCRIPTIONS: usize = 1024;

/// What the host is asked to tell.
pub(crate) const PATTERNS: [&str; 5] = ["agent.>", "heal.>", "alert.>", "system.>", "command.>"];

/// One thing that is not any more what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// What a resource says.
    Resource(Place),
    /// Which resources there are.
    Resources,
    /// Perhaps which tools there are.
    Tools,
}

/// What an event changes.
pub(crate) fn changes(event: &Event) -> Vec<Change> {
    let kind = event.kind.to_string();
    let data = event.data.as_json();
    let text = |key: &str| data.and_then(|d| d.get(key)).and_then(|v| v.as_str()).map(str::to_owned);
    let mut all = Vec::new();
    let mut resource = |place| all.push(Change::Resource(place));
    match kind.split('.').next().unwrap_or_default() {
        "agent" => {
            resource(Place::Agents);
            resource(Place::Health);
            if let Some(name) = text("agent") {
                resource(Place::Agent(name));
            }
            if matches!(kind.as_str(), "agent.created" | "agent.destroyed" | "agent.updated") {
                all.push(Change::Resources);
            }
        }
        "heal" => {
            resource(Place::Incidents);
            resource(Place::Health);
            if let Some(name) = text("agent") {
                resource(Place::Agent(name));
            }
            let incident = data.and_then(|d| d.get("incident"));
            let id = incident.and_then(|i| i.as_str().or_else(|| i.get("id")?.as_str()));
            if let Some(id) = id {
                resource(Place::Incident(id.to_owned()));
            }
            if kind == "heal.incident.opened" {
                all.push(Change::Resources);
            }
        }
        "alert" => resource(Place::Health),
        "system" => {
            resource(Place::Health);
            // Another host may know other commands, and has lost those that peers had lent to the last one.
            if kind == "system.host.started" {
                all.extend([Change::Tools, Change::Resources]);
            }
        }
        "command" => all.push(Change::Tools),
        _ => {}
    }
    all
}

/// What a listener wants to know, or has to be told.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) uris: BTreeSet<String>,
    pub(crate) resources: bool,
    pub(crate) tools: bool,
}

/// Somebody who is told of changes.
#[derive(Default)]
pub(crate) struct Listener {
    wants: Mutex<Wants>,
    news: Mutex<Wants>,
    wake: Notify,
}

impl Listener {
    pub(crate) fn wants(&self) -> MutexGuard<'_, Wants> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn news(&self) -> MutexGuard<'_, Wants> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a change if it is wanted.
    pub(crate) fn note(&self, change: &Change) {
        let noted = {
            let wants = self.wants();
            let mut news = self.news();
            match change {
                Change::Resource(place) => {
                    let uri = place.uri();
                    wants.uris.contains(&uri) && news.uris.insert(uri)
                }
                Change::Resources => wants.resources && !std::mem::replace(&mut news.resources, true),
                Change::Tools => wants.tools && !std::mem::replace(&mut news.tools, true),
            }
        };
        if noted {
            self.wake.notify_one();
        }
    }

    /// Takes note that nobody knows what changed. Tools can be compared, and are.
    fn note_all(&self) {
        let wants = self.wants().clone();
        let mut news = self.news();
        *news = Wants { tools: news.tools, ..wants };
        drop(news);
        self.wake.notify_one();
    }

    /// Tells `voice` what is noted, until it hears nothing any more.
    pub(crate) async fn tell(self: Arc<Self>, voice: Voice) {
        loop {
            self.wake.notified().await;
            let news = std::mem::take(&mut *self.news());
            // Unsubscribed meanwhile.
            let uris = {
                let wants = self.wants();
                news.uris.into_iter().filter(|uri| wants.uris.contains(uri)).collect::<Vec<_>>()
            };
            for uri in uris {
                if !voice.updated(uri).await {
                    return;
                }
            }
            if (news.resources && !voice.resources().await) || (news.tools && !voice.tools().await) {
                return;
            }
            tokio::time::sleep(REST).await;
        }
    }
}

/// How a listener is told. Each answer is whether it could be.
pub(crate) enum Voice {
    /// Notifications of a session.
    Session(Peer<RoleServer>),
    /// Those of one `subscriptions/listen`.
    Subscription(SubscriptionSink),
}

impl Voice {
    async fn updated(&self, uri: String) -> bool {
        match self {
            Self::Session(peer) => {
                peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri)).await.is_ok()
            }
            Self::Subscription(sink) => sink.notify_resource_updated(uri).await.is_ok(),
        }
    }

    async fn resources(&self) -> bool {
        match self {
            Self::Session(peer) => peer.notify_resource_list_changed().await.is_ok(),
            Self::Subscription(sink) => sink.notify_resource_list_changed().await.is_ok(),
        }
    }

    async fn tools(&self) -> bool {
        match self {
            Self::Session(peer) => peer.notify_tool_list_changed().await.is_ok(),
            Self::Subscription(sink) => sink.notify_tool_list_changed().await.is_ok(),
        }
    }
}

/// All listeners of this process.
#[derive(Default)]
pub(crate) struct Hub {
    listeners: Mutex<BTreeMap<u64, Arc<Listener>>>,
    next: AtomicU64,
}

impl Hub {
    /// Adds a listener; it goes when what is returned is dropped.
    pub(crate) fn join(self: &Arc<Self>, wants: Wants) -> Membership {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let listener = Arc::new(Listener { wants: Mutex::new(wants), ..Listener::default() });
        self.listeners().insert(number, listener.clone());
        Membership { hub: self.clone(), number, listener }
    }

    /// Tells every listener that wants to know.
    pub(crate) fn note(&self, change: &Change) {
        self.listeners().values().for_each(|listener| listener.note(change));
    }

    /// Something changed and nobody knows what: events were lost, or there is another host.
    pub(crate) fn note_all(&self) {
        self.listeners().values().for_each(|listener| listener.note_all());
    }

    fn listeners(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Listener>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the listeners.
pub(crate) struct Membership {
    hub: Arc<Hub>,
    number: u64,
    pub(crate) listener: Arc<Listener>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.hub.listeners().remove(&self.number);
    }
}
