//! Text to objects: YAML or JSON, several documents, lists taken apart; an error names the line and the object.
//!
//! A document is read twice: first for its kind and name, then as what it says it is. So a wrong field is told with
//! the object's name, and no tree of untyped values is ever built.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Options, Spanned};

use super::field::null_default;
use super::{Kind, Location, Object};

/// What one document holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// An object of a known kind.
    Object(Location, Box<Object>),
    /// An object of a kind that Ringway does not know, as `apiVersion Kind`.
    Unknown(String),
}

/// Something wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{location}: {}{message}", self.subject())]
pub struct DocumentError {
    /// Where.
    pub location: Location,
    /// `Kind namespace/name` of the object, as far as it could be read.
    pub object: String,
    /// What was found and what was expected.
    pub message: String,
}

impl DocumentError {
    fn subject(&self) -> String {
        if self.object.is_empty() {
            String::new()
        } else {
            format!("{}: ", self.object)
        }
    }
}

/// Reads every object of `text`. What is wrong goes to `errors`; the rest is read nevertheless.
pub fn read(file: &Arc<PathBuf>, text: &str, errors: &mut Vec<DocumentError>) -> Vec<Entry> {
    let is_json = file
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let parts = if is_json {
        split_json(text)
    } else {
        Ok(split_yaml(text))
    };
    let parts = match parts {
        Ok(parts) => parts,
        Err((line, message)) => {
            let location = Location {
                file: Arc::clone(file),
                line,
            };
            errors.push(DocumentError {
                location,
                object: String::new(),
                message,
            });
            return Vec::new();
        }
    };
    let mut entries = Vec::new();
    for part in parts {
        if let Err(error) = read_document(file, &part, &mut entries) {
            errors.push(error);
        }
    }
    entries
}

/// One document of a file.
struct Part<'a> {
    text: &'a str,
    /// Lines of the file before it.
    lines_before: u64,
}

/// Splits at `---`: YAML 1.2 section 9.1.2 gives such a line no other meaning, not even in a block scalar.
fn split_yaml(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut lines_before) = (0, 0);
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker {
            parts.push(Part {
                text: &text[start..offset],
                lines_before,
            });
            (start, lines_before) = (offset, number as u64);
        }
        offset += line.len();
    }
    parts.push(Part {
        text: &text[start..],
        lines_before,
    });
    // What stands before the first marker may be directives and comments alone.
    parts.retain(|part| {
        part.text
            .lines()
            .any(|line| !line.trim().is_empty() && !line.starts_with(['#', '%']))
    });
    parts
}

/// Splits JSON values that follow one another.
fn split_json(text: &str) -> Result<Vec<Part<'_>>, (u64, String)> {
    let mut parts = Vec::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut start = 0;
    while let Some(value) = values.next() {
        value.map_err(|e| (e.line() as u64, format!("not JSON: {e}")))?;
        let end = values.byte_offset();
        let lines_before = text[..start].matches('\n').count() as u64;
        parts.push(Part {
            text: &text[start..end],
            lines_before,
        });
        start = end;
    }
    Ok(parts)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(default, deserialize_with = "null_default")]
    metadata: HeaderMetadata,
}

#[derive(Default, Deserialize)]
struct HeaderMetadata {
    name: Option<String>,
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct ListHeader {
    #[serde(default, deserialize_with = "null_default")]
    items: Vec<Spanned<Header>>,
}

impl Header {
    /// The object for messages.
    fn subject(&self, kind: &str) -> String {
        let name = self.metadata.name.as_deref().unwrap_or("?");
        match self.metadata.namespace.as_deref() {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        }
    }
}

fn options() -> Options {
    // No budget: the files are the operator's own, and a dump of a large cluster is a large document.
    // Aliases keep their limits.
    serde_saphyr::options! { with_snippet: false, budget: None }
}

fn read_document(
    file: &Arc<PathBuf>,
    part: &Part<'_>,
    entries: &mut Vec<Entry>,
) -> Result<(), DocumentError> {
    let location = |line: u64| Location {
        file: Arc::clone(file),
        line: part.lines_before + line,
    };
    let first_line = 1 + part.text.lines().take_while(|line| is_filler(line)).count() as u64;
    let failure = |error: &serde_saphyr::Error, line: u64, object: &str| DocumentError {
        location: location(error.location().map_or(line, |l| l.line())),
        object: object.to_owned(),
        message: one_line(error),
    };
    let header: Option<Header> =
        serde_saphyr::from_str_with_options(part.text, options()).map_err(|e| failure(&e, first_line, ""))?;
    let Some(header) = header else { return Ok(()) };
    let missing = |what: &str| DocumentError {
        location: location(first_line),
        object: String::new(),
        message: format!("{what} is missing, expected a Kubernetes object with apiVersion and kind"),
    };
    let api_version = header
        .api_version
        .as_deref()
        .ok_or_else(|| missing("apiVersion"))?;
    let kind = header.kind.as_deref().ok_or_else(|| missing("kind"))?;

    let Some(item_kind) = kind.strip_suffix("List") else {
        let Some(known) = Kind::parse(api_version, kind) else {
            entries.push(Entry::Unknown(format!("{api_version} {kind}")));
            return Ok(());
        };
        let object =
            serde_saphyr::with_deserializer_from_str_with_options(part.text, options(), |d| known.read(d))
                .map_err(|e| failure(&e, first_line, &header.subject(kind)))?;
        entries.push(Entry::Object(location(first_line), Box::new(object)));
        return Ok(());
    };

    let list: ListHeader = serde_saphyr::from_str_with_options(part.text, options())
        .map_err(|e| failure(&e, first_line, kind))?;
    let mut items = Vec::new();
    for item in &list.items {
        let line = item.referenced.line();
        // Items of a `PodList` need not repeat their kind.
        let default_kind = (!item_kind.is_empty()).then_some((api_version, item_kind));
        let own = item.value.api_version.as_deref().zip(item.value.kind.as_deref());
        let Some((api_version, kind)) = own.or(default_kind) else {
            return Err(DocumentError {
                location: location(line),
                ..missing("kind of a list item")
            });
        };
        let known = Kind::parse(api_version, kind);
        if known.is_none() {
            entries.push(Entry::Unknown(format!("{api_version} {kind}")));
        }
        items.push((known, line, item.value.subject(kind)));
    }
    let reading = Cell::new(0);
    let kinds: Vec<Option<Kind>> = items.iter().map(|(known, ..)| *known).collect();
    let objects = serde_saphyr::with_deserializer_from_str_with_options(part.text, options(), |d| {
        d.deserialize_map(ListVisitor {
            kinds: &kinds,
            reading: &reading,
        })
    })
    .map_err(|e| {
        let (line, subject) = items
            .get(reading.get())
            .map_or((first_line, ""), |(_, line, s)| (*line, s.as_str()));
        failure(&e, line, subject)
    })?;
    for ((_, line, _), object) in items.iter().zip(objects) {
        if let Some(object) = object {
            entries.push(Entry::Object(location(*line), Box::new(object)));
        }
    }
    Ok(())
}

fn is_filler(line: &str) -> bool {
    line.trim().is_empty()
        || line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || (rest.starts_with([' ', '\t']) && is_filler(rest)))
        || line.trim_start().starts_with('#')
        || line.starts_with('%')
}

/// The error without its place, which the caller adds in its own form.
fn one_line(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match error.location() {
        Some(at) => {
            let place = format!("at line {}, column {}", at.line(), at.column());
            text.replace(&format!(" {place}"), "")
                .replace(&format!("{place}: "), "")
        }
        None => text,
    }
}

/// Reads the `items` of a list, each as the kind that the first pass found.
struct ListVisitor<'a> {
    kinds: &'a [Option<Kind>],
    reading: &'a Cell<usize>,
}

impl<'de> Visitor<'de> for ListVisitor<'_> {
    type Value = Vec<Option<Object>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                objects = map.next_value_seed(Items {
                    kinds: self.kinds,
                    reading: self.reading,
                })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(objects)
    }
}

struct Items<'a> {
    kinds: &'a [Option<Kind>],
    reading: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = Vec<Option<Object>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = Vec<Option<Object>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::with_capacity(self.kinds.len());
        for (index, kind) in self.kinds.iter().enumerate() {
            self.reading.set(index);
            let Some(object) = sequence.next_element_seed(Item(*kind))? else {
                break;
            };
            objects.push(object);
        }
        // The end of the sequence has to be read, too.
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(objects)
    }
}

struct Item(Option<Kind>);

impl<'de> DeserializeSeed<'de> for Item {
    type Value = Option<Object>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            Some(kind) => kind.read(deserializer).map(Some),
            None => IgnoredAny::deserialize(deserializer).map(|_| None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> (Vec<Entry>, Vec<String>) {
        let mut errors = Vec::new();
        let entries = read(&Arc::new(PathBuf::from(name)), text, &mut errors);
        (entries, errors.iter().map(ToString::to_string).collect())
    }

    fn names(entries: &[Entry]) -> Vec<String> {
        let name = |entry: &Entry| match entry {
            Entry::Object(at, object) => format!("{}: {} {}", at.line, object.kind(), object.meta().name),
            Entry::Unknown(kind) => kind.clone(),
        };
        entries.iter().map(name).collect()
    }

    #[test]
    fn documents_lists_and_unknown_kinds_are_told_apart() {
        let text = "# a comment\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n# nothing\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: p}\n\
                    - {apiVersion: v1, kind: Secret, metadata: {name: s}}\n- apiVersion: v1\n  kind: Node\n  metadata: {name: n}\n\
                    ---\n{apiVersion: v1, kind: PodList, items: [{metadata: {name: q, namespace: b}}]}\n";
        let (entries, errors) = read_text("x.yaml", text);
        assert_eq!(errors, [""; 0]);
        assert_eq!(
            names(&entries),
            [
                "3: Namespace a",
                "v1 Secret",
                "12: Pod default/p",
                "16: Node n",
                "20: Pod b/q"
            ]
        );
    }

    #[test]
    fn json_values_may_follow_one_another() {
        let text = "{\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"n\"}}\n\n\
                    {\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\", \"metadata\": {\"name\": \"p\\u00e9\"}}\n";
        let (entries, errors) = read_text("x.json", text);
        assert_eq!(names(&entries), ["1: Node n"]);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].contains("Pod pé: metadata.name"), "{errors:?}");
        let (_, errors) = read_text("x.json", "{}\n{\"a\": \n");
        assert!(errors[0].starts_with("x.json:3: not JSON"), "{errors:?}");
    }

    #[test]
    fn an_error_names_file_line_and_object() {
        for (text, expected) in [
            (
                "kind: Pod\napiVersion: v1\nmetadata:\n  name: p\nstatus:\n  podIP: 1.2.3\n",
                "x.yaml:6: Pod p: ",
            ),
            ("\n\nkind: [\n", "x.yaml:"),
            (
                "kind: Pod\nmetadata: {name: p}\n",
                "x.yaml:1: apiVersion is missing",
            ),
            ("just text\n", "x.yaml:1: "),
            // A marker may have the document beside it, and what only looks like one is content.
            ("# c\n--- {kind: Pod}\n", "x.yaml:2: apiVersion is missing"),
            ("\n---or, label: 1\n", "x.yaml:2: apiVersion is missing"),
            (
                "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n- apiVersion: v1\n  \
                 kind: Service\n  metadata: {name: s, namespace: b}\n  spec:\n    clusterIP: 10.0.0.1\n    ports:\n    \
                 - port: 0\n",
                "x.yaml:13: Service b/s: ",
            ),
            (
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n}\nspec:\n  ingress:\n  - ports:\n    \
                 - port: 80\n      endPort: 70\n",
                "NetworkPolicy n: endPort is 70, expected at least port, which is 80",
            ),
        ] {
            let (_, errors) = read_text("x.yaml", text);
            assert_eq!(errors.len(), 1, "{text}: {errors:?}");
            assert!(errors[0].contains(expected), "{text}: {errors:?}");
            assert!(
                !errors[0].contains('\n') && !errors[0].contains("column"),
                "{errors:?}"
            );
        }
    }

    #[test]
    fn one_bad_document_leaves_the_others() {
        let text = "kind: Pod\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n{\n";
        let (entries, errors) = read_text("x.yaml", text);
        assert_eq!(names(&entries), ["3: Namespace a"]);
        assert_eq!(errors.len(), 2, "{errors:?}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\PC|[\n\t:\\-{}\\[\\],\"'#&*!|>]|kind: |apiVersion: v1\n|---\n|items:\n){0,60}", json: bool) {
            read_text(if json { "x.json" } else { "x.yaml" }, &text);
        }
    }
}
