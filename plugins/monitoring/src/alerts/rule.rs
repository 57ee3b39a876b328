//! Rules: which condition, of which agents, for how long, makes an alert.

use std::time::Duration;

use hms_core::agent::{HealthStatus, Status};
use serde::{Deserialize, Serialize};

/// How much an alert matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// Worth knowing.
    Info,
    /// Worth looking at.
    #[default]
    Warning,
    /// Worth waking somebody.
    Critical,
}

/// How a metric is compared with a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Op {
    /// Above.
    #[serde(rename = ">")]
    Above,
    /// Not below.
    #[serde(rename = ">=")]
    AtLeast,
    /// Below.
    #[serde(rename = "<")]
    Below,
    /// Not above.
    #[serde(rename = "<=")]
    AtMost,
}

impl Op {
    fn holds(self, value: f64, threshold: f64) -> bool {
        match self {
            Self::Above => value > threshold,
            Self::AtLeast => value >= threshold,
            Self::Below => value < threshold,
            Self::AtMost => value <= threshold,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Below => "<",
            Self::AtMost => "<=",
        }
    }
}

/// The condition of a rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum When {
    /// The agent is as ill as this, or worse.
    Health {
        /// The mildest illness that counts.
        at_least: HealthStatus,
        /// Quarantine has a rule of its own, which tells at once.
        but_quarantined: bool,
    },
    /// The agent is in this status.
    Status(Status),
    /// A metric is beyond a threshold.
    Metric {
        /// The metric's name.
        name: String,
        /// How it is compared.
        op: Op,
        /// With what.
        threshold: f64,
    },
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It does.
    Holds,
    /// It does not.
    Clear,
    /// Nobody can tell: nothing changes until somebody can.
    Unknown,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
pub(crate) struct Rule {
    /// Its name, unique.
    pub(crate) name: String,
    /// The agents it is about: a glob over names and ids.
    pub(crate) agent: String,
    /// Its condition.
    pub(crate) when: When,
    /// How long the condition must hold.
    pub(crate) lasting: Duration,
    /// How much it matters.
    pub(crate) severity: Severity,
}

impl Rule {
    /// The rules that apply unless `monitoring.default_alerts` is off.
    pub(crate) fn built_in() -> Vec<Self> {
        let rule = |name: &str, when, lasting| Self {
            name: name.into(),
            agent: "*".into(),
            when,
            lasting,
            severity: Severity::Critical,
        };
        let critical = When::Health { at_least: HealthStatus::Critical, but_quarantined: true };
        vec![
            rule("agent-critical", critical, Duration::from_secs(10)),
            rule("agent-quarantined", When::Status(Status::Quarantined), Duration::ZERO),
        ]
    }

    /// Whether the rule is about this agent.
    pub(crate) fn is_about(&self, name: &str, id: &str) -> bool {
        glob(&self.agent, name) || self.agent == id
    }

    /// What the rule says of an agent in this state; `None` when it is about a metric.
    ///
    /// An agent that is stopped has no problem. One whose health nobody knows (it is starting, say) may
    /// have the one it had before.
    pub(crate) fn judge_state(&self, status: Status, health: HealthStatus) -> Option<Verdict> {
        let holds = match &self.when {
            When::Metric { .. } => return (status == Status::Stopped).then_some(Verdict::Clear),
            When::Status(wanted) => *wanted == status,
            When::Health { .. } if status == Status::Stopped => false,
            When::Health { but_quarantined: true, .. } if status == Status::Quarantined => false,
            When::Health { .. } if health == HealthStatus::Unknown => return Some(Verdict::Unknown),
            When::Health { at_least, .. } => health >= *at_least,
        };
        Some(if holds { Verdict::Holds } else { Verdict::Clear })
    }

    /// What the rule says of a sample; `None` when it is not about this metric.
    pub(crate) fn judge_sample(&self, metric: &str, value: f64) -> Option<Verdict> {
        match &self.when {
            When::Metric { name, op, threshold } if name == metric => {
                Some(if op.holds(value, *threshold) { Verdict::Holds } else { Verdict::Clear })
            }
            _ => None,
        }
    }

    /// The condition in words: `memoryUsage > 1000 for 30s`.
    pub(crate) fn condition(&self) -> String {
        let what = match &self.when {
            When::Health { at_least, .. } => format!("health is {}", at_least.as_str()),
            When::Status(status) => format!("status is {}", status.as_str()),
            When::Metric { name, op, threshold } => format!("{name} {} {threshold}", op.as_str()),
        };
        if self.lasting.is_zero() {
            what
        } else {
            format!("{what} for {}", hms_core::duration::format(self.lasting))
        }
    }
}

/// A rule as the configuration writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default = "anyone")]
    agent: String,
    metric: Option<String>,
    op: Option<Op>,
    threshold: Option<f64>,
    health: Option<HealthStatus>,
    status: Option<Status>,
    #[serde(default, with = "hms_core::duration::option", rename = "for")]
    lasting: Option<Duration>,
    #[serde(default)]
    severity: Severity,
}

fn anyone() -> String {
    "*".into()
}

impl TryFrom<Written> for Rule {
    type Error = String;

    fn try_from(w: Written) -> Result<Self, String> {
        let when = match (w.metric, w.op, w.threshold, w.health, w.status) {
            (Some(name), Some(op), Some(threshold), None, None) => When::Metric { name, op, threshold },
            (None, None, None, Some(at_least), None) => When::Health { at_least, but_quarantined: false },
            (None, None, None, None, Some(status)) => When::Status(status),
            _ => {
                return Err(format!(
                    "alert `{}` needs exactly one condition: metric with op and threshold, health, or status",
                    w.name
                ));
            }
        };
        let lasting = w.lasting.unwrap_or_default();
        Ok(Self { name: w.name, agent: w.agent, when, lasting, severity: w.severity })
    }
}

/// Whether `text` is what `pattern` says, where `*` is any characters and `?` is one.
///
/// Takes at most `pattern × text` steps: on a mismatch only the last star takes one character more.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                None => return false,
                Some((at, taken)) => {
                    *taken += 1;
                    (p, t) = (*at + 1, *taken);
                }
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("web-*", "web-1", true),
            ("web-*", "my-web-1", false),
            ("*-1", "web-1", true),
            ("w?b*1", "web-2-1", true),
            ("a*b*c", "a-b-b-d", false),
            ("web", "web-1", false),
            ("web?", "web", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} on {text}");
        }
        let long = "a".repeat(5_000);
        assert!(!glob(&"*a".repeat(30).replace("*a*a*a", "*a*b"), &long), "and quickly");
    }

    #[test]
    fn a_rule_has_exactly_one_condition() {
        let read = |text: &str| serde_json::from_str::<Rule>(text).map_err(|e| e.to_string());
        let rule =
            read(r#"{"name":"hot","metric":"cpuUsage","op":">=","threshold":0.9,"for":"30s"}"#).unwrap();
        assert_eq!(rule.condition(), "cpuUsage >= 0.9 for 30s");
        assert_eq!((rule.agent.as_str(), rule.severity), ("*", Severity::Warning));
        assert_eq!(read(r#"{"name":"ill","health":"degraded"}"#).unwrap().condition(), "health is degraded");
        let both =
            read(r#"{"name":"x","health":"critical","metric":"a","op":">","threshold":1}"#).unwrap_err();
        assert!(both.contains("alert `x` needs exactly one condition"), "{both}");
        assert!(read(r#"{"name":"x","metric":"a"}"#).is_err());
    }

    #[test]
    fn states_are_judged() {
        use HealthStatus::{Critical, Degraded, Healthy, Unknown};
        let [critical, quarantined] = &Rule::built_in()[..] else { panic!("two rules") };
        let judge = |rule: &Rule, status, health| rule.judge_state(status, health).unwrap();
        assert_eq!(judge(critical, Status::Degraded, Critical), Verdict::Holds);
        assert_eq!(judge(critical, Status::Degraded, Degraded), Verdict::Clear);
        assert_eq!(judge(critical, Status::Running, Healthy), Verdict::Clear);
        assert_eq!(judge(critical, Status::Starting, Unknown), Verdict::Unknown);
        assert_eq!(judge(critical, Status::Stopped, Unknown), Verdict::Clear);
        assert_eq!(judge(critical, Status::Quarantined, Critical), Verdict::Clear);
        assert_eq!(judge(quarantined, Status::Quarantined, Critical), Verdict::Holds);
        assert_eq!(judge(quarantined, Status::Running, Healthy), Verdict::Clear);
    }
}
