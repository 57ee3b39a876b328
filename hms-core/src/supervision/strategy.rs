//! Which siblings share an agent's fate.

use serde::{Deserialize, Serialize};

/// How a parent treats its other children when one of them fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Only the failed child is restarted.
    #[default]
    OneForOne,
    /// All children are stopped, then started, in order.
    OneForAll,
    /// The failed child and those started after it.
    RestForOne,
}

/// The children (in start order) that a failure of `failed` stops and starts again, itself included.
pub fn affected<'a, T: PartialEq>(strategy: Strategy, children: &'a [T], failed: &T) -> &'a [T] {
    let Some(at) = children.iter().position(|c| c == failed) else { return &[] };
    match strategy {
        Strategy::OneForOne => &children[at..=at],
        Strategy::OneForAll => children,
        Strategy::RestForOne => &children[at..],
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn the_failed_child_is_always_affected(n in 1usize..20, pick in 0usize..20) {
            let children: Vec<usize> = (0..n).collect();
            let failed = pick % n;
            for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
                let hit = affected(strategy, &children, &failed);
                prop_assert!(hit.contains(&failed));
                let want = match strategy {
                    Strategy::OneForOne => 1,
                    Strategy::OneForAll => n,
                    Strategy::RestForOne => n - failed,
                };
                prop_assert_eq!(hit.len(), want);
            }
        }
    }
}
