//! Finding the patterns that match a subject, at a cost that depends on the subject and on the matches,
//! not on how many other patterns there are: a trie over tokens.

use std::collections::HashMap;

use super::subject::Pattern;

/// A set of patterns, each with the ids of those who asked for it.
///
/// Not synchronised: the owner locks.
#[derive(Debug)]
pub struct Matcher<Id> {
    root: Node<Id>,
    len: usize,
}

#[derive(Debug)]
struct Node<Id> {
    children: HashMap<Box<str>, Node<Id>>,
    /// The child for `*`.
    any: Option<Box<Node<Id>>>,
    /// Patterns that end here.
    here: Vec<Id>,
    /// Patterns that go on with `>`.
    rest: Vec<Id>,
}

impl<Id> Default for Node<Id> {
    fn default() -> Self {
        Self { children: HashMap::new(), any: None, here: Vec::new(), rest: Vec::new() }
    }
}

impl<Id> Default for Matcher<Id> {
    fn default() -> Self {
        Self { root: Node::default(), len: 0 }
    }
}

impl<Id: Clone + PartialEq> Matcher<Id> {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many pairs of pattern and id are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds `id` under `pattern`. Adding the same pair twice makes it match twice.
    pub fn insert(&mut self, pattern: &Pattern, id: Id) {
        let mut node = &mut self.root;
        self.len += 1;
        for token in pattern.tokens() {
            node = match token {
                ">" => return node.rest.push(id),
                "*" => node.any.get_or_insert_default(),
                token => node.children.entry(token.into()).or_default(),
            };
        }
        node.here.push(id);
    }

    /// Removes one `id` from under `pattern`, and the branches that this leaves empty. Whether it was
    /// there.
    pub fn remove(&mut self, pattern: &Pattern, id: &Id) -> bool {
        let removed = self.root.remove(pattern.tokens(), id);
        self.len -= usize::from(removed);
        removed
    }

    /// Appends to `into` the ids of every pattern that matches `subject`, once for each such pattern.
    pub fn matches(&self, subject: &str, into: &mut Vec<Id>) {
        self.root.matches(Some(subject), into);
    }

    /// Whether any pattern matches `subject`.
    #[must_use]
    pub fn matches_any(&self, subject: &str) -> bool {
        self.root.matches_any(Some(subject))
    }
}

/// The first token and what follows it.
fn split(left: &str) -> (&str, Option<&str>) {
    match left.split_once('.') {
        Some((token, left)) => (token, Some(left)),
        None => (left, None),
    }
}

impl<Id: Clone + PartialEq> Node<Id> {
    fn matches(&self, left: Option<&str>, into: &mut Vec<Id>) {
        let Some(left) = left else {
            into.extend_from_slice(&self.here);
            return;
        };
        into.extend_from_slice(&self.rest);
        let (token, left) = split(left);
        if !self.children.is_empty()
            && let Some(child) = self.children.get(token)
        {
            child.matches(left, into);
        }
        if let Some(any) = &self.any {
            any.matches(left, into);
        }
    }

    fn matches_any(&self, left: Option<&str>) -> bool {
        let Some(left) = left else {
            return !self.here.is_empty();
        };
        let (token, left) = split(left);
        !self.rest.is_empty()
            || self.children.get(token).is_some_and(|child| child.matches_any(left))
            || self.any.as_ref().is_some_and(|any| any.matches_any(left))
    }

    fn remove<'t>(&mut self, mut tokens: impl Iterator<Item = &'t str>, id: &Id) -> bool {
        match tokens.next() {
            None => forget(&mut self.here, id),
            Some(">") => forget(&mut self.rest, id),
            Some("*") => {
                let Some(any) = &mut self.any else { return false };
                let removed = any.remove_boxed(&mut tokens, id);
                self.any.take_if(|any| any.is_empty());
                removed
            }
            Some(token) => {
                let Some(child) = self.children.get_mut(token) else { return false };
                let removed = child.remove_boxed(&mut tokens, id);
                if child.is_empty() {
                    self.children.remove(token);
                    // A map keeps the room of its largest moment; subscriptions come and go.
                    if self.children.len() * 4 < self.children.capacity() {
                        self.children.shrink_to_fit();
                    }
                }
                removed
            }
        }
    }

    /// The recursion of `remove`, behind one type: an iterator borrowed at each level would be a new
    /// type at each level.
    fn remove_boxed(&mut self, tokens: &mut dyn Iterator<Item = &str>, id: &Id) -> bool {
        self.remove(tokens, id)
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.any.is_none() && self.here.is_empty() && self.rest.is_empty()
    }
}

fn forget<Id: PartialEq>(ids: &mut Vec<Id>, id: &Id) -> bool {
    let at = ids.iter().position(|known| known == id);
    if let Some(at) = at {
        ids.remove(at);
    }
    at.is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "c", "health"]).prop_map(String::from)
    }

    fn subject() -> impl Strategy<Value = String> {
        prop::collection::vec(token(), 1..5).prop_map(|tokens| tokens.join("."))
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        let one = prop_oneof![3 => token(), 1 => Just("*".to_owned())];
        (prop::collection::vec(one, 0..4), any::<bool>()).prop_filter_map(
            "no tokens",
            |(mut tokens, rest)| {
                if rest {
                    tokens.push(">".to_owned());
                }
                Pattern::parse(&tokens.join(".")).ok()
            },
        )
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_matcher(
            patterns in prop::collection::vec((pattern(), any::<bool>()), 0..40),
            subjects in prop::collection::vec(subject(), 1..20),
        ) {
            let mut matcher = Matcher::new();
            for (id, (pattern, _)) in patterns.iter().enumerate() {
                matcher.insert(pattern, id);
            }
            for (id, (pattern, stays)) in patterns.iter().enumerate() {
                if !stays {
                    prop_assert!(matcher.remove(pattern, &id));
                    prop_assert!(!matcher.remove(pattern, &id));
                }
            }
            for subject in &subjects {
                let mut found = Vec::new();
                matcher.matches(subject, &mut found);
                found.sort_unstable();
                let naive: Vec<_> = patterns
                    .iter()
                    .enumerate()
                    .filter(|(_, (pattern, stays))| *stays && pattern.matches(subject))
                    .map(|(id, _)| id)
                    .collect();
                prop_assert_eq!(matcher.matches_any(subject), !naive.is_empty());
                prop_assert_eq!(found, naive);
            }
            for (id, (pattern, stays)) in patterns.iter().enumerate() {
                if *stays {
                    matcher.remove(pattern, &id);
                }
            }
            prop_assert!(matcher.is_empty() && matcher.root.is_empty(), "removal prunes");
        }
    }

    /// Counts the nodes that a match visits, which is what it costs.
    fn visits<Id>(node: &Node<Id>, tokens: &[&str]) -> usize {
        let Some((token, left)) = tokens.split_first() else { return 1 };
        1 + node.children.get(*token).map_or(0, |child| visits(child, left))
            + node.any.as_ref().map_or(0, |any| visits(any, left))
    }

    #[test]
    fn unrelated_patterns_cost_nothing() {
        let mut matcher = Matcher::new();
        for text in ["agent.health.updated", "agent.*.updated", "agent.>", "*.health.*"] {
            matcher.insert(&Pattern::parse(text).unwrap(), 0);
        }
        let subject = ["agent", "health", "updated"];
        let alone = visits(&matcher.root, &subject);
        for n in 0..10_000 {
            for text in [format!("other{n}.>"), format!("*.x{n}.updated"), format!("agent.*.y{n}")] {
                matcher.insert(&Pattern::parse(&text).unwrap(), n + 1);
            }
        }
        assert_eq!(visits(&matcher.root, &subject), alone);
        let mut found = Vec::new();
        matcher.matches(&subject.join("."), &mut found);
        assert_eq!(found, [0; 4]);
    }
}
