//! The client's end: standard input, output and error as they are given to us.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    sync::Arc,
    thread,
};

use hms_core::{Error, Result, os::files};
use rustix::event::{PollFd, PollFlags, poll};

use crate::server::{Client, Supervised};

/// How much is read at once.
const CHUNK: usize = 64 << 10;
const STACK: usize = 256 << 10;

/// The three descriptors.
pub(super) struct Streams {
    input: File,
    output: Arc<Output>,
    error: File,
}

struct Output(File);

impl Client for Output {
    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&self.0).write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Its owner has set it so; we leave that alone.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait(&self.0, PollFlags::OUT)?,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Streams {
    /// Takes copies of the descriptors.
    pub(super) fn open(stdio: [i32; 3]) -> Result<Self> {
        let lent = |fd: i32| files::lent(fd).map_err(|e| Error::io(format!("descriptor {fd}"), &e));
        let [input, output, error] = stdio.map(lent);
        Ok(Self { input: input?, output: Arc::new(Output(output?)), error: error? })
    }

    /// Where the bytes for the client go.
    pub(super) fn client(&self) -> Arc<dyn Client> {
        self.output.clone()
    }

    /// Another handle of standard error.
    pub(super) fn stderr(&self) -> Result<File> {
        self.error.try_clone().map_err(|e| Error::io("standard error", &e))
    }

    /// Begins to read what the client says, and to watch whether it is there. Both go on until it goes.
    pub(super) fn read(&self, supervised: &Arc<Supervised>) -> Result<()> {
        let copy = |file: &File| file.try_clone().map_err(|e| Error::io("standard streams", &e));
        let (input, output) = (copy(&self.input)?, copy(&self.output.0)?);
        let listener = Arc::downgrade(supervised);
        spawn("mcp client gone", move || {
            wait_for_hangup(&input, &output);
            if let Some(supervised) = listener.upgrade() {
                supervised.hung_up();
            }
        })?;
        let (mut input, supervised) = (copy(&self.input)?, supervised.clone());
        spawn("mcp from client", move || {
            let mut buffer = vec![0; CHUNK];
            loop {
                match input.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => supervised.hear(&buffer[..read]),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        if wait(&input, PollFlags::IN).is_err() {
                            break;
                        }
                    }
                    Err(_) => break,
                }
            }
            supervised.close(0);
        })
    }
}

/// Blocks until the client's end of either stream is closed. The thread that reads may be held up by a server
/// that does not, and would not see it.
fn wait_for_hangup(input: &File, output: &File) {
    loop {
        // Without a wish only hang-ups and errors are told: messages wake nobody here.
        let mut both = [
            PollFd::from_borrowed_fd(input.as_fd(), PollFlags::empty()),
            PollFd::from_borrowed_fd(output.as_fd(), PollFlags::empty()),
        ];
        match poll(&mut both, None) {
            Err(rustix::io::Errno::INTR) => {}
            _ => return,
        }
    }
}

fn wait(file: &File, what: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(file.as_fd(), what)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work);
    started.map(drop).map_err(|e| Error::io("starting a thread", &e))
}
