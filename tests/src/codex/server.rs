//! The folder of one `hms-test-mcp`, and what its lives wrote into it.

use std::{fs, path::PathBuf, thread, time::Duration};

use tempfile::TempDir;

use crate::{PATIENCE, processes, program::mcp_program, text, until};

/// A server's folder. Dropped, all its lives and litter are ended.
pub struct Server {
    dir: TempDir,
    options: Vec<String>,
}

impl Server {
    /// A server with these options, that nobody has started yet.
    pub fn new(options: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("hms-mcp-").tempdir().expect("a folder can be made");
        Self { dir, options: options.iter().map(|o| (*o).to_owned()).collect() }
    }

    /// Its command line.
    pub fn command(&self) -> Vec<String> {
        let (program, dir) = (mcp_program(), self.dir.path());
        let words = [text(&program), text(dir)].map(str::to_owned);
        words.into_iter().chain(self.options.clone()).collect()
    }

    /// A way to the folder that a script can keep.
    pub fn handle(&self) -> Handle {
        Handle { dir: self.dir.path().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mine = self.handle();
        for _ in 0..100 {
            let left = mine.left();
            if left.is_empty() {
                return;
            }
            for pid in left {
                processes::kill(pid);
            }
            thread::sleep(Duration::from_millis(10));
        }
        if !thread::panicking() {
            panic!("processes of {} cannot be ended: {:?}", mine.dir.display(), mine.left());
        }
    }
}

/// What a server wrote down, and what it shall do.
#[derive(Debug, Clone)]
pub struct Handle {
    dir: PathBuf,
}

impl Handle {
    /// The lines of one of its files.
    pub fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Asks for a vice: writes one of its files.
    pub fn vice(&self, file: &str, content: &str) {
        fs::write(self.dir.join(file), content).expect("the folder is ours");
    }

    /// The pids of all its lives, in order.
    pub fn lives(&self) -> Vec<i32> {
        self.lines("lives").iter().filter_map(|line| line.parse().ok()).collect()
    }

    /// The pid of its newest life, which there is.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        *self.lives().last().expect("the server was started")
    }

    /// kill -9 of the newest life; it is gone when this returns.
    #[track_caller]
    pub fn kill(&self) {
        let pid = self.pid();
        assert!(processes::kill(pid), "no server to kill");
        until("the server's death", PATIENCE, || (!processes::lives(pid)).then_some(()));
    }

    /// All that lives and names the folder on its command line: servers, their litter, wrappers around them.
    pub fn left(&self) -> Vec<i32> {
        let folder = text(&self.dir);
        let names_it =
            |pid: &i32| processes::words(*pid).iter().any(|word| word == folder) && processes::lives(*pid);
        processes::pids().filter(names_it).collect()
    }
}
