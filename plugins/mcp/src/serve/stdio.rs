//! The client on standard input and output.
//!
//! Standard streams may be pipes, sockets, files or a terminal, and not all of them can be waited for without a
//! thread. Two threads copy between them and a socket pair, which can.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    pin::pin,
    sync::Arc,
    thread::Builder,
    time::Duration,
};

use hms_core::{Error, ErrorKind, Result, command::CommandContext, os};
use rmcp::{ServiceExt, service::ServerInitializeError};
use tokio::sync::{oneshot, watch};

use super::{Server, session::Session};

/// How long the last answers may take to be read.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves the one client until it goes, or until the command is cancelled.
pub(crate) async fn serve(server: &Arc<Server>, cx: &CommandContext) -> Result<()> {
    let [input, output, _] = server.surroundings.stdio;
    let (gone, client_gone) = watch::channel(false);
    let (stream, written) = bridge(lent(input)?, lent(output)?, gone)?;
    let session = Session::new(server.clone(), client_gone);
    let running = tokio::select! {
        running = session.serve(stream) => running,
        () = cx.cancelled() => return Ok(()),
    };
    let running = match running {
        Ok(running) => running,
        // It went without a word, as a client does that only looks whether the program starts.
        Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(e) => return Err(Error::new(ErrorKind::Protocol, format!("no session began: {e}"))),
    };
    let stop = running.cancellation_token();
    let mut end = pin!(running.waiting());
    let ended = tokio::select! {
        ended = &mut end => ended,
        () = cx.cancelled() => {
            stop.cancel();
            end.await
        }
    };
    ended.map_err(|e| Error::internal(format!("the session: {e}")))?;
    // What was answered last is on its way through the thread. A client that does not read is not waited for.
    let _ = tokio::time::timeout(FAREWELL, written).await;
    Ok(())
}

fn lent(number: i32) -> Result<File> {
    os::files::lent(number).map_err(|e| Error::io(format!("descriptor {number}"), &e))
}

/// One stream in place of two files; `gone` becomes true at the end of the input. What is returned besides tells
/// when the stream was closed and all of it is written.
fn bridge(
    mut input: File,
    mut output: File,
    gone: watch::Sender<bool>,
) -> Result<(tokio::net::UnixStream, oneshot::Receiver<()>)> {
    let failed = |e: io::Error| Error::io("standard streams", &e);
    let (near, far) = UnixStream::pair().map_err(failed)?;
    let (mut to_session, mut from_session) = (far.try_clone().map_err(failed)?, far);
    near.set_nonblocking(true).map_err(failed)?;
    let near = tokio::net::UnixStream::from_std(near).map_err(failed)?;
    Builder::new()
        .name("mcp-stdin".into())
        .spawn(move || {
            // However it ends, the client says nothing more.
            let _ = copy(&mut input, &mut to_session);
            let _ = to_session.shutdown(Shutdown::Write);
            gone.send_replace(true);
        })
        .map_err(failed)?;
    let (all, written) = oneshot::channel();
    Builder::new()
        .name("mcp-stdout".into())
        .spawn(move || {
            if copy(&mut from_session, &mut output).is_err() {
                // Nobody reads: the session need not write any more.
                let _ = from_session.shutdown(Shutdown::Both);
            }
            let _ = all.send(());
        })
        .map_err(failed)?;
    Ok((near, written))
}

/// Copies to the end. Not `io::copy`: that splices, and a splice that waits for a socket holds the pipe's lock, so
/// that who reads the pipe cannot even read what is in it.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
