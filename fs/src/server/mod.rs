//! The control API: HTTP over unix sockets, JSON bodies, server-sent events.
//!
//! One socket is the operator's (mode 0600); each agent has its own, which is mounted into its
//! sandbox. Which socket a request came in on is who asks ([`Caller`]); what an agent may not do
//! is not a route of its socket's router or is refused by the handler. This module translates
//! between the wire and [`crate::service`]; it decides nothing.

mod handlers;
mod reply;
mod sockets;

pub use sockets::{Server, ServerError};

use crate::service::Service;
use agentfs_core::AgentName;
use axum::Router;
use axum::routing::{get, post};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever may use the operator's socket.
    Operator,
    /// The agent whose socket it is.
    Agent(AgentName),
}

/// What every handler works with.
#[derive(Clone)]
struct Context {
    service: Service,
    caller: Caller,
    server: Server,
}

/// What both callers may ask.
fn shared_routes() -> Router<Context> {
    Router::new()
        .route("/v1/status", get(handlers::status))
        .route("/v1/locks", get(handlers::locks))
        .route("/v1/queue", get(handlers::queue))
        .route("/v1/agents", get(handlers::agents))
        .route("/v1/claims", post(handlers::claim))
        .route("/v1/release", post(handlers::release))
        .route("/v1/sync", post(handlers::sync))
        .route("/v1/radar", get(handlers::radar))
        .route("/v1/explain", get(handlers::explain))
        .route("/v1/plan/check", post(handlers::check_plan))
        .route("/v1/agents/{agent}/diff", get(handlers::diff))
        .route("/v1/agents/{agent}/patch", get(handlers::patch))
}

/// What the operator alone may ask.
fn operator_routes() -> Router<Context> {
    Router::new()
        .route("/v1/runs", get(handlers::runs).post(handlers::start_run))
        .route("/v1/runs/{run}/heartbeat", post(handlers::heartbeat))
        .route("/v1/runs/{run}/unmounted", post(handlers::unmounted))
        .route("/v1/runs/{run}/end", post(handlers::end_run))
        .route("/v1/runs/{run}/plan", get(handlers::planned))
        .route("/v1/claims/{claim}/move", post(handlers::move_claim))
        .route("/v1/claims/{claim}/grant", post(handlers::grant))
        .route("/v1/claims/{claim}/refuse", post(handlers::refuse))
        .route("/v1/steal", post(handlers::steal))
        .route("/v1/log", get(handlers::log))
        .route("/v1/log/stream", get(handlers::log_stream))
        .route("/v1/agents/{agent}/apply", post(handlers::apply))
        .route("/v1/agents/{agent}/discard", post(handlers::discard))
        .route("/v1/recover", get(handlers::recover))
        .route("/v1/shutdown", post(handlers::shut_down))
}

fn router(context: Context) -> Router {
    let routes = match context.caller {
        Caller::Operator => shared_routes().merge(operator_routes()),
        Caller::Agent(_) => shared_routes(),
    };
    routes.fallback(reply::no_such_route).with_state(context)
}
