//! What a person typed wrong, told on one line: for every program of Ringway.

use clap::Command;
use clap::error::ErrorKind;

/// What clap says of `command` over several lines, on one: the fault, a tip where it has one, and what was expected.
pub fn one_line(error: &clap::Error, command: &Command) -> String {
    let text = error.to_string();
    let usage = text
        .lines()
        .find_map(|line| line.strip_prefix("Usage: "))
        .unwrap_or_default();
    let expected = || format!("expected one of {}; usage: {usage}", subcommands(command, usage));
    match error.kind() {
        // Clap would print the whole help.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            format!("a command is missing, {}", expected())
        }
        ErrorKind::InvalidSubcommand => format!("{}, {}", paragraphs(&text)[0], expected()),
        _ => paragraphs(&text).join("; "),
    }
}

/// Each paragraph on a line of its own, in our words where clap's are those of a programmer.
fn paragraphs(text: &str) -> Vec<String> {
    const WORDS: [(&str, &str); 5] = [
        ("Usage:", "usage:"),
        ("invalid digit found in string", "expected a whole number"),
        (
            "cannot parse integer from empty string",
            "expected a whole number",
        ),
        (
            "number too large to fit in target type",
            "expected a smaller number",
        ),
        ("number would be zero for non-zero type", "expected 1 or more"),
    ];
    let text = text.strip_prefix("error: ").unwrap_or(text);
    text.split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|paragraph| !paragraph.is_empty() && !paragraph.starts_with("For more information"))
        .map(|paragraph| {
            let reword = |text: String, (theirs, ours): &(&str, &str)| text.replacen(theirs, ours, 1);
            WORDS.iter().fold(paragraph, reword)
        })
        .collect()
}

/// What can be typed after the commands that `usage` names.
fn subcommands(command: &Command, usage: &str) -> String {
    let named = usage.split_whitespace().fold(command, |command, word| {
        command.find_subcommand(word).unwrap_or(command)
    });
    let shown = named.get_subcommands().filter(|sub| !sub.is_hide_set());
    shown.map(Command::get_name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, value_parser};

    fn refused(command: &Command, words: &[&str]) -> String {
        let error = command
            .clone()
            .try_get_matches_from([&["it"], words].concat())
            .unwrap_err();
        one_line(&error, command)
    }

    #[test]
    fn the_fault_the_tip_and_the_usage_share_a_line() {
        let command = Command::new("it").arg(Arg::new("config").long("config"));
        assert_eq!(
            refused(&command, &["--confg", "x"]),
            "unexpected argument '--confg' found; tip: a similar argument exists: '--config'; usage: it --config <config>"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let command = Command::new("it").arg(Arg::new("node").long("node").required(true));
        assert_eq!(
            refused(&command, &[]),
            "the following required arguments were not provided: --node <node>; usage: it --node <node>"
        );
    }

    #[test]
    fn a_number_is_asked_for_in_plain_words() {
        let limit = Arg::new("n").long("n").value_parser(value_parser!(usize));
        let command = Command::new("it").arg(limit);
        assert_eq!(
            refused(&command, &["--n", "x"]),
            "invalid value 'x' for '--n <n>': expected a whole number"
        );
    }

    #[test]
    fn the_commands_there_are_are_named() {
        let inner = Command::new("lab")
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommands([
                Command::new("up"),
                Command::new("down"),
                Command::new("x").hide(true),
            ]);
        let command = Command::new("it").subcommand(inner);
        assert_eq!(
            refused(&command, &["lab"]),
            "a command is missing, expected one of up, down; usage: it lab <COMMAND>"
        );
        assert_eq!(
            refused(&command, &["lab", "fly"]),
            "unrecognized subcommand 'fly', expected one of up, down; usage: it lab <COMMAND>"
        );
    }
}
