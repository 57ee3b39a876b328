//! Reading what a process printed: its log files and their archives as one stream of lines.
//!
//! A stream is addressed by byte offsets that never restart. The live file is `<stream>.log`; when it grows
//! too long its head is archived as `<stream>.<offset>.log` (named by the offset of its first byte) and cut
//! off by punching a hole, so that the writer's O_APPEND descriptor goes on undisturbed and offsets stay.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use hms_core::os::{files, watch::FileWatch};

/// Which output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// The live file in an agent's folder.
    pub fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.log", self.name()))
    }

    /// The archive that begins at `offset`.
    pub(super) fn archive(self, dir: &Path, offset: u64) -> PathBuf {
        dir.join(format!("{}.{offset:020}.log", self.name()))
    }

    /// The archives in an agent's folder as (offset, length), oldest first.
    pub(super) fn archives(self, dir: &Path) -> io::Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let offset = name
                .to_str()
                .and_then(|n| n.strip_prefix(self.name())?.strip_prefix('.')?.strip_suffix(".log"));
            if let Some(Ok(offset)) = offset.map(str::parse) {
                found.push((offset, entry.metadata()?.len()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Where the live file's own content begins.
    pub(super) fn live_start(self, dir: &Path, live: &File) -> io::Result<u64> {
        let archived = self.archives(dir)?.last().map_or(0, |(offset, len)| offset + len);
        Ok(archived.max(files::data_start(live)?).min(live.metadata()?.len()))
    }
}

/// A line of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The offset of its first byte.
    pub offset: u64,
    /// The text without its end of line; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// What one read gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Bytes before the first line that are gone, because their archive was removed.
    pub gap: u64,
    /// Complete lines.
    pub lines: Vec<Line>,
}

/// Lines longer than this are given in parts.
const LONGEST: usize = 1 << 20;

/// Reads a stream from an offset on.
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    stream: Stream,
    next: u64,
}

impl LogReader {
    /// A reader whose next line begins at `offset`. The files need not exist yet.
    pub fn open(dir: &Path, stream: Stream, offset: u64) -> io::Result<Self> {
        Ok(Self { dir: dir.to_owned(), stream, next: offset })
    }

    /// A reader of the last `lines` lines.
    pub fn tail(dir: &Path, stream: Stream, lines: usize) -> io::Result<Self> {
        let mut segments = segments(dir, stream)?;
        let (mut missing, mut start) = (lines, segments.last().map_or(0, |s| s.start + s.len));
        let mut at_end = true;
        while let (Some(segment), true) = (segments.pop(), missing > 0) {
            start = segment.start;
            let (mut end, mut block) = (segment.len, vec![0; 64 << 10]);
            while end > 0 && missing > 0 {
                let from = end.saturating_sub(block.len() as u64);
                let part = &mut block[..(end - from) as usize];
                segment.file.read_exact_at(part, segment.base + from)?;
                for (i, byte) in part.iter().enumerate().rev() {
                    if *byte != b'\n' || std::mem::take(&mut at_end) {
                        at_end = false;
                        continue;
                    }
                    missing -= 1;
                    if missing == 0 {
                        start = segment.start + from + i as u64 + 1;
                        break;
                    }
                }
                end = from;
            }
        }
        Self::open(dir, stream, start)
    }

    /// The stream it reads.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// The offset of the next line.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The offset behind the last byte that has been printed so far.
    pub fn end(&self) -> io::Result<u64> {
        Ok(segments(&self.dir, self.stream)?.last().map_or(self.next, |s| s.start + s.len))
    }

    /// The next complete lines, about `max` bytes of them; none at the end.
    pub fn read_lines(&mut self, max: usize) -> io::Result<Chunk> {
        let mut chunk = Chunk::default();
        let Some((segment, skipped)) = self.segment()? else { return Ok(chunk) };
        chunk.gap = skipped;
        self.next += skipped;
        let available = (segment.start + segment.len - self.next) as usize;
        let mut bytes = vec![0; available.min(max.max(1))];
        loop {
            segment.file.read_exact_at(&mut bytes, segment.base + (self.next - segment.start))?;
            if bytes.contains(&b'\n') || bytes.len() >= LONGEST {
                break;
            }
            if bytes.len() == available {
                if !segment.live {
                    break; // an archive ends at a line's end; should it not, its rest is a line
                }
                return Ok(chunk);
            }
            bytes.resize(available.min(bytes.len() * 2), 0);
        }
        let complete = bytes.iter().rposition(|b| *b == b'\n').map_or(bytes.len(), |i| i + 1);
        for raw in bytes[..complete].split_inclusive(|b| *b == b'\n') {
            let line = raw.strip_suffix(b"\n").unwrap_or(raw);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            chunk.lines.push(Line { offset: self.next, text: String::from_utf8_lossy(line).into_owned() });
            self.next += raw.len() as u64;
        }
        Ok(chunk)
    }

    /// What follows the last complete line, when the stream will not grow any more.
    pub fn rest(&mut self) -> io::Result<Option<Line>> {
        let Some((segment, skipped)) = self.segment()? else { return Ok(None) };
        self.next += skipped;
        let len = (segment.start + segment.len).saturating_sub(self.next).min(LONGEST as u64);
        if len == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; len as usize];
        segment.file.read_exact_at(&mut bytes, segment.base + (self.next - segment.start))?;
        let offset = self.next;
        self.next += len;
        Ok(Some(Line { offset, text: String::from_utf8_lossy(&bytes).into_owned() }))
    }

    /// The segment that holds the next byte, and how many bytes before it are gone.
    fn segment(&self) -> io::Result<Option<(Segment, u64)>> {
        let found = segments(&self.dir, self.stream)?.into_iter().find(|s| s.start + s.len > self.next);
        Ok(found.map(|s| {
            let skipped = s.start.saturating_sub(self.next);
            (s, skipped)
        }))
    }
}

/// A part of a stream in one file.
struct Segment {
    start: u64,
    len: u64,
    /// Where `start` is in the file.
    base: u64,
    live: bool,
    file: File,
}

fn segments(dir: &Path, stream: Stream) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for (start, len) in stream.archives(dir)? {
        match File::open(stream.archive(dir, start)) {
            Ok(file) => segments.push(Segment { start, len, base: 0, live: false, file }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {} // removed meanwhile
            Err(e) => return Err(e),
        }
    }
    match File::open(stream.path(dir)) {
        Ok(file) => {
            let start = stream.live_start(dir, &file)?;
            let len = file.metadata()?.len() - start;
            segments.push(Segment { start, len, base: start, live: true, file });
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    Ok(segments)
}

/// Tells when an agent's output grew.
pub struct LogWatch(FileWatch);

impl LogWatch {
    /// Watches both streams in an agent's folder.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let watch = FileWatch::new()?;
        for stream in [Stream::Stdout, Stream::Stderr] {
            let path = stream.path(dir);
            files::append(&path)?; // there is nothing to watch before the first life otherwise
            watch.add(&path)?;
        }
        Ok(Self(watch))
    }

    /// Completes when something was printed since the last call.
    pub async fn changed(&self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn texts(reader: &mut LogReader) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let chunk = reader.read_lines(16).unwrap();
            if chunk.lines.is_empty() {
                return all;
            }
            all.extend(chunk.lines.into_iter().map(|l| l.text));
        }
    }

    #[test]
    fn tail_counts_lines_over_archives() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(Stream::Stdout.archive(dir.path(), 0), "one\ntwo\n").unwrap();
        let mut live = files::append(&Stream::Stdout.path(dir.path())).unwrap();
        live.write_all(b"one\ntwo\nthree\nfour\nhalf").unwrap();
        for (n, want) in [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (9, 4)] {
            let mut reader = LogReader::tail(dir.path(), Stream::Stdout, n + 1).unwrap();
            let got = texts(&mut reader);
            // The half line counts as the last one and is not complete yet.
            assert_eq!(got, ["one", "two", "three", "four"][4 - want..], "{n}");
            assert_eq!(reader.rest().unwrap().unwrap().text, "half");
        }
    }

    #[test]
    fn a_removed_archive_is_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(Stream::Stdout.archive(dir.path(), 100), "late\n").unwrap();
        let mut reader = LogReader::open(dir.path(), Stream::Stdout, 40).unwrap();
        let chunk = reader.read_lines(1000).unwrap();
        assert_eq!((chunk.gap, chunk.lines.len(), chunk.lines[0].offset), (60, 1, 100));
    }

    #[test]
    fn long_lines_and_odd_bytes_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(100_000);
        std::fs::write(Stream::Stderr.path(dir.path()), [long.as_bytes(), b"\n\xff\xfe\r\n"].concat())
            .unwrap();
        let mut reader = LogReader::open(dir.path(), Stream::Stderr, 0).unwrap();
        assert_eq!(texts(&mut reader), [long, "\u{fffd}\u{fffd}".to_owned()]);
    }
}
