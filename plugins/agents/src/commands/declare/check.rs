//! From a declaration to specifications: everything that can be wrong is found here, before anything is
//! changed, and told with its place in the file.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use hms_core::{
    Error, Kernel, Result,
    agent::{AgentSpec, AgentTypeSpec, common_schema},
    config::closest,
    schema::{Schema, fill_defaults, object},
};
use serde_json::{Map, Value};

use super::{
    super::{
        check_healing,
        order::{Graph, needs_first},
        place,
    },
    file::{Declared, File, LABEL, Problem},
};
use crate::process;

/// The specifications that a file declares, each after those it needs.
pub(super) async fn check(
    kernel: &Kernel,
    file: &File,
    mut problems: Vec<Problem>,
    env: Option<&BTreeMap<String, String>>,
) -> Result<Vec<AgentSpec>> {
    let mut checker = Checker { kernel, file, common: common()?, types: HashMap::new(), env };
    let mut specs = Vec::new();
    for declared in &file.agents {
        match checker.agent(declared).await {
            Ok(spec) => specs.push(spec),
            Err(mut wrong) => problems.append(&mut wrong),
        }
    }
    checker.names(&mut problems);
    checker.references(&specs, &mut problems);
    let order = checker.cycles(&specs, &mut problems);
    if !problems.is_empty() {
        return Err(file.error(problems));
    }
    let place: HashMap<String, usize> = order.into_iter().enumerate().map(|(at, name)| (name, at)).collect();
    specs.sort_by_key(|spec| place.get(&spec.name).copied());
    Ok(specs)
}

/// The common keys of a declared agent: its name is that of the table.
fn common() -> Result<Schema> {
    let mut properties = common_schema();
    if let Some(properties) = properties.as_object_mut() {
        properties.remove("name");
    }
    Schema::compile(&object(properties, &[]))
}

struct Checker<'a> {
    kernel: &'a Kernel,
    file: &'a File,
    common: Schema,
    types: HashMap<String, (Arc<AgentTypeSpec>, Arc<Schema>)>,
    env: Option<&'a BTreeMap<String, String>>,
}

type Found<T> = std::result::Result<T, Vec<Problem>>;

impl Checker<'_> {
    async fn agent(&mut self, declared: &Declared) -> Found<AgentSpec> {
        let name = declared.name.as_str();
        let mut problems = Vec::new();
        let (kind, schema) = self.kind(declared)?;
        let (mut common, mut config) = self.split(declared, schema.raw(), &mut problems);

        let base = self.file.path.parent().unwrap_or(Path::new("/"));
        place::anchor(&kind.schema, &mut config, base);
        fill_defaults(schema.raw(), &mut config);
        for (path, what) in schema.problems(&config) {
            problems.push(self.in_config(name, &path, what));
        }
        fill_defaults(self.common.raw(), &mut common);
        for (path, what) in self.common.problems(&common) {
            problems.push(self.in_common(name, &path, what));
        }
        if !problems.is_empty() {
            return Err(problems);
        }

        let at_config = |path: &str, what: String| vec![self.in_config(name, path, what)];
        self.kernel
            .types()
            .create(&kind.name, &config)
            .map_err(|e| at_config(&quoted(&e.message), e.message))?;
        if kind.name == "process"
            && let Err(e) = process::check(&config, self.env)
        {
            return Err(at_config(key_of_start(&e.message), e.message));
        }
        self.spec(name, &kind.name, common, config).await
    }

    async fn spec(&self, name: &str, kind: &str, mut common: Value, config: Value) -> Found<AgentSpec> {
        let at_common = |e: Error| vec![self.in_common(name, &quoted(&e.message), e.message)];
        common["name"] = name.into();
        common["type"] = kind.into();
        common["config"] = config;
        let mut spec = AgentSpec::from_json(common).map_err(at_common)?;
        spec.validate().map_err(at_common)?;
        if spec.labels.contains_key(LABEL) {
            let what =
                format!("label `{LABEL}` is set by HMS itself: name the project in `[project] name = …`");
            return Err(vec![self.in_common(name, &format!("labels.{LABEL}"), what)]);
        }
        spec.labels.insert(LABEL.into(), self.file.project.clone());
        check_healing(self.kernel, &spec.healing).await.map_err(|e| {
            let key = quoted(&e.message);
            vec![self.in_common(name, &format!("healing.{key}"), e.message)]
        })?;
        Ok(spec)
    }

    /// The type of an agent, with its schema.
    fn kind(&mut self, declared: &Declared) -> Found<(Arc<AgentTypeSpec>, Arc<Schema>)> {
        let at = self.file.place(&["agents", &declared.name, "type"]);
        let types = self.kernel.types().list();
        let known = || types.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", ");
        let wrong = |what: String| Err(vec![Problem::new(at, format!("agents.{}: {what}", declared.name))]);
        let kind = match declared.keys.get("type") {
            Some(Value::String(kind)) => kind,
            Some(_) => return wrong("`type` is not a string".into()),
            None => return wrong(format!("`type` is missing; there are: {}", known())),
        };
        if let Some(there) = self.types.get(kind) {
            return Ok(there.clone());
        }
        let Ok(spec) = self.kernel.types().get(kind) else {
            let what = format!(
                "agents.{}: no running process offers agent type `{kind}`; there are: {}",
                declared.name,
                known()
            );
            let near = closest(kind, types.iter().map(|t| t.name.as_str()));
            return Err(vec![Problem::new(at, what).meant(near)]);
        };
        let schema = Schema::compile(&spec.schema).map_err(|e| vec![Problem::new(at, e.message)])?;
        let found = (spec, Arc::new(schema));
        self.types.insert(kind.clone(), found.clone());
        Ok(found)
    }

    /// Takes the common keys apart from those of the type, which stand beside them or under `config`.
    fn split(&self, declared: &Declared, schema: &Value, problems: &mut Vec<Problem>) -> (Value, Value) {
        let name = declared.name.as_str();
        let common_keys = self.common.raw()["properties"].as_object();
        let type_keys = schema["properties"].as_object();
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        let (mut common, mut config) = (Map::new(), Map::new());
        match declared.keys.get("config") {
            Some(Value::Object(given)) => config = given.clone(),
            Some(_) => problems.push(self.in_common(name, "config", "expected a table".into())),
            None => {}
        }
        for (key, value) in declared.keys.iter().filter(|(key, _)| !matches!(key.as_str(), "type" | "config"))
        {
            let at = self.file.place(&["agents", name, key]);
            if common_keys.is_some_and(|keys| keys.contains_key(key)) {
                common.insert(key.clone(), value.clone());
            } else if key == "name" {
                let what = format!(
                    "agents.{name}: `name` cannot be set: the table `[agents.{name}]` names the agent"
                );
                problems.push(Problem::new(at, what));
            } else if closed && !type_keys.is_some_and(|keys| keys.contains_key(key)) {
                let known = common_keys.into_iter().chain(type_keys).flat_map(|keys| keys.keys());
                let near = closest(key, known.map(String::as_str).chain(["type", "config"]));
                problems.push(Problem::new(at, format!("agents.{name}: unknown key `{key}`")).meant(near));
            } else if config.insert(key.clone(), value.clone()).is_some() {
                problems
                    .push(Problem::new(at, format!("agents.{name}: `{key}` is set here and under `config`")));
            }
        }
        (Value::Object(common), Value::Object(config))
    }

    /// A problem with a key of the type, which stands beside the common keys or under `config`.
    fn in_config(&self, name: &str, path: &str, what: String) -> Problem {
        let first = path.split('.').next().unwrap_or_default();
        let under = self.file.has(&["agents", name, "config", first]);
        let above: &[&str] = if under { &["agents", name, "config"] } else { &["agents", name] };
        self.problem(above, path, what)
    }

    fn in_common(&self, name: &str, path: &str, what: String) -> Problem {
        self.problem(&["agents", name], path, what)
    }

    fn problem(&self, above: &[&str], path: &str, what: String) -> Problem {
        let mut keys: Vec<&str> = above.to_vec();
        // A key may have dots of its own; then what is around it has to do.
        keys.extend(path.split('.').filter(|part| !part.is_empty()));
        let unknown = what.strip_prefix("unknown key `").and_then(|rest| rest.split('`').next());
        keys.extend(unknown);
        let at = self.file.place(&keys);
        let dotted =
            above.iter().copied().chain([path]).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
        Problem::new(at, format!("{dotted}: {what}"))
    }

    /// Names that agents have which this file did not declare.
    fn names(&self, problems: &mut Vec<Problem>) {
        for declared in &self.file.agents {
            let Ok(there) = self.kernel.agents().spec(&declared.name) else { continue };
            let whose = match there.labels.get(LABEL) {
                Some(project) if *project == self.file.project => continue,
                Some(project) => format!("belongs to project `{project}`"),
                None => "was not declared by this file".into(),
            };
            let at = self.file.place(&["agents", &declared.name]);
            let mut problem = Problem::new(
                at,
                format!("agents.{0}: there is already an agent `{0}`, which {whose}", declared.name),
            );
            problem.hint = Some("choose another name, or destroy that agent first".into());
            problems.push(problem);
        }
    }

    /// References to what is neither in the file nor stays.
    fn references(&self, specs: &[AgentSpec], problems: &mut Vec<Problem>) {
        let declared: HashSet<&str> = self.file.agents.iter().map(|d| d.name.as_str()).collect();
        let mine = |name: &str| {
            self.kernel.agents().spec(name).is_ok_and(|s| s.labels.get(LABEL) == Some(&self.file.project))
        };
        let is_there =
            |name: &str| declared.contains(name) || (self.kernel.agents().id(name).is_ok() && !mine(name));
        for spec in specs {
            let needs = spec.depends_on.iter().enumerate().map(|(n, need)| (format!("depends_on.{n}"), need));
            let parent = spec.parent.iter().map(|parent| ("parent".to_owned(), parent));
            for (path, need) in needs.chain(parent) {
                if *need == spec.name {
                    problems.push(self.in_common(&spec.name, &path, format!("`{need}` refers to itself")));
                } else if !is_there(need) {
                    let near = closest(need, declared.iter().copied());
                    problems
                        .push(self.in_common(&spec.name, &path, format!("no agent `{need}`")).meant(near));
                }
            }
        }
    }

    /// The order of all agents as they will be, those that need others last; a cycle is a problem.
    fn cycles(&self, specs: &[AgentSpec], problems: &mut Vec<Problem>) -> Vec<String> {
        let mut graph = foreign(self.kernel, &self.file.project);
        graph.extend(specs.iter().map(|s| {
            let needs = s.depends_on.iter().chain(&s.parent).filter(|need| **need != s.name);
            (s.name.clone(), needs.cloned().collect())
        }));
        needs_first(&graph).unwrap_or_else(|cycle| {
            let mine = cycle.iter().find(|name| specs.iter().any(|s| s.name == **name));
            let at = mine.map_or(0, |name| self.file.place(&["agents", name, "depends_on"]));
            problems.push(Problem::new(at, format!("dependency cycle: {}", cycle.join(" → "))));
            Vec::new()
        })
    }
}

/// Who needs whom among the agents that are no part of `project`.
pub(super) fn foreign(kernel: &Kernel, project: &str) -> Graph {
    let mut graph = super::super::order::living(kernel);
    graph.retain(|name, _| {
        kernel.agents().spec(name).is_ok_and(|s| s.labels.get(LABEL).map(String::as_str) != Some(project))
    });
    graph
}

/// The key that keeps a process from being started.
fn key_of_start(message: &str) -> &'static str {
    match message {
        what if what.contains("working directory") => "cwd",
        what if what.contains("env_file") => "env_file",
        what if what.contains("`user`") => "user",
        _ => "command",
    }
}

/// The key that a message names first in backticks, as far as it looks like one.
fn quoted(message: &str) -> String {
    let mut words = message.split('`').skip(1).step_by(2);
    let is_key = |word: &&str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
    };
    words.find(|word| is_key(word) && *word != "process").unwrap_or_default().to_owned()
}
