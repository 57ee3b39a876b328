//! A child of many vices, for the tests to supervise: it counts, serves, leaks, notifies, falls silent,
//! forks away. What it does is its first argument, so that a test's command line reads as what happens.
//!
//! A vice that is to show once waits for a file (`FAULT`) and removes it: the next life is well.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::TcpListener,
    os::unix::{net::UnixDatagram, process::CommandExt},
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["count", every_ms] => count(millis(every_ms)),
        ["serve", port] => serve(port),
        ["leak", fault] => leak(Path::new(fault)),
        ["notify", every_ms, fault] => notify(millis(every_ms), Path::new(fault)),
        ["ready-when", file] => ready_when(Path::new(file)),
        ["litter"] => litter(),
        ["litter-middle"] => litter_middle(),
        ["sleep"] => sleep_forever(),
        _ => Err(io::Error::other(
            "count MS | serve PORT | leak FAULT | notify MS FAULT | ready-when FILE | litter | sleep",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hms-test-child: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Prints `1`, `2`, `3` …, one line in one write each, by the clock: a write that blocks is caught up with.
fn count(every: Duration) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let begun = Instant::now();
    for number in 1u32.. {
        writeln!(out, "{number}")?;
        out.flush()?;
        let next = begun + every * number;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Answers HTTP with 200, one request at a time.
fn serve(port: &str) -> io::Result<()> {
    let address = format!("127.0.0.1:{port}");
    let listener = TcpListener::bind(&address)
        .map_err(|e| io::Error::new(e.kind(), format!("listening at {address}: {e}")))?;
    println!("listening at {address}");
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut request = [0u8; 1024];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    }
    Ok(())
}

/// Grows to some 200 MB once `fault` is there.
fn leak(fault: &Path) -> io::Result<()> {
    take(fault);
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for number in 0..100u8 {
        kept.push(vec![number | 1; 2 << 20]);
        thread::sleep(Duration::from_millis(10));
    }
    sleep_forever()
}

/// Says READY=1, then WATCHDOG=1 until `fault` is there.
fn notify(every: Duration, fault: &Path) -> io::Result<()> {
    let path = env::var_os("NOTIFY_SOCKET").ok_or_else(|| io::Error::other("NOTIFY_SOCKET is not set"))?;
    let socket = UnixDatagram::unbound()?;
    socket.send_to(b"READY=1\nSTATUS=beating", &path)?;
    while fs::remove_file(fault).is_err() {
        // The socket is gone between two hosts; the next one binds it again.
        let _ = socket.send_to(b"WATCHDOG=1", &path);
        thread::sleep(every);
    }
    sleep_forever()
}

/// Prints `ready` once `file` is there.
fn ready_when(file: &Path) -> io::Result<()> {
    while !file.exists() {
        thread::sleep(Duration::from_millis(10));
    }
    println!("ready");
    sleep_forever()
}

/// Leaves children in every way there is: one in the group, one in a session of its own, and one that was
/// forked twice.
fn litter() -> io::Result<()> {
    let this = env::current_exe()?;
    let mut in_group = Command::new(&this).arg("sleep").spawn()?;
    let mut in_session = Command::new("setsid").arg(&this).arg("sleep").spawn()?;
    let mut middle = Command::new(&this).arg("litter-middle").process_group(0).spawn()?;
    middle.wait()?;
    println!("littered");
    in_group.wait()?;
    in_session.wait()?;
    sleep_forever()
}

/// The middle of a double fork: its child is an orphan in a session of its own.
fn litter_middle() -> io::Result<()> {
    Command::new("setsid").arg(env::current_exe()?).arg("sleep").stdin(Stdio::null()).spawn().map(drop)
}

fn sleep_forever() -> io::Result<()> {
    loop {
        thread::park();
    }
}

/// Waits for a fault and removes it.
fn take(fault: &Path) {
    while fs::remove_file(fault).is_err() {
        thread::sleep(Duration::from_millis(10));
    }
}

fn millis(text: &str) -> Duration {
    Duration::from_millis(text.parse().unwrap_or(100))
}
