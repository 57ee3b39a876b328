//! `agent logs`: what an agent printed, and what it prints.

use std::{
    io,
    path::{Path, PathBuf},
};

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    command::{CommandContext, CommandSpec, View, handler},
    event::{Subscribe, Subscription},
    plugin::Registrar,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::process::logs::{Chunk, Line, LogReader, LogWatch, Stream};

/// Bytes read at a time: enough for throughput, little enough to keep the other stream from waiting.
const BLOCK: usize = 64 << 10;

pub(super) fn register(to: &Registrar) -> Result<()> {
    let spec = CommandSpec::new("agent logs", "Show what an agent printed")
        .about(
            "Output is kept in files that survive the agent's restarts and the host's. The two streams are \
             kept apart, so that their lines are in order within a stream and not between them. Every line \
             carries its offset, which never changes: `--since-offset` continues where a reader was.",
        )
        .args(
            json!({
                "agent": {"type": "string", "description": "name or id"},
                "follow": {"type": "boolean", "default": false, "x-short": "f", "description": "go on as more is printed"},
                "tail": {"type": "integer", "minimum": 0, "default": 100, "x-short": "n",
                    "description": "begin with this many lines of each stream"},
                "stream": {"enum": ["stdout", "stderr", "both"], "default": "both", "description": "which output"},
                "since_offset": {"type": "integer", "minimum": 0,
                    "description": "begin at this offset of one stream instead of counting lines from the end"}
            }),
            &["agent"],
        )
        .positional(&["agent"])
        .streaming()
        .view(View::text_by_state("/line", "/stream"))
        .example("agent logs web --follow")
        .example("agent logs web --stream stderr --tail 20")
        .example("agent logs web --stream stdout --since-offset 0 --json");
    let kernel = to.kernel().clone();
    to.command(spec, handler(move |cx, args: Logs| logs(kernel.clone(), cx, args)))
}

#[derive(Deserialize)]
struct Logs {
    agent: String,
    follow: bool,
    tail: usize,
    stream: Which,
    since_offset: Option<u64>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Which {
    Stdout,
    Stderr,
    Both,
}

impl Which {
    fn streams(self) -> &'static [Stream] {
        match self {
            Self::Stdout => &[Stream::Stdout],
            Self::Stderr => &[Stream::Stderr],
            Self::Both => &[Stream::Stdout, Stream::Stderr],
        }
    }
}

/// Emits `{"stream", "offset", "line"}` for each line and `{"stream", "gap", "line": null}` where `gap`
/// bytes were rotated away before they were read. Ends at the end of the output or, when it follows, with
/// the agent or its caller. The result is null.
async fn logs(kernel: Kernel, cx: CommandContext, args: Logs) -> Result<Value> {
    kernel.require_open()?;
    if args.since_offset.is_some() && args.stream == Which::Both {
        return Err(Error::argument("since_offset", "is an offset of one stream")
            .hint("say which one: --stream stdout or --stream stderr"));
    }
    let id = kernel.agents().id(&args.agent)?;
    let dir = folder(&kernel, &id)?;
    // Both before the first read, so that nothing is printed unnoticed between it and the first wait.
    let follow = args.follow.then(|| Follow::new(&kernel, &id, &dir)).transpose()?;
    let mut readers = Vec::new();
    for stream in args.stream.streams() {
        readers.push(open(dir.clone(), *stream, &args).await?);
    }
    loop {
        for slot in &mut readers {
            match drain(&cx, slot.take(), follow.is_some()).await {
                Ok(reader) => *slot = reader,
                // Destroyed while it was followed: its files go before the event that says so.
                Err(_) if follow.is_some() && kernel.agents().id(&id).is_err() => return Ok(Value::Null),
                Err(e) => return Err(e),
            }
        }
        if cx.is_cancelled() {
            break;
        }
        match &follow {
            Some(follow) => {
                if !follow.more(&cx).await {
                    break;
                }
            }
            None => break,
        }
    }
    Ok(Value::Null)
}

/// The agent's folder, where its type keeps output at all.
fn folder(kernel: &Kernel, id: &str) -> Result<PathBuf> {
    let (dir, spec) = (kernel.agents().dir(id)?, kernel.agents().spec(id)?);
    if spec.kind != "process" && !Stream::Stdout.path(&dir).exists() && !Stream::Stderr.path(&dir).exists() {
        return Err(Error::new(
            ErrorKind::NotSupported,
            format!("agent `{}` is of type `{}`, which prints nothing", spec.name, spec.kind),
        )
        .hint("`{program} agent status` and `{program} monitor events` tell what it does"));
    }
    Ok(dir)
}

async fn open(dir: PathBuf, stream: Stream, args: &Logs) -> Result<Option<LogReader>> {
    let (tail, since) = (args.tail, args.since_offset);
    aside(&args.agent, move || match since {
        Some(offset) => LogReader::open(&dir, stream, offset),
        None => LogReader::tail(&dir, stream, tail),
    })
    .await
    .map(Some)
}

/// Emits what is there, and without following also the beginning of a line that is not complete yet.
async fn drain(cx: &CommandContext, reader: Option<LogReader>, follow: bool) -> Result<Option<LogReader>> {
    let Some(mut reader) = reader else { return Ok(None) };
    let stream = reader.stream().name();
    // Without following, what is printed from now on is not waited for.
    let end;
    (reader, end) = aside(stream, move || {
        let end = if follow { u64::MAX } else { reader.end()? };
        Ok((reader, end))
    })
    .await?;
    while !cx.is_cancelled() && reader.position() < end {
        let chunk: Chunk;
        (reader, chunk) =
            aside(stream, move || reader.read_lines(BLOCK).map(|chunk| (reader, chunk))).await?;
        if chunk.gap > 0 {
            cx.progress(None, format!("{} bytes of {stream} were rotated away", chunk.gap));
            cx.emit(json!({"stream": stream, "gap": chunk.gap, "line": null})).await?;
        }
        if chunk.lines.is_empty() {
            break;
        }
        for line in chunk.lines {
            emit(cx, stream, line).await?;
        }
    }
    if !follow {
        let rest: Option<Line>;
        (reader, rest) = aside(stream, move || reader.rest().map(|rest| (reader, rest))).await?;
        if let Some(line) = rest {
            emit(cx, stream, line).await?;
        }
    }
    Ok(Some(reader))
}

async fn emit(cx: &CommandContext, stream: &str, line: Line) -> Result<()> {
    cx.emit(json!({"stream": stream, "offset": line.offset, "line": line.text})).await
}

/// Reads files away from the threads that drive tasks.
async fn aside<T: Send + 'static>(
    what: &str,
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let outcome =
        tokio::task::spawn_blocking(read).await.map_err(|e| Error::internal(format!("reading logs: {e}")))?;
    outcome.map_err(|e| Error::io(format!("reading the output of `{what}`"), &e))
}

/// What wakes a follower.
struct Follow {
    id: String,
    grown: LogWatch,
    destroyed: Subscription,
}

impl Follow {
    fn new(kernel: &Kernel, id: &str, dir: &Path) -> Result<Self> {
        let grown = LogWatch::new(dir).map_err(|e| Error::io(dir.display(), &e))?;
        let destroyed = kernel.bus().subscribe(Subscribe::to(["agent.destroyed"]))?;
        Ok(Self { id: id.to_owned(), grown, destroyed })
    }

    /// Waits until there is more to read; false when there never will be.
    async fn more(&self, cx: &CommandContext) -> bool {
        loop {
            tokio::select! {
                () = self.grown.changed() => return true,
                batch = self.destroyed.next_batch(64) => {
                    let Some(batch) = batch else { return false };
                    if batch.events.iter().any(|e| e.subject.as_deref() == Some(self.id.as_str())) {
                        return false;
                    }
                }
                () = cx.cancelled() => return false,
            }
        }
    }
}
