//! The way to the home's host: found when it is first needed, and found again.
//!
//! A client outlives hosts that die, and starts the next one. Where a host was *stopped* the client is over;
//! the next thing that is asked for then attaches anew, which starts a host as any command would. Following
//! events does not: who only watches must not bring a stopped system back to life.

use std::{future::ready, path::PathBuf};

use hms_core::{
    Error, ErrorKind, Result,
    command::{Caller, Update},
    os,
    peer::{Attach, Client, SOCKET},
};
use serde_json::Value;
use tokio::{
    net::UnixStream,
    sync::{Mutex, watch},
};

/// What is heard of a running command.
pub(crate) enum Heard {
    Update(Update),
    /// It begins anew: what was heard so far is void.
    Again,
}

pub(crate) struct Link {
    home: PathBuf,
    attach: Attach,
    client: Mutex<Option<Client>>,
    /// How often a client was attached. Each attachment may meet another host, with other commands.
    attachments: watch::Sender<u64>,
}

impl Link {
    pub(crate) fn new(home: PathBuf, attach: Attach) -> Self {
        Self { home, attach, client: Mutex::new(None), attachments: watch::Sender::new(0) }
    }

    /// A client that is attached. Starts a host if there is none.
    pub(crate) async fn client(&self) -> Result<Client> {
        let mut slot = self.client.lock().await;
        if let Some(client) = &*slot
            && !is_over(client).await
        {
            return Ok(client.clone());
        }
        *slot = None;
        os::files::create_private_dir(&self.home)
            .map_err(|e| Error::io(format!("home {}", self.home.display()), &e))?;
        let client = Client::attach(self.attach.clone()).await?;
        *slot = Some(client.clone());
        self.attachments.send_modify(|n| *n += 1);
        Ok(client)
    }

    /// The same, but where no host runs none is started.
    pub(crate) async fn client_if_running(&self) -> Result<Option<Client>> {
        if let Some(client) = self.current().await {
            return Ok(Some(client));
        }
        if UnixStream::connect(self.attach.runtime_dir.join(SOCKET)).await.is_err() {
            return Ok(None);
        }
        self.client().await.map(Some)
    }

    /// The client that is attached now.
    pub(crate) async fn current(&self) -> Option<Client> {
        let slot = self.client.lock().await;
        match &*slot {
            Some(client) if !is_over(client).await => Some(client.clone()),
            _ => None,
        }
    }

    /// Tells of every new attachment.
    pub(crate) fn attachments(&self) -> watch::Receiver<u64> {
        self.attachments.subscribe()
    }

    /// Runs a command at the host. One that only reads is run again, once, when its host dies under it: the
    /// caller never knows. Dropping the future cancels the command.
    pub(crate) async fn run(
        &self,
        path: &str,
        reads: bool,
        args: Value,
        caller: Caller,
        mut hear: impl FnMut(Heard),
    ) -> Result<Value> {
        let client = self.client().await?;
        let heard = |update| hear(Heard::Update(update));
        let first = client.run(path, args.clone(), caller.clone(), heard).await;
        match first {
            Err(e) if reads && e.kind == ErrorKind::HostUnavailable => {
                tracing::debug!(command = path, error = %e, "asking the next host");
                hear(Heard::Again);
                self.client().await?.run(path, args, caller, |update| hear(Heard::Update(update))).await
            }
            outcome => outcome,
        }
    }
}

async fn is_over(client: &Client) -> bool {
    tokio::select! {
        biased;
        _ = client.over() => true,
        () = ready(()) => false,
    }
}
