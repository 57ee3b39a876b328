//! What a JSON Schema says a value on the command line may be, and how its text is read.

use std::fs;

use serde_json::{Map, Value};

/// The shape of one value, as far as a command line cares. What is finer (patterns, lengths,
/// combinations) is checked by the schema itself where the command runs.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// True or false; an option without a value.
    Flag { default: bool },
    /// A whole number within bounds.
    Integer(Bounds),
    /// A number within bounds.
    Number(Bounds),
    /// Text as it is.
    Text,
    /// One of these, each with what it means where the schema says so.
    Choice(Vec<(String, Option<String>)>),
    /// JSON of one of these types (none: any), and text that is not JSON where text is allowed.
    Any(Vec<String>),
    /// Several of a kind.
    List(Box<Kind>),
    /// Values by key, written `KEY=VALUE`.
    Map(Box<Kind>),
    /// An object with properties of its own, written as JSON or through an option for each.
    Object,
}

/// Limits of a number.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Bounds {
    min: Option<f64>,
    max: Option<f64>,
    above: Option<f64>,
    below: Option<f64>,
}

/// A schema with its references followed: the layers from the one that was written to the one that
/// says the type. Annotations of an outer layer win.
pub(super) struct Shape<'a>(Vec<&'a Value>);

impl<'a> Shape<'a> {
    /// Follows `$ref`, a lone `allOf`, and "this or null" from `schema`, a part of `root`.
    pub(super) fn of(root: &'a Value, schema: &'a Value) -> Self {
        let mut layers = vec![schema];
        let mut at = schema;
        // A schema may refer to itself: no honest chain of references is longer than this.
        for _ in 0..16 {
            let next = at
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|r| root.pointer(r.strip_prefix('#')?))
                .or_else(|| lone(at.get("allOf"), false))
                .or_else(|| lone(at.get("anyOf"), true))
                .or_else(|| lone(at.get("oneOf"), true));
            match next {
                Some(inner) => {
                    layers.push(inner);
                    at = inner;
                }
                None => break,
            }
        }
        Self(layers)
    }

    /// The value of a keyword, the outermost first.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.iter().find_map(|layer| layer.get(key))
    }

    /// A keyword that is text.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// A keyword that is a number.
    fn number(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(Value::as_f64)
    }

    /// A keyword that is true.
    pub(super) fn is(&self, key: &str) -> bool {
        self.get(key) == Some(&Value::Bool(true))
    }

    /// The properties of an object schema.
    pub(super) fn properties(&self) -> Option<&'a Map<String, Value>> {
        self.get("properties").and_then(Value::as_object).filter(|p| !p.is_empty())
    }

    /// Whether `key` must be there.
    pub(super) fn requires(&self, key: &str) -> bool {
        let required = self.get("required").and_then(Value::as_array);
        required.is_some_and(|names| names.iter().any(|name| name == key))
    }

    /// The types it allows, without null.
    fn types(&self) -> Vec<String> {
        let names = match self.get("type") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).map(String::from).collect(),
            _ if self.properties().is_some() => vec!["object".into()],
            _ => Vec::new(),
        };
        names.into_iter().filter(|name| name != "null").collect()
    }

    /// What a command line makes of it.
    pub(super) fn kind(&self, root: &Value) -> Kind {
        // What is left after following references, lone alternatives and null are real alternatives.
        let core = self.0[self.0.len() - 1];
        if let Some(options) = core.get("oneOf").or_else(|| core.get("anyOf")).and_then(Value::as_array) {
            return choices(options).map_or_else(|| Kind::Any(union(root, options)), Kind::Choice);
        }
        if core.get("enum").is_some() {
            return choices(std::slice::from_ref(core)).map_or(Kind::Any(Vec::new()), Kind::Choice);
        }
        let types = self.types();
        let [one] = types.as_slice() else { return Kind::Any(types) };
        match one.as_str() {
            "boolean" => Kind::Flag { default: self.is("default") },
            "integer" => Kind::Integer(self.bounds()),
            "number" => Kind::Number(self.bounds()),
            "string" => Kind::Text,
            "array" => Kind::List(Box::new(self.inner(root, "items"))),
            "object" if self.properties().is_some() => Kind::Object,
            "object" => Kind::Map(Box::new(self.inner(root, "additionalProperties"))),
            _ => Kind::Any(types),
        }
    }

    fn inner(&self, root: &Value, key: &str) -> Kind {
        match self.get(key) {
            Some(schema @ Value::Object(_)) => Shape::of(root, schema).shallow(root),
            _ => Kind::Any(Vec::new()),
        }
    }

    /// The kind of an element: what is not a single word on a command line is JSON.
    fn shallow(&self, root: &Value) -> Kind {
        // Checked before `kind`, which descends: a list may be a list of itself.
        match self.types().as_slice() {
            [one] if one == "array" || one == "object" => Kind::Any(vec![one.clone()]),
            _ => self.kind(root),
        }
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            min: self.number("minimum"),
            max: self.number("maximum"),
            above: self.number("exclusiveMinimum"),
            below: self.number("exclusiveMaximum"),
        }
    }
}

/// The only alternative, null aside where that is allowed.
fn lone(alternatives: Option<&Value>, or_null: bool) -> Option<&Value> {
    let mut rest =
        alternatives?.as_array()?.iter().filter(|s| !or_null || s.get("type") != Some(&"null".into()));
    let first = rest.next()?;
    rest.next().is_none().then_some(first)
}

/// The words of alternatives that are all constants or enumerations of text.
fn choices(alternatives: &[Value]) -> Option<Vec<(String, Option<String>)>> {
    let mut words = Vec::new();
    for schema in alternatives {
        let about = schema.get("description").and_then(Value::as_str).map(String::from);
        if let Some(word) = schema.get("const") {
            words.push((word.as_str()?.to_owned(), about));
        } else if let Some(list) = schema.get("enum") {
            for word in list.as_array()?.iter().filter(|w| !w.is_null()) {
                words.push((word.as_str()?.to_owned(), None));
            }
        } else if schema.get("type") != Some(&"null".into()) {
            return None;
        }
    }
    (!words.is_empty()).then_some(words)
}

/// Every type that one of the alternatives allows; empty (any) as soon as one does not say.
fn union(root: &Value, alternatives: &[Value]) -> Vec<String> {
    let mut all = Vec::new();
    for schema in alternatives.iter().filter(|s| s.get("type") != Some(&"null".into())) {
        let shape = Shape::of(root, schema);
        let mut types = shape.types();
        if types.is_empty() && choices(std::slice::from_ref(schema)).is_some() {
            types.push("string".into());
        }
        if types.is_empty() {
            return Vec::new();
        }
        all.append(&mut types);
    }
    all
}

impl Kind {
    /// Whether one word holds it, so that several may be separated by commas.
    pub(super) fn is_scalar(&self) -> bool {
        matches!(self, Self::Flag { .. } | Self::Integer(_) | Self::Number(_) | Self::Text | Self::Choice(_))
    }

    /// Reads the text of one occurrence. A list gives an array, a map an object. The error says what
    /// is wrong with the text; the option's name is added by who asks.
    pub(super) fn read(&self, text: &str) -> Result<Value, String> {
        match self {
            Self::Flag { .. } => {
                text.parse::<bool>().map(Value::from).map_err(|_| "write true or false".into())
            }
            Self::Integer(bounds) => bounds.check(integer(text)?),
            Self::Number(bounds) => {
                let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
                let whole = integer(text).ok();
                bounds.check(
                    whole
                        .or_else(|| number.is_finite().then(|| number.into()))
                        .ok_or("not a finite number")?,
                )
            }
            Self::Text => Ok(text.into()),
            Self::Choice(words) => {
                let known = words.iter().any(|(word, _)| word == text);
                let list = || words.iter().map(|(w, _)| w.as_str()).collect::<Vec<_>>().join(", ");
                if known { Ok(text.into()) } else { Err(format!("write one of {}", list())) }
            }
            Self::Any(types) => any(types, text),
            Self::List(item) => list(item, text),
            Self::Map(value) => map(value, text),
            Self::Object => object(text),
        }
    }

    /// Adds another occurrence of the same option to what is there.
    pub(super) fn add(&self, there: &mut Value, more: Value) {
        match (self, there, more) {
            (Self::List(_), Value::Array(all), Value::Array(more)) => all.extend(more),
            (Self::List(_), Value::Array(all), one) => all.push(one),
            (Self::Map(_) | Self::Object, there, more) => merge(there, more),
            (_, there, more) => *there = more,
        }
    }

    /// What there is before the first occurrence.
    pub(super) fn empty(&self) -> Value {
        match self {
            Self::List(_) => Value::Array(Vec::new()),
            Self::Map(_) | Self::Object => Value::Object(Map::new()),
            _ => Value::Null,
        }
    }
}

impl Bounds {
    fn check(&self, value: Value) -> Result<Value, String> {
        let n = value.as_f64().unwrap_or(f64::NAN);
        if let Some(min) = self.min.filter(|min| n < *min) {
            return Err(format!("must be at least {min}"));
        }
        if let Some(max) = self.max.filter(|max| n > *max) {
            return Err(format!("must be at most {max}"));
        }
        if let Some(above) = self.above.filter(|above| n <= *above) {
            return Err(format!("must be more than {above}"));
        }
        if let Some(below) = self.below.filter(|below| n >= *below) {
            return Err(format!("must be less than {below}"));
        }
        Ok(value)
    }
}

fn integer(text: &str) -> Result<Value, String> {
    text.parse::<i64>()
        .map(Value::from)
        .or_else(|_| text.parse::<u64>().map(Value::from))
        .map_err(|_| "not a whole number".to_owned())
}

fn any(types: &[String], text: &str) -> Result<Value, String> {
    let fits = |value: &Value| {
        types.is_empty()
            || types.iter().any(|name| match name.as_str() {
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                "number" => value.is_number(),
                "string" => value.is_string(),
                "array" => value.is_array(),
                "object" => value.is_object(),
                _ => false,
            })
    };
    let parsed = serde_json::from_str::<Value>(text);
    match parsed {
        Ok(value) if fits(&value) => Ok(value),
        _ if types.is_empty() || types.iter().any(|name| name == "string") => Ok(text.into()),
        Ok(_) => Err(format!("must be JSON of type {}", types.join(" or "))),
        Err(e) => Err(format!("must be JSON of type {}: {e}", types.join(" or "))),
    }
}

fn list(item: &Kind, text: &str) -> Result<Value, String> {
    // JSON as well: the way to write an element with a comma in it.
    if text.starts_with('[')
        && let Ok(all @ Value::Array(_)) = serde_json::from_str(text)
    {
        return Ok(all);
    }
    if text.is_empty() {
        return Ok(Value::Array(Vec::new()));
    }
    let parts: Vec<&str> = if item.is_scalar() { text.split(',').collect() } else { vec![text] };
    parts.into_iter().map(|part| item.read(part)).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

fn map(kind: &Kind, text: &str) -> Result<Value, String> {
    if text.starts_with('{') {
        return object(text);
    }
    let (key, value) =
        text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("write it as KEY=VALUE")?;
    Ok(Value::Object(Map::from_iter([(key.to_owned(), kind.read(value)?)])))
}

/// A JSON object, or `@` and the file that holds one.
pub(super) fn object(text: &str) -> Result<Value, String> {
    let (from, json) = match text.strip_prefix('@') {
        Some(file) => {
            (format!("{file}: "), fs::read_to_string(file).map_err(|e| format!("cannot read {file}: {e}"))?)
        }
        None => (String::new(), text.to_owned()),
    };
    match serde_json::from_str(&json) {
        Ok(object @ Value::Object(_)) => Ok(object),
        Ok(_) => Err(format!("{from}must be a JSON object")),
        Err(e) => Err(format!("{from}must be a JSON object: {e}")),
    }
}

/// Writes `over` on top of `base`, deeply through objects.
pub(super) fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(there) => merge(there, value),
                    None => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (base, over) => *base = over,
    }
}
