//! Names of events and patterns over them, as in NATS: dot-separated tokens, `*` for one token, `>` for
//! one or more at the end.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use crate::{Error, ErrorKind, Result};

/// The longest subject or pattern, in bytes.
const MAX_BYTES: usize = 255;
/// The most tokens. Bounds the recursion of matching.
const MAX_TOKENS: usize = 32;

/// The name of a kind of event, `agent.health.updated`. Cheap to clone.
#[derive(Clone)]
pub struct Subject(Text);

#[derive(Clone)]
enum Text {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Subject {
    /// The subject that `text` spells.
    ///
    /// # Errors
    /// `invalid-argument` with the place of the first fault: an empty token, a wildcard, white space
    /// or a control character, more than 255 bytes or 32 tokens.
    pub fn parse(text: &str) -> Result<Self> {
        check(text, false).map_err(|fault| fault.error("subject", text))?;
        Ok(Self(Text::Shared(text.into())))
    }

    /// The subject that a literal spells, checked where it is a constant at compile time:
    /// `const UPDATED: Subject = Subject::from_static("agent.health.updated");`
    ///
    /// # Panics
    /// If `text` is not a subject: a defect of the program that contains it.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        assert!(check(text, false).is_ok(), "not a subject");
        Self(Text::Static(text))
    }

    /// The subject as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Static(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl Deref for Subject {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Subject {
    fn as_ref(&self) -> &str {
        self
    }
}

impl Borrow<str> for Subject {
    fn borrow(&self) -> &str {
        self
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq for Subject {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Subject {}

impl PartialEq<str> for Subject {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Subject {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl std::hash::Hash for Subject {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

/// What can name a kind of event: text, which is checked, or a [`Subject`], which was.
pub trait IntoSubject {
    /// The subject.
    ///
    /// # Errors
    /// As [`Subject::parse`].
    fn into_subject(self) -> Result<Subject>;
}

impl IntoSubject for Subject {
    fn into_subject(self) -> Result<Subject> {
        Ok(self)
    }
}

impl IntoSubject for &Subject {
    fn into_subject(self) -> Result<Subject> {
        Ok(self.clone())
    }
}

impl IntoSubject for &str {
    fn into_subject(self) -> Result<Subject> {
        Subject::parse(self)
    }
}

impl IntoSubject for &String {
    fn into_subject(self) -> Result<Subject> {
        Subject::parse(self)
    }
}

impl IntoSubject for String {
    fn into_subject(self) -> Result<Subject> {
        Subject::parse(&self)
    }
}

/// A set of subjects: `agent.health.updated`, `agent.*.updated`, `agent.>`, `>`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// The pattern that `text` spells.
    ///
    /// # Errors
    /// `invalid-argument` with the place of the first fault, as [`Subject::parse`]; a wildcard must be
    /// a whole token, and `>` the last.
    pub fn parse(text: &str) -> Result<Self> {
        check(text, true).map_err(|fault| fault.error("pattern", text))?;
        Ok(Self(text.into()))
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tokens.
    pub(super) fn tokens(&self) -> std::str::Split<'_, char> {
        self.0.split('.')
    }

    /// Whether `subject` is in the set. For one pattern; to find the patterns among many that match,
    /// use a [`Matcher`](super::Matcher).
    #[must_use]
    pub fn matches(&self, subject: &str) -> bool {
        let mut tokens = subject.split('.');
        for wanted in self.tokens() {
            match (wanted, tokens.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }
}

impl AsRef<str> for Pattern {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What is wrong with a subject or pattern, and at which byte.
#[derive(Clone, Copy)]
enum Fault {
    EmptyToken(usize),
    Wildcard(usize),
    PartialWildcard(usize),
    RestNotLast(usize),
    Character(usize),
    TooLong,
    TooManyTokens,
}

impl Fault {
    fn error(self, what: &str, text: &str) -> Error {
        let problem = match self {
            Self::EmptyToken(at) => format!("empty token at byte {at}"),
            Self::Wildcard(at) => format!("wildcard at byte {at}, which only a pattern may have"),
            Self::PartialWildcard(at) => format!("wildcard at byte {at} is not a whole token"),
            Self::RestNotLast(at) => format!("`>` at byte {at} is not the last token"),
            Self::Character(at) => format!("white space or control character at byte {at}"),
            Self::TooLong => format!("longer than {MAX_BYTES} bytes"),
            Self::TooManyTokens => format!("more than {MAX_TOKENS} tokens"),
        };
        let shown =
            if matches!(self, Self::TooLong) { String::new() } else { format!(" `{}`", text.escape_debug()) };
        let example =
            if what == "pattern" { "`agent.*.updated` or `agent.>`" } else { "`agent.health.updated`" };
        Error::new(ErrorKind::InvalidArgument, format!("{what}{shown}: {problem}"))
            .hint(format!("write it as {example}"))
    }
}

/// Finds the first fault. A `const fn`, hence the loop over bytes: every separator and wildcard is ASCII.
const fn check(text: &str, wildcards: bool) -> Result<(), Fault> {
    let bytes = text.as_bytes();
    if bytes.len() > MAX_BYTES {
        return Err(Fault::TooLong);
    }
    let (mut at, mut start, mut tokens) = (0, 0, 1);
    while at <= bytes.len() {
        if at == bytes.len() || bytes[at] == b'.' {
            if at == start {
                return Err(Fault::EmptyToken(at));
            }
            if at < bytes.len() {
                if bytes[start] == b'>' {
                    return Err(Fault::RestNotLast(start));
                }
                tokens += 1;
            }
            start = at + 1;
        } else if bytes[at] == b'*' || bytes[at] == b'>' {
            if !wildcards {
                return Err(Fault::Wildcard(at));
            }
            if at > start || (at + 1 < bytes.len() && bytes[at + 1] != b'.') {
                return Err(Fault::PartialWildcard(at));
            }
        } else if bytes[at] <= b' ' || bytes[at] == 0x7f {
            return Err(Fault::Character(at));
        }
        at += 1;
    }
    if tokens > MAX_TOKENS { Err(Fault::TooManyTokens) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPDATED: Subject = Subject::from_static("agent.health.updated");

    #[test]
    fn subjects_say_what_is_wrong_and_where() {
        assert_eq!(UPDATED, Subject::parse("agent.health.updated").unwrap());
        for (text, problem) in [
            ("", "empty token at byte 0"),
            ("a..b", "empty token at byte 2"),
            ("a.", "empty token at byte 2"),
            (".a", "empty token at byte 0"),
            ("a.*", "wildcard at byte 2"),
            ("a b", "control character at byte 1"),
            ("a\n", "`a\\n`"),
        ] {
            let error = Subject::parse(text).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument);
            assert!(error.message.contains(problem), "{text:?}: {error}");
        }
        assert!(Subject::parse(&"a".repeat(256)).unwrap_err().message.contains("255 bytes"));
        assert!(Subject::parse(&["a"; 33].join(".")).unwrap_err().message.contains("32 tokens"));
        Subject::parse(&["a"; 32].join(".")).unwrap();
        Subject::parse("agent.größe.💚").unwrap();
    }

    #[test]
    fn patterns_say_what_is_wrong_and_where() {
        for (text, problem) in [
            ("a.>.b", "`>` at byte 2 is not the last token"),
            ("a*", "wildcard at byte 1 is not a whole token"),
            ("*a.b", "wildcard at byte 0 is not a whole token"),
            (">>", "wildcard at byte 0 is not a whole token"),
            ("a..>", "empty token at byte 2"),
        ] {
            let error = Pattern::parse(text).unwrap_err();
            assert!(error.message.contains(problem), "{text:?}: {error}");
        }
        for text in [">", "*", "a.*.b", "*.*", "a.>", "*.>"] {
            Pattern::parse(text).unwrap();
        }
    }

    #[test]
    fn wildcards_match_whole_tokens() {
        let matches = |pattern: &str, subject: &str| Pattern::parse(pattern).unwrap().matches(subject);
        assert!(matches("agent.*.health", "agent.web.health"));
        assert!(!matches("agent.*.health", "agent.health"));
        assert!(!matches("agent.*", "agent.web.health"));
        assert!(matches("agent.>", "agent.web.health"));
        assert!(!matches("agent.>", "agent"), "`>` stands for at least one token");
        assert!(!matches("agent", "agent.web"));
        assert!(!matches("agent", "agents"));
    }
}
