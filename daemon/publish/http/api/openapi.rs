//! The API's description as an OpenAPI 3.1 document. Its schemas are made of the types that the
//! handlers read and write.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::{
    Refusal, Status, ask, camera_changes, cameras, events, live, rules, search, session, timeline,
    trial,
};
use crate::event::Event;
use crate::journal::Deleted;
use crate::publish::QUESTION_FIELDS;
use crate::publish::http::guard;
use crate::service::{Reloaded, TrialMessage, TrialSummary};

/// Returns the document.
pub fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    let mut add = |path: &str, method: &str, operation: Value| {
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[method] = operation;
    };
    let access = "Returns what the caller may do.";
    add("/access", "get", operation(access, schemas.reply::<session::AccessInfo>()));
    let begin = operation(
        "Begins a session of a browser: checks the token, and sets a cookie that is sent instead.",
        schemas.reply::<session::AccessInfo>(),
    );
    add("/session", "post", schemas.with_body::<session::Login>(begin));
    let mut end = operation("Ends the session: removes the cookie.", json!({}));
    end["responses"]["204"] = json!({ "description": "Success." });
    add("/session", "delete", end);
    add("/status", "get", operation("Returns the state of the daemon.", schemas.reply::<Status>()));
    add(
        "/cameras",
        "get",
        operation("Returns every configured camera.", schemas.reply::<cameras::Cameras>()),
    );
    camera_changes(&mut schemas, &mut add);
    let frame = operation(
        "Returns the JPEG of a frame that an event lists, while the journal or the buffer has it.",
        json!({ "image/jpeg": {} }),
    );
    add(
        "/cameras/{camera}/frames/{frame}",
        "get",
        with_path(frame, &[("camera", "Name of the camera."), ("frame", "`RUN.NUMBER`.")]),
    );
    let live = operation(
        "Opens a WebSocket with the live video of a camera: messages of text have the type \
         `#/components/schemas/LiveMessage`; binary ones are the head of an MP4 file, then its \
         fragments.",
        json!({}),
    );
    schemas.define::<live::LiveMessage>();
    add("/cameras/{camera}/live", "get", with_path(live, &[("camera", "Name of the camera.")]));
    let mut replies = schemas.reply::<events::Events>();
    replies["text/event-stream"] = schemas.messages(&["Event", "MissedEvents"]);
    schemas.define::<events::MissedEvents>();
    let list = operation(
        "Returns events, the newest first. With `Accept: text/event-stream` it streams events as \
         they are published; the ID of a message in `Last-Event-ID` resumes the stream.",
        replies,
    );
    add("/events", "get", schemas.with_query::<events::EventsQuery>(list));
    let delete = operation(
        "Deletes the events about a span of time. With `more` in the reply, some are left.",
        schemas.reply::<Deleted>(),
    );
    add("/events", "delete", schemas.with_query::<events::DeleteQuery>(delete));
    let event = &[("event", "ID of the event, `RUN.SEQUENCE`.")];
    let one = operation("Returns an event.", schemas.reply::<Event>());
    add("/events/{event}", "get", with_path(one, event));
    let clip = operation(
        "Returns the clip of an event's alert, or ranges of it. It is refused with the reason \
         `CLIP_PENDING` while the clip is not complete, and with `CLIP_NOT_FOUND` if there is none.",
        json!({ "video/mp4": {} }),
    );
    add("/events/{event}/clip", "get", with_path(clip, event));
    let keep = operation("Exempts an event from retention.", schemas.reply::<Event>());
    let keep = schemas.with_body::<events::Keep>(keep);
    add("/events/{event}/keep", "post", with_path(keep, event));
    let found = operation("Searches captions and answers.", schemas.reply::<search::Found>());
    add("/search", "get", schemas.with_query::<search::SearchParameters>(found));
    let timeline = operation(
        "Counts the captions of a span of time, and names its gaps with their causes.",
        schemas.reply::<timeline::Timeline>(),
    );
    add("/timeline", "get", schemas.with_query::<timeline::TimelineParameters>(timeline));
    let mut replies = schemas.reply::<ask::Answers>();
    replies["text/event-stream"] = schemas.messages(&["Message"]);
    let asked = operation(
        "Asks a question about one or several cameras. With `Accept: text/event-stream` it \
         streams the answers as they are generated.",
        replies,
    );
    add("/ask", "post", with_json(asked, question()));
    add("/rules", "get", operation("Returns every rule.", schemas.reply::<rules::Rules>()));
    let tried = operation(
        "Tries a rule on the past, as a stream of server-sent events: first the trial, then each \
         window with the alerts that begin or end with it, and a summary. Nothing is published. \
         Closing the connection ends the trial.",
        json!({
            "text/event-stream":
                schemas.messages(&["TrialMessage", "TrialSummary", "TrialFailed"]),
        }),
    );
    schemas.define::<TrialMessage>();
    schemas.define::<TrialSummary>();
    schemas.define::<trial::TrialFailed>();
    add("/rules/try", "post", schemas.with_body::<trial::TryRule>(tried));
    let alerts = operation(
        "Returns alerts among the newest 1,000, the one that began last first.",
        schemas.reply::<rules::Alerts>(),
    );
    add("/alerts", "get", schemas.with_query::<rules::AlertsQuery>(alerts));
    let acknowledged = operation("Acknowledges an alert.", schemas.reply::<Event>());
    let acknowledged = schemas.with_body::<rules::Acknowledge>(acknowledged);
    let alert = &[("alert", "ID of the alert.")];
    add("/alerts/{alert}/acknowledge", "post", with_path(acknowledged, alert));
    schemas.define::<Refusal>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "lookout",
            "description": "What the cameras show, in words. Times are RFC 3339 in UTC.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/api/v1" }],
        "security": [{}, { "token": [] }, { "session": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas.definitions(),
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "session": { "type": "apiKey", "in": "cookie", "name": guard::SESSION },
            },
        },
    })
}

/// Describes the changes of cameras.
fn camera_changes(schemas: &mut Schemas, add: &mut impl FnMut(&str, &str, Value)) {
    use camera_changes::{ChangedCamera, ConfiguredCameras, NewCamera};
    let listed = operation(
        "Returns the cameras as the config has them, for those who may change them.",
        schemas.reply::<ConfiguredCameras>(),
    );
    add("/config/cameras", "get", listed);
    let added = operation(
        "Adds a camera, and stores it in a file of `drop_in_folder`. Unless `force` is set, the \
         camera must send a frame within 10 s.",
        schemas.reply::<Reloaded>(),
    );
    add("/cameras", "post", schemas.with_body::<NewCamera>(added));
    let camera = &[("camera", "Name of the camera.")];
    let changed = operation(
        "Changes settings of a camera that was added. The others stay.",
        schemas.reply::<Reloaded>(),
    );
    let changed = schemas.with_body::<ChangedCamera>(changed);
    add("/cameras/{camera}", "patch", with_path(changed, camera));
    for (path, method, summary) in [
        ("/cameras/{camera}", "delete", "Removes a camera that was added, and its file."),
        (
            "/cameras/{camera}/pause",
            "post",
            "Disconnects a camera until it is resumed, also after a restart.",
        ),
        ("/cameras/{camera}/resume", "post", "Connects a paused camera again."),
    ] {
        let operation = operation(summary, schemas.reply::<Reloaded>());
        add(path, method, with_path(operation, camera));
    }
}

/// Describes an operation whose successful reply has one of these contents.
fn operation(summary: &str, replies: Value) -> Value {
    let error = json!({ "schema": { "$ref": "#/components/schemas/Refusal" } });
    json!({
        "summary": summary,
        "parameters": [],
        "responses": {
            "200": { "description": "Success.", "content": replies },
            "default": {
                "description": "The request is refused.",
                "content": { "application/json": error },
            },
        },
    })
}

fn with_path(mut operation: Value, parameters: &[(&str, &str)]) -> Value {
    for (name, meaning) in parameters {
        let schema = match *name {
            "event" | "frame" => json!({ "type": "string", "pattern": "^[0-9]+\\.[0-9]+$" }),
            _ => json!({ "type": "string" }),
        };
        let parameter = json!({
            "name": name, "in": "path", "required": true, "description": meaning,
            "schema": schema,
        });
        push(&mut operation, parameter);
    }
    operation
}

fn push(operation: &mut Value, parameter: Value) {
    if let Some(parameters) = operation["parameters"].as_array_mut() {
        parameters.push(parameter);
    }
}

fn with_json(mut operation: Value, schema: Value) -> Value {
    let content = json!({ "application/json": { "schema": schema } });
    operation["requestBody"] = json!({ "required": true, "content": content });
    operation
}

/// Returns the schema of a question.
fn question() -> Value {
    let kinds = |name: &str| match name {
        "event" | "run" | "max_new_tokens" => json!(["integer", "null"]),
        "score_yes_no" => json!(["boolean", "null"]),
        "last" | "question_id" => json!(["string", "number", "null"]),
        _ => json!(["string", "null"]),
    };
    let mut fields = Map::new();
    for (name, meaning) in QUESTION_FIELDS {
        fields.insert((*name).into(), json!({ "type": kinds(name), "description": meaning }));
    }
    fields.insert(
        "cameras".into(),
        json!({
            "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 256,
            "description": "Names of the cameras. Required.",
        }),
    );
    json!({
        "type": "object", "properties": fields, "required": ["cameras", "question"],
        "additionalProperties": false,
    })
}

/// The schemas of the types, and those that they refer to.
struct Schemas {
    /// Makes the schemas of what the daemon writes, and of what it reads.
    written: SchemaGenerator,
    read: SchemaGenerator,
}

impl Schemas {
    fn new() -> Schemas {
        let settings = SchemaSettings::draft2020_12()
            .with(|settings| settings.definitions_path = "/components/schemas".into());
        Schemas {
            written: settings.clone().for_serialize().into_generator(),
            read: settings.for_deserialize().into_generator(),
        }
    }

    fn define<T: JsonSchema>(&mut self) {
        self.written.subschema_for::<T>();
    }

    /// Returns the content of a reply in JSON.
    fn reply<T: JsonSchema>(&mut self) -> Value {
        json!({ "application/json": { "schema": self.written.subschema_for::<T>() } })
    }

    /// Returns the content of a stream whose messages have one of these types as data.
    fn messages(&self, names: &[&str]) -> Value {
        let links: Vec<_> =
            names.iter().map(|name| format!("`#/components/schemas/{name}`")).collect();
        let meaning = format!("Server-sent events; the data of each is {}.", links.join(" or "));
        // No type: some tools apply the schema to the body, others to each event.
        json!({ "schema": { "description": meaning } })
    }

    /// Adds the fields of a type as parameters of the query string.
    fn with_query<T: JsonSchema>(&mut self, mut operation: Value) -> Value {
        let query = T::json_schema(&mut self.read);
        let list = |name: &str| query.get(name).cloned().unwrap_or_default();
        let required = list("required");
        let is_required =
            |name: &str| required.as_array().is_some_and(|names| names.iter().any(|n| n == name));
        for (name, schema) in list("properties").as_object().into_iter().flatten() {
            let mut schema = schema.clone();
            let meaning = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            let parameter = json!({
                "name": name, "in": "query", "required": is_required(name),
                "description": meaning, "schema": schema,
            });
            push(&mut operation, parameter);
        }
        operation
    }

    fn with_body<T: JsonSchema>(&mut self, operation: Value) -> Value {
        let schema: Schema = T::json_schema(&mut self.read);
        with_json(operation, schema.to_value())
    }

    fn definitions(mut self) -> Map<String, Value> {
        let mut all = self.read.take_definitions(true);
        all.extend(self.written.take_definitions(true));
        all
    }
}
