//! A tool: its definition, made of its types, and a call of it.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rmcp::RoleServer;
use rmcp::model::{
    CallToolResult, ContentBlock, JsonObject, ProgressNotificationParam, ProgressToken,
    Tool as Definition, ToolAnnotations,
};
use rmcp::service::{Peer, RequestContext};
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::{self, Role};
use crate::publish::http::STREAMS;
use crate::publish::http::refusal::Refusal;
use crate::service::Service;
use crate::sync::lock;

/// Minimum time between two reports of progress.
const REPORT: Duration = Duration::from_millis(500);

/// Formats of integers and floats, which JSON Schema does not define.
const NUMBER_FORMATS: [&str; 10] =
    ["uint", "uint8", "uint16", "uint32", "uint64", "int", "int32", "int64", "float", "double"];

/// A tool for agents.
pub trait Tool {
    const NAME: &str;
    const TITLE: &str;
    const DESCRIPTION: &str;
    /// The role that a caller needs.
    const ROLE: Role = Role::View;
    type Arguments: DeserializeOwned + JsonSchema + Send;
    type Output: Serialize + JsonSchema;

    fn run(
        call: Call,
        arguments: Self::Arguments,
    ) -> impl Future<Output = Result<Reply<Self::Output>, Refusal>> + Send;
}

/// The result of a tool.
pub struct Reply<T> {
    /// The result for programs.
    pub output: T,
    /// The result for a model: a text, and images if there are some.
    pub content: Vec<ContentBlock>,
}

impl<T> Reply<T> {
    pub fn new(output: T, text: impl Into<String>) -> Reply<T> {
        Reply { output, content: vec![ContentBlock::text(text)] }
    }
}

/// A call of a tool.
pub struct Call {
    pub service: Arc<dyn Service>,
    pub entry: access::Entry,
    pub streams: Arc<Semaphore>,
    pub progress: Progress,
}

impl Call {
    /// Takes a place among the streams for a call that may last long.
    pub fn place(&self) -> Result<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>), Refusal> {
        let place = self.streams.clone().try_acquire_owned();
        let place = place.map_err(|_| Refusal::too_many_streams(STREAMS))?;
        Ok((place, self.entry.stream()?))
    }
}

/// Reports the progress of a call, if its client asked for it.
pub struct Progress {
    to: Option<(Peer<RoleServer>, ProgressToken)>,
    reported: Mutex<Option<Instant>>,
}

impl Progress {
    pub fn new(context: &RequestContext<RoleServer>) -> Progress {
        let token = context.meta.get_progress_token();
        let to = token.map(|token| (context.peer.clone(), token));
        Progress { to, reported: Mutex::default() }
    }

    /// Reports that `done` of `total` are done, unless the last report is too new. `done` must
    /// rise.
    pub async fn report(&self, done: u32, total: Option<u32>, text: impl FnOnce() -> String) {
        let Some((peer, token)) = &self.to else { return };
        {
            let mut reported = lock(&self.reported);
            if reported.is_some_and(|at| at.elapsed() < REPORT) {
                return;
            }
            *reported = Some(Instant::now());
        }
        let mut progress = ProgressNotificationParam::new(token.clone(), f64::from(done));
        progress.total = total.map(f64::from);
        progress.message = Some(text());
        // A client that has gone needs no report.
        let _ = peer.notify_progress(progress).await;
    }
}

type Running = Pin<Box<dyn Future<Output = Result<CallToolResult, Refusal>> + Send>>;

/// A tool in the list of tools.
pub struct Entry {
    pub definition: Definition,
    pub role: Role,
    pub run: fn(Call, JsonObject) -> Running,
}

/// Returns a tool for the list.
pub fn entry<T: Tool + 'static>() -> Entry {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.meta_schema = None;
        settings.transforms.push(Box::new(RecursiveTransform(without_number_format)));
    });
    let read = settings.clone().with(|settings| settings.inline_subschemas = true);
    let input = read.for_deserialize().into_generator().into_root_schema_for::<T::Arguments>();
    let output = settings.for_serialize().into_generator().into_root_schema_for::<T::Output>();
    let annotations = ToolAnnotations::with_title(T::TITLE)
        .read_only(true)
        .destructive(false)
        .idempotent(true)
        .open_world(false);
    let definition = Definition::new(T::NAME, T::DESCRIPTION, object(input))
        .with_title(T::TITLE)
        .with_raw_output_schema(Arc::new(object(output)))
        .with_annotations(annotations);
    Entry { definition, role: T::ROLE, run: |call, arguments| Box::pin(run::<T>(call, arguments)) }
}

/// Returns a schema as an object, without its title, which is the name of a Rust type. Some clients
/// want a list of properties even if there is none.
fn object(schema: Schema) -> JsonObject {
    match schema.to_value() {
        Value::Object(mut schema) => {
            schema.remove("title");
            schema.entry("properties").or_insert_with(|| JsonObject::new().into());
            schema
        }
        _ => JsonObject::new(),
    }
}

fn without_number_format(schema: &mut Schema) {
    let format = schema.get("format").and_then(Value::as_str);
    if format.is_some_and(|format| NUMBER_FORMATS.contains(&format)) {
        schema.remove("format");
    }
}

async fn run<T: Tool>(call: Call, arguments: JsonObject) -> Result<CallToolResult, Refusal> {
    let arguments = serde_json::from_value(Value::Object(arguments))
        .map_err(|error| Refusal::invalid("arguments", format!("the arguments: {error}")))?;
    let Reply { output, content } = T::run(call, arguments).await?;
    let mut result = CallToolResult::success(content);
    result.structured_content = serde_json::to_value(output).ok();
    Ok(result)
}
