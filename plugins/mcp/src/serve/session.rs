//! One client: what it may ask, in the protocol's words.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use hms_core::command::Update;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CompleteRequestParams, CompleteResult,
        GetPromptRequestParams, GetPromptResponse, Implementation, InitializeResult, ListPromptsResult,
        ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
        ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, ServerCapabilities,
        ServerConfig, SubscribeRequestParams, SubscriptionFilter, UnsubscribeRequestParams,
    },
    service::{NotificationContext, Peer, RequestContext, SubscriptionContext},
};
use serde_json::json;
use tokio::sync::watch;

use super::{
    Guard, Server, call,
    changes::{Change, Membership, SUBSCRIPTIONS, Voice, Wants},
    link::Heard,
    prompts, resources,
    resources::Place,
};

/// A client's session. Over HTTP there is one for each, and in the stateless era one for each request.
pub(crate) struct Session {
    server: Arc<Server>,
    /// Becomes true when the client will say nothing more.
    gone: watch::Receiver<bool>,
    /// Its place among those who are told of changes, from when it is ready to be told.
    hearing: OnceLock<Hearing>,
}

struct Hearing {
    membership: Membership,
    _telling: Guard,
    /// Followers of output, by the URI of the resource.
    logs: Mutex<BTreeMap<String, Guard>>,
}

impl Session {
    pub(crate) fn new(server: Arc<Server>, gone: watch::Receiver<bool>) -> Self {
        Self { server, gone, hearing: OnceLock::new() }
    }

    /// Begins to tell the client of changes, once.
    fn hear(&self, peer: &Peer<RoleServer>) -> &Hearing {
        self.hearing.get_or_init(|| {
            let wants = Wants { tools: true, resources: true, ..Wants::default() };
            let membership = self.server.hub.join(wants);
            let telling = tokio::spawn(membership.listener.clone().tell(Voice::Session(peer.clone())));
            Hearing { membership, _telling: Guard(telling.abort_handle()), logs: Mutex::default() }
        })
    }

    /// There are no events of output: who wants to know of it follows it.
    fn follow(&self, agent: String) -> Guard {
        let server = self.server.clone();
        let following = tokio::spawn(async move {
            let change = Change::Resource(Place::Logs(agent.clone()));
            let hear = |heard| {
                if matches!(heard, Heard::Update(Update::Item { .. })) {
                    server.hub.note(&change);
                }
            };
            let args = json!({"agent": agent, "follow": true, "tail": 0});
            let end = server.link.run("agent logs", true, args, resources::caller(), hear).await;
            if let Err(e) = end {
                tracing::debug!(error = %e, "output is not followed any more");
            }
            server.hub.note(&change);
        });
        Guard(following.abort_handle())
    }
}

impl Hearing {
    fn logs(&self) -> MutexGuard<'_, BTreeMap<String, Guard>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(uri: &str) -> Result<Place, ErrorData> {
    Place::parse(uri).ok_or_else(|| {
        ErrorData::resource_not_found(format!("there is no resource {uri}"), Some(json!({"uri": uri})))
    })
}

impl ServerHandler for Session {
    fn get_info(&self) -> ServerConfig {
        let can = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_resources()
            .enable_resources_list_changed()
            .enable_resources_subscribe()
            .enable_prompts()
            .enable_completions()
            .build();
        InitializeResult::new(can)
            .with_server_info(
                Implementation::new("codex-hms", env!("CARGO_PKG_VERSION"))
                    .with_title("HMS")
                    .with_description("Keeps processes and other moving parts alive"),
            )
            .with_instructions(prompts::INSTRUCTIONS)
    }

    async fn on_initialized(&self, cx: NotificationContext<RoleServer>) {
        self.hear(&cx.peer);
        // A host that runs is attached to now, so that changes are told from the beginning.
        if let Err(e) = self.server.link.client_if_running().await {
            tracing::warn!(error = %e, "the host that runs cannot be attached to");
        }
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.server.tools().await))
    }

    async fn call_tool(
        &self,
        params: CallToolRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        call::call(&self.server, params, &cx).await
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(resources::list(&self.server.link).await))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(resources::templates()))
    }

    async fn read_resource(
        &self,
        params: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let words = self.server.words().await;
        let contents = resources::read(&self.server.link, &params.uri, &words).await?;
        Ok(ReadResourceResult::new(vec![contents]).into())
    }

    async fn subscribe(
        &self,
        params: SubscribeRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let place = place(&params.uri)?;
        let hearing = self.hear(&cx.peer);
        {
            let mut wants = hearing.membership.listener.wants();
            if wants.uris.len() >= SUBSCRIPTIONS && !wants.uris.contains(&params.uri) {
                return Err(ErrorData::invalid_request(
                    format!("no more than {SUBSCRIPTIONS} resources can be subscribed to"),
                    None,
                ));
            }
            wants.uris.insert(params.uri.clone());
        }
        if let Place::Logs(agent) = place {
            hearing.logs().entry(params.uri).or_insert_with(|| self.follow(agent));
        }
        // Only a host that is attached to tells of changes.
        self.server.link.client().await.map(drop).map_err(|e| ErrorData::internal_error(e.to_string(), None))
    }

    async fn unsubscribe(
        &self,
        params: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        place(&params.uri)?;
        if let Some(hearing) = self.hearing.get() {
            hearing.membership.listener.wants().uris.remove(&params.uri);
            hearing.logs().remove(&params.uri);
        }
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        let mut accepted = requested.clone();
        if let Some(uris) = &mut accepted.resource_subscriptions {
            uris.retain(|uri| Place::parse(uri).is_some());
            uris.truncate(SUBSCRIPTIONS);
        }
        Some(accepted)
    }

    async fn listen(&self, cx: SubscriptionContext) -> Result<(), ErrorData> {
        let accepted = cx.accepted();
        let uris = accepted.resource_subscriptions.clone().unwrap_or_default();
        let logs = uris.iter().filter_map(|uri| match Place::parse(uri) {
            Some(Place::Logs(agent)) => Some(self.follow(agent)),
            _ => None,
        });
        let _following: Vec<Guard> = logs.collect();
        let membership = self.server.hub.join(Wants {
            tools: accepted.tools_list_changed == Some(true),
            resources: accepted.resources_list_changed == Some(true),
            uris: uris.into_iter().collect(),
        });
        if let Err(e) = self.server.link.client().await {
            return Err(ErrorData::internal_error(e.to_string(), None));
        }
        let mut gone = self.gone.clone();
        tokio::select! {
            () = membership.listener.clone().tell(Voice::Subscription(cx.sink().clone())) => {}
            () = cx.cancelled() => {}
            _ = gone.wait_for(|gone| *gone) => {}
        }
        Ok(())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(prompts::list()))
    }

    async fn get_prompt(
        &self,
        params: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        Ok(prompts::get(&self.server.link, &params.name, params.arguments.as_ref()).await?.into())
    }

    async fn complete(
        &self,
        params: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let (of, argument) = (&params.r#ref, &params.argument);
        let found = prompts::complete(&self.server.link, of, &argument.name, &argument.value).await;
        Ok(CompleteResult::new(found))
    }
}
