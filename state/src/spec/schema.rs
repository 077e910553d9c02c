//! JSON Schemas of the bodies that are read, by the names under which they refer to each other.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::{body, exec, parse, secrets};
use crate::{image_order, log_level};

pub use super::sketch::nullable;

/// Schemas of all bodies: `DeployBody`; `ShownBody`, which a deploy body is shown as, without the
/// values of its environment and the contents of its files; `DeploySet`; `ExecBody`; `SecretBody`;
/// `LogLevelOrder`; `ImageOrder`.
#[must_use]
pub fn bodies() -> Map<String, Value> {
    let deploy = deploy();
    let mut shown = deploy.clone();
    let values = &mut shown["properties"]["environment"]["additionalProperties"];
    *values = nullable(values.take());
    let file = &mut shown["properties"]["files"]["items"]["properties"];
    file["fingerprint"] = json!({"type": ["string", "null"], "description": "Fingerprint of its content, which is not shown"});
    file["size"] =
        json!({"type": "integer", "minimum": 0, "description": "Size of its content in bytes"});
    let mut exec = Fields::sketch(|fields| drop(exec::ExecSpec::read(fields)));
    exec["required"] = json!(["command"]);
    exec["properties"]["command"]["type"] = json!("array");
    let mut set = Fields::sketch(parse::sketch_set);
    set["properties"]["containers"]["items"] = json!({"$ref": "#/components/schemas/DeployBody"});
    let secret = Fields::sketch(|fields| drop(secrets::read_value(fields)));
    let level = Fields::sketch(|fields| {
        drop(log_level::read_order(fields, |text| Ok(text.to_owned())));
    });
    let image = Fields::sketch(|fields| drop(image_order::read_order(fields)));
    let schemas = [
        ("DeployBody", deploy),
        ("ShownBody", shown),
        ("DeploySet", set),
        ("ExecBody", exec),
        ("SecretBody", secret),
        ("LogLevelOrder", level),
        ("ImageOrder", image),
    ];
    schemas
        .map(|(name, schema)| (name.to_owned(), schema))
        .into_iter()
        .collect()
}

/// Schema of the deploy body, with its defaults.
fn deploy() -> Value {
    let mut schema = Fields::sketch(|fields| drop(body::read_members(fields)));
    let least = json!({"name": "default", "image": "default"});
    if let Ok(deploy) = parse::deploy(&least) {
        let mut shown = body::of_deploy(&deploy);
        for key in ["name", "image"] {
            drop(
                shown
                    .as_object_mut()
                    .and_then(|members| members.remove(key)),
            );
        }
        defaults(&mut schema, &shown);
    }
    schema
}

/// Writes the defaults of members into a schema. One that is not known beforehand is null.
fn defaults(schema: &mut Value, shown: &Value) {
    let members = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (key, member) in members.into_iter().flatten() {
        let default = &shown[key];
        if default.is_object() && member.get("properties").is_some() {
            defaults(member, default);
        } else if !(default.is_null() || *default == json!({}) || *default == json!([])) {
            // That a list or a map is empty needs no word, and generators of clients take none.
            member["default"] = default.clone();
        }
    }
}

#[cfg(test)]
mod tests;
