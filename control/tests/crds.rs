//! The definitions in `deploy/crds`: structurally sound by the API server's rules, and in agreement with the types that read
//! and write their objects.

#![cfg(feature = "kubernetes")]

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::{Value, json};

fn definitions() -> BTreeMap<String, CustomResourceDefinition> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
    let mut definitions = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let definition: CustomResourceDefinition =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        definitions.insert(definition.spec.names.kind.clone(), definition);
    }
    definitions
}

fn schema(kind: &str) -> JSONSchemaProps {
    let mut definition = definitions().remove(kind).unwrap_or_else(|| panic!("no {kind}"));
    let version = definition.spec.versions.remove(0);
    version.schema.unwrap().open_api_v3_schema.unwrap()
}

/// What the API server asks of a schema so that it may prune and validate by it.
fn assert_structural(at: &str, schema: &JSONSchemaProps) {
    let kind = schema
        .type_
        .as_deref()
        .unwrap_or_else(|| panic!("{at} has no type"));
    assert!(
        ["object", "array", "string", "integer", "boolean"].contains(&kind),
        "{at} is of type {kind}"
    );
    assert!(
        schema.ref_path.is_none() && schema.unique_items != Some(true),
        "{at} has what structural schemas may not have"
    );
    let properties = schema.properties.iter().flatten();
    for name in schema.required.iter().flatten() {
        let known = schema
            .properties
            .as_ref()
            .is_some_and(|all| all.contains_key(name));
        assert!(known, "{at} requires {name}, which it does not describe");
    }
    assert!(
        schema.properties.is_none() || schema.additional_properties.is_none(),
        "{at} has both properties and additionalProperties"
    );
    for (name, property) in properties {
        assert_structural(&format!("{at}.{name}"), property);
        let is_described = property.description.is_some() || at.matches('.').count() == 0;
        assert!(is_described, "{at}.{name} has no description");
    }
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => assert_structural(&format!("{at}[]"), items),
        Some(_) => panic!("{at} has items one by one"),
        None => assert_ne!(kind, "array", "{at} has no items"),
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        assert_structural(&format!("{at}{{}}"), values);
    }
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        assert_eq!(kind, "object", "{at}");
        let message = rule.message.as_deref().unwrap_or_default();
        assert!(
            !message.is_empty() && !message.contains('\n'),
            "{at}: {}",
            rule.rule
        );
        assert_balanced(&rule.rule);
        let named = fields_of(&rule.rule);
        assert!(!named.is_empty(), "{at}: {}", rule.rule);
        for field in named {
            let known = schema
                .properties
                .as_ref()
                .is_some_and(|all| all.contains_key(&field));
            assert!(
                known,
                "{at}: a rule speaks of {field}, which there is not: {}",
                rule.rule
            );
        }
    }
}

/// Fields that a rule reads: `self.NAME` and `oldSelf.NAME`.
fn fields_of(rule: &str) -> Vec<String> {
    let parts = rule.split("elf.").skip(1);
    let name = |part: &str| part.chars().take_while(char::is_ascii_alphanumeric).collect();
    parts.map(name).collect()
}

fn assert_balanced(rule: &str) {
    let mut open = Vec::new();
    let mut in_text = false;
    for c in rule.chars() {
        match c {
            '\'' => in_text = !in_text,
            '(' | '[' if !in_text => open.push(c),
            ')' if !in_text => assert_eq!(open.pop(), Some('('), "{rule}"),
            ']' if !in_text => assert_eq!(open.pop(), Some('['), "{rule}"),
            _ => {}
        }
    }
    assert!(open.is_empty() && !in_text, "{rule}");
}

#[test]
fn every_definition_is_structural() {
    let definitions = definitions();
    let kinds: Vec<&str> = definitions.keys().map(String::as_str).collect();
    assert_eq!(
        kinds,
        [
            "BlockAffinity",
            "IPAMBlock",
            "IPAMConfig",
            "IPPool",
            "IPReservation"
        ]
    );
    for (kind, definition) in &definitions {
        let spec = &definition.spec;
        let plural = &spec.names.plural;
        assert_eq!(
            definition.metadata.name.as_deref(),
            Some(&*format!("{plural}.{}", spec.group))
        );
        assert_eq!((&*spec.group, &*spec.scope), ("crd.projectcalico.org", "Cluster"));
        assert_eq!(spec.names.list_kind.as_deref(), Some(&*format!("{kind}List")));
        assert_eq!(*plural, plural.to_lowercase());
        let stored = spec.versions.iter().filter(|version| version.storage);
        assert_eq!(stored.map(|version| &*version.name).collect::<Vec<_>>(), ["v1"]);
        for version in &spec.versions {
            let schema = version
                .schema
                .as_ref()
                .and_then(|schema| schema.open_api_v3_schema.as_ref());
            assert_structural(kind, schema.unwrap());
            for column in version.additional_printer_columns.iter().flatten() {
                let field = column.json_path.strip_prefix(".spec.").unwrap();
                let spec = &schema.unwrap().properties.as_ref().unwrap()["spec"];
                assert!(
                    spec.properties.as_ref().unwrap().contains_key(field),
                    "{kind}: column {field}"
                );
            }
        }
    }
}

#[test]
fn the_rules_of_a_pool_are_there() {
    let schema = schema("IPPool");
    let spec = &schema.properties.as_ref().unwrap()["spec"];
    let rules: Vec<&str> = spec
        .x_kubernetes_validations
        .iter()
        .flatten()
        .map(|rule| &*rule.rule)
        .collect();
    for expected in [
        "self.cidr == oldSelf.cidr",
        "self.blockSize >= 116 && self.blockSize <= 128 : self.blockSize >= 20 && self.blockSize <= 32",
        "self.blockSize >= int(self.cidr.split('/')[1])",
        "self.vxlanMode in ['', 'Never'] || !has(self.ipipMode)",
    ] {
        assert!(
            rules.iter().any(|rule| rule.contains(expected)),
            "{expected}: {rules:?}"
        );
    }
}

/// Refuses what the API server refuses by a schema, its rules aside.
fn validate(at: &str, schema: &JSONSchemaProps, value: &Value, wrong: &mut Vec<String>) {
    if value.is_null() && schema.nullable == Some(true) {
        return;
    }
    let is_of_type = match schema.type_.as_deref() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        _ => false,
    };
    if !is_of_type {
        wrong.push(format!(
            "{at} is {value}, expected {}",
            schema.type_.as_deref().unwrap_or("nothing")
        ));
        return;
    }
    if let Some(allowed) = &schema.enum_
        && !allowed.iter().any(|one| one.0 == *value)
    {
        wrong.push(format!("{at} is {value}, which is not of its enum"));
    }
    let len = value
        .as_str()
        .map(str::len)
        .or_else(|| value.as_array().map(Vec::len))
        .and_then(|len| i64::try_from(len).ok());
    let maxima = [schema.max_length, schema.max_items];
    if let Some(len) = len
        && (maxima.iter().flatten().any(|max| len > *max) || schema.min_length.is_some_and(|min| len < min))
    {
        wrong.push(format!("{at} has a length of {len}"));
    }
    if let Some(number) = value.as_f64()
        && (schema.maximum.is_some_and(|max| number > max) || schema.minimum.is_some_and(|min| number < min))
    {
        wrong.push(format!("{at} is {value}, out of its range"));
    }
    if let Some(members) = value.as_object() {
        for name in schema
            .required
            .iter()
            .flatten()
            .filter(|name| !members.contains_key(*name))
        {
            wrong.push(format!("{at}.{name} is missing"));
        }
        for (name, member) in members {
            let property = schema.properties.as_ref().and_then(|all| all.get(name));
            match (property, &schema.additional_properties) {
                (Some(property), _) => validate(&format!("{at}.{name}"), property, member, wrong),
                (None, Some(JSONSchemaPropsOrBool::Schema(values))) => {
                    validate(&format!("{at}.{name}"), values, member, wrong);
                }
                // The server keeps these three by itself.
                _ if at.matches('.').count() == 0
                    && ["apiVersion", "kind", "metadata"].contains(&&**name) => {}
                _ if schema.x_kubernetes_preserve_unknown_fields == Some(true) => {}
                _ => wrong.push(format!("{at}.{name} would be pruned")),
            }
        }
    }
    if let (Some(items), Some(JSONSchemaPropsOrArray::Schema(of))) = (value.as_array(), &schema.items) {
        for (index, item) in items.iter().enumerate() {
            validate(&format!("{at}[{index}]"), of, item, wrong);
        }
    }
}

fn validated(kind: &str, value: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    validate(kind, &schema(kind), value, &mut wrong);
    wrong
}

#[test]
fn what_the_allocator_writes_is_accepted() {
    use control::ipam::affinity::{Affinity, State};
    use control::ipam::block::{Attributes, Block};

    for cidr in ["10.0.0.0/26", "10.0.0.0/20", "fd00::/122"] {
        let mut block = Block::new(cidr.parse().unwrap(), "node-a");
        let (first, _) = block.free(0, 0).next().unwrap();
        let attributes = Attributes::of(
            "net.1",
            [("namespace", "default"), ("pod", "web"), ("node", "node-a")],
        );
        assert!(block.give(first, &attributes));
        let value = serde_json::to_value(&block).unwrap();
        assert_eq!(validated("IPAMBlock", &value), [""; 0], "{cidr}");
        assert!(block.take_back(first, 7, |_| true));
        block.set_node(None);
        assert_eq!(
            validated("IPAMBlock", &serde_json::to_value(&block).unwrap()),
            [""; 0]
        );
        for state in [State::Pending, State::Confirmed, State::PendingDeletion] {
            let affinity = Affinity::pending(cidr.parse().unwrap(), "node-a").with_state(state);
            assert_eq!(
                validated("BlockAffinity", &serde_json::to_value(&affinity).unwrap()),
                [""; 0]
            );
        }
    }
}

/// Manifests of this repository that have objects of these kinds.
#[test]
fn every_example_is_accepted_and_nonsense_is_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut paths = Vec::new();
    for folder in ["examples/two-nodes", "tests/states"] {
        let entries = std::fs::read_dir(root.join(folder)).unwrap();
        paths.extend(entries.map(|entry| entry.unwrap().path()));
    }
    for case in std::fs::read_dir(root.join("tests/golden")).unwrap() {
        paths.push(case.unwrap().path().join("state.yaml"));
    }
    let mut accepted = 0;
    for path in paths
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
    {
        let Ok(text) = std::fs::read_to_string(path) else {
            continue;
        };
        for document in text.split("\n---") {
            let document = document.strip_prefix("---").unwrap_or(document);
            let Ok(value) = serde_saphyr::from_str::<Value>(document) else {
                continue;
            };
            let kind = value["kind"].as_str().unwrap_or_default();
            if definitions().contains_key(kind) {
                assert_eq!(validated(kind, &value), [""; 0], "{}", path.display());
                accepted += 1;
            }
        }
    }
    assert!(accepted >= 6, "{accepted} examples");

    let pool = |spec: Value| validated("IPPool", &json!({"metadata": {"name": "p"}, "spec": spec}));
    let good = json!({"cidr": "10.0.0.0/16", "blockSize": 26, "nodeSelector": "all()", "disabled": false,
        "vxlanMode": "Always", "natOutgoing": true, "allowedUses": ["Workload", "Tunnel"], "ofCalico": 1});
    assert_eq!(pool(good), [""; 0]);
    for (bad, expected) in [
        (json!({}), "IPPool.spec.cidr is missing"),
        (json!({"cidr": 7}), "expected string"),
        (json!({"cidr": "10.0.0.0/16", "blockSize": 8}), "out of its range"),
        (
            json!({"cidr": "10.0.0.0/16", "vxlanMode": "Sometimes"}),
            "not of its enum",
        ),
        (
            json!({"cidr": "10.0.0.0/16", "allowedUses": ["Food"]}),
            "not of its enum",
        ),
    ] {
        let wrong = pool(bad);
        assert!(wrong.len() == 1 && wrong[0].contains(expected), "{wrong:?}");
    }
    let affinity = json!({"spec": {"cidr": "10.0.0.0/26", "node": "", "state": "mine", "deleted": "false"}});
    assert_eq!(validated("BlockAffinity", &affinity).len(), 2);
}
