//! The options of one command: names chosen from its schema and, for a command that takes an agent
//! type, from that type's schema. Parsing, help and the reference are all drawn from a [`Plan`].

use std::collections::HashSet;

use hms_core::command::{CommandSpec, Effect};
use serde_json::Value;

use super::kind::{Kind, Shape};

/// How deep properties of objects get options of their own; deeper ones are written as JSON.
const MAX_DEPTH: usize = 3;

/// One option or positional: where its value goes and how it is written.
#[derive(Debug, Clone)]
pub(super) struct Field {
    /// Unique among the arguments of a command.
    pub(super) id: String,
    /// Where the value goes in the arguments object.
    pub(super) path: Vec<String>,
    /// The name after `--`.
    pub(super) long: String,
    /// Other names, not shown.
    pub(super) aliases: Vec<String>,
    /// The name of the option that says no, for a flag.
    pub(super) negation: Option<String>,
    /// The letter after `-`.
    pub(super) short: Option<char>,
    /// What stands for the value in help.
    pub(super) value_name: String,
    /// One line.
    pub(super) help: String,
    /// What the value may be.
    pub(super) kind: Kind,
    /// Must be given (for a type's option: unless `--config` is).
    pub(super) required: bool,
    /// Works, but is not shown.
    pub(super) hidden: bool,
    /// Comes from the agent type, not from the command.
    pub(super) typed: bool,
}

impl Field {
    /// Whether the next word belongs to it.
    pub(super) fn takes_value(&self) -> bool {
        !matches!(self.kind, Kind::Flag { .. })
    }
}

/// Everything a command takes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) positionals: Vec<Field>,
    pub(super) options: Vec<Field>,
    /// What takes everything after `--`.
    pub(super) trailing: Option<Field>,
    /// `--watch` is offered.
    pub(super) watch: bool,
    /// `--yes` is offered.
    pub(super) yes: bool,
    /// The command has a property `yes`, which `--yes` fills.
    pub(super) yes_property: bool,
    /// `--config` is offered.
    pub(super) config: bool,
    /// The agent type whose options these are.
    pub(super) type_name: Option<String>,
}

impl Plan {
    /// Plans `spec`, with the options of an agent type where it is known.
    pub(super) fn new(spec: &CommandSpec, typed: Option<(&str, &Value)>) -> Self {
        let shape = Shape::of(&spec.args, &spec.args);
        let mut plan = Self {
            watch: spec.watchable,
            yes: spec.confirm.is_some() || spec.effect == Effect::Destructive,
            config: spec.typed_by.is_some(),
            type_name: typed.map(|(name, _)| name.to_owned()),
            ..Self::default()
        };
        plan.yes_property = plan.yes && shape.properties().is_some_and(|p| p.contains_key("yes"));
        let mut names = Names::reserved(&plan);
        plan.take_words(spec, &shape);
        let mut aside: HashSet<&str> = spec.positional.iter().map(String::as_str).collect();
        aside.extend(spec.trailing.as_deref());
        aside.extend(plan.yes_property.then_some("yes"));
        aside.extend(plan.config.then_some("config"));
        plan.options = Collector { root: &spec.args, prefix: &[], fallback: "arg", typed: false }
            .collect(&shape, &aside, &mut names);
        if let Some((_, schema)) = typed {
            plan.take_type(schema, &mut names);
        }
        plan
    }

    /// The positionals and what takes the rest of the line.
    fn take_words(&mut self, spec: &CommandSpec, shape: &Shape<'_>) {
        let collector = Collector { root: &spec.args, prefix: &[], fallback: "arg", typed: false };
        let word = |name: &String| {
            let schema = shape.properties()?.get(name)?;
            let mut field = collector.field(&[], name, schema, shape.requires(name));
            // A flag has no place among words: its value is written out.
            if let Kind::Flag { .. } = field.kind {
                field.kind = Kind::Any(vec!["boolean".into()]);
            }
            Some(field)
        };
        self.trailing = spec.trailing.as_ref().and_then(word);
        for field in spec.positional.iter().filter_map(word) {
            // Named twice, it still has one place.
            if self.positionals.iter().chain(&self.trailing).all(|there| there.id != field.id) {
                self.positionals.push(field);
            }
        }
        let last = self.positionals.len().saturating_sub(1);
        let mut may_require = true;
        for (at, field) in self.positionals.iter_mut().enumerate() {
            // Words have no names: once one may be left out, so may all after it.
            may_require &= field.required;
            field.required = may_require;
            if at != last && matches!(field.kind, Kind::List(_) | Kind::Map(_)) {
                field.kind = Kind::Any(Vec::new());
            }
        }
    }

    /// The options of an agent type, collected under `config`.
    fn take_type(&mut self, schema: &Value, names: &mut Names) {
        let shape = Shape::of(schema, schema);
        let collector = Collector { root: schema, prefix: &["config"], fallback: "config", typed: true };
        let mut aside = HashSet::new();
        if self.trailing.is_none()
            && let Some(name) = shape.text("x-trailing")
            && let Some(property) = shape.properties().and_then(|p| p.get(name))
        {
            self.trailing = Some(collector.field(&[], name, property, shape.requires(name)));
            aside.insert(name);
        }
        self.options.extend(collector.collect(&shape, &aside, names));
    }
}

/// Makes fields of a schema's properties.
struct Collector<'a> {
    root: &'a Value,
    prefix: &'a [&'a str],
    /// Goes before a name that is taken.
    fallback: &'a str,
    typed: bool,
}

impl Collector<'_> {
    fn collect(&self, shape: &Shape<'_>, aside: &HashSet<&str>, names: &mut Names) -> Vec<Field> {
        let Some(properties) = shape.properties() else { return Vec::new() };
        let mut fields = Vec::new();
        // All names of this level are claimed before those of inner ones, which are the longer way.
        for (name, schema) in properties.iter().filter(|(name, _)| !aside.contains(name.as_str())) {
            let mut field = self.field(&[], name, schema, shape.requires(name));
            if names.claim(&mut field, Some(self.fallback)) {
                fields.push((field, Shape::of(self.root, schema)));
            }
        }
        let mut all = Vec::new();
        for (mut field, shape) in fields {
            names.negate(&mut field);
            let inner = self.inner(&field, &shape, names);
            all.push(field);
            all.extend(inner);
        }
        all
    }

    /// The options of an object's own properties: `--restart-max` for `restart.max`.
    fn inner(&self, parent: &Field, shape: &Shape<'_>, names: &mut Names) -> Vec<Field> {
        let path = &parent.path[self.prefix.len()..];
        if parent.kind != Kind::Object || path.len() >= MAX_DEPTH {
            return Vec::new();
        }
        let mut all = Vec::new();
        for (name, schema) in shape.properties().into_iter().flatten() {
            let mut field = self.field(path, name, schema, false);
            if field.long.is_empty() {
                continue;
            }
            field.long = format!("{}-{}", parent.long, field.long);
            field.aliases = dotted(&field.path[self.prefix.len()..]).into_iter().collect();
            field.hidden |= parent.hidden;
            if names.claim(&mut field, None) {
                let inner = self.inner(&field, &Shape::of(self.root, schema), names);
                // Options for each part say more than one for the JSON of them all.
                field.hidden |= !inner.is_empty();
                names.negate(&mut field);
                all.push(field);
                all.extend(inner);
            }
        }
        all
    }

    fn field(&self, above: &[String], name: &str, schema: &Value, required: bool) -> Field {
        let shape = Shape::of(self.root, schema);
        let kind = shape.kind(self.root);
        let path: Vec<String> = self
            .prefix
            .iter()
            .map(ToString::to_string)
            .chain(above.iter().cloned())
            .chain([name.to_owned()])
            .collect();
        let long = kebab(name);
        let several = matches!(kind, Kind::List(_) | Kind::Map(_));
        let (long, aliases) = match singular(&long).filter(|_| several) {
            Some(one) => (one, vec![long]),
            None => (long, Vec::new()),
        };
        let short = shape.text("x-short").and_then(|s| s.chars().next()).filter(char::is_ascii_alphanumeric);
        let has_default = shape.get("default").is_some();
        Field {
            id: path.iter().map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1"))).collect(),
            value_name: shape.text("x-value").map_or_else(|| value_name(&long, &kind), String::from),
            help: help(&shape, &kind),
            required: required && !has_default && !matches!(kind, Kind::Flag { .. } | Kind::Object),
            hidden: shape.is("x-hidden"),
            typed: self.typed,
            path,
            long,
            aliases,
            negation: None,
            short,
            kind,
        }
    }
}

/// The names that are taken.
struct Names {
    longs: HashSet<String>,
    shorts: HashSet<char>,
}

impl Names {
    fn reserved(plan: &Plan) -> Self {
        let mut longs: HashSet<String> = ["help", "json", "color", "home", "quiet"].map(String::from).into();
        let mut shorts = HashSet::from(['h', 'q']);
        if plan.watch {
            longs.insert("watch".into());
        }
        if plan.config {
            longs.insert("config".into());
        }
        if plan.yes {
            longs.insert("yes".into());
            shorts.insert('y');
        }
        Self { longs, shorts }
    }

    /// Gives `field` names that nothing else has; false when there is none to give.
    fn claim(&mut self, field: &mut Field, fallback: Option<&str>) -> bool {
        if field.long.is_empty() {
            return false;
        }
        if self.longs.contains(&field.long) {
            // A list's name is free where its singular is not, e.g. `--labels` beside `--label`.
            let other = field.aliases.pop().filter(|alias| !self.longs.contains(alias));
            let other = other.or_else(|| fallback.map(|prefix| format!("{prefix}-{}", field.long)));
            match other.filter(|name| !self.longs.contains(name)) {
                Some(name) => field.long = name,
                None => return false,
            }
        }
        self.longs.insert(field.long.clone());
        field.aliases.retain(|alias| self.longs.insert(alias.clone()));
        field.short = field.short.filter(|letter| self.shorts.insert(*letter));
        true
    }

    /// Gives a flag the name that says no, unless that is somebody's own.
    fn negate(&mut self, field: &mut Field) {
        if let Kind::Flag { .. } = field.kind
            && !field.long.starts_with("no-")
        {
            field.negation = Some(format!("no-{}", field.long)).filter(|no| self.longs.insert(no.clone()));
        }
    }
}

fn help(shape: &Shape<'_>, kind: &Kind) -> String {
    let mut text =
        shape.text("description").unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    let default = match shape.get("default") {
        Some(Value::String(s)) if !s.is_empty() => s.clone(),
        Some(Value::Number(n)) => n.to_string(),
        Some(Value::Array(all)) if !all.is_empty() && all.iter().all(|v| v.is_string() || v.is_number()) => {
            all.iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), String::from))
                .collect::<Vec<_>>()
                .join(",")
        }
        _ => return text,
    };
    if !matches!(kind, Kind::Flag { .. }) {
        let space = if text.is_empty() { "" } else { " " };
        text.push_str(&format!("{space}[default: {default}]"));
    }
    text
}

fn value_name(long: &str, kind: &Kind) -> String {
    match kind {
        Kind::Integer(_) => "N".into(),
        Kind::Number(_) => "NUMBER".into(),
        Kind::Map(_) => "KEY=VALUE".into(),
        Kind::Object => "JSON".into(),
        Kind::Any(types) if types.iter().all(|t| t == "object" || t == "array") && !types.is_empty() => {
            "JSON".into()
        }
        _ => long.to_uppercase().replace('-', "_"),
    }
}

/// `restart.max` as an option's name, unless a part of it cannot stand there.
fn dotted(path: &[String]) -> Option<String> {
    let plain = |part: &String| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    };
    path.iter().all(plain).then(|| path.join("."))
}

/// `maxRestarts`, `max_restarts` and `max restarts` as `max-restarts`.
pub(super) fn kebab(name: &str) -> String {
    let mut out = String::new();
    let chars: Vec<char> = name.chars().collect();
    for (at, c) in chars.iter().enumerate() {
        let before = at.checked_sub(1).map(|i| chars[i]);
        let after = chars.get(at + 1);
        let hump = c.is_uppercase()
            && (before.is_some_and(|b| b.is_lowercase() || b.is_ascii_digit())
                || (before.is_some_and(char::is_uppercase) && after.is_some_and(|a| a.is_lowercase())));
        let separator = !c.is_alphanumeric();
        if (hump || separator) && !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
        if !separator {
            out.extend(c.to_lowercase());
        }
    }
    out.trim_end_matches('-').to_owned()
}

/// `label` for `labels`, which is how one occurrence of a repeated option reads.
fn singular(name: &str) -> Option<String> {
    let stem = name.strip_suffix('s').filter(|stem| stem.len() > 1)?;
    match stem {
        _ if stem.ends_with(['s', 'u', 'i']) => None,
        _ if stem.ends_with("ie") => Some(format!("{}y", &stem[..stem.len() - 2])),
        _ if stem.ends_with("sse") || stem.ends_with("xe") || stem.ends_with("che") => {
            Some(stem[..stem.len() - 1].to_owned())
        }
        // `depends-on` and the like do not end in s; `args`, `tags`, `urls` do.
        _ => Some(stem.to_owned()),
    }
}
