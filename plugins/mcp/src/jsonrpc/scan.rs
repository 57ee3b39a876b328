//! One line of JSON, read byte by byte: what of it a relay must know, and whether it is a message at all.
//!
//! Incremental, because a line may be longer than what is kept of it. Only the members named in [`Key`] are
//! looked at; everything below them is skipped by counting brackets outside of strings. What is malformed is
//! found where that is cheap and then called [`Kind::Opaque`]: it is the peer's to refuse, as MCP says.

use memchr::memchr2;

use super::Id;

/// Longer ids, names and keys are not kept: their message passes, but nobody keeps watch over it.
const LONGEST: usize = 1024;
/// More messages in one batch are not told apart.
const MOST: usize = 1024;

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    /// One message.
    One,
    /// An array of messages.
    Batch,
    /// Nothing but white space.
    Blank,
    /// No JSON-RPC that we understand.
    #[default]
    Opaque,
}

/// What is known of a line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scan {
    /// What it is.
    pub(crate) kind: Kind,
    /// The messages in it: one, or those of a batch.
    pub(crate) parts: Vec<Envelope>,
}

/// What is known of one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// `id`.
    pub(crate) id: Option<Id>,
    /// Where the value of `id` begins and ends in the line.
    pub(crate) id_at: (usize, usize),
    /// `method`.
    pub(crate) method: Option<Box<str>>,
    /// `params.name`.
    pub(crate) name: Option<Box<str>>,
    /// `params._meta.progressToken`: what notifications of progress will carry.
    pub(crate) token: Option<Id>,
    /// `params.progressToken`, of such a notification.
    pub(crate) progress: Option<Id>,
    /// `params.requestId`, of a cancellation.
    pub(crate) request: Option<Id>,
    /// Has a `result`.
    pub(crate) result: bool,
    /// Has an `error`.
    pub(crate) error: bool,
    /// Carries its protocol version itself, as requests do since 2026-07-28.
    pub(crate) stateless: bool,
}

impl Envelope {
    /// The request's id and method, if it is one.
    pub(crate) fn as_request(&self) -> Option<(&Id, &str)> {
        Some((self.id.as_ref()?, self.method.as_deref()?))
    }

    /// The id that it answers, if it is a response.
    pub(crate) fn as_response(&self) -> Option<&Id> {
        self.id.as_ref().filter(|_| self.method.is_none() && (self.result || self.error))
    }

    /// The notification's method, if it is one.
    pub(crate) fn as_notification(&self) -> Option<&str> {
        self.method.as_deref().filter(|_| self.id.is_none())
    }
}

/// Where in a message a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Batch,
    Message,
    Params,
    Meta,
}

/// The members that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Id,
    Method,
    Params,
    Result,
    Error,
    Name,
    RequestId,
    ProgressToken,
    Meta,
    Version,
    Other,
}

/// What the next byte can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A value; the flag: or the end of an empty array.
    Value(bool),
    /// A key; the flag: or the end of an empty object.
    Key(bool),
    Colon,
    /// A comma or the container's end.
    After,
    /// Inside of a string that is a key (true) or a value; the second flag: after a backslash.
    Text(bool, bool),
    /// Inside of a number, `true`, `false` or `null`.
    Scalar,
    /// Below what matters; the flags: in a string, after a backslash.
    Deep(bool, bool),
    /// The value has ended: only white space may follow.
    Done,
    Bad,
}

/// Reads one line at a time.
pub(crate) struct Scanner {
    state: State,
    stack: Vec<Place>,
    key: Key,
    /// Containers open below what matters.
    deep: usize,
    /// How much of the line was read before this piece.
    read: usize,
    /// The text of a key or value that matters.
    text: Vec<u8>,
    keeps: bool,
    begun: usize,
    current: Envelope,
    found: Scan,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            state: State::Value(false),
            stack: Vec::with_capacity(4),
            key: Key::Other,
            deep: 0,
            read: 0,
            text: Vec::new(),
            keeps: false,
            begun: 0,
            current: Envelope::default(),
            found: Scan { kind: Kind::Blank, parts: Vec::new() },
        }
    }
}

impl Scanner {
    /// Reads on. The end of the line may be part of it.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            // Long runs first: the inside of strings.
            if let State::Text(_, false) | State::Deep(true, false) = self.state {
                let run = memchr2(b'"', b'\\', &bytes[at..]).unwrap_or(bytes.len() - at);
                self.keep(&bytes[at..at + run]);
                at += run;
                if at == bytes.len() {
                    break;
                }
            }
            if self.state == State::Bad {
                break;
            }
            // A scalar ends at a byte that belongs to what follows it.
            if self.byte(bytes[at], self.read + at) {
                at += 1;
            }
        }
        self.read += bytes.len();
    }

    /// The line has ended: what it is. The scanner begins anew.
    pub(crate) fn finish(&mut self) -> Scan {
        if self.state == State::Scalar {
            self.end_value(self.read);
        }
        let empty = self.found.kind == Kind::Blank && self.state == State::Value(false);
        let mut found = std::mem::take(&mut self.found);
        if !empty && self.state != State::Done {
            found = Scan::default();
        }
        if found.kind == Kind::Batch && found.parts.is_empty() {
            found.kind = Kind::Opaque;
        }
        let (mut stack, mut text) = (std::mem::take(&mut self.stack), std::mem::take(&mut self.text));
        stack.clear();
        text.clear();
        *self = Self { stack, text, ..Self::default() };
        found
    }

    /// Takes one byte; false when it must be looked at once more.
    fn byte(&mut self, byte: u8, at: usize) -> bool {
        match self.state {
            State::Text(is_key, escaped) => self.in_text(byte, at, is_key, escaped),
            State::Deep(text, escaped) => self.in_depth(byte, at, text, escaped),
            State::Scalar => match byte {
                b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n' => {
                    self.end_value(at);
                    return false;
                }
                _ => self.keep(&[byte]),
            },
            _ if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') => {}
            State::Value(may_end) => self.at_value(byte, at, may_end),
            State::Key(may_end) => match byte {
                b'"' => {
                    self.begin_text(at);
                    self.keeps = true;
                    self.state = State::Text(true, false);
                }
                b'}' if may_end => self.close(at),
                _ => self.state = State::Bad,
            },
            State::Colon => self.state = if byte == b':' { State::Value(false) } else { State::Bad },
            State::After => match (byte, self.stack.last()) {
                (b',', Some(Place::Batch)) => self.state = State::Value(false),
                (b',', Some(_)) => self.state = State::Key(false),
                (b']', Some(Place::Batch)) => self.close(at),
                (b'}', Some(Place::Message | Place::Params | Place::Meta)) => self.close(at),
                _ => self.state = State::Bad,
            },
            State::Done | State::Bad => self.state = State::Bad,
        }
        true
    }

    fn at_value(&mut self, byte: u8, at: usize, may_end: bool) {
        match (byte, self.stack.last().copied()) {
            (b'{', None) => {
                self.found.kind = Kind::One;
                self.open(Place::Message);
            }
            (b'[', None) => {
                self.found.kind = Kind::Batch;
                self.stack.push(Place::Batch);
                self.state = State::Value(true);
            }
            (b']', Some(Place::Batch)) if may_end => self.close(at),
            (b'{', Some(Place::Batch)) => self.open(Place::Message),
            (_, None | Some(Place::Batch)) => self.state = State::Bad,
            (b'{', Some(Place::Message)) if self.key == Key::Params => self.open(Place::Params),
            (b'{', Some(Place::Params)) if self.key == Key::Meta => self.open(Place::Meta),
            (b'{' | b'[', Some(_)) => {
                self.keeps = false;
                self.note_member();
                self.deep = 1;
                self.state = State::Deep(false, false);
            }
            (b'"', Some(_)) => {
                self.begin_text(at);
                self.state = State::Text(false, false);
                self.keep(b"\"");
            }
            (b'-' | b'0'..=b'9' | b't' | b'f' | b'n', Some(_)) => {
                self.begin_text(at);
                self.state = State::Scalar;
                self.keep(&[byte]);
            }
            _ => self.state = State::Bad,
        }
    }

    fn in_text(&mut self, byte: u8, at: usize, is_key: bool, escaped: bool) {
        match byte {
            b'"' if !escaped && is_key => {
                self.key = self.key_of();
                self.state = State::Colon;
            }
            b'"' if !escaped => {
                self.keep(b"\"");
                self.end_value(at + 1);
            }
            _ => {
                self.keep(&[byte]);
                self.state = State::Text(is_key, byte == b'\\' && !escaped);
            }
        }
    }

    fn in_depth(&mut self, byte: u8, _at: usize, text: bool, escaped: bool) {
        match (text, byte) {
            (true, b'"') if !escaped => self.state = State::Deep(false, false),
            (true, b'\\') if !escaped => self.state = State::Deep(true, true),
            (true, _) => self.state = State::Deep(true, false),
            (false, b'"') => self.state = State::Deep(true, false),
            (false, b'{' | b'[') => self.deep += 1,
            (false, b'}' | b']') => {
                self.deep -= 1;
                if self.deep == 0 {
                    self.state = State::After;
                }
            }
            (false, _) => {}
        }
    }

    fn open(&mut self, place: Place) {
        if place == Place::Message {
            self.current = Envelope::default();
        }
        self.stack.push(place);
        self.state = State::Key(true);
    }

    fn close(&mut self, _at: usize) {
        if self.stack.pop() == Some(Place::Message) {
            let envelope = std::mem::take(&mut self.current);
            if self.found.parts.len() == MOST {
                self.state = State::Bad;
                return;
            }
            self.found.parts.push(envelope);
        }
        self.state = if self.stack.is_empty() { State::Done } else { State::After };
    }

    fn begin_text(&mut self, at: usize) {
        self.text.clear();
        self.begun = at;
        let place = self.stack.last();
        self.keeps = match self.key {
            Key::Id | Key::Method => place == Some(&Place::Message),
            Key::Name | Key::RequestId => place == Some(&Place::Params),
            Key::ProgressToken => matches!(place, Some(Place::Params | Place::Meta)),
            _ => false,
        };
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.keeps && matches!(self.state, State::Text(..) | State::Scalar) {
            if self.text.len() + bytes.len() > LONGEST {
                self.keeps = false;
                self.text.clear();
            } else {
                self.text.extend_from_slice(bytes);
            }
        }
    }

    /// The key that was just read.
    fn key_of(&self) -> Key {
        let decoded;
        let text: &[u8] = if self.text.contains(&b'\\') {
            let quoted = [b"\"", self.text.as_slice(), b"\""].concat();
            decoded = serde_json::from_slice::<String>(&quoted).unwrap_or_default();
            decoded.as_bytes()
        } else {
            &self.text
        };
        match (self.stack.last(), text) {
            _ if !self.keeps => Key::Other,
            (Some(Place::Message), b"id") => Key::Id,
            (Some(Place::Message), b"method") => Key::Method,
            (Some(Place::Message), b"params") => Key::Params,
            (Some(Place::Message), b"result") => Key::Result,
            (Some(Place::Message), b"error") => Key::Error,
            (Some(Place::Params), b"name") => Key::Name,
            (Some(Place::Params), b"requestId") => Key::RequestId,
            (Some(Place::Params | Place::Meta), b"progressToken") => Key::ProgressToken,
            (Some(Place::Params), b"_meta") => Key::Meta,
            (Some(Place::Meta), b"io.modelcontextprotocol/protocolVersion") => Key::Version,
            _ => Key::Other,
        }
    }

    /// A string or scalar has ended, before `at`.
    fn end_value(&mut self, at: usize) {
        self.note_member();
        self.state = State::After;
        if !self.keeps {
            return;
        }
        let text = || match serde_json::from_slice::<String>(&self.text) {
            Ok(text) => Some(text.into_boxed_str()),
            Err(_) => None,
        };
        match self.key {
            Key::Id => {
                self.current.id = Id::from_json(&self.text);
                self.current.id_at = (self.begun, at);
                if self.current.id.is_none() {
                    self.state = State::Bad;
                }
            }
            Key::Method => self.current.method = text(),
            Key::Name => self.current.name = text(),
            Key::RequestId => self.current.request = Id::from_json(&self.text),
            Key::ProgressToken if self.stack.last() == Some(&Place::Meta) => {
                self.current.token = Id::from_json(&self.text);
            }
            Key::ProgressToken => self.current.progress = Id::from_json(&self.text),
            _ => {}
        }
    }

    /// Members of which only their being there counts.
    fn note_member(&mut self) {
        match (self.stack.last(), self.key) {
            (Some(Place::Message), Key::Result) => self.current.result = true,
            (Some(Place::Message), Key::Error) => self.current.error = true,
            (Some(Place::Meta), Key::Version) => self.current.stateless = true,
            _ => {}
        }
    }
}
