//! Which calls of tools failed, told from what sessions report. Pure: events in, questions and failures out.
//!
//! Codex 0.169 runs `PostToolUse` only for calls that succeed. A call that was begun and of which nothing more is
//! heard has failed, is still running, or was declined: what the session wrote into its transcript decides. That is
//! looked at when the session's next call begins, and at the end of the turn.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

/// Sessions known at once; the one that was heard of longest ago is forgotten first.
const SESSIONS: usize = 256;
/// Calls of a session that are open at once.
const OPEN: usize = 64;
/// Finished calls that are remembered: their beginning is told by another process, and may be late.
const FINISHED: usize = 512;
/// Servers whose failures are counted.
const SERVERS: usize = 256;

/// A call that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// Its id.
    pub(crate) id: String,
    /// The turn it belongs to.
    pub(crate) turn: String,
    /// The server.
    pub(crate) server: String,
    /// The tool.
    pub(crate) tool: String,
}

/// A question to a session's transcript: what became of these calls?
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// The session.
    pub(crate) session: String,
    /// Its transcript.
    pub(crate) transcript: String,
    /// The calls.
    pub(crate) calls: Vec<Call>,
    /// The turn is over: there will be no better answer.
    pub(crate) last: bool,
}

/// What the transcript says of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It came back with something.
    Output,
    /// It was not made: somebody said no.
    Declined,
    /// It failed.
    Failed {
        /// `transport`, `timeout` or `protocol`.
        kind: &'static str,
        /// In the session's words.
        error: String,
    },
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The session.
    pub(crate) session: String,
    /// The call.
    pub(crate) call: Call,
    /// `transport`, `timeout`, `protocol`, or `reported`: the tool itself said so.
    pub(crate) kind: &'static str,
    /// In the session's words.
    pub(crate) error: String,
    /// Calls of this server that failed in a row for want of the server, this one included.
    pub(crate) in_a_row: u32,
}

#[derive(Debug, Default)]
struct Session {
    transcript: String,
    open: Vec<Call>,
    heard: u64,
}

/// What is known of sessions and their calls.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_id: BTreeMap<String, Session>,
    finished: VecDeque<String>,
    failed: BTreeMap<String, u32>,
    heard: u64,
}

impl Sessions {
    /// Takes an event into account; what to ask now, if anything.
    pub(crate) fn hear(&mut self, kind: &str, data: &Value) -> Option<Question> {
        let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
        let session = text("session");
        match kind {
            "codex.tool.started" => {
                let call = Call {
                    id: text("tool_use"),
                    turn: text("turn"),
                    server: text("server"),
                    tool: text("tool"),
                };
                self.began(session, text("transcript"), call)
            }
            "codex.tool.finished" => {
                self.finished(&session, text("tool_use"), &text("server"));
                None
            }
            "codex.turn.completed" => self.ask(&session, true),
            "codex.turn.interrupted" => {
                if let Some(session) = self.by_id.get_mut(&session) {
                    session.open.clear();
                }
                None
            }
            "codex.session.ended" => {
                let question = self.ask(&session, true);
                if question.is_none() {
                    self.by_id.remove(&session);
                }
                question
            }
            _ => None,
        }
    }

    fn began(&mut self, session: String, transcript: String, call: Call) -> Option<Question> {
        if session.is_empty() || call.id.is_empty() || call.server.is_empty() {
            return None;
        }
        // Told late: it has ended already.
        if self.finished.contains(&call.id) {
            return None;
        }
        let question = self.ask(&session, false);
        self.heard += 1;
        let known = self.by_id.entry(session).or_default();
        known.heard = self.heard;
        if !transcript.is_empty() {
            known.transcript = transcript;
        }
        if known.open.len() == OPEN {
            known.open.remove(0);
        }
        known.open.push(call);
        if self.by_id.len() > SESSIONS {
            let oldest = self.by_id.iter().min_by_key(|(_, session)| session.heard).map(|(id, _)| id.clone());
            oldest.map(|id| self.by_id.remove(&id));
        }
        question
    }

    fn finished(&mut self, session: &str, call: String, server: &str) {
        self.failed.remove(server);
        if let Some(session) = self.by_id.get_mut(session) {
            session.open.retain(|open| open.id != call);
        }
        if self.finished.len() == FINISHED {
            self.finished.pop_front();
        }
        self.finished.push_back(call);
    }

    fn ask(&self, session: &str, last: bool) -> Option<Question> {
        let known = self.by_id.get(session)?;
        let worth = !known.open.is_empty() && !known.transcript.is_empty();
        worth.then(|| Question {
            session: session.to_owned(),
            transcript: known.transcript.clone(),
            calls: known.open.clone(),
            last,
        })
    }

    /// Takes the answers to a question, by call, into account; the failures that they tell.
    pub(crate) fn answered(
        &mut self,
        question: &Question,
        answers: &BTreeMap<String, Answer>,
    ) -> Vec<Failure> {
        let mut failures = Vec::new();
        for call in &question.calls {
            // What was heard since counts more.
            let Some(session) = self.by_id.get_mut(&question.session) else { break };
            let Some(at) = session.open.iter().position(|open| open.id == call.id) else { continue };
            let failed = match answers.get(&call.id) {
                Some(Answer::Failed { kind, error }) => Some((*kind, error.clone())),
                // It came back, and Codex did not call it a success.
                Some(Answer::Output) if question.last => {
                    Some(("reported", "the tool reported an error".to_owned()))
                }
                Some(Answer::Declined) => {
                    session.open.remove(at);
                    continue;
                }
                Some(Answer::Output) | None if !question.last => continue,
                _ => {
                    session.open.remove(at);
                    continue;
                }
            };
            let Some((kind, error)) = failed else { continue };
            let call = session.open.remove(at);
            let in_a_row = self.count(&call.server, kind);
            failures.push(Failure { session: question.session.clone(), call, kind, error, in_a_row });
        }
        failures
    }

    fn count(&mut self, server: &str, kind: &str) -> u32 {
        if !matches!(kind, "transport" | "timeout") {
            return 0;
        }
        if self.failed.len() == SERVERS && !self.failed.contains_key(server) {
            self.failed.clear();
        }
        let count = self.failed.entry(server.to_owned()).or_default();
        *count = count.saturating_add(1);
        *count
    }

    /// Begins to count a server's failures anew.
    pub(crate) fn forgive(&mut self, server: &str) {
        self.failed.remove(server);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn began(id: &str) -> Value {
        json!({"session": "s", "turn": "t", "server": "git", "tool": "log", "tool_use": id, "transcript": "/t"})
    }

    fn failed(id: &str) -> BTreeMap<String, Answer> {
        let error = "Transport closed".to_owned();
        BTreeMap::from([(id.to_owned(), Answer::Failed { kind: "transport", error })])
    }

    #[test]
    fn a_failure_is_found_when_the_next_call_begins() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.hear("codex.tool.started", &began("a")), None);
        let question = sessions.hear("codex.tool.started", &began("b")).expect("a is open");
        assert_eq!(question.calls.iter().map(|call| call.id.as_str()).collect::<Vec<_>>(), ["a"]);
        let failures = sessions.answered(&question, &failed("a"));
        assert_eq!(failures.len(), 1);
        assert_eq!((failures[0].kind, failures[0].in_a_row), ("transport", 1));
        let question = sessions.hear("codex.turn.completed", &json!({"session": "s"})).expect("b is open");
        let failures = sessions.answered(&question, &failed("b"));
        assert_eq!(failures[0].in_a_row, 2);
        assert_eq!(sessions.hear("codex.turn.completed", &json!({"session": "s"})), None);
    }

    #[test]
    fn a_call_that_goes_on_or_succeeds_is_no_failure() {
        let mut sessions = Sessions::default();
        sessions.hear("codex.tool.started", &began("a"));
        let question = sessions.hear("codex.tool.started", &began("b")).expect("a is open");
        assert_eq!(sessions.answered(&question, &BTreeMap::new()), []);
        let output = BTreeMap::from([("a".to_owned(), Answer::Output)]);
        assert_eq!(sessions.answered(&question, &output), [], "its success may be told in a moment");
        sessions.hear("codex.tool.finished", &began("a"));
        assert_eq!(sessions.answered(&question, &failed("a")), [], "its success was told meanwhile");
    }

    #[test]
    fn a_beginning_that_is_told_late_opens_nothing() {
        let mut sessions = Sessions::default();
        sessions.hear("codex.tool.finished", &began("a"));
        sessions.hear("codex.tool.started", &began("a"));
        assert_eq!(sessions.hear("codex.turn.completed", &json!({"session": "s"})), None);
    }

    #[test]
    fn at_the_end_of_a_turn_what_came_back_without_success_was_an_error() {
        let mut sessions = Sessions::default();
        for id in ["a", "b", "c"] {
            sessions.hear("codex.tool.started", &began(id));
        }
        let question = sessions.hear("codex.turn.completed", &json!({"session": "s"})).expect("all are open");
        let answers = BTreeMap::from([("a".to_owned(), Answer::Output), ("b".to_owned(), Answer::Declined)]);
        let failures = sessions.answered(&question, &answers);
        assert_eq!(
            failures.iter().map(|f| (f.call.id.as_str(), f.kind, f.in_a_row)).collect::<Vec<_>>(),
            [("a", "reported", 0)]
        );
        assert_eq!(sessions.hear("codex.session.ended", &json!({"session": "s"})), None);
        assert!(sessions.by_id.is_empty());
    }

    #[test]
    fn a_success_ends_the_row() {
        let mut sessions = Sessions::default();
        sessions.hear("codex.tool.started", &began("a"));
        let question = sessions.hear("codex.tool.started", &began("b")).expect("a is open");
        assert_eq!(sessions.answered(&question, &failed("a"))[0].in_a_row, 1);
        sessions.hear("codex.tool.finished", &began("b"));
        sessions.hear("codex.tool.started", &began("c"));
        let question = sessions.hear("codex.turn.completed", &json!({"session": "s"})).expect("c is open");
        assert_eq!(sessions.answered(&question, &failed("c"))[0].in_a_row, 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut sessions = Sessions::default();
        for n in 0..2 * SESSIONS {
            for id in 0..OPEN + 5 {
                let mut call = began(&format!("{n}-{id}"));
                call["session"] = n.to_string().into();
                sessions.hear("codex.tool.started", &call);
            }
            sessions.hear("codex.tool.finished", &began(&format!("f{n}")));
        }
        assert!(sessions.by_id.len() <= SESSIONS && sessions.finished.len() <= FINISHED);
        assert!(sessions.by_id.values().all(|session| session.open.len() <= OPEN));
    }
}
