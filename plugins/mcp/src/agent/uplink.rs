//! The wrapper's side: finds the home's host, shows the server there, and carries orders back.
//!
//! All of it is one task beside the relay, which never waits for it. Without a host it sleeps on the folder of
//! the host's socket (inotify); when a host dies it does so again, or with `--host auto` races for the next one.
//! One report is under way at a time: what happens meanwhile is put together into the next.

use std::{collections::BTreeMap, future::Future, pin::Pin, time::Duration};

use hms_core::{
    Error, ErrorKind, Result,
    clock::Rng,
    command::{Caller, Update},
    os::{files, identity::ProcessId, watch::FileWatch},
    peer::{Attach, Client},
    supervision::Intensity,
};
use serde_json::{Map, Value, json};
use tokio::{sync::mpsc, time::Instant};

use super::{
    digest::{Digest, Due},
    host::{ATTACH, Hello, SERVICE},
    name::redacted,
    report::{Item, Order, Report},
};
use crate::relay::{Fact, Facts};

/// How long calls and output are put together before they are reported.
const BATCH: Duration = Duration::from_millis(100);
/// For a host that is there and does not answer (stopped, or busy beyond reason): as long as it lives.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long the last report may hold up the end.
const FAREWELL: Duration = Duration::from_millis(500);
/// After a host that would not have us, before the next attempt at the same one.
const REFUSED: Duration = Duration::from_secs(60);

/// Whether the wrapped server is shown in a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Presence {
    /// Where one runs, now or later; none is started.
    #[default]
    IfRunning,
    /// In one that is started when none runs.
    Auto,
    /// In none.
    Never,
}

/// What is shown.
#[derive(Debug, Clone)]
pub(crate) struct Described {
    /// What wraps it: `wrap` or `pool`.
    pub(crate) by: &'static str,
    /// What it would like to be called: the agent is `mcp-<name>`.
    pub(crate) name: String,
    /// Its command line; secrets are taken out before it is shown.
    pub(crate) command: Vec<String>,
    /// Labels of the agent, such as `client`.
    pub(crate) labels: BTreeMap<String, String>,
    /// The wrapper's options, for people.
    pub(crate) options: Map<String, Value>,
    /// When the wrapper gives up.
    pub(crate) budget: Intensity,
}

/// The orders for one server. Dropping it ends the link: the agent goes.
pub(crate) struct Orders(mpsc::Receiver<Order>);

impl Orders {
    /// The next order; never without a link. That a stop is carried out is told by [`crate::relay::Fact::Halted`].
    /// May be cancelled; nothing is lost.
    pub(crate) async fn next(&mut self) -> Order {
        match self.0.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
        }
    }
}

/// Shows a server in the host of `attach`, and returns at once. Call within a tokio runtime, on which the link's
/// task runs. `facts` are the ones of its relay.
pub(crate) fn link(attach: Attach, presence: Presence, described: Described, facts: Facts) -> Orders {
    let (orders, receiver) = mpsc::channel(super::link::ORDERS);
    if presence != Presence::Never {
        let uplink = Uplink {
            attach,
            token: Rng::from_os().token(16),
            described,
            facts,
            digest: Digest::default(),
            orders,
        };
        tokio::spawn(uplink.run(presence));
    }
    Orders(receiver)
}

struct Uplink {
    attach: Attach,
    token: String,
    described: Described,
    facts: Facts,
    digest: Digest,
    orders: mpsc::Sender<Order>,
}

/// How a session with a host ended.
enum Ended {
    /// The host went.
    Lost,
    /// It goes on without us: somebody destroyed the agent, or it would not have us.
    Refused,
    /// The server is not wrapped any more.
    Over,
}

type Sending<'c> = Pin<Box<dyn Future<Output = Result<u64>> + Send + 'c>>;

impl Uplink {
    async fn run(mut self, presence: Presence) {
        let mut start = presence == Presence::Auto;
        loop {
            let Some(client) = self.find(start).await else { return };
            // A stopped host shall stay stopped: after the first one, only those are raced for that die.
            start = false;
            loop {
                match self.session(&client).await {
                    Ended::Over => return,
                    Ended::Refused => {
                        drop(client);
                        if !self.rest().await {
                            return;
                        }
                        break;
                    }
                    Ended::Lost if presence == Presence::Auto => {
                        let Some(next) = self.meanwhile(client.request("command.list", Value::Null)).await
                        else {
                            return;
                        };
                        // The client races for the next host by itself, unless this one was stopped on purpose.
                        if next.is_err() && client.host().is_none() {
                            break;
                        }
                    }
                    Ended::Lost => break,
                }
            }
        }
    }

    /// A connection to the host, however long it takes; `None` when there is nothing to show any more.
    async fn find(&mut self, start: bool) -> Option<Client> {
        if start {
            let attach = Attach { name: "mcp".into(), ..self.attach.clone() };
            match self.meanwhile(Client::attach(attach)).await? {
                Ok(client) => return Some(client),
                Err(e) => {
                    tracing::warn!(error = %e, "no host could be started; the server is wrapped without one")
                }
            }
        }
        let attach = Attach { name: "mcp".into(), start: None, deadline: FOR_EVER, ..self.attach.clone() };
        let waiting = async move {
            loop {
                // Watched before the attempt, so that a host that comes in between is not missed.
                let watch = watch(&attach.runtime_dir);
                let refused = match Client::attach(attach.clone()).await {
                    Ok(client) => return client,
                    Err(e) => e.kind != ErrorKind::HostUnavailable,
                };
                match watch {
                    Ok(watch) if !refused => {
                        let _ = watch.changed().await; // an error here shows again when it is made anew
                    }
                    // Another protocol, or no inotify left.
                    _ => tokio::time::sleep(REFUSED).await,
                }
            }
        };
        self.meanwhile(waiting).await
    }

    /// A minute without a host.
    async fn rest(&mut self) -> bool {
        self.meanwhile(tokio::time::sleep(REFUSED)).await.is_some()
    }

    /// The outcome of `future`, with facts taken in meanwhile. `None` when the server is not wrapped any more.
    async fn meanwhile<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let orders = self.orders.clone();
        let gone = orders.closed();
        tokio::pin!(future, gone);
        loop {
            tokio::select! {
                biased;
                outcome = &mut future => return Some(outcome),
                (facts, lost) = self.facts.pressing() => self.digest.take(facts, lost),
                () = &mut gone => return None,
            }
        }
    }

    /// Shows the server at this host for as long as both are there.
    async fn session(&mut self, client: &Client) -> Ended {
        let (facts, lost) = self.facts.take();
        self.digest.take(facts, lost);
        self.digest.begin_session();
        let hello = match self.hello() {
            Ok(hello) => hello,
            Err(e) => {
                tracing::warn!(error = %e, "the server cannot be shown in the host");
                return Ended::Refused;
            }
        };
        let told = hello.report.exits.last().map_or(0, |exit| exit.life);
        let (items_in, mut items) = mpsc::unbounded_channel(); // a handful of orders at most: the host bounds them
        let updates = move |update| {
            if let Update::Item { value } = update {
                let _ = items_in.send(value);
            }
        };
        let caller = Caller { source: "mcp".into(), ..Caller::default() };
        let run = client.run(ATTACH, json!({"wrapper": hello}), caller, updates);
        tokio::pin!(run);
        let orders = self.orders.clone();
        let gone = orders.closed();
        tokio::pin!(gone);
        let mut attached = false;
        let mut sending: Option<Sending<'_>> = None;
        let mut soon: Option<Instant> = None;
        loop {
            if attached && sending.is_none() {
                let due = self.digest.due();
                if due == Due::Now || soon.is_some_and(|at| at <= Instant::now()) {
                    soon = None;
                    let (facts, lost) = self.facts.take();
                    self.digest.take(facts, lost);
                    sending = Some(send(client, self.token.clone(), self.digest.report()));
                } else if due == Due::Soon && soon.is_none() {
                    soon = Some(Instant::now() + BATCH);
                }
            }
            // What does not press need not wake us while a report is under way or planned.
            let quiet = !attached || soon.is_some() || sending.is_some();
            tokio::select! {
                biased;
                outcome = &mut run => {
                    // A server that was stopped so that its agent could be destroyed goes on for its client.
                    let released = outcome.as_ref().is_ok_and(|answer| answer["released"] == true);
                    if released && self.digest.is_stopped() {
                        let _ = self.orders.try_send(Order::Start); // one that takes no orders is about to end
                    }
                    return match outcome {
                        Err(e) if e.kind == ErrorKind::HostUnavailable => Ended::Lost,
                        Ok(_) | Err(_) => Ended::Refused,
                    };
                }
                Some(item) = items.recv() => match serde_json::from_value(item) {
                    Ok(Item::Attached { agent }) => {
                        tracing::debug!(%agent, "attached");
                        attached = true;
                        self.digest.heard(told);
                    }
                    Ok(Item::Order { number, order }) => {
                        self.digest.ordered(number, order);
                        if self.orders.try_send(order).is_err() {
                            tracing::warn!("the wrapper does not take orders");
                        }
                    }
                    Err(e) => tracing::warn!(error = %e, "the host orders what is not known here"),
                },
                sent = under_way(&mut sending) => {
                    sending = None;
                    match sent {
                        Ok(life) => self.digest.heard(life),
                        Err(e) => tracing::debug!(error = %e, "a report did not arrive"),
                    }
                }
                (facts, lost) = listen(&mut self.facts, quiet) => self.digest.take(facts, lost),
                () = &mut gone => {
                    let last = send(client, self.token.clone(), self.digest.closing());
                    let _ = tokio::time::timeout(FAREWELL, last).await; // the host finds out by itself too
                    return Ended::Over;
                }
                () = at(soon), if sending.is_none() => {}
            }
        }
    }

    fn hello(&mut self) -> Result<Hello> {
        let pid = i32::try_from(std::process::id()).map_err(|e| Error::internal(format!("a pid: {e}")))?;
        let process =
            ProcessId::of(pid).ok_or_else(|| Error::internal("this process does not find itself"))?;
        let described = &self.described;
        Ok(Hello {
            link: self.token.clone(),
            name: described.name.clone(),
            by: described.by.into(),
            process: process.to_line(),
            command: redacted(&described.command),
            labels: described.labels.clone(),
            options: described.options.clone(),
            budget: described.budget,
            report: self.digest.report(),
        })
    }
}

/// Sends a report; the last life whose end the host has heard of then.
fn send(client: &Client, token: String, report: Report) -> Sending<'_> {
    Box::pin(async move {
        let life = report.exits.last().map_or(0, |exit| exit.life);
        let args = json!({"link": token, "report": report});
        let call = json!({"id": SERVICE, "method": "report", "args": args});
        client.request("service.call", call).await.map(|_| life)
    })
}

async fn under_way(sending: &mut Option<Sending<'_>>) -> Result<u64> {
    match sending {
        Some(sending) => sending.await,
        None => std::future::pending().await,
    }
}

async fn listen(facts: &mut Facts, quiet: bool) -> (Vec<Fact>, u64) {
    if quiet { facts.pressing().await } else { facts.next().await }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Watches for a host's socket.
fn watch(runtime_dir: &std::path::Path) -> std::io::Result<FileWatch> {
    // A host that is stopped takes its folder away.
    files::create_private_dir(runtime_dir)?;
    let watch = FileWatch::new()?;
    watch.add(runtime_dir)?;
    Ok(watch)
}
