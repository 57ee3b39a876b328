//! Keeps output bounded: archives the head of a log that has grown too long, and cuts it off.
//!
//! One task watches the logs of all agents by inotify. It looks at most a few times a second, however much
//! is printed, and not at all while nothing is.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hms_core::{
    Error, Kernel, Result,
    agent::AgentContext,
    os::{
        files,
        watch::{Changes, FileWatch, WatchId},
    },
};

use super::{config::LogConfig, logs::Stream};

/// The shortest time between two looks.
const CALM: Duration = Duration::from_millis(250);

pub(super) struct LogKeeper {
    watch: Arc<FileWatch>,
    watched: Watched,
}

type Watched = Arc<Mutex<HashMap<WatchId, Entry>>>;

#[derive(Clone)]
struct Entry {
    dir: PathBuf,
    stream: Stream,
    limits: LogConfig,
}

impl LogKeeper {
    pub(super) fn start(kernel: &Kernel) -> Result<Self> {
        let watch = Arc::new(FileWatch::new().map_err(|e| Error::io("watching logs", &e))?);
        let watched = Watched::default();
        kernel.spawn(run(watch.clone(), watched.clone(), kernel.clock().clone()));
        Ok(Self { watch, watched })
    }

    /// Keeps the logs of this agent within `limits`; harmless to repeat.
    pub(super) fn watch(&self, cx: &AgentContext, limits: &LogConfig) {
        self.watch_dir(cx.dir(), limits);
    }

    /// The same by an agent's folder.
    pub(super) fn watch_dir(&self, dir: &Path, limits: &LogConfig) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let path = stream.path(dir);
            match self.watch.add(&path) {
                Ok(id) => {
                    let entry = Entry { dir: dir.to_owned(), stream, limits: limits.clone() };
                    self.watched.lock().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
                }
                Err(e) => {
                    tracing::warn!(path = %path.display(), error = %e, "this log is not kept within its limits")
                }
            }
        }
    }
}

async fn run(watch: Arc<FileWatch>, watched: Watched, clock: hms_core::clock::SharedClock) {
    loop {
        let Ok(changes) = watch.changed().await else { return };
        let due: Vec<(WatchId, Entry)> = {
            let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            let touched = |id: &WatchId| match &changes {
                Changes::Overflow => true,
                Changes::Files(files) => files.iter().any(|f| f.watch == *id),
            };
            watched.iter().filter(|(id, _)| touched(id)).map(|(id, e)| (*id, e.clone())).collect()
        };
        let looked = tokio::task::spawn_blocking(move || {
            let mut gone = Vec::new();
            for (id, entry) in due {
                match keep(&entry.dir, entry.stream, &entry.limits) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound => gone.push(id),
                    Err(e) => {
                        tracing::warn!(dir = %entry.dir.display(), error = %e, "a log could not be archived")
                    }
                }
            }
            gone
        });
        for id in looked.await.unwrap_or_default() {
            watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            watch.remove(id);
        }
        clock.sleep_until(clock.now() + CALM).await;
    }
}

/// Archives and cuts the head of a log that is too long.
///
/// The archive is complete before anything is cut, and the cut begins where archives end, so that a host
/// killed in between loses and repeats nothing.
fn keep(dir: &Path, stream: Stream, limits: &LogConfig) -> io::Result<()> {
    let path = stream.path(dir);
    let live = OpenOptions::new().read(true).write(true).open(&path)?;
    let start = stream.live_start(dir, &live)?;
    let len = live.metadata()?.len();
    if len - start <= limits.max_size {
        return Ok(());
    }
    let end = last_line_end(&live, start, len)?;
    // Who prints faster than we copy keeps the newest part; the rest is a gap that readers state.
    let start = if end - start > limits.max_size.saturating_mul(2) {
        last_line_end(&live, start, end - limits.max_size)?
    } else {
        start
    };
    let archive = stream.archive(dir, start);
    let unfinished = archive.with_extension("tmp");
    copy(&live, start, end, &files::append(&unfinished)?)?;
    std::fs::rename(&unfinished, &archive)?;
    files::punch_head(&live, end)?;
    let archives = stream.archives(dir)?;
    // The newest stays whatever the limit: its end says where the live file begins.
    let surplus = archives.len().saturating_sub(limits.keep.max(1) as usize);
    for (offset, _) in &archives[..surplus] {
        std::fs::remove_file(stream.archive(dir, *offset))?;
    }
    Ok(())
}

/// The end of the last complete line in `start..len`; `len` when there is none.
fn last_line_end(file: &File, start: u64, len: u64) -> io::Result<u64> {
    let from = start.max(len.saturating_sub(1 << 20));
    let mut bytes = vec![0; (len - from) as usize];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes.iter().rposition(|b| *b == b'\n').map_or(len, |i| from + i as u64 + 1))
}

fn copy(from: &File, start: u64, end: u64, mut to: &File) -> io::Result<()> {
    to.set_len(0)?;
    let mut block = vec![0; 256 << 10];
    let mut at = start;
    while at < end {
        let part = &mut block[..(end - at).min(256 << 10) as usize];
        from.read_exact_at(part, at)?;
        io::Write::write_all(&mut to, part)?;
        at += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{super::logs::LogReader, *};

    #[test]
    fn nothing_is_lost_or_repeated_by_archiving() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = files::append(&Stream::Stdout.path(dir.path())).unwrap();
        let limits = LogConfig { max_size: 5_000, keep: 1_000 };
        for n in 0..5_000 {
            writeln!(writer, "line {n}").unwrap();
            if n % 97 == 0 {
                keep(dir.path(), Stream::Stdout, &limits).unwrap();
            }
        }
        let mut reader = LogReader::open(dir.path(), Stream::Stdout, 0).unwrap();
        let mut seen = 0;
        loop {
            let chunk = reader.read_lines(4_096).unwrap();
            assert_eq!(chunk.gap, 0);
            if chunk.lines.is_empty() {
                break;
            }
            for line in chunk.lines {
                assert_eq!(line.text, format!("line {seen}"));
                seen += 1;
            }
        }
        assert_eq!(seen, 5_000);
        assert!(Stream::Stdout.archives(dir.path()).unwrap().len() > 3);
    }

    #[test]
    fn old_archives_go_and_leave_a_stated_gap() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = files::append(&Stream::Stdout.path(dir.path())).unwrap();
        let limits = LogConfig { max_size: 1_000, keep: 2 };
        for n in 0..2_000 {
            writeln!(writer, "line {n}").unwrap();
            keep(dir.path(), Stream::Stdout, &limits).unwrap();
        }
        let mut reader = LogReader::open(dir.path(), Stream::Stdout, 0).unwrap();
        let chunk = reader.read_lines(1 << 20).unwrap();
        assert_eq!(chunk.gap, chunk.lines[0].offset);
        assert!(chunk.gap > 0);
        assert_eq!(Stream::Stdout.archives(dir.path()).unwrap().len(), 2);
    }
}
