//! Where a process of a new agent begins: relative folders are relative to who wrote them.

use std::path::Path;

use serde_json::Value;

/// Makes the paths of a configuration absolute, for types that have them: relative ones count from `base`,
/// and a missing `cwd` is `base`. An agent outlives the shell or the file it comes from, so what those
/// meant by "here" has to be said once.
pub(super) fn anchor(schema: &Value, config: &mut Value, base: &Path) {
    let Some(config) = config.as_object_mut() else { return };
    for key in ["cwd", "env_file"] {
        if schema.pointer(&format!("/properties/{key}")).is_none() {
            continue;
        }
        let there = match config.get(key) {
            None | Some(Value::Null) if key == "cwd" => base.to_owned(),
            Some(Value::String(path)) if Path::new(path).is_relative() => clean(&base.join(path)),
            _ => continue,
        };
        config.insert(key.into(), there.to_string_lossy().into_owned().into());
    }
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
        anchor(&json!({"properties": {"cwd": {}, "env_file": {}}}), &mut config, Path::new("/srv/app"));
        config
    }

    #[test]
    fn folders_count_from_where_they_were_written() {
        assert_eq!(anchored(json!({})), json!({"cwd": "/srv/app"}));
        assert_eq!(anchored(json!({"cwd": "./api"})), json!({"cwd": "/srv/app/api"}));
        assert_eq!(anchored(json!({"cwd": "../api"})), json!({"cwd": "/srv/app/../api"}));
        assert_eq!(
            anchored(json!({"cwd": "/tmp", "env_file": "a.env"})),
            json!({"cwd": "/tmp", "env_file": "/srv/app/a.env"})
        );
        // What is wrong is left for the schema to say.
        assert_eq!(anchored(json!({"cwd": 3})), json!({"cwd": 3}));
        let mut other = json!({"url": "http://localhost"});
        anchor(&json!({"properties": {"url": {}}}), &mut other, Path::new("/srv"));
        assert_eq!(other, json!({"url": "http://localhost"}));
    }
}
