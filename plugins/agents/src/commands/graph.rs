//! `agent graph`: who supervises, needs and talks to whom.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use hms_core::{
    Kernel, Result,
    command::{CommandSpec, Format, View, handler},
    plugin::Registrar,
};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) fn register(to: &Registrar) -> Result<()> {
    let columns = [
        ("Agent", "/name", Format::Text),
        ("Relation", "/relation", Format::Text),
        ("Status", "/status", Format::State),
        ("Health", "/health", Format::State),
        ("Messages", "/messages", Format::Text),
    ];
    let columns = columns.map(|(title, pointer, format)| hms_core::command::Column {
        title: title.into(),
        pointer: pointer.into(),
        format,
    });
    let spec = CommandSpec::new("agent graph", "Show who supervises, needs and talks to whom")
        .about(
            "Below an agent stand the agents that it supervises and those that it needs; an agent is \
             unfolded where it comes first. Messages are counted by who sent them.",
        )
        .watchable()
        .view(View::Tree { roots: "/roots".into(), children: "/children".into(), columns: columns.into() })
        .example("agent graph --json");
    let kernel = to.kernel().clone();
    to.command(spec, handler(move |_, _: Nothing| std::future::ready(graph(&kernel))))
}

#[derive(Deserialize)]
struct Nothing {}

struct Node {
    row: Value,
    depends_on: Vec<String>,
    parent: Option<String>,
    /// Messages received, by who sent them.
    from: BTreeMap<String, u64>,
}

/// `nodes`: `name`, `id`, `type`, `status`, `health`, and `kind` (`agent`, or `peer` for what only sends);
/// `edges`: `from`, `to`, `kind` (`depends_on`, `parent`: from the child, `messages`: from the sender) and,
/// for messages, `count`; `roots`: the same as a tree of agents with `relation` and `children`.
fn graph(kernel: &Kernel) -> Result<Value> {
    kernel.require_open()?;
    let agents = read(kernel);
    let mut nodes: Vec<Value> = agents.values().map(|n| n.row.clone()).collect();
    let mut edges = Vec::new();
    let mut senders = BTreeSet::new();
    for (name, node) in &agents {
        for need in &node.depends_on {
            edges.push(json!({"from": name, "to": need, "kind": "depends_on"}));
        }
        if let Some(parent) = &node.parent {
            edges.push(json!({"from": name, "to": parent, "kind": "parent"}));
        }
        for (sender, count) in &node.from {
            edges.push(json!({"from": sender, "to": name, "kind": "messages", "count": count}));
            if !agents.contains_key(sender) {
                senders.insert(sender.clone());
            }
        }
    }
    nodes.extend(senders.into_iter().map(|name| json!({"name": name, "kind": "peer"})));
    let roots = Tree { agents: &agents, shown: HashSet::new() }.grow();
    Ok(json!({"nodes": nodes, "edges": edges, "roots": roots}))
}

/// The agents by name; who they refer to is told by name too.
fn read(kernel: &Kernel) -> BTreeMap<String, Node> {
    let specs = kernel.agents().specs();
    let names: HashMap<&str, &str> =
        specs.iter().map(|(id, spec)| (id.as_str(), spec.name.as_str())).collect();
    let name_of = |id: &str| names.get(id).copied().unwrap_or(id).to_owned();
    let mut nodes = BTreeMap::new();
    for (id, spec) in &specs {
        // One that was destroyed meanwhile is no part of the picture.
        let Ok(status) = kernel.agents().status(id) else { continue };
        let row = json!({
            "name": spec.name, "id": id, "type": spec.kind, "kind": "agent",
            "status": status["status"], "health": status["health"],
        });
        let from = status["messages"]["from"].as_object().into_iter().flatten();
        nodes.insert(
            spec.name.clone(),
            Node {
                row,
                depends_on: spec.depends_on.iter().map(|d| name_of(d)).collect(),
                parent: spec.parent.as_deref().map(name_of),
                from: from.map(|(source, count)| (name_of(source), count.as_u64().unwrap_or(0))).collect(),
            },
        );
    }
    nodes
}

struct Tree<'a> {
    agents: &'a BTreeMap<String, Node>,
    /// What was unfolded already: agents that several need would repeat their whole subtree.
    shown: HashSet<&'a str>,
}

impl<'a> Tree<'a> {
    fn grow(mut self) -> Vec<Value> {
        let agents = self.agents;
        let needed: HashSet<&str> =
            agents.values().flat_map(|n| n.depends_on.iter().map(String::as_str)).collect();
        let is_root =
            |(name, node): &(&'a String, &'a Node)| node.parent.is_none() && !needed.contains(name.as_str());
        let mut roots: Vec<Value> = agents
            .iter()
            .filter(is_root)
            .map(|(name, _)| name.as_str())
            .map(|name| self.node(name, ""))
            .collect();
        // A supervisor that its own child's dependency needs stands in a ring without a root.
        for name in agents.keys() {
            if !self.shown.contains(name.as_str()) {
                roots.push(self.node(name, ""));
            }
        }
        roots
    }

    fn node(&mut self, name: &'a str, relation: &str) -> Value {
        let agents = self.agents;
        let Some(node) = agents.get(name) else { return json!({"name": name, "relation": relation}) };
        let mut shown = node.row.clone();
        shown["relation"] = relation.into();
        if !self.shown.insert(name) {
            return shown;
        }
        let from: Vec<String> =
            node.from.iter().map(|(source, count)| format!("{count} from {source}")).collect();
        shown["messages"] = from.join(", ").into();
        let children = agents.iter().filter(|(_, n)| n.parent.as_deref() == Some(name));
        let mut below: Vec<Value> = children.map(|(child, _)| self.node(child, "supervised")).collect();
        below.extend(node.depends_on.iter().map(|need| self.node(need, "needed")));
        shown["children"] = Value::Array(below);
        shown
    }
}
