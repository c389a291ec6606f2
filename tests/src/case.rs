//! A golden case: a cluster, packets in order, and what must come of each.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::Sent;

/// Tokens that patterns bound to a name: a port that the pipeline chose, used again by a later packet.
pub type Bindings = BTreeMap<String, String>;

/// A case. Its files lie in `tests/golden/<name>/`.
pub struct Case {
    /// Folder name.
    pub name: String,
    /// One sentence: what is promised.
    pub about: &'static str,
    /// Manifests.
    pub state: String,
    /// Further options of the command.
    pub options: Vec<String>,
    /// Packets in order.
    pub steps: Vec<Step>,
    now_ns: u64,
}

/// A packet and what must come of it.
pub struct Step {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// The packet.
    pub source: Source,
    /// `tx`, `punt` or `drop`, once a method below has said so.
    pub verdict: Option<&'static str>,
    /// Of a punt or drop.
    pub reason: Option<&'static str>,
    /// Port and pattern of every frame that leaves, in order.
    pub out: Vec<(String, String)>,
    /// What decided, as [`crate::check::policy_text`] prints it; empty: no policy may be named.
    pub policy: Option<String>,
    /// The Service.
    pub service: Option<String>,
    /// The flow's original and reply tuple.
    pub flow: Option<(String, String)>,
}

/// Where a packet comes from.
pub enum Source {
    /// Known beforehand.
    Ready(Sent),
    /// Depends on words that patterns bound before, by these names.
    Later(
        &'static [&'static str],
        Box<dyn Fn(&Bindings) -> Sent + Send + Sync>,
    ),
}

/// When the first packet of every case comes.
pub const START_NS: u64 = 1_700_000_000_000_000_000;

/// What passes between two packets.
const STEP_NS: u64 = 1_000_000;

impl Case {
    /// A case without packets. The flow table is small, as its memory is taken at start.
    pub fn new(name: impl Into<String>, about: &'static str, state: String) -> Self {
        let name = name.into();
        Self {
            name,
            about,
            state,
            options: vec!["--max-flows".to_owned(), "4096".to_owned()],
            steps: Vec::new(),
            now_ns: START_NS,
        }
    }

    /// Adds an option of the command.
    pub fn option(&mut self, name: &str, value: &str) {
        self.options.extend([name.to_owned(), value.to_owned()]);
    }

    /// Lets time pass before the next packet; a millisecond passes anyway.
    pub fn wait(&mut self, time: Duration) {
        self.now_ns += time.as_nanos() as u64;
    }

    /// The next packet.
    pub fn send(&mut self, sent: Sent) -> &mut Step {
        self.push(Source::Ready(sent))
    }

    /// The next packet, in the same nanosecond as the one before.
    pub fn send_at_once(&mut self, sent: Sent) -> &mut Step {
        self.now_ns -= STEP_NS;
        self.push(Source::Ready(sent))
    }

    /// The next packet, which depends on words that patterns before it bind to `names`.
    pub fn send_after(
        &mut self,
        names: &'static [&'static str],
        make: impl Fn(&Bindings) -> Sent + Send + Sync + 'static,
    ) -> &mut Step {
        self.push(Source::Later(names, Box::new(make)))
    }

    fn push(&mut self, source: Source) -> &mut Step {
        self.now_ns += STEP_NS;
        self.steps.push(Step {
            time_ns: self.now_ns,
            source,
            verdict: None,
            reason: None,
            out: Vec::new(),
            policy: None,
            service: None,
            flow: None,
        });
        self.steps.last_mut().expect("just pushed")
    }
}

impl Step {
    /// Leaves by `port`, and reads like `pattern` there (see `matches`). Again for every further frame.
    pub fn tx(&mut self, port: &str, pattern: impl Into<String>) -> &mut Self {
        self.decide("tx", None);
        self.out.push((port.to_owned(), pattern.into()));
        self
    }

    /// Is dropped.
    pub fn dropped(&mut self, reason: &'static str) -> &mut Self {
        self.decide("drop", Some(reason));
        self
    }

    /// Goes to the kernel, unchanged.
    pub fn punted(&mut self, reason: &'static str) -> &mut Self {
        self.decide("punt", Some(reason));
        self
    }

    /// Is answered, after [`dropped`](Self::dropped), with a frame like `pattern` by `port`.
    pub fn answer(&mut self, port: &str, pattern: impl Into<String>) -> &mut Self {
        self.out.push((port.to_owned(), pattern.into()));
        self
    }

    /// Was decided by this policy, as [`crate::check::policy_text`] prints it; empty: by none.
    pub fn by(&mut self, policy: &str) -> &mut Self {
        self.policy = Some(policy.to_owned());
        self
    }

    /// Went to this Service port.
    pub fn service(&mut self, service: &str) -> &mut Self {
        self.service = Some(service.to_owned());
        self
    }

    /// Belongs to this flow.
    pub fn flow(&mut self, orig: impl Into<String>, reply: impl Into<String>) -> &mut Self {
        self.flow = Some((orig.into(), reply.into()));
        self
    }

    fn decide(&mut self, verdict: &'static str, reason: Option<&'static str>) {
        assert!(
            self.verdict.is_none_or(|said| said == verdict),
            "two verdicts for one packet"
        );
        (self.verdict, self.reason) = (Some(verdict), reason);
    }
}

/// Holds `line` against `pattern`, word by word: `*` stands for any word, `{name}` for any that is the same throughout the case.
///
/// # Errors
/// The two, and the first word that differs.
pub fn matches(line: &str, pattern: &str, bindings: &mut Bindings) -> Result<(), String> {
    let (mut words, mut expected) = (line.split_whitespace(), pattern.split_whitespace());
    loop {
        let differs = match (words.next(), expected.next()) {
            (None, None) => return Ok(()),
            (Some(_), Some("*")) => None,
            (Some(word), Some(name)) if name.starts_with('{') => {
                let bound = bindings.entry(name.to_owned()).or_insert_with(|| word.to_owned());
                (bound != word).then(|| format!("{word} where {name} is {bound}"))
            }
            (Some(word), Some(wanted)) => (word != wanted).then(|| format!("{word}, not {wanted}")),
            (Some(word), None) => Some(format!("{word} too much")),
            (None, Some(wanted)) => Some(format!("{wanted} missing")),
        };
        if let Some(differs) = differs {
            return Err(format!("{differs}\n      is     {line}\n      should {pattern}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_one_word_throughout() {
        let mut bindings = Bindings::new();
        assert_eq!(matches("udp 45001 > 53", "udp {p} > *", &mut bindings), Ok(()));
        assert_eq!(matches("udp 53 > 45001", "udp 53 > {p}", &mut bindings), Ok(()));
        assert!(matches("udp 53 > 45002", "udp 53 > {p}", &mut bindings).is_err());
        assert!(matches("udp 53", "udp 53 > *", &mut bindings).is_err());
        assert!(matches("udp 53 data", "udp 53", &mut bindings).is_err());
        assert_eq!(bindings["{p}"], "45001");
    }
}
