//! Compares `docs/api.md` with the schema, the topics and real payloads. With `UPDATE_DOCS=1` the
//! file is rewritten instead.

use std::collections::HashMap;
use std::fmt::Write as _;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, ServiceDescriptorProto,
};

use super::*;

/// Field numbers of `FileDescriptorProto` and its parts, of which source locations are made.
const MESSAGE: i32 = 4;
const ENUM: i32 = 5;
const SERVICE: i32 = 6;
const MEMBER: i32 = 2;

#[tokio::test]
async fn the_api_document_matches_the_schema_and_the_payloads() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md");
    let document = std::fs::read_to_string(path).unwrap();
    let parts = [
        ("methods and messages", Schema::read().reference()),
        ("topics", topics()),
        ("payloads", payloads().await),
        ("question fields", fields(publish::QUESTION_FIELDS)),
        ("acknowledgement fields", fields(publish::mqtt::ACKNOWLEDGEMENT_FIELDS)),
    ];
    let wanted = parts.iter().fold(document.clone(), |document, (name, text)| {
        let begin = format!("<!-- generated: {name} -->\n");
        let end = format!("<!-- end of: {name} -->\n");
        let (before, rest) = document.split_once(&begin).expect(name);
        let (_, after) = rest.split_once(&end).expect(name);
        format!("{before}{begin}\n{text}\n{end}{after}")
    });
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, wanted).unwrap();
    } else {
        assert!(
            document == wanted,
            "docs/api.md differs from the code; run UPDATE_DOCS=1 cargo test --test publish"
        );
    }
}

fn topics() -> String {
    let mut text = "| topic | retained | content |\n|---|---|---|\n".to_owned();
    for topic in publish::mqtt::TOPICS {
        let retained = if topic.retained { "yes" } else { "no" };
        let _ = writeln!(text, "| `lookout/{}` | {retained} | {} |", topic.name, topic.content);
    }
    text
}

fn fields(fields: &[(&str, &str)]) -> String {
    let mut text = "| field | meaning |\n|---|---|\n".to_owned();
    for (field, meaning) in fields {
        let _ = writeln!(text, "| `{field}` | {meaning} |");
    }
    text
}

/// Returns an example of each payload that is JSON.
async fn payloads() -> String {
    let mut answer = answer("q1", "Yes, in 1 of 2 parts.");
    answer.parts = vec![part("Yes.")];
    answer.summary_method = Some(SummaryMethod::YesNo);
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_760_000_009_000);
    let event = |sequence, body| {
        let id = EventId { run: RUN, sequence };
        let uuid =
            uuid::Uuid::from_u128(0x0199_c8a2_b428_7000_8000_0000_0000_0000 | u128::from(sequence));
        let event = Event { id, uuid, published_at: at, camera: "gate".into(), kept: false, body };
        serde_json::to_string_pretty(&event).unwrap()
    };
    let mut text = String::new();
    for (topic, payload) in [
        ("lookout/gate/caption", event(7, caption("A red car drives from left to right."))),
        ("lookout/gate/answer", event(8, Body::Answer(answer))),
        ("lookout/gate/answer", refusal().await),
        ("lookout/gate/status", event(9, Body::CameraStatus(status(CameraState::Lost)))),
    ] {
        let _ = write!(text, "`{topic}`:\n\n```json\n{payload}\n```\n\n");
    }
    text.trim_end().to_owned() + "\n"
}

/// Returns the refusal that a broker delivers.
async fn refusal() -> String {
    let broker = Broker::start();
    let daemon = Daemon::start(10).await;
    daemon.service.answers_with(|_| {
        Err(AskError::QueueFull { waiting: 8, retry_after: Duration::from_secs(4) })
    });
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    let mut heard = Subscriber::connect(broker.port, "lookout/#").await;
    heard.until("lookout/available", "online").await;
    heard.say("lookout/gate/ask", r#"{"question_id":"q2","question":"Open?"}"#).await;
    let refusal = heard.json_on("lookout/gate/answer").await;
    publisher.stop().await;
    serde_json::to_string_pretty(&refusal).unwrap()
}

/// The schema with its comments.
struct Schema {
    file: FileDescriptorProto,
    comments: HashMap<Vec<i32>, String>,
}

impl Schema {
    fn read() -> Schema {
        let files = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap().file;
        let ours = |file: &FileDescriptorProto| file.package() == "lookout.v1";
        let file = files.into_iter().find(ours).expect("lookout.v1");
        let locations = file.source_code_info.clone().expect("comments").location;
        let comments = locations.into_iter().filter_map(|location| {
            let comment = location.leading_comments?;
            Some((location.path, comment))
        });
        Schema { comments: comments.collect(), file }
    }

    fn reference(&self) -> String {
        let mut text = String::new();
        for (at, service) in self.file.service.iter().enumerate() {
            self.service(at as i32, service, &mut text);
        }
        for (at, message) in self.file.message_type.iter().enumerate() {
            self.message(at as i32, message, &mut text);
        }
        for (at, one) in self.file.enum_type.iter().enumerate() {
            self.enumeration(at as i32, one, &mut text);
        }
        text
    }

    fn service(&self, at: i32, service: &ServiceDescriptorProto, text: &mut String) {
        for (method, name) in service.method.iter().enumerate() {
            let stream = if name.server_streaming() { "stream " } else { "" };
            let (input, output) = (last(name.input_type()), last(name.output_type()));
            let _ = write!(
                text,
                "### {}\n\n`{}({input}) returns ({stream}{output})`\n\n",
                name.name(),
                name.name()
            );
            let comment = self.comments.get(&vec![SERVICE, at, MEMBER, method as i32]);
            let lines = comment.expect("a comment").lines().map(str::trim);
            *text += &lines.collect::<Vec<_>>().join("\n");
            *text += "\n\n";
        }
    }

    fn message(&self, at: i32, message: &DescriptorProto, text: &mut String) {
        let about = self.comment(&[MESSAGE, at]);
        let _ = write!(text, "### {}\n\n{}\n", message.name(), wrapped(&about));
        *text += "| number | field | type | meaning |\n|--:|---|---|---|\n";
        for (number, field) in message.field.iter().enumerate() {
            let about = self.comment(&[MESSAGE, at, MEMBER, number as i32]);
            let kind = type_of(field, message);
            let (number, name) = (field.number(), field.name());
            let _ = writeln!(text, "| {number} | `{name}` | {kind} | {about} |");
        }
        *text += "\n";
    }

    fn enumeration(&self, at: i32, one: &EnumDescriptorProto, text: &mut String) {
        let about = self.comment(&[ENUM, at]);
        let _ = write!(text, "### {}\n\n{}\n", one.name(), wrapped(&about));
        *text += "| number | value | meaning |\n|--:|---|---|\n";
        for (number, value) in one.value.iter().enumerate() {
            let about = self.comment(&[ENUM, at, MEMBER, number as i32]);
            let _ = writeln!(text, "| {} | `{}` | {about} |", value.number(), value.name());
        }
        *text += "\n";
    }

    /// Returns a comment as one line.
    fn comment(&self, path: &[i32]) -> String {
        let comment = self.comments.get(path).expect("a comment");
        comment.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn type_of(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum => {
            let name = field.type_name().trim_start_matches('.');
            name.trim_start_matches("lookout.v1.").to_owned()
        }
        plain => plain.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    if field.proto3_optional() {
        return format!("optional `{kind}`");
    }
    match (field.label(), field.oneof_index) {
        (Label::Repeated, _) => format!("repeated `{kind}`"),
        (_, Some(of)) => format!("`{kind}`, one of `{}`", message.oneof_decl[of as usize].name()),
        _ => format!("`{kind}`"),
    }
}

/// Breaks a paragraph into lines of at most 100 columns.
fn wrapped(paragraph: &str) -> String {
    let mut lines = vec![String::new()];
    for word in paragraph.split(' ') {
        let line = lines.last_mut().expect("a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() > 100 {
            lines.push(word.to_owned());
        } else {
            *line += " ";
            *line += word;
        }
    }
    lines.join("\n") + "\n"
}
