//! Generated messages at every method of gRPC: fields that are missing, repeated, of other types and
//! with odd values, and bytes that are no message.

use std::collections::HashMap;

use lookout::proto;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, encode_key, encode_varint, skip_field};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::generated::{Connect, LONGEST, Odd, Seeds, assert_clear, withstands_generated};
use super::{SECONDS, channel};

/// A message of any type, encoded.
#[derive(Clone, Debug, Default, PartialEq)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, to: &mut impl BufMut) {
        to.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        from: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        skip_field(wire_type, tag, from, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// The methods with their requests, and the messages by their full names.
struct Schema {
    methods: Vec<(String, String)>,
    messages: HashMap<String, DescriptorProto>,
}

impl Schema {
    fn read() -> Schema {
        let mut schema = Schema { methods: Vec::new(), messages: HashMap::new() };
        for set in [proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
            let files = FileDescriptorSet::decode(set).expect("a schema");
            for file in files.file {
                let package = file.package().to_owned();
                for message in file.message_type {
                    let name = format!(".{package}.{}", message.name());
                    schema.messages.insert(name, message);
                }
                for service in file.service {
                    for method in &service.method {
                        let path = format!("/{package}.{}/{}", service.name(), method.name());
                        schema.methods.push((path, method.input_type().to_owned()));
                    }
                }
            }
        }
        assert!(schema.methods.len() > 20, "{:?}", schema.methods);
        schema
    }

    fn message(&self, odd: &mut Odd, name: &str, depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(message) = self.messages.get(name) else { return odd.bytes(20) };
        for field in &message.field {
            let most = if field.label() == Label::Repeated { odd.one(&[1, 3, 300]) } else { 2 };
            let times = if odd.chance(12) { most } else { usize::from(!odd.chance(3)) };
            (0..times).for_each(|_| self.field(odd, field, depth, &mut bytes));
        }
        bytes
    }

    fn field(&self, odd: &mut Odd, field: &FieldDescriptorProto, depth: usize, to: &mut Vec<u8>) {
        let number = field.number() as u32;
        let mut delimited = |wire: &[u8]| {
            encode_key(number, WireType::LengthDelimited, to);
            encode_varint(wire.len() as u64, to);
            to.extend_from_slice(wire);
        };
        if odd.chance(40) {
            // Another type than the schema's.
            match odd.0.random_range(0..3) {
                0 => delimited(&odd.bytes(20)),
                1 => {
                    encode_key(number, WireType::Varint, to);
                    encode_varint(odd.number(), to);
                }
                _ => {
                    encode_key(number, WireType::SixtyFourBit, to);
                    to.extend(odd.number().to_le_bytes());
                }
            }
            return;
        }
        match field.r#type() {
            Type::Message if depth < 6 => {
                let inner = match field.type_name() {
                    ".google.protobuf.Timestamp" | ".google.protobuf.Duration" => time(odd),
                    name => self.message(odd, name, depth + 1),
                };
                delimited(&inner);
            }
            Type::Message => delimited(&[]),
            Type::String if odd.chance(50) => delimited(&[0xff, 0xfe]),
            Type::String => delimited(text(odd, field.name()).as_bytes()),
            Type::Bytes => delimited(&odd.bytes(100)),
            Type::Double => {
                encode_key(number, WireType::SixtyFourBit, to);
                let special =
                    [0.0, -0.0, 0.5, 1.0, -1.0, 1e308, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE];
                to.extend(odd.one(&special).to_le_bytes());
            }
            Type::Bool | Type::Enum => {
                encode_key(number, WireType::Varint, to);
                let number = if odd.chance(8) { odd.number() } else { odd.0.random_range(0..6) };
                encode_varint(number, to);
            }
            _ => {
                encode_key(number, WireType::Varint, to);
                encode_varint(odd.number(), to);
            }
        }
    }
}

/// Encodes a time or a duration.
fn time(odd: &mut Odd) -> Vec<u8> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let seconds = match odd.0.random_range(0..4) {
        0 => odd.number(),
        1 => now,
        2 => now - 5,
        _ => odd.0.random_range(0..60),
    };
    let nanos = if odd.chance(3) { odd.number() } else { 0 };
    let mut bytes = Vec::new();
    for (number, value) in [(1, seconds), (2, nanos)] {
        encode_key(number, WireType::Varint, &mut bytes);
        encode_varint(value, &mut bytes);
    }
    bytes
}

fn text(odd: &mut Odd, field: &str) -> String {
    if odd.chance(3) {
        return odd.text();
    }
    let known: &[&str] = match field {
        "camera" | "cameras" | "name" => &["gate", "yard", "hall"],
        "rule" => &["car"],
        "question" | "query" => &["Is there a car?", "car"],
        "settings" => &["url = \"file:none.mp4\"", "fps = 1", "caption_prompt = \"Who?\"", ""],
        "schema" => &["{\"type\":\"boolean\"}"],
        _ => return odd.text(),
    };
    odd.one(known).to_owned()
}

async fn send(connect: Connect, seeds: Seeds) {
    let schema = Schema::read();
    let mut client = tonic::client::Grpc::new(channel(connect.grpc).await);
    for seed in seeds {
        let mut odd = Odd(StdRng::seed_from_u64(seed));
        // Each method in turn.
        let (method, input) = &schema.methods[seed as usize % schema.methods.len()];
        let mut message = schema.message(&mut odd, input, 0);
        odd.damage(&mut message);
        let start = &message[..message.len().min(300)];
        let request = format!("seed {seed}: {method} with {} bytes: {start:?}", message.len());
        client.ready().await.unwrap_or_else(|e| panic!("{request}: {e}"));
        let codec = tonic_prost::ProstCodec::<Raw, Raw>::default();
        let path = method.parse().expect("a path");
        let call = tonic::Request::new(tokio_stream::once(Raw(message)));
        let reply = timeout(LONGEST, client.streaming(call, path, codec)).await;
        let reply = reply.unwrap_or_else(|_| panic!("no reply: {request}"));
        let status = match reply {
            Err(status) => Some(status),
            // A stream whose messages do not come soon is open.
            Ok(reply) => match timeout(SECONDS(1) / 5, reply.into_inner().message()).await {
                Ok(Err(status)) => Some(status),
                _ => None,
            },
        };
        status.inspect(|status| assert_refused(&request, status));
    }
}

fn assert_refused(request: &str, status: &Status) {
    let is_malformed = status.message().contains("failed to decode Protobuf message");
    let breaks = [Code::Unknown, Code::Cancelled, Code::DataLoss, Code::Internal, Code::Ok];
    assert!(is_malformed || !breaks.contains(&status.code()), "{status}: {request}");
    assert_clear(request, status.message());
}

#[test]
fn generated_messages_do_no_harm() {
    withstands_generated("gRPC", 8, send);
}
