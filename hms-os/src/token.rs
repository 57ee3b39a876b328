//! The mark that every child carries: `HMS_AGENT=<home>/<agent>/<incarnation>`.
//!
//! The environment is inherited through any number of forks, sessions and
//! double forks, so that a descendant which left its process group, its session
//! and its parents is still known by this mark.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

/// The environment variable that holds a [`Token`].
pub const TOKEN_VARIABLE: &str = "HMS_AGENT";

/// Whose process this is: a home, an agent of it, and which incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The canonical path of the home. May contain slashes.
    pub home: PathBuf,
    /// The agent's id. Contains no slash.
    pub agent: String,
    /// Which life of the agent; a restart counts it up.
    pub incarnation: u64,
}

impl Token {
    /// A token of this agent.
    pub fn new(home: impl Into<PathBuf>, agent: impl Into<String>, incarnation: u64) -> Self {
        Token { home: home.into(), agent: agent.into(), incarnation }
    }

    /// The value of the variable.
    pub fn to_value(&self) -> OsString {
        let mut value = self.home.clone().into_os_string();
        value.push(format!("/{}/{}", self.agent, self.incarnation));
        value
    }

    /// The variable and its value, ready for a child's environment.
    pub fn to_env(&self) -> (OsString, OsString) {
        (TOKEN_VARIABLE.into(), self.to_value())
    }

    /// Read the value of the variable; `None` when it is no token.
    pub fn parse(value: &OsStr) -> Option<Self> {
        let bytes = value.as_encoded_bytes();
        let (rest, incarnation) = split_last(bytes)?;
        let (home, agent) = split_last(rest)?;
        if home.is_empty() || agent.is_empty() {
            return None;
        }
        Some(Token {
            home: to_path(home)?,
            agent: std::str::from_utf8(agent).ok()?.to_owned(),
            incarnation: std::str::from_utf8(incarnation).ok()?.parse().ok()?,
        })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let home = self.home.display();
        write!(f, "{home}/{}/{}", self.agent, self.incarnation)
    }
}

/// Which incarnations of an agent are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incarnations {
    /// Every one: the agent is stopped or destroyed.
    All,
    /// This one: it crashed, and what it left goes before the next one starts.
    Exactly(u64),
    /// All before this one: what an older life may have left.
    Below(u64),
}

impl Incarnations {
    /// Whether `incarnation` is among them.
    pub fn contains(self, incarnation: u64) -> bool {
        match self {
            Incarnations::All => true,
            Incarnations::Exactly(n) => incarnation == n,
            Incarnations::Below(n) => incarnation < n,
        }
    }
}

fn split_last(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = bytes.iter().rposition(|b| *b == b'/')?;
    Some((&bytes[..slash], &bytes[slash + 1..]))
}

#[cfg(unix)]
fn to_path(bytes: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    Some(PathBuf::from(OsStr::from_bytes(bytes)))
}

#[cfg(not(unix))]
fn to_path(bytes: &[u8]) -> Option<PathBuf> {
    std::str::from_utf8(bytes).ok().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_value() {
        let token = Token::new("/srv/a home/hms", "web-1", 17);
        assert_eq!(token.to_value(), "/srv/a home/hms/web-1/17");
        assert_eq!(Token::parse(&token.to_value()), Some(token));
    }

    #[test]
    fn what_is_no_token_is_none() {
        for value in ["", "x", "/a/b", "/a/b/", "/a/b/c", "/a//1", "/a/1"] {
            assert_eq!(Token::parse(OsStr::new(value)), None, "{value:?}");
        }
    }

    #[test]
    fn incarnations_choose() {
        assert!(Incarnations::All.contains(9));
        assert!(Incarnations::Exactly(2).contains(2) && !Incarnations::Exactly(2).contains(3));
        assert!(Incarnations::Below(2).contains(1) && !Incarnations::Below(2).contains(2));
    }
}
