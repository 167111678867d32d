//! Converts errors to statuses with details of `google.rpc`.
//!
//! Every status has an `ErrorInfo` with a reason that programs can compare. All errors of the
//! interface go through this file.

use std::collections::HashMap;

use prost::Message;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt, pb};

use crate::access::Denied;
use crate::excerpt::one_line;
use crate::journal::QueryError;
use crate::service::{
    AlertNotFound, AskError, ClipError, Code, FrameError, ReloadError, TrialError,
};

/// The domain of the reasons.
const DOMAIN: &str = "lookout";

/// Creates a status with its reason.
pub fn status(code: Code, reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(grpc(code), one_line(&message.into()), details(reason))
}

/// Creates a status for an invalid field of a request.
pub fn invalid(field: &str, why: &str) -> Status {
    let why = one_line(why);
    let mut details = details("INVALID_REQUEST");
    details.add_bad_request_violation(field, why.as_str());
    Status::with_error_details(tonic::Code::InvalidArgument, why, details)
}

pub fn of_question(error: &AskError) -> Status {
    let mut details = details(error.reason());
    if let Some(delay) = error.retry_after() {
        details.set_retry_info(Some(delay));
    }
    if let AskError::InvalidField { field, why } = error {
        details.add_bad_request_violation(path_of(field), one_line(why));
    }
    Status::with_error_details(grpc(error.code()), one_line(&error.to_string()), details)
}

pub fn of_access(denied: &Denied) -> Status {
    let mut details = details(denied.reason());
    if let Some(delay) = denied.retry_after() {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(grpc(denied.code()), denied.to_string(), details)
}

pub fn of_frame(error: &FrameError) -> Status {
    status(error.code(), error.reason(), error.to_string())
}

pub fn of_alert(error: &AlertNotFound) -> Status {
    status(AlertNotFound::CODE, AlertNotFound::REASON, error.to_string())
}

pub fn of_reload(error: &ReloadError) -> Status {
    status(error.code(), error.reason(), error.to_string())
}

pub fn of_trial(error: &TrialError) -> Status {
    match error {
        TrialError::Refused(error) => of_question(error),
        error => status(error.code(), error.reason(), error.to_string()),
    }
}

pub fn of_clip(error: &ClipError) -> Status {
    status(error.code(), error.reason(), error.to_string())
}

/// Returns the path of a question's field in an `AskRequest`.
fn path_of(field: &str) -> &str {
    match field {
        "from" => "between.from",
        "to" => "between.to",
        "run" => "event.run",
        field => field,
    }
}

pub fn of_query(error: &QueryError) -> Status {
    match error {
        QueryError::NoWord => invalid("query", &error.to_string()),
        error => status(error.code(), error.reason(), error.to_string()),
    }
}

/// Converts a status to the message in which one camera's refusal is sent.
pub fn to_message(status: &Status) -> pb::Status {
    // The details of a status are this very message, encoded.
    pb::Status::decode(status.details()).unwrap_or_else(|_| pb::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

fn details(reason: &str) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, HashMap::new());
    details
}

fn grpc(code: Code) -> tonic::Code {
    match code {
        Code::NotFound => tonic::Code::NotFound,
        Code::OutOfRange => tonic::Code::OutOfRange,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::Internal => tonic::Code::Internal,
    }
}
