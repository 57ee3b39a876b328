//! Conditions on events, in CEL (<https://cel.dev>).
//!
//! An expression sees `id`, `type`, `source`, `subject`, `time` (RFC 3339, sorts as text), `sequence`,
//! `data`, every extension by its name, and all of them in the map `extensions`. What an event does not
//! have is `null` (`subject`, `sequence`) or, for extensions and keys of `data`, an error: a filter that
//! errs does not match, and its errors are counted; `has(data.key)` asks first.
//!
//! Filters come from any peer and run in the publisher, so their cost is bounded: by length, by depth
//! (the interpreter recurses), and by refusing a macro (`all`, `exists`, `map` …) inside another, which
//! leaves at most *length × size of the event* steps. A panic of the interpreter is contained and counted
//! as an error.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use cel::{
    Context, Env, IdedExpr, Program,
    common::{
        ast::{EntryExpr, Expr},
        types::{CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelNull, CelString, CelUInt},
        value::Val,
    },
};
use serde_json::Value;

use super::model::{Data, Event};
use crate::{Error, ErrorKind, Result};

/// The longest filter.
pub const MAX_FILTER_BYTES: usize = 4096;
/// The deepest expression tree. Evaluation recurses on the stack of whoever publishes.
const MAX_DEPTH: usize = 32;
/// The stack on which filters are parsed. `!!!!…` and `a.a.a.…` are deep trees before anybody can look at
/// their depth, and the longest filter of that kind overflows an ordinary stack. Reserved, not used, by
/// reasonable filters.
const PARSER_STACK: usize = 64 << 20;

/// Functions and types of CEL; built once, for all filters.
static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled condition. Evaluated from any thread.
#[derive(Debug)]
pub struct Filter {
    program: Program,
    source: String,
    /// The variables that the expression reads: only those are made.
    names: Vec<String>,
    errors: AtomicU64,
}

impl Filter {
    /// Compiles `source`.
    ///
    /// # Errors
    /// `invalid-argument` with line and column of what is not CEL, or saying which bound is passed or
    /// which variable no event can have.
    pub fn compile(source: &str) -> Result<Self> {
        if source.len() > MAX_FILTER_BYTES {
            return Err(fault(format!("{} bytes long, and {MAX_FILTER_BYTES} are allowed", source.len())));
        }
        let owned = source.to_owned();
        let (program, names) = thread::Builder::new()
            .name("hms-filter".to_owned())
            .stack_size(PARSER_STACK)
            .spawn(move || parse(&owned))
            .map_err(|e| Error::io("filter: starting its parser", &e))?
            .join()
            .unwrap_or_else(|_| Err(fault("the CEL parser failed on it".to_owned())))?;
        Ok(Self { program, source: source.to_owned(), names, errors: AtomicU64::new(0) })
    }

    /// The expression as it was given.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// How often it could not be evaluated.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Whether the condition depends on the place in the journal.
    pub(super) fn needs_sequence(&self) -> bool {
        self.names.iter().any(|name| name == "sequence")
    }

    /// Whether `event` meets the condition. An error counts, and means no.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        match catch_unwind(AssertUnwindSafe(|| self.evaluate(event))) {
            Ok(Some(verdict)) => verdict,
            Ok(None) | Err(_) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    fn evaluate(&self, event: &Event) -> Option<bool> {
        let mut context = Context::with_env(STANDARD.clone());
        for name in &self.names {
            if let Some(value) = variable(name, event) {
                context.add_variable_as_val(name.as_str(), value);
            }
        }
        match self.program.execute(&context) {
            Ok(cel::Value::Bool(verdict)) => Some(verdict),
            _ => None,
        }
    }
}

/// The value of the variable `name`; `None` for an extension that the event does not have.
fn variable<'e>(name: &str, event: &'e Event) -> Option<Box<dyn Val + 'e>> {
    let text = |text: &'e str| -> Box<dyn Val + 'e> { Box::new(CelString::from(text)) };
    Some(match name {
        "id" => Box::new(CelString::from(event.id.to_string())),
        "type" => text(event.kind.as_str()),
        "source" => text(&event.source),
        "subject" => event.subject.as_deref().map_or_else(|| Box::new(CelNull) as _, text),
        "time" => Box::new(CelString::from(event.time_rfc3339())),
        "sequence" => event.sequence.map_or_else(|| Box::new(CelNull) as _, whole),
        "data" => match &event.data {
            Data::Json(value) => json(value),
            Data::Bytes { bytes, .. } => Box::new(CelBytes::from(bytes.as_slice())),
        },
        "extensions" => map(event.extensions.iter()),
        name => return event.extensions.get(name).map(json),
    })
}

fn json(value: &Value) -> Box<dyn Val + '_> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), ..) => Box::new(CelInt::from(value)),
            (_, Some(value), _) => Box::new(CelUInt::from(value)),
            (.., value) => Box::new(CelDouble::from(value.unwrap_or(f64::NAN))),
        },
        Value::String(value) => Box::new(CelString::from(value.as_str())),
        Value::Array(values) => Box::new(CelList::from(values.iter().map(json).collect::<Vec<_>>())),
        Value::Object(members) => map(members.iter()),
    }
}

fn map<'e>(members: impl Iterator<Item = (&'e String, &'e Value)>) -> Box<dyn Val + 'e> {
    Box::new(CelMap::from(
        members.map(|(key, value)| (key.as_str().into(), json(value))).collect::<HashMap<_, _>>(),
    ))
}

/// A whole number as CEL's int, so that `sequence > 5` and `sequence + 1` do what they look like.
fn whole<'e>(value: u64) -> Box<dyn Val + 'e> {
    match i64::try_from(value) {
        Ok(value) => Box::new(CelInt::from(value)),
        Err(_) => Box::new(CelUInt::from(value)),
    }
}

/// Parses `source` and finds its variables. What is too deep is dropped here too, by recursion.
fn parse(source: &str) -> Result<(Program, Vec<String>)> {
    let program = Program::compile(source).map_err(|errors| parse_fault(&errors))?;
    let mut walk = Walk { program: &program, depth: 0, bound: Vec::new(), in_loop: false, names: Vec::new() };
    walk.expression(program.expression())?;
    let names = walk.names;
    Ok((program, names))
}

/// Looks through an expression for its free variables, for its depth, and for loops inside loops.
struct Walk<'p> {
    program: &'p Program,
    depth: usize,
    /// Variables that macros bind, innermost last.
    bound: Vec<&'p str>,
    in_loop: bool,
    names: Vec<String>,
}

impl<'p> Walk<'p> {
    fn expression(&mut self, expression: &'p IdedExpr) -> Result<()> {
        if self.depth == MAX_DEPTH {
            let place = self.place(expression.id);
            return Err(fault(format!("{place}: nested deeper than {MAX_DEPTH}")));
        }
        self.depth += 1;
        let walked = self.inside(expression);
        self.depth -= 1;
        walked
    }

    fn inside(&mut self, expression: &'p IdedExpr) -> Result<()> {
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(name, expression.id),
            Expr::Select(select) => self.expression(&select.operand),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.expression(element)),
            Expr::Call(call) => call
                .target
                .iter()
                .map(|target| &**target)
                .chain(&call.args)
                .try_for_each(|argument| self.expression(argument)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(literal) => literal.entries.iter().try_for_each(|entry| self.entry(&entry.expr)),
            Expr::Comprehension(each) => {
                self.expression(&each.iter_range)?;
                self.expression(&each.accu_init)?;
                if self.in_loop {
                    return Err(fault(format!(
                        "{}: a macro inside a macro may take too long",
                        self.place(expression.id)
                    )));
                }
                let depth = self.bound.len();
                self.bound.extend([each.iter_var.as_str(), each.accu_var.as_str()]);
                self.bound.extend(each.iter_var2.as_deref());
                self.in_loop = true;
                self.expression(&each.loop_cond)?;
                self.expression(&each.loop_step)?;
                self.in_loop = false;
                self.expression(&each.result)?;
                self.bound.truncate(depth);
                Ok(())
            }
        }
    }

    fn entry(&mut self, entry: &'p EntryExpr) -> Result<()> {
        match entry {
            EntryExpr::StructField(field) => self.expression(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.expression(&entry.key)?;
                self.expression(&entry.value)
            }
        }
    }

    fn name(&mut self, name: &'p str, at: u64) -> Result<()> {
        let absolute = name.trim_start_matches('.');
        if self.bound.contains(&name) || self.names.iter().any(|known| known == absolute) || is_type(absolute)
        {
            return Ok(());
        }
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if !absolute.bytes().all(legal) {
            return Err(fault(format!("{}: no event has `{absolute}`", self.place(at)))
                .hint("there are id, type, source, subject, time, sequence, data, extensions, and extensions by name"));
        }
        self.names.push(absolute.to_owned());
        Ok(())
    }

    /// Line and column of the node `id`.
    fn place(&self, id: u64) -> String {
        let info = self.program.source_info();
        let start = info.offset_for(id).map_or(0, |(start, _)| start as usize);
        let before: String = info.source.chars().take(start).collect();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("line {line}, column {column}")
    }
}

/// Names that CEL knows as types (`type(data.n) == int`) when no variable has them.
fn is_type(name: &str) -> bool {
    ["bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "uint"].contains(&name)
}

fn parse_fault(errors: &cel::ParseErrors) -> Error {
    let Some(first) = errors.errors.first() else {
        return fault("not CEL".to_owned());
    };
    // The parser's words, without its innards and its list of every token that CEL has.
    let words = first.msg.lines().next().unwrap_or_default();
    let words = words.strip_prefix("Syntax error: ").unwrap_or(words);
    let words = words.split(" expecting {").next().unwrap_or_default().replace("'<EOF>'", "the end");
    let problem = if words.contains("Recursion limit") { "nested too deep" } else { &words };
    let (line, column) = first.pos;
    fault(format!("line {line}, column {column}: {problem}"))
}

fn fault(problem: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("filter: {problem}"))
        .hint("a filter is a CEL expression such as `data.health == 'critical' && subject != null`")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::EventId;

    fn event(data: Value) -> Event {
        Event {
            id: EventId::text("k-1"),
            source: "/agents/web".into(),
            kind: "agent.health.updated".parse_kind(),
            subject: Some("web".into()),
            time_ms: 1_772_368_200_250,
            sequence: Some(7),
            data: Data::Json(data),
            extensions: [("region".to_owned(), json!("eu"))].into(),
        }
    }

    trait ParseKind {
        fn parse_kind(&self) -> crate::event::Subject;
    }

    impl ParseKind for str {
        fn parse_kind(&self) -> crate::event::Subject {
            crate::event::Subject::parse(self).unwrap()
        }
    }

    fn holds(source: &str, event: &Event) -> bool {
        Filter::compile(source).unwrap_or_else(|e| panic!("{source}: {e}")).matches(event)
    }

    #[test]
    fn every_attribute_can_be_asked() {
        let event =
            event(json!({"health": "critical", "n": 3, "load": 0.5, "tags": ["a", "b"], "big": u64::MAX}));
        for source in [
            "type == 'agent.health.updated'",
            "subject == 'web' && source.startsWith('/agents/')",
            "id == 'k-1'",
            "sequence > 5 && sequence + 1 == 8",
            "time >= '2026-03-01' && time < '2026-03-02'",
            "data.health == 'critical' && data.n + 1 == 4 && data.load < 1.0",
            "data.big > 5",
            "has(data.n) && !has(data.missing)",
            "data.tags.exists(t, t == 'b') && data.tags.all(t, t in ['a', 'b'])",
            "region == 'eu' && extensions.region == 'eu' && !has(extensions.zone)",
            "type(data.n) == int || true",
        ] {
            assert!(holds(source, &event), "{source}");
        }
        assert!(!holds("data.health == 'healthy'", &event));
    }

    #[test]
    fn what_is_absent_does_not_match_and_is_counted() {
        let mut event = event(json!({}));
        let filter = Filter::compile("data.missing > 1").unwrap();
        assert!(!filter.matches(&event) && !filter.matches(&event));
        assert_eq!(filter.errors(), 2);
        for source in ["data.n", "zone == 'eu'", "1 / 0 == 1", "'text'"] {
            let filter = Filter::compile(source).unwrap();
            assert!(!filter.matches(&event), "{source}");
            assert_eq!(filter.errors(), 1, "{source}");
        }
        (event.subject, event.sequence) = (None, None);
        assert!(holds("subject == null && sequence == null", &event));
        event.data = Data::Bytes { content_type: "image/png".into(), bytes: vec![1, 2] };
        assert!(holds("size(data) == 2", &event));
    }

    #[test]
    fn faults_name_the_place() {
        let message = |source: &str| Filter::compile(source).unwrap_err().message;
        assert_eq!(message("type =="), "filter: line 1, column 8: mismatched input the end");
        assert!(
            message("type == 'a'\n  && (").contains("line 2, column"),
            "{}",
            message("type == 'a'\n  && (")
        );
        assert!(message("").contains("line 1"), "{}", message(""));
        assert_eq!(message("true && Data.n > 1"), "filter: line 1, column 9: no event has `Data`");
        assert!(message(&format!("'{}' == type", "a".repeat(4096))).contains("4096 are allowed"));
        assert!(message(&("1 + ".repeat(40) + "1 == 1")).ends_with("nested deeper than 32"));
        assert!(message(&("(".repeat(200) + "1" + &")".repeat(200))).ends_with("nested too deep"));
        let nested = message("data.a.all(x, data.b.exists(y, y == x))");
        assert!(nested.contains("a macro inside a macro"), "{nested}");
        Filter::compile("data.a.filter(x, x > 1).all(x, x < 9)").unwrap();
    }

    /// Every kind of deep tree that fits the length, compiled on an ordinary thread and evaluated on a
    /// small one (an unoptimised build needs twenty times the stack of a release).
    #[test]
    fn no_filter_overflows_the_stack() {
        let kinds: [fn(usize) -> String; 10] = [
            |n| "!".repeat(n) + "true",
            |n| "-".repeat(n) + "1 == 1",
            |n| "- ".repeat(n) + "1 == 1",
            |n| "true ? true : ".repeat(n) + "false",
            |n| "true && ".repeat(n) + "true",
            |n| "1 + ".repeat(n) + "1 > 0",
            |n| "data".to_owned() + &".a".repeat(n) + " == 1",
            |n| "data".to_owned() + &"[0]".repeat(n) + " == 1",
            |n| "(".repeat(n) + "true" + &")".repeat(n),
            |n| "[".repeat(n) + &"]".repeat(n) + " != [1]",
        ];
        let mut compiled = Vec::new();
        for kind in kinds {
            for n in [1, 8, MAX_DEPTH - 4, 100, 250, 1000, 2000, 4000] {
                if let Ok(filter) = Filter::compile(&kind(n)) {
                    compiled.push(filter);
                }
            }
        }
        assert!(compiled.len() >= 20, "reasonable depths work: {}", compiled.len());
        let thread = thread::Builder::new().stack_size(2 << 20).spawn(move || {
            let event = event(json!({}));
            compiled.iter().filter(|filter| filter.matches(&event)).count()
        });
        assert!(thread.unwrap().join().unwrap() >= 14);
    }
}
