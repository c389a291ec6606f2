//! What can be asked for, and what can't be: one line, exit code 2.

/// Why a command line is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// What is asked of every command that measures in memory.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Form {
    /// Seed of all that is random: order, rules, hashes, the workers' choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// JSON, a line for each result, where there is another form.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Refuses a flag whose value is not of `first..=last`.
pub(crate) fn within(
    flag: &str,
    value: impl Into<u64>,
    first: u64,
    last: impl Into<u64>,
) -> Result<(), Usage> {
    let (value, last) = (value.into(), last.into());
    if (first..=last).contains(&value) {
        return Ok(());
    }
    Err(Usage(format!("--{flag} {value}: {first} to {last} can be")))
}

/// Refuses `--seconds` that can't be measured for.
pub(crate) fn measurable(seconds: f64) -> Result<(), Usage> {
    if seconds > 0.0 && seconds <= SECONDS_MAX {
        return Ok(());
    }
    Err(Usage(format!(
        "--seconds {seconds}: more than 0, at most {SECONDS_MAX}"
    )))
}

const SECONDS_MAX: f64 = 3600.0;
