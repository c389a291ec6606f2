//! Calico's selector expressions, as pools choose nodes by: `zone == 'a' && !has(gpu) || rack in {'r1', 'r2'}`.
//!
//! The language is that of Calico's reference, "Selectors": `all()`, `global()`, `has(k)`, `==`, `!=`, `in`, `not in`,
//! `contains`, `starts with`, `ends with`, `!`, `&&`, `||` and parentheses. `!=` and `not in` hold without the label, too.

use std::fmt;

use serde::{Deserialize, Deserializer};

use super::labels::Labels;
use super::text::Text;

/// An expression; the empty one selects everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    text: Text,
    root: Node,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    All,
    Has(String),
    Equals(String, String),
    In(String, Vec<String>),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

impl Expression {
    /// Reads `text`.
    ///
    /// # Errors
    /// Where it is wrong and what was expected there.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser {
            text,
            rest: text.trim_start(),
            depth: 0,
        };
        let root = if parser.rest.is_empty() {
            Node::All
        } else {
            parser.any_of()?
        };
        if !parser.rest.is_empty() {
            return Err(parser.expected("&&, || or the end"));
        }
        Ok(Self {
            text: Text::shared(text.trim()),
            root,
        })
    }

    /// Whether it selects an object with these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.root.matches(labels)
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Default for Expression {
    fn default() -> Self {
        Self {
            text: Text::shared(""),
            root: Node::All,
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.text.is_empty() { "all()" } else { &self.text })
    }
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl Node {
    fn matches(&self, labels: &Labels) -> bool {
        let value = |key: &str| labels.get(key).map(Text::as_str);
        match self {
            Self::All => true,
            Self::Has(key) => value(key).is_some(),
            Self::Equals(key, wanted) => value(key) == Some(wanted),
            Self::In(key, wanted) => value(key).is_some_and(|v| wanted.iter().any(|w| w == v)),
            Self::Contains(key, part) => value(key).is_some_and(|v| v.contains(part.as_str())),
            Self::StartsWith(key, part) => value(key).is_some_and(|v| v.starts_with(part.as_str())),
            Self::EndsWith(key, part) => value(key).is_some_and(|v| v.ends_with(part.as_str())),
            Self::Not(node) => !node.matches(labels),
            Self::And(nodes) => nodes.iter().all(|node| node.matches(labels)),
            Self::Or(nodes) => nodes.iter().any(|node| node.matches(labels)),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// What is left, without blanks before it.
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn any_of(&mut self) -> Result<Node, String> {
        let mut nodes = vec![self.all_of()?];
        while self.takes("||") {
            nodes.push(self.all_of()?);
        }
        Ok(one_or(nodes, Node::Or))
    }

    fn all_of(&mut self) -> Result<Node, String> {
        let mut nodes = vec![self.one()?];
        while self.takes("&&") {
            nodes.push(self.one()?);
        }
        Ok(one_or(nodes, Node::And))
    }

    fn one(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!(
                "selector {:?} is nested deeper than {DEPTH_MAX}",
                self.text
            ));
        }
        let node = if self.takes("!") {
            Node::Not(Box::new(self.one()?))
        } else if self.takes("(") {
            let inner = self.any_of()?;
            self.must_take(")")?;
            inner
        } else {
            self.condition()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn condition(&mut self) -> Result<Node, String> {
        let key = self.key()?;
        if self.takes("(") {
            let node = match key.as_str() {
                "all" | "global" => Node::All,
                "has" => Node::Has(self.key()?),
                _ => return Err(self.expected("all(), global() or has(key) before it")),
            };
            self.must_take(")")?;
            return Ok(node);
        }
        if self.takes("==") {
            return Ok(Node::Equals(key, self.string()?));
        }
        if self.takes("!=") {
            return Ok(Node::Not(Box::new(Node::Equals(key, self.string()?))));
        }
        match self.word().as_str() {
            "in" => Ok(Node::In(key, self.set()?)),
            "not" if self.word() == "in" => Ok(Node::Not(Box::new(Node::In(key, self.set()?)))),
            "contains" => Ok(Node::Contains(key, self.string()?)),
            "starts" if self.word() == "with" => Ok(Node::StartsWith(key, self.string()?)),
            "ends" if self.word() == "with" => Ok(Node::EndsWith(key, self.string()?)),
            _ => Err(self.expected("==, !=, in, not in, contains, starts with or ends with after a label")),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, String> {
        self.must_take("{")?;
        let mut values = Vec::new();
        if self.takes("}") {
            return Ok(values);
        }
        loop {
            values.push(self.string()?);
            if self.takes("}") {
                return Ok(values);
            }
            self.must_take(",")?;
        }
    }

    fn key(&mut self) -> Result<String, String> {
        let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        let key = self.span(is_key);
        if key.is_empty() {
            return Err(self.expected("a label, all() or has(label)"));
        }
        Ok(key)
    }

    fn word(&mut self) -> String {
        self.span(|c| c.is_ascii_lowercase())
    }

    fn span(&mut self, is_in: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c| !is_in(c)).unwrap_or(self.rest.len());
        let (span, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        span.to_owned()
    }

    fn string(&mut self) -> Result<String, String> {
        let quoted = ['\'', '"'].iter().find_map(|quote| {
            let inner = self.rest.strip_prefix(*quote)?;
            inner.split_once(*quote)
        });
        let Some((string, rest)) = quoted else {
            return Err(self.expected("a string in quotes"));
        };
        self.rest = rest.trim_start();
        Ok(string.to_owned())
    }

    fn takes(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            // `!=` is no `!`.
            Some(rest) if token != "!" || !rest.starts_with('=') => {
                self.rest = rest.trim_start();
                true
            }
            _ => false,
        }
    }

    fn must_take(&mut self, token: &str) -> Result<(), String> {
        if self.takes(token) {
            Ok(())
        } else {
            Err(self.expected(token))
        }
    }

    fn expected(&self, what: &str) -> String {
        let at = if self.rest.is_empty() {
            "the end"
        } else {
            self.rest
        };
        format!("selector {:?}: expected {what} at {at:?}", self.text)
    }
}

fn one_or(mut nodes: Vec<Node>, many: impl Fn(Vec<Node>) -> Node) -> Node {
    match (nodes.len(), nodes.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            nodes.extend(last);
            many(nodes)
        }
    }
}

/// Far beyond what a person writes; the stack is not the reader's to fill.
const DEPTH_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(text: &str, labels: &[(&str, &str)]) -> bool {
        let expression = Expression::parse(text).unwrap();
        expression.matches(&labels.iter().copied().collect())
    }

    #[test]
    fn expressions_select_by_labels() {
        let labels = [("zone", "eu-1"), ("rack", "r1"), ("example.com/gpu", "")];
        for (text, expected) in [
            ("", true),
            ("all()", true),
            ("!all()", false),
            ("has(example.com/gpu)", true),
            ("! has(zone)", false),
            ("zone == 'eu-1'", true),
            ("zone != \"eu-1\"", false),
            ("colour != 'red'", true),
            ("rack in {'r1', \"r2\"}", true),
            ("rack in {}", false),
            ("rack not in { 'r1' }", false),
            ("colour not in {'red'}", true),
            (
                "zone contains 'u-' && zone starts with 'eu' && zone ends with '1'",
                true,
            ),
            ("zone == 'x' || rack == 'r1' && has(zone)", true),
            ("(zone == 'x' || rack == 'r1') && !has(zone)", false),
        ] {
            assert_eq!(matches(text, &labels), expected, "{text}");
        }
    }

    #[test]
    fn a_wrong_expression_says_where() {
        for (text, expected) in [
            ("zone", "expected =="),
            ("zone = 'a'", "expected =="),
            ("zone == a", "a string in quotes at \"a\""),
            ("zone == 'a", "a string in quotes"),
            ("zone == 'a' rack", "&&, || or the end at \"rack\""),
            ("(all()", "expected ) at \"the end\""),
            ("some()", "all(), global() or has(key)"),
            ("rack in {'a' 'b'}", "expected ,"),
            ("&& all()", "a label, all()"),
        ] {
            let error = Expression::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(
            Expression::parse(&"!".repeat(100_000))
                .unwrap_err()
                .contains("deeper")
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\PC|[!&|(){}'\"=, ]|has|in|not|all){0,40}") {
            let _ = Expression::parse(&text);
        }
    }
}
