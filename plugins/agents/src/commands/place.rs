//! Where a process of a new agent begins: relative folders are relative to who wrote them.

use std::path::Path;

use serde_json::Value;

/// Makes `cwd` in a configuration absolute, for types that have one: a relative folder counts from `base`
/// and a missing one is `base`. An agent outlives the shell or the file it comes from, so what those meant
/// by "here" has to be said once.
pub(super) fn anchor(schema: &Value, config: &mut Value, base: &Path) {
    let takes_cwd = schema.pointer("/properties/cwd").is_some();
    let Some(config) = config.as_object_mut().filter(|_| takes_cwd) else { return };
    let here = match config.get("cwd") {
        None | Some(Value::Null) => base.to_owned(),
        Some(Value::String(dir)) if Path::new(dir).is_relative() => clean(&base.join(dir)),
        Some(_) => return,
    };
    config.insert("cwd".into(), here.to_string_lossy().into_owned().into());
}

/// Without `.` components. `..` stays: it means another thing behind a symbolic link.
fn clean(path: &Path) -> std::path::PathBuf {
    path.components().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn anchored(config: Value) -> Value {
        let mut config = config;
        anchor(&json!({"properties": {"cwd": {"type": "string"}}}), &mut config, Path::new("/srv/app"));
        config
    }

    #[test]
    fn folders_count_from_where_they_were_written() {
        assert_eq!(anchored(json!({})), json!({"cwd": "/srv/app"}));
        assert_eq!(anchored(json!({"cwd": "./api"})), json!({"cwd": "/srv/app/api"}));
        assert_eq!(anchored(json!({"cwd": "../api"})), json!({"cwd": "/srv/app/../api"}));
        assert_eq!(anchored(json!({"cwd": "/tmp"})), json!({"cwd": "/tmp"}));
        // What is wrong is left for the schema to say.
        assert_eq!(anchored(json!({"cwd": 3})), json!({"cwd": 3}));
        let mut other = json!({"url": "http://localhost"});
        anchor(&json!({"properties": {"url": {}}}), &mut other, Path::new("/srv"));
        assert_eq!(other, json!({"url": "http://localhost"}));
    }
}
