//! A tool call: who agrees to it, where it runs, what it says meanwhile, and what comes back.

use std::{
    collections::VecDeque,
    fs::File,
    os::fd::AsRawFd,
    sync::{Arc, atomic::AtomicI32},
    time::Duration,
};

use hms_core::{
    Error, ErrorKind, Result,
    command::{Caller, CommandContext, CommandSpec, Effect, Runs, Surroundings, Update, View},
};
use rmcp::{
    ErrorData, RoleServer,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ClientResult, ContentBlock, ElicitRequest,
        ElicitRequestParams, ElicitResult, ElicitationAction, ElicitationSchema, InputRequest, InputRequests,
        InputRequiredResult, ProgressNotificationParam, ProtocolVersion, ServerRequest,
    },
    service::{Peer, RequestContext},
};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::{
    Server,
    link::Heard,
    tools::{CONFIRM, ITEMS, SECONDS, Words},
};

/// Bytes of items that one call returns at most. More does not help a model.
const ITEM_BYTES: usize = 256 << 10;
/// How long a person may think before a question counts as refused.
const PATIENCE: Duration = Duration::from_secs(300);

/// Answers `tools/call`.
///
/// Errors: the protocol's, for a tool that does not exist. What a command reports is a result that says so, for
/// the model to read.
pub(crate) async fn call(
    server: &Server,
    params: CallToolRequestParams,
    cx: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let Some((spec, words)) = server.find(&params.name).await else {
        return Err(ErrorData::invalid_params(format!("there is no tool `{}`", params.name), None));
    };
    let mut args = params.arguments.clone().unwrap_or_default();
    let confirmed = args.shift_remove(CONFIRM).is_some_and(|v| v == Value::Bool(true));
    if let Some(question) = &spec.confirm {
        match consent(question, confirmed, &params, cx).await {
            Consent::Given => {}
            Consent::Ask(ask) => return Ok(ask.into()),
            Consent::Refused(e) => return Ok(failure(&e, &words).into()),
        }
        // What the command line sets once a person has answered there.
        if spec.args.pointer("/properties/yes").is_some() {
            args.insert("yes".into(), true.into());
        }
    }
    let bounds = spec.streams.then(|| Bounds::take(&mut args));
    let answer = tokio::select! {
        answer = run(server, &spec, args, bounds, cx) => answer,
        // The client does not wait for an answer any more; dropping the run has cancelled the command.
        () = cx.ct.cancelled() => Err(Error::new(ErrorKind::Cancelled, "the client cancelled the call")),
    };
    Ok(match answer {
        Ok(value) => CallToolResult::structured(shaped(&spec, value)),
        Err(e) => failure(&e, &words),
    }
    .into())
}

/// Runs the command, and passes on how far it is.
async fn run(
    server: &Server,
    spec: &CommandSpec,
    args: Map<String, Value>,
    bounds: Option<Bounds>,
    cx: &RequestContext<RoleServer>,
) -> Result<Value> {
    let (said, mut heard) = mpsc::channel(16);
    let progress = Progress::of(cx);
    let tell = async {
        let Some(mut progress) = progress else { return };
        while let Some((fraction, message)) = heard.recv().await {
            progress.tell(fraction, message).await;
        }
    };
    let work = async move {
        let time = bounds.as_ref().map(|bounds| Duration::from_secs(bounds.seconds));
        let mut items = bounds.map(Items::new);
        let hear = |heard| match heard {
            // One that the client does not take in time is not missed: the next one says more.
            Heard::Update(Update::Progress { fraction, message }) => drop(said.try_send((fraction, message))),
            Heard::Update(Update::Item { value }) => {
                if let Some(items) = &mut items {
                    items.push(value);
                }
            }
            Heard::Update(Update::Resume { .. }) => {}
            Heard::Again => items.iter_mut().for_each(Items::clear),
        };
        let caller = caller(spec, cx);
        let work = async {
            match spec.runs {
                Runs::Host => {
                    let reads = spec.effect == Effect::Read;
                    server.link.run(&spec.path, reads, Value::Object(args), caller, hear).await
                }
                Runs::Caller => run_here(server, spec, args, caller, hear).await,
            }
        };
        let outcome = match time {
            None => Some(work.await?),
            Some(time) => tokio::time::timeout(time, work).await.ok().transpose()?,
        };
        Ok(match items {
            Some(items) => items.into_value(outcome.is_some()),
            None => outcome.unwrap_or_default(),
        })
    };
    // The sender goes with the work, so that all progress is told before the answer is.
    let (outcome, ()) = tokio::join!(work, tell);
    outcome
}

/// Runs a `caller` command in this process, which has no terminal and no streams for it.
async fn run_here(
    server: &Server,
    spec: &CommandSpec,
    args: Map<String, Value>,
    caller: Caller,
    mut hear: impl FnMut(Heard),
) -> Result<Value> {
    let nowhere =
        File::options().read(true).write(true).open("/dev/null").map_err(|e| Error::io("/dev/null", &e))?;
    let surroundings = Surroundings {
        stdio: [nowhere.as_raw_fd(); 3],
        terminal: false,
        color: false,
        json: true,
        signal: Arc::new(AtomicI32::new(0)),
        exit_code: Arc::new(AtomicI32::new(0)),
        ..server.surroundings.clone()
    };
    let command = server.kernel.commands().get(&spec.path)?;
    let (tx, mut updates) = mpsc::channel(16);
    let (context, _canceller) = CommandContext::new(caller, Some(tx));
    let work = command.run(context.within(surroundings), Value::Object(args));
    let outcome = Update::until(work, |cx| updates.poll_recv(cx), |update| hear(Heard::Update(update))).await;
    drop(nowhere);
    outcome
}

/// Who asks, as history shows it: `mcp:` and the client's name.
fn caller(spec: &CommandSpec, cx: &RequestContext<RoleServer>) -> Caller {
    let source = match cx.client_info() {
        Some(client) => format!("mcp:{}", client.name.chars().take(64).collect::<String>()),
        None => "mcp".into(),
    };
    let wants_env = spec.args.get("x-caller-env").and_then(Value::as_bool) == Some(true);
    let own_env = || {
        std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    };
    Caller {
        source,
        cwd: std::env::current_dir().ok().map(|dir| dir.display().to_string()),
        env: wants_env.then(own_env),
    }
}

// ---- consent --------------------------------------------------------------------------------------

enum Consent {
    Given,
    /// The client has to ask its user and call again (2026-07-28).
    Ask(InputRequiredResult),
    Refused(Error),
}

/// Where the client can ask its user, its user is asked, whatever the model says; where it cannot, the
/// model's word that the user agreed is taken.
async fn consent(
    question: &str,
    confirmed: bool,
    params: &CallToolRequestParams,
    cx: &RequestContext<RoleServer>,
) -> Consent {
    let asks = cx
        .client_capabilities()
        .and_then(|can| can.elicitation)
        .is_some_and(|how| how.form.is_some() || how.url.is_none());
    if !asks {
        return if confirmed {
            Consent::Given
        } else {
            Consent::Refused(
                Error::new(ErrorKind::InvalidArgument, format!("this needs a person's yes: {question}"))
                    .hint("ask the user, then call again with `confirm`: true"),
            )
        };
    }
    let form = ElicitationSchema::builder()
        .required_bool_property(CONFIRM, |yes| yes.title("Go on").with_default(false))
        .build();
    let requested_schema = match form {
        Ok(form) => form,
        Err(e) => return Consent::Refused(Error::internal(format!("a form to ask with: {e}"))),
    };
    let request = ElicitRequest::new(ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: question.to_owned(),
        requested_schema,
    });
    let stateless =
        cx.protocol_version().is_some_and(|v| v.as_str() >= ProtocolVersion::V_2026_07_28.as_str());
    if stateless {
        let answer = params.input_responses.as_ref().and_then(|all| all.get(CONFIRM));
        return match answer {
            None => {
                let ask = InputRequests::from([(CONFIRM.into(), InputRequest::Elicitation(request))]);
                Consent::Ask(InputRequiredResult::from_input_requests(ask))
            }
            Some(answer) => match serde_json::from_value(answer.clone()) {
                Ok(answer) => judged(&answer),
                Err(e) => Consent::Refused(Error::argument(CONFIRM, format!("is no answer: {e}"))),
            },
        };
    }
    let asked = cx.peer.send_request(ServerRequest::ElicitRequest(request));
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(ClientResult::ElicitResult(answer))) => judged(&answer),
        Ok(Ok(_)) => Consent::Refused(Error::new(ErrorKind::Protocol, "the client answered something else")),
        Ok(Err(e)) => {
            Consent::Refused(Error::new(ErrorKind::Protocol, format!("the client could not ask: {e}")))
        }
        Err(_) => Consent::Refused(Error::new(ErrorKind::Timeout, "nobody answered whether to go on")),
    }
}

fn judged(answer: &ElicitResult) -> Consent {
    let yes = answer.content.as_ref().and_then(|content| content.get(CONFIRM)) == Some(&Value::Bool(true));
    if answer.action == ElicitationAction::Accept && yes {
        Consent::Given
    } else {
        Consent::Refused(Error::new(ErrorKind::Cancelled, "the user said no: nothing was changed"))
    }
}

// ---- results --------------------------------------------------------------------------------------

/// A result as an object, which structured content has to be: what is none is put under `result`.
fn shaped(spec: &CommandSpec, value: Value) -> Value {
    let list = !spec.streams && matches!(&spec.view, View::Table { rows, .. } if rows.is_empty());
    match value {
        Value::Array(_) => json!({"result": value}),
        // Its view promised a list.
        Value::Null if list => json!({"result": []}),
        value if list => json!({"result": [value]}),
        Value::Object(_) => value,
        Value::Null => json!({"ok": true}),
        value => json!({"result": value}),
    }
}

/// An error as a model reads it: what happened, its kind, and what to do. Without structured content, which
/// would have to fit the tool's output schema.
fn failure(e: &Error, words: &Words) -> CallToolResult {
    let mut text = format!("{}: {}", e.kind.as_str(), words.for_models(&e.message));
    if let Some(hint) = &e.hint {
        text.push_str("\nWhat to do: ");
        text.push_str(&words.for_models(hint));
    }
    CallToolResult::error(vec![ContentBlock::text(text)])
}

/// How much of a stream a call takes.
struct Bounds {
    items: usize,
    seconds: u64,
}

impl Bounds {
    /// Out of the arguments, where they are not the command's own.
    fn take(args: &mut Map<String, Value>) -> Self {
        let mut number = |name: &str, default: u64, most: u64| {
            args.shift_remove(name).and_then(|v| v.as_u64()).unwrap_or(default).clamp(1, most)
        };
        let items = number("max_items", ITEMS, 2000) as usize;
        let seconds = number("seconds", SECONDS, 60);
        args.shift_remove("follow");
        Self { items, seconds }
    }
}

/// The newest items of a stream, within bounds.
struct Items {
    kept: VecDeque<(Value, usize)>,
    most: usize,
    bytes: usize,
    omitted: u64,
}

impl Items {
    fn new(bounds: Bounds) -> Self {
        Self { kept: VecDeque::new(), most: bounds.items, bytes: 0, omitted: 0 }
    }

    fn push(&mut self, item: Value) {
        let size = item.to_string().len();
        self.kept.push_back((item, size));
        self.bytes += size;
        // One item is returned however long it is.
        while self.kept.len() > self.most || (self.bytes > ITEM_BYTES && self.kept.len() > 1) {
            let Some((_, size)) = self.kept.pop_front() else { break };
            self.bytes -= size;
            self.omitted += 1;
        }
    }

    fn clear(&mut self) {
        (self.bytes, self.omitted) = (0, 0);
        self.kept.clear();
    }

    fn into_value(self, complete: bool) -> Value {
        let items: Vec<Value> = self.kept.into_iter().map(|(item, _)| item).collect();
        json!({"items": items, "omitted": self.omitted, "complete": complete})
    }
}

/// Progress notifications of one request.
struct Progress {
    peer: Peer<RoleServer>,
    token: rmcp::model::ProgressToken,
    last: f64,
}

impl Progress {
    /// `None` where the client did not ask for any.
    fn of(cx: &RequestContext<RoleServer>) -> Option<Self> {
        let token = cx.meta.get_progress_token()?;
        Some(Self { peer: cx.peer.clone(), token, last: 0.0 })
    }

    /// In percent. It must grow each time, even where the command does not know how far it is.
    async fn tell(&mut self, fraction: Option<f64>, message: String) {
        let percent = fraction.map_or(0.0, |f| f.clamp(0.0, 1.0) * 100.0);
        self.last = if percent > self.last { percent } else { self.last + 0.001 };
        let mut note = ProgressNotificationParam::new(self.token.clone(), self.last).with_message(message);
        if fraction.is_some() {
            note = note.with_total(100.0);
        }
        // A client that has gone is noticed by whoever reads from it.
        let _ = self.peer.notify_progress(note).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_items_within_bounds() {
        let mut items = Items::new(Bounds { items: 3, seconds: 1 });
        (0..5).for_each(|i| items.push(json!(i)));
        assert_eq!(items.into_value(true), json!({"items": [2, 3, 4], "omitted": 2, "complete": true}));

        let mut items = Items::new(Bounds { items: 2000, seconds: 1 });
        let long = "x".repeat(ITEM_BYTES);
        items.push(json!("first"));
        items.push(json!(long));
        assert_eq!(items.into_value(false), json!({"items": [long], "omitted": 1, "complete": false}));
    }

    #[test]
    fn bounds_are_taken_out_of_the_arguments() {
        let mut args = json!({"agent": "web", "follow": true, "max_items": 5, "seconds": 9999});
        let bounds = Bounds::take(args.as_object_mut().expect("an object"));
        assert_eq!((bounds.items, bounds.seconds), (5, 60));
        assert_eq!(args, json!({"agent": "web"}));
    }

    #[test]
    fn results_are_objects() {
        let table = CommandSpec::new("a", "A").view(View::table("none", &[]));
        let text = CommandSpec::new("a", "A");
        assert_eq!(shaped(&table, json!([1])), json!({"result": [1]}));
        assert_eq!(shaped(&table, Value::Null), json!({"result": []}));
        assert_eq!(shaped(&text, json!({"a": 1})), json!({"a": 1}));
        assert_eq!(shaped(&text, json!("x")), json!({"result": "x"}));
        assert_eq!(shaped(&text, Value::Null), json!({"ok": true}));
    }
}
