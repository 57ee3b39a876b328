//! The order in which agents that need one another are acted upon.

use std::collections::{BTreeMap, HashMap, VecDeque};

use hms_core::Kernel;

/// Name to the names it needs: dependencies and its parent.
pub(super) type Graph = BTreeMap<String, Vec<String>>;

/// Who needs whom among the living agents. References by id are told by name.
pub(super) fn living(kernel: &Kernel) -> Graph {
    let specs = kernel.agents().specs();
    let names: HashMap<&str, &str> =
        specs.iter().map(|(id, spec)| (id.as_str(), spec.name.as_str())).collect();
    let name_of = |reference: &String| {
        names.get(reference.as_str()).map_or_else(|| reference.clone(), |n| (*n).to_owned())
    };
    specs
        .iter()
        .map(|(_, spec)| {
            (spec.name.clone(), spec.depends_on.iter().chain(&spec.parent).map(name_of).collect())
        })
        .collect()
}

/// The names of `graph` so that each comes after those it needs; the error is a cycle, as the names along
/// it with the first one repeated. Needs that are no part of the graph are ignored.
pub(super) fn needs_first(graph: &Graph) -> Result<Vec<String>, Vec<String>> {
    let mut missing: BTreeMap<&str, usize> = BTreeMap::new();
    let mut needed_by: HashMap<&str, Vec<&str>> = HashMap::new();
    for (name, needs) in graph {
        let inside: Vec<&String> = needs.iter().filter(|n| graph.contains_key(*n)).collect();
        missing.insert(name, inside.len());
        for need in inside {
            needed_by.entry(need).or_default().push(name);
        }
    }
    let mut free: VecDeque<&str> = missing.iter().filter(|(_, n)| **n == 0).map(|(name, _)| *name).collect();
    let mut order = Vec::with_capacity(graph.len());
    while let Some(name) = free.pop_front() {
        order.push(name.to_owned());
        missing.remove(name);
        for dependent in needed_by.get(name).into_iter().flatten() {
            if let Some(left) = missing.get_mut(dependent) {
                *left -= 1;
                if *left == 0 {
                    free.push_back(dependent);
                }
            }
        }
    }
    match missing.keys().next() {
        None => Ok(order),
        Some(start) => Err(cycle_from(start, graph, &missing)),
    }
}

/// Walks from one blocked name to the next until one repeats: each has a blocked need, or it would be free.
fn cycle_from(start: &str, graph: &Graph, blocked: &BTreeMap<&str, usize>) -> Vec<String> {
    let mut path = vec![start.to_owned()];
    loop {
        let last = &path[path.len() - 1];
        let Some(next) = graph[last].iter().find(|n| blocked.contains_key(n.as_str())).cloned() else {
            return path;
        };
        if let Some(from) = path.iter().position(|p| *p == next) {
            path.drain(..from);
            path.push(next);
            return path;
        }
        path.push(next);
    }
}

/// The given names of living agents (each once, ids told as names), those that need others last. Unknown
/// ones keep their place at the end, for the error they will give.
pub(super) fn sorted(kernel: &Kernel, ids_or_names: &[String]) -> Vec<String> {
    let names: HashMap<String, String> =
        kernel.agents().specs().into_iter().map(|(id, spec)| (id, spec.name.clone())).collect();
    let mut wanted: Vec<String> = Vec::with_capacity(ids_or_names.len());
    for given in ids_or_names {
        let name = names.get(given).unwrap_or(given);
        if !wanted.contains(name) {
            wanted.push(name.clone());
        }
    }
    let order = needs_first(&living(kernel)).unwrap_or_default();
    let places: HashMap<&str, usize> =
        order.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    wanted.sort_by_key(|name| places.get(name.as_str()).copied().unwrap_or(usize::MAX));
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        edges.iter().map(|(a, b)| (a.to_string(), b.iter().map(ToString::to_string).collect())).collect()
    }

    #[test]
    fn what_is_needed_comes_first() {
        let order =
            needs_first(&graph(&[("web", &["db", "cache"]), ("cache", &["db"]), ("db", &["elsewhere"])]))
                .unwrap();
        assert_eq!(order, ["db", "cache", "web"]);
        // The same need named twice (a parent that is a dependency too) is one need met twice.
        assert_eq!(needs_first(&graph(&[("a", &["b", "b"]), ("b", &[])])).unwrap(), ["b", "a"]);
    }

    #[test]
    fn a_cycle_is_named_without_what_only_leads_to_it() {
        let cycle =
            needs_first(&graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("d", &[])])).unwrap_err();
        assert_eq!(cycle, ["b", "c", "b"]);
        assert_eq!(needs_first(&graph(&[("x", &["x"])])).unwrap_err(), ["x", "x"]);
    }
}
