//! Which agents there are, by id and by name, and who depends on whom.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{AgentSpec, shared::Shared};
use crate::{Error, ErrorKind, Result};

/// The agents by id and name, in order of creation.
#[derive(Default)]
pub(crate) struct Index {
    by_id: HashMap<String, (u64, Arc<Shared>)>,
    by_name: HashMap<String, String>,
    next: u64,
}

impl Index {
    pub(crate) fn insert(&mut self, shared: Arc<Shared>) {
        self.by_name.insert(shared.name(), shared.id.clone());
        self.by_id.insert(shared.id.clone(), (self.next, shared));
        self.next += 1;
    }

    pub(crate) fn remove(&mut self, id: &str) {
        if let Some((_, shared)) = self.by_id.remove(id) {
            self.by_name.remove(&shared.name());
        }
    }

    pub(crate) fn get(&self, id_or_name: &str) -> Option<&Arc<Shared>> {
        let id = self.by_name.get(id_or_name).map_or(id_or_name, String::as_str);
        self.by_id.get(id).map(|(_, shared)| shared)
    }

    pub(crate) fn find(&self, id_or_name: &str) -> Result<Arc<Shared>> {
        self.get(id_or_name).cloned().ok_or_else(|| {
            Error::not_found("agent", id_or_name).hint("`{program} agent list` shows the agents")
        })
    }

    /// All, in order of creation.
    pub(crate) fn all(&self) -> Vec<Arc<Shared>> {
        let mut all: Vec<_> = self.by_id.values().collect();
        all.sort_by_key(|(n, _)| *n);
        all.into_iter().map(|(_, shared)| shared.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The children of `parent`, in order of creation.
    pub(crate) fn children(&self, parent: &Shared) -> Vec<Arc<Shared>> {
        let name = parent.name();
        let is_child =
            |s: &Arc<Shared>| s.spec().parent.as_ref().is_some_and(|p| *p == name || *p == parent.id);
        self.all().into_iter().filter(is_child).collect()
    }

    /// Somebody who has `of` for a dependency or its parent, or is about to.
    pub(crate) fn who_needs(&self, of: &Shared) -> Option<Arc<Shared>> {
        let name = of.name();
        self.all().into_iter().find(|s| s.needs().iter().any(|needed| *needed == name || *needed == of.id))
    }

    /// Who depends on `id` directly.
    pub(crate) fn dependents(&self, of: &Shared) -> Vec<Arc<Shared>> {
        let name = of.name();
        let depends = |s: &Arc<Shared>| s.spec().depends_on.iter().any(|d| *d == name || *d == of.id);
        self.by_id.values().map(|(_, s)| s).filter(|s| depends(s)).cloned().collect()
    }

    /// Checks that what `spec` refers to exists, and that adding it closes no cycle.
    pub(crate) fn check_references(&self, spec: &AgentSpec) -> Result<()> {
        for (what, name) in
            spec.depends_on.iter().map(|d| ("depends_on", d)).chain(spec.parent.iter().map(|p| ("parent", p)))
        {
            if name == &spec.name {
                return Err(Error::argument(what, format_args!("`{name}` refers to itself")));
            }
            match self.get(name) {
                None => {
                    return Err(
                        Error::argument(what, format_args!("no agent `{name}`")).hint("create it first")
                    );
                }
                Some(there) => there.refuse_leaving().map_err(|e| e.context(what))?,
            }
        }
        let mut graph = self.graph();
        let references = spec.depends_on.iter().chain(&spec.parent);
        graph.insert(spec.name.clone(), self.names(references));
        match cycle(&graph) {
            None => Ok(()),
            Some(path) => {
                Err(Error::new(ErrorKind::InvalidConfig, format!("dependency cycle: {}", path.join(" → "))))
            }
        }
    }

    /// The agents in groups that can be stopped one after the other: dependents and children before what
    /// they need.
    pub(crate) fn stop_order(&self) -> Vec<Vec<Arc<Shared>>> {
        let graph = self.graph();
        let mut left: BTreeSet<&String> = graph.keys().collect();
        let mut groups = Vec::new();
        while !left.is_empty() {
            let needed: HashSet<&String> = left.iter().flat_map(|name| &graph[*name]).collect();
            let mut free: Vec<&String> = left.iter().copied().filter(|name| !needed.contains(name)).collect();
            if free.is_empty() {
                free = left.iter().copied().collect(); // a cycle cannot be created, but must not hang a shutdown
            }
            free.iter().for_each(|name| {
                left.remove(*name);
            });
            groups.push(free.into_iter().filter_map(|name| self.get(name).cloned()).collect());
        }
        groups
    }

    /// Name to the names it needs: dependencies and its parent.
    fn graph(&self) -> BTreeMap<String, Vec<String>> {
        self.by_id.values().map(|(_, s)| (s.name(), self.names(&s.needs()))).collect()
    }

    fn names<'a>(&self, references: impl IntoIterator<Item = &'a String>) -> Vec<String> {
        references.into_iter().filter_map(|n| self.get(n)).map(|s| s.name()).collect()
    }
}

/// A cycle in `graph`, as the names along it with the first repeated, if there is one.
pub(crate) fn cycle(graph: &BTreeMap<String, Vec<String>>) -> Option<Vec<String>> {
    fn visit<'a>(
        at: &'a str,
        graph: &'a BTreeMap<String, Vec<String>>,
        done: &mut HashSet<&'a str>,
        path: &mut Vec<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|p| *p == at) {
            return Some(path[start..].iter().chain([&at]).map(ToString::to_string).collect());
        }
        if !done.insert(at) {
            return None;
        }
        path.push(at);
        let found = graph.get(at).into_iter().flatten().find_map(|next| visit(next, graph, done, path));
        path.pop();
        found
    }
    let mut done = HashSet::new();
    graph.keys().find_map(|name| visit(name, graph, &mut done, &mut Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        edges.iter().map(|(a, b)| (a.to_string(), b.iter().map(ToString::to_string).collect())).collect()
    }

    #[test]
    fn cycles_are_found_and_named() {
        assert_eq!(cycle(&graph(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])), None);
        let found = cycle(&graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])])).unwrap();
        assert_eq!(found, ["b", "c", "b"]);
    }
}
