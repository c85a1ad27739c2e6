//! Errors as HTTP answers.

use super::{Caller, Context};
use crate::service::ServiceError;
use agentfs_api::types::{ErrorBody, ErrorCode};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// The one mapping from kinds of failure to HTTP.
fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::TimedOut => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for ServiceError {
    fn into_response(self) -> Response {
        let (code, message) = (self.code(), self.to_string());
        let conflicts = match self {
            Self::Conflicts { conflicts, .. } => conflicts,
            _ => Vec::new(),
        };
        (status(code), Json(ErrorBody { code, message, conflicts })).into_response()
    }
}

/// A path that is no route: unknown, or not for agents.
pub(super) async fn no_such_route(State(context): State<Context>) -> ServiceError {
    match context.caller {
        Caller::Operator => ServiceError::BadRequest("the API has no such path".to_owned()),
        Caller::Agent(_) => ServiceError::Forbidden("do that"),
    }
}
