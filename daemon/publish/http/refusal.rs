//! The error of a request, and its reply.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::access::Denied;
use crate::excerpt::one_line;
use crate::journal::QueryError;
use crate::service::{
    AlertNotFound, AskError, ClipError, Code, FrameError, ReloadError, TrialError,
};

/// The JSON of an error.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Refusal {
    /// The error as a sentence.
    pub message: String,
    /// Name of the gRPC status code.
    pub code: &'static str,
    /// The reason that programs can compare.
    pub reason: &'static str,
    /// The parameter or field that is not valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Number of seconds after which to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
    #[serde(skip)]
    status: StatusCode,
}

impl Refusal {
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Refusal {
        Refusal {
            message: one_line(&message.into()),
            code: code.name(),
            reason,
            field: None,
            retry_after_seconds: None,
            status: status(code),
        }
    }

    /// Returns the refusal of a parameter or field that is not valid.
    pub fn invalid(field: &str, message: impl Into<String>) -> Refusal {
        let refusal = Refusal::new(Code::InvalidArgument, "INVALID_REQUEST", message);
        Refusal { field: Some(field.into()), ..refusal }
    }

    pub fn wrong_method() -> Refusal {
        let message = "the path does not take this method; see /api/v1/openapi.json";
        let refusal = Refusal::new(Code::InvalidArgument, "WRONG_METHOD", message);
        Refusal { status: StatusCode::METHOD_NOT_ALLOWED, ..refusal }
    }

    /// Returns the refusal of a body that is not sent as JSON.
    pub fn wrong_type() -> Refusal {
        let message = "the body is not JSON; send it with Content-Type: application/json";
        let refusal = Refusal::new(Code::InvalidArgument, "INVALID_REQUEST", message);
        Refusal { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, ..refusal }
    }

    pub fn too_large(bytes: usize) -> Refusal {
        let message = format!("a body has at most {bytes} bytes");
        let refusal = Refusal::new(Code::InvalidArgument, "INVALID_REQUEST", message);
        Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, ..refusal }
    }

    pub fn too_many_streams(streams: usize) -> Refusal {
        let message = format!("all {streams} streams are open; close one, or ask again later");
        Refusal::new(Code::ResourceExhausted, "TOO_MANY_STREAMS", message)
    }

    fn after(self, delay: Option<Duration>) -> Refusal {
        Refusal { retry_after_seconds: delay.map(|delay| delay.as_secs()), ..self }
    }
}

/// Returns the HTTP status of a code, by the table of `google.rpc.Code`.
fn status(code: Code) -> StatusCode {
    match code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::OutOfRange | Code::InvalidArgument | Code::FailedPrecondition => {
            StatusCode::BAD_REQUEST
        }
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let retry_after = self.retry_after_seconds.map(HeaderValue::from);
        let status = self.status;
        let mut reply = (status, Json(self)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            reply
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = retry_after {
            reply.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        reply
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Refusal {
        let refusal = Refusal::new(denied.code(), denied.reason(), denied.to_string());
        refusal.after(denied.retry_after())
    }
}

impl From<AskError> for Refusal {
    fn from(error: AskError) -> Refusal {
        let refusal = Refusal::new(error.code(), error.reason(), error.to_string());
        let field = match &error {
            AskError::InvalidField { field, .. } => Some((*field).to_owned()),
            _ => None,
        };
        Refusal { field, ..refusal }.after(error.retry_after())
    }
}

impl From<TrialError> for Refusal {
    fn from(error: TrialError) -> Refusal {
        match error {
            TrialError::Refused(error) => error.into(),
            error => Refusal::new(error.code(), error.reason(), error.to_string()),
        }
    }
}

impl From<ReloadError> for Refusal {
    fn from(error: ReloadError) -> Refusal {
        let refusal = Refusal::new(error.code(), error.reason(), error.to_string());
        Refusal { field: error.key().map(str::to_owned), ..refusal }
    }
}

impl From<ClipError> for Refusal {
    fn from(error: ClipError) -> Refusal {
        Refusal::new(error.code(), error.reason(), error.to_string())
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Refusal {
        Refusal::new(error.code(), error.reason(), error.to_string())
    }
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Refusal {
        Refusal::new(error.code(), error.reason(), error.to_string())
    }
}

impl From<AlertNotFound> for Refusal {
    fn from(error: AlertNotFound) -> Refusal {
        Refusal::new(AlertNotFound::CODE, AlertNotFound::REASON, error.to_string())
    }
}
