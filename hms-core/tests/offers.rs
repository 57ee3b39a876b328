//! What an attached process offers: called through the host, leased again at the next one, gone with it.

mod common;
#[path = "common/peer.rs"]
mod peer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use common::soon;
use hms_core::{
    Error, ErrorKind, Result,
    agent::Stop,
    command::{Caller, CommandSpec, handler},
    peer::Client,
    service::{Service, ServiceSpec},
};
use peer::{Side, attach, client};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

struct Echo;

#[async_trait]
impl Service for Echo {
    async fn call(&self, method: &str, args: Value) -> Result<Value> {
        match method {
            "echo" => Ok(args),
            _ => Err(Error::new(ErrorKind::QueueFull, "no room")),
        }
    }
}

fn echo(version: &str) -> ServiceSpec {
    ServiceSpec::new("my.echo", version, "echoes")
}

async fn call(client: &Client, method: &str) -> Result<Value> {
    let params = json!({"id": "my.echo", "version": "=1.2.3", "method": method, "args": [1, 2]});
    soon(method.to_owned(), client.request("service.call", params)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_and_a_command_of_a_peer_go_on_at_the_next_host() {
    let home = TempDir::new().unwrap();
    let side = Side::open(home.path()).await;
    let (offers, asks) = (client(home.path()).await, client(home.path()).await);
    let service = soon("an offer", offers.offer_service(echo("1.2.3"), Arc::new(Echo))).await.unwrap();
    let taken = soon("an offer", asks.offer_service(echo("1.2.3"), Arc::new(Echo))).await;
    assert_eq!(taken.err().unwrap().kind, ErrorKind::AlreadyExists);
    let other = soon("an offer", offers.offer_service(echo("2.0.0"), Arc::new(Echo))).await.unwrap();
    let spec =
        CommandSpec::new("my add", "Add").args(json!({"n": {"type": "integer", "description": "n"}}), &["n"]);
    let add = handler(async |_, args: Value| Ok(json!(args["n"].as_i64().unwrap_or(0) + 1)));
    let command = soon("an offer", offers.offer_command(spec, add)).await.unwrap();
    let run =
        async |n: Value| soon("a run", asks.run("my add", json!({"n": n}), Caller::default(), |_| {})).await;

    assert_eq!(call(&asks, "echo").await.unwrap(), json!([1, 2]));
    let refused = call(&asks, "other").await.unwrap_err();
    assert_eq!((refused.kind, refused.message.as_str()), (ErrorKind::QueueFull, "no room"));
    assert_eq!(run(json!(4)).await.unwrap(), json!(5));
    assert_eq!(run(json!("four")).await.unwrap_err().kind, ErrorKind::InvalidArgument);

    // The host lets the next one take over; nobody registers anything again.
    soon("the host's end", side.host.close(Stop::Detach)).await.unwrap();
    let side = Side::open(home.path()).await;
    let offered = async {
        while side.kernel().commands().get("my add").is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the offers at the next host", offered).await;
    assert_eq!(call(&asks, "echo").await.unwrap(), json!([1, 2]));
    assert_eq!(run(json!(1)).await.unwrap(), json!(2));

    // Taken back, its name is free at once for who took it back.
    service.end();
    service.end();
    assert_eq!(call(&asks, "echo").await.unwrap_err().kind, ErrorKind::ServiceUnavailable);
    let service = soon("an offer", offers.offer_service(echo("1.2.3"), Arc::new(Echo))).await.unwrap();
    assert_eq!(call(&asks, "echo").await.unwrap(), json!([1, 2]));
    drop((service, other, command));
    let gone = async {
        while side.kernel().commands().get("my add").is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the end of the offers", gone).await;
    side.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_a_peer_learns_that_it_was_cancelled() {
    let home = TempDir::new().unwrap();
    let side = Side::open(home.path()).await;
    let (offers, asks) = (client(home.path()).await, client(home.path()).await);
    let (tell, mut told) = mpsc::unbounded_channel();
    let wait = handler(move |cx, _: Value| {
        let tell = tell.clone();
        async move {
            let _ = tell.send("begun");
            cx.cancelled().await;
            let _ = tell.send("cancelled");
            Err(Error::new(ErrorKind::Cancelled, "cancelled"))
        }
    });
    let _command =
        soon("an offer", offers.offer_command(CommandSpec::new("my wait", "Wait"), wait)).await.unwrap();
    let running =
        tokio::spawn(async move { asks.run("my wait", json!({}), Caller::default(), |_| {}).await });
    assert_eq!(soon("its begin", told.recv()).await, Some("begun"));
    running.abort();
    assert_eq!(soon("its end", told.recv()).await, Some("cancelled"));
    side.close().await;
    let nobody = Client::attach(attach(home.path())).await.err().unwrap();
    assert_eq!(nobody.kind, ErrorKind::HostUnavailable);
}
