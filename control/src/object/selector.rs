//! Label selectors in canonical form: equal selectors are equal values and have equal text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;

use super::field::{null_default, string_map};
use super::labels::Labels;
use super::meta::{check_label_key, check_label_value};
use super::text::Text;

/// A label selector; without requirements it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "RawSelector")]
pub struct Selector {
    /// In order, each once.
    requirements: Box<[Requirement]>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Requirement {
    key: Text,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    In(Values),
    NotIn(Values),
    Exists,
    DoesNotExist,
}

/// In order, each once.
type Values = Box<[Text]>;

impl Selector {
    /// The selector that asks for exactly these labels.
    pub fn of_labels(labels: &Labels) -> Self {
        Self {
            requirements: labels
                .iter()
                .map(|(key, value)| Requirement::equals(key, value))
                .collect(),
        }
    }

    /// Whether it selects an object with these labels. `NotIn` selects objects without the label, too.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.test {
                Test::In(values) => value.is_some_and(|v| values.contains(v)),
                Test::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
                Test::Exists => value.is_some(),
                Test::DoesNotExist => value.is_none(),
            }
        })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl Requirement {
    fn equals(key: &str, value: &str) -> Self {
        Self {
            key: Text::shared(key),
            test: Test::In([Text::shared(value)].into()),
        }
    }
}

/// As Kubernetes writes it, every requirement as an expression.
impl serde::Serialize for Selector {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;

        let expression = |Requirement { key, test }: &Requirement| {
            let texts = |values: &Values| values.iter().map(ToString::to_string).collect();
            let (operator, values): (_, Vec<String>) = match test {
                Test::In(values) => ("In", texts(values)),
                Test::NotIn(values) => ("NotIn", texts(values)),
                Test::Exists => ("Exists", Vec::new()),
                Test::DoesNotExist => ("DoesNotExist", Vec::new()),
            };
            serde_json::json!({"key": key.as_str(), "operator": operator, "values": values})
        };
        let expressions: Vec<_> = self.requirements.iter().map(expression).collect();
        let mut selector = serializer.serialize_struct("LabelSelector", 1)?;
        selector.serialize_field("matchExpressions", &expressions)?;
        selector.end()
    }
}

/// Canonical text: requirements in order, `*` where there is none.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requirements.is_empty() {
            return f.write_str("*");
        }
        for (index, Requirement { key, test }) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match test {
                Test::In(values) => match (values.len(), values.first()) {
                    (1, Some(value)) => write!(f, "{key}={value}")?,
                    _ => write!(f, "{key} in ({})", join(values))?,
                },
                Test::NotIn(values) => write!(f, "{key} notin ({})", join(values))?,
                Test::Exists => f.write_str(key)?,
                Test::DoesNotExist => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

fn join(values: &Values) -> String {
    values.iter().map(Text::as_str).collect::<Vec<_>>().join(",")
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct RawSelector {
    #[serde(deserialize_with = "string_map")]
    match_labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_default")]
    match_expressions: Vec<Requirement>,
}

#[derive(Deserialize)]
struct RawRequirement {
    key: String,
    operator: Operator,
    #[serde(default, deserialize_with = "null_default")]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl<'de> Deserialize<'de> for Requirement {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(RawRequirement::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl TryFrom<RawRequirement> for Requirement {
    type Error = String;

    fn try_from(raw: RawRequirement) -> Result<Self, String> {
        check_label_key(&raw.key)?;
        raw.values.iter().try_for_each(|value| check_label_value(value))?;
        let RawRequirement {
            key,
            operator,
            values,
        } = raw;
        let needs_values = matches!(operator, Operator::In | Operator::NotIn);
        if needs_values == values.is_empty() {
            let expected = if needs_values {
                "at least one value"
            } else {
                "no values"
            };
            return Err(format!(
                "operator {operator:?} on {key:?} has {} values, expected {expected}",
                values.len()
            ));
        }
        let values: BTreeSet<Text> = values.iter().map(|value| Text::shared(value)).collect();
        let values = values.into_iter().collect();
        let test = match operator {
            Operator::In => Test::In(values),
            Operator::NotIn => Test::NotIn(values),
            Operator::Exists => Test::Exists,
            Operator::DoesNotExist => Test::DoesNotExist,
        };
        Ok(Self {
            key: Text::shared(&key),
            test,
        })
    }
}

impl TryFrom<RawSelector> for Selector {
    type Error = String;

    fn try_from(raw: RawSelector) -> Result<Self, String> {
        let mut requirements: BTreeSet<Requirement> = raw.match_expressions.into_iter().collect();
        for (key, value) in &raw.match_labels {
            check_label_key(key)?;
            check_label_value(value)?;
            requirements.insert(Requirement::equals(key, value));
        }
        Ok(Self {
            requirements: requirements.into_iter().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> Result<Selector, String> {
        serde_saphyr::from_str(text).map_err(|e| e.to_string())
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn selects_as_kubernetes_does() {
        let web = labels(&[("app", "web"), ("tier", "front")]);
        let bare = labels(&[]);
        for (text, selects_web, selects_bare) in [
            ("{}", true, true),
            ("matchLabels:", true, true),
            ("matchLabels: {app: web}", true, false),
            ("matchLabels: {app: web, tier: back}", false, false),
            (
                "matchExpressions: [{key: app, operator: In, values: [web, db]}]",
                true,
                false,
            ),
            (
                "matchExpressions: [{key: app, operator: NotIn, values: [web]}]",
                false,
                true,
            ),
            ("matchExpressions: [{key: app, operator: Exists}]", true, false),
            (
                "matchExpressions: [{key: app, operator: DoesNotExist}]",
                false,
                true,
            ),
            (
                "{matchLabels: {app: web}, matchExpressions: [{key: tier, operator: DoesNotExist}]}",
                false,
                false,
            ),
        ] {
            let selector = selector(text).unwrap();
            assert_eq!(selector.matches(&web), selects_web, "{text} against {web:?}");
            assert_eq!(selector.matches(&bare), selects_bare, "{text} against {bare:?}");
        }
    }

    #[test]
    fn equal_selectors_have_one_text() {
        let spelled =
            selector("matchExpressions: [{key: b, operator: Exists}, {key: a, operator: In, values: [x]}]");
        let short = selector("{matchLabels: {a: x}, matchExpressions: [{key: b, operator: Exists}]}");
        assert_eq!(spelled.as_ref().unwrap().to_string(), "a=x,b");
        assert_eq!(spelled, short);
        assert_eq!(selector("{}").unwrap().to_string(), "*");
    }

    #[test]
    fn bad_requirements_are_refused() {
        for (text, expected) in [
            ("matchExpressions: [{key: a, operator: In}]", "at least one value"),
            (
                "matchExpressions: [{key: a, operator: Exists, values: [x]}]",
                "no values",
            ),
            (
                "matchExpressions: [{key: a, operator: Equals, values: [x]}]",
                "Equals",
            ),
            ("matchExpressions: [{key: a b, operator: Exists}]", "no label key"),
            ("matchLabels: {a: 'b c'}", "no label value"),
        ] {
            let error = selector(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
