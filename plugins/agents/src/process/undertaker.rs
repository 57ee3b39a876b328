//! Ends whole process trees, many at once: one pass over the process table serves all who ask at the same
//! time, so that stopping a thousand agents is not a thousand passes.

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use hms_core::os::{
    identity::ProcessId,
    token::Incarnations,
    tree::{KillTree, kill_trees, stragglers},
};
use tokio::sync::oneshot;

/// Nobody waits for a sweep after a crash: let a few come together.
const SWEEP_DELAY: Duration = Duration::from_millis(100);

struct Order {
    agent: Option<String>,
    incarnations: Incarnations,
    leader: Option<ProcessId>,
    done: Option<oneshot::Sender<usize>>,
}

/// Where orders go. The thread ends with the last sender.
#[derive(Debug, Clone)]
pub(super) struct Undertaker(Sender<Order>);

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Order").field("agent", &self.agent).finish_non_exhaustive()
    }
}

impl Undertaker {
    pub(super) fn start(home: PathBuf) -> std::io::Result<Self> {
        let (tx, rx) = channel();
        std::thread::Builder::new()
            .name("hms-undertaker".into())
            .stack_size(256 << 10)
            .spawn(move || run(&home, &rx))?;
        Ok(Self(tx))
    }

    /// Ends everything of these lives of an agent. Returns how many could not be ended; one at least when
    /// there is nobody to do it.
    pub(super) async fn end(
        &self,
        agent: &str,
        incarnations: Incarnations,
        leader: Option<ProcessId>,
    ) -> usize {
        let (tx, rx) = oneshot::channel();
        let order = Order { agent: Some(agent.into()), incarnations, leader, done: Some(tx) };
        // Who does not take it, drops it: then there is no answer.
        let _ = self.0.send(order);
        rx.await.unwrap_or(1)
    }

    /// Ends, some time soon, what an earlier life left behind. `leader` is the process that this very life began
    /// with, dead by now; never that of another life, since a leader is ended whatever its incarnation.
    pub(super) fn sweep(&self, agent: &str, incarnation: u64, leader: Option<ProcessId>) {
        let incarnations = Incarnations::Exactly(incarnation);
        let order = Order { agent: Some(agent.into()), incarnations, leader, done: None };
        let _ = self.0.send(order);
    }
}

fn run(home: &std::path::Path, orders: &Receiver<Order>) {
    while let Ok(first) = orders.recv() {
        let mut batch = vec![first];
        let due = Instant::now() + SWEEP_DELAY;
        loop {
            let urgent = batch.iter().any(|o| o.done.is_some());
            let next = if urgent {
                orders.try_recv().ok()
            } else {
                orders.recv_timeout(due.saturating_duration_since(Instant::now())).ok()
            };
            match next {
                Some(order) if batch.len() < 4096 => batch.push(order),
                Some(order) => {
                    batch.push(order);
                    break;
                }
                None => break,
            }
        }
        let targets: Vec<KillTree<'_>> = batch
            .iter()
            .map(|o| KillTree {
                home,
                agent: o.agent.as_deref(),
                incarnations: o.incarnations,
                leader: o.leader,
                cgroup: None,
            })
            .collect();
        let survived = !kill_trees(&targets).survived.is_empty();
        // Only who asked about a survivor is told of it.
        let left: Vec<usize> = targets
            .iter()
            .map(|target| if survived { stragglers(std::slice::from_ref(target)).len() } else { 0 })
            .collect();
        drop(targets);
        for (order, left) in batch.into_iter().zip(left) {
            if let Some(done) = order.done {
                let _ = done.send(left);
            }
        }
    }
}
