//! Wraps the client library's two protocol versions in one client, one event loop and one set of
//! events.
//!
//! MQTT 5 is tried first: its brokers accept a packet size limit, report their own, and give a
//! reason for a refusal. A broker that does not speak it gets MQTT 3.1.1.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5 as packets;
use rumqttc::{Outgoing, Packet, QoS};

use super::message::Message;
use super::options::{self, Access, LARGEST_PACKET};
use super::outbox::WINDOW;
use crate::tls;

/// Maximum number of queued requests: the window, five subscriptions and the DISCONNECT.
const REQUESTS: usize = WINDOW + 6;

/// Additional time for a ping beyond twice the keep-alive.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V5,
    V3,
}

impl Version {
    pub fn other(self) -> Version {
        match self {
            Version::V5 => Version::V3,
            Version::V3 => Version::V5,
        }
    }
}

/// An event on a connection.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// The broker accepted the connection. `largest` is the largest packet it takes in bytes, if it
    /// reports one.
    Connected {
        largest: Option<usize>,
    },
    Publish {
        topic: String,
        payload: Bytes,
        retain: bool,
        reply_to: Option<ReplyTo>,
    },
    /// A message was sent under this packet id.
    Sent(u16),
    Taken(u16),
    /// The broker acknowledged the message with a reason for not accepting it.
    Refused(u16, String),
    SubscriptionRefused,
    /// The DISCONNECT was sent.
    Disconnecting,
    /// An event of no interest.
    Other,
}

/// The topic on which an MQTT 5 client expects a reply, and the data by which it recognises it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplyTo {
    pub topic: String,
    pub correlation: Option<Vec<u8>>,
}

/// The end of a connection: the reason as text, and its cause.
#[derive(Debug)]
pub struct Break {
    pub why: String,
    pub cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The broker ended the connection, perhaps because of the last message sent.
    Closed,
    /// The broker sent a packet larger than [`LARGEST_PACKET`].
    TooLarge,
    /// The broker does not speak this version.
    Version,
    Other,
}

pub enum Client {
    V5(v5::AsyncClient),
    V3(rumqttc::AsyncClient),
}

pub enum Loop {
    V5(Box<v5::EventLoop>),
    V3(Box<rumqttc::EventLoop>),
}

/// Creates a client with a clean session. It connects at the first [`Loop::turn`].
pub fn open(version: Version, access: Access) -> (Client, Loop) {
    match version {
        Version::V5 => {
            let (client, turns) = v5::AsyncClient::new(options::v5(access), REQUESTS);
            (Client::V5(client), Loop::V5(Box::new(turns)))
        }
        Version::V3 => {
            let (client, mut turns) = rumqttc::AsyncClient::new(options::v3(access), REQUESTS);
            turns.set_network_options(options::network());
            (Client::V3(client), Loop::V3(Box::new(turns)))
        }
    }
}

impl Client {
    pub fn publish(&self, message: Message) -> Result<(), String> {
        let properties = match self {
            Client::V5(_) => properties(&message),
            Client::V3(_) => packets::PublishProperties::default(),
        };
        let Message { topic, payload, retain, .. } = message;
        match self {
            Client::V5(client) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client
                    .try_publish_with_properties(topic, qos, retain, payload, properties)
                    .map_err(|e| e.to_string())
            }
            Client::V3(client) => client
                .try_publish(topic, QoS::AtLeastOnce, retain, payload)
                .map_err(|e| e.to_string()),
        }
    }

    pub fn subscribe(&self, topic: String) -> Result<(), String> {
        match self {
            Client::V5(client) => client
                .try_subscribe(topic, v5::mqttbytes::QoS::AtLeastOnce)
                .map_err(|e| e.to_string()),
            Client::V3(client) => {
                client.try_subscribe(topic, QoS::AtLeastOnce).map_err(|e| e.to_string())
            }
        }
    }

    /// Sends a DISCONNECT. Returns false if it cannot be queued.
    pub fn disconnect(&self) -> bool {
        match self {
            Client::V5(client) => client.try_disconnect().is_ok(),
            Client::V3(client) => client.try_disconnect().is_ok(),
        }
    }
}

impl Loop {
    /// Takes the events that arrived before the end of the connection.
    pub fn rest(&mut self) -> Vec<Heard> {
        match self {
            Loop::V5(turns) => turns.state.events.drain(..).map(heard_v5).collect(),
            Loop::V3(turns) => turns.state.events.drain(..).map(heard_v3).collect(),
        }
    }

    /// Waits for the next event of the connection. The first call connects.
    pub async fn turn(&mut self) -> Result<Heard, Break> {
        // The client pings at this interval, so events keep occurring. If none does, the client
        // cannot write.
        let ping = match self {
            Loop::V5(turns) => turns.options.keep_alive(),
            Loop::V3(turns) => turns.mqtt_options.keep_alive(),
        };
        let turned = async {
            match self {
                Loop::V5(turns) => turns.poll().await.map(heard_v5).map_err(break_v5),
                Loop::V3(turns) => turns.poll().await.map(heard_v3).map_err(break_v3),
            }
        };
        tokio::time::timeout(2 * ping + GRACE, turned).await.unwrap_or_else(|_| {
            Err(Break { why: "the broker takes nothing".into(), cause: Cause::Other })
        })
    }
}

fn properties(message: &Message) -> packets::PublishProperties {
    let seconds = |expiry: Duration| u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX);
    packets::PublishProperties {
        payload_format_indicator: message.is_utf8().then_some(1),
        message_expiry_interval: message.expiry.map(seconds),
        correlation_data: message.correlation.clone().map(Bytes::from),
        user_properties: message.user_properties(),
        content_type: message.content_type().map(str::to_owned),
        ..packets::PublishProperties::default()
    }
}

fn heard_v5(event: v5::Event) -> Heard {
    use packets::{Packet, PubAckReason, SubscribeReasonCode};
    match event {
        v5::Event::Incoming(Packet::ConnAck(ack)) => {
            let largest = ack.properties.and_then(|properties| properties.max_packet_size);
            Heard::Connected { largest: largest.map(|bytes| bytes as usize) }
        }
        v5::Event::Incoming(Packet::Publish(publish)) => Heard::Publish {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
            retain: publish.retain,
            reply_to: publish.properties.and_then(|properties| {
                let correlation = properties.correlation_data.map(|data| data.to_vec());
                Some(ReplyTo { topic: properties.response_topic?, correlation })
            }),
        },
        v5::Event::Incoming(Packet::PubAck(ack)) => match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Heard::Taken(ack.pkid),
            reason => {
                let said = ack.properties.and_then(|properties| properties.reason_string);
                Heard::Refused(ack.pkid, said.unwrap_or_else(|| format!("{reason:?}")))
            }
        },
        v5::Event::Incoming(Packet::SubAck(ack)) => {
            let well = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            if ack.return_codes.iter().all(well) {
                Heard::Other
            } else {
                Heard::SubscriptionRefused
            }
        }
        v5::Event::Outgoing(outgoing) => sent(&outgoing),
        v5::Event::Incoming(_) => Heard::Other,
    }
}

fn heard_v3(event: rumqttc::Event) -> Heard {
    use rumqttc::{Event, SubscribeReasonCode};
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Heard::Connected { largest: None },
        Event::Incoming(Packet::Publish(publish)) => Heard::Publish {
            topic: publish.topic,
            payload: publish.payload,
            retain: publish.retain,
            reply_to: None,
        },
        Event::Incoming(Packet::PubAck(ack)) => Heard::Taken(ack.pkid),
        Event::Incoming(Packet::SubAck(ack))
            if ack.return_codes.contains(&SubscribeReasonCode::Failure) =>
        {
            Heard::SubscriptionRefused
        }
        Event::Outgoing(outgoing) => sent(&outgoing),
        Event::Incoming(_) => Heard::Other,
    }
}

fn sent(outgoing: &Outgoing) -> Heard {
    match outgoing {
        Outgoing::Publish(packet) => Heard::Sent(*packet),
        Outgoing::Disconnect => Heard::Disconnecting,
        _ => Heard::Other,
    }
}

fn break_v5(error: v5::ConnectionError) -> Break {
    use packets::{ConnectReturnCode, DisconnectReasonCode as Said};
    use v5::mqttbytes::Error as Bad;
    use v5::{ConnectionError, StateError};
    let because = |cause, why: String| Break { why, cause };
    match error {
        ConnectionError::Io(error) => because(Cause::Other, said(&error)),
        ConnectionError::Timeout(_) => because(Cause::Other, "no answer in time".into()),
        ConnectionError::ConnectionRefused(ConnectReturnCode::UnsupportedProtocolVersion)
        // This is the answer of an MQTT 3.1.1 broker to an unknown version.
        | ConnectionError::MqttState(StateError::Deserialization(
            Bad::InvalidConnectReturnCode(1),
        )) => because(Cause::Version, "it does not speak MQTT 5".into()),
        ConnectionError::ConnectionRefused(code) => {
            because(Cause::Other, format!("refused: {code:?}"))
        }
        ConnectionError::MqttState(error) => match error {
            StateError::ServerDisconnect { reason_code: Said::SessionTakenOver, .. } => because(
                Cause::Other,
                "another client has connected with the same client_id".into(),
            ),
            StateError::ServerDisconnect {
                reason_code:
                    reason @ (Said::ServerBusy
                    | Said::ServerShuttingDown
                    | Said::KeepAliveTimeout
                    | Said::AdministrativeAction
                    | Said::UseAnotherServer
                    | Said::ServerMoved
                    | Said::ConnectionRateExceeded
                    | Said::MaximumConnectTime),
                ..
            } => because(Cause::Other, format!("the broker says {reason:?}")),
            StateError::ServerDisconnect { reason_code, reason_string } => {
                let reason = reason_string.unwrap_or_else(|| format!("{reason_code:?}"));
                because(Cause::Closed, format!("the broker says {reason}"))
            }
            StateError::Deserialization(Bad::PayloadSizeLimitExceeded { pkt_size, .. }) => {
                because(Cause::TooLarge, too_large(pkt_size))
            }
            StateError::Io(error) | StateError::Deserialization(Bad::Io(error)) => {
                because(of_io(&error), said(&error))
            }
            // The library treats an acknowledgement with an unknown reason code as malformed.
            StateError::Deserialization(error) => {
                because(Cause::Closed, format!("an answer of the broker cannot be read: {error}"))
            }
            StateError::ConnectionAborted
            | StateError::OutgoingPacketTooLarge { .. } => {
                because(Cause::Closed, error.to_string())
            }
            error => because(Cause::Other, error.to_string()),
        },
        other => because(Cause::Other, said(&other)),
    }
}

fn break_v3(error: rumqttc::ConnectionError) -> Break {
    use rumqttc::mqttbytes::Error as Bad;
    use rumqttc::{ConnectReturnCode, ConnectionError, StateError};
    let because = |cause, why: String| Break { why, cause };
    match error {
        ConnectionError::Io(error) => because(Cause::Other, said(&error)),
        ConnectionError::NetworkTimeout => because(Cause::Other, "no answer in time".into()),
        ConnectionError::ConnectionRefused(ConnectReturnCode::RefusedProtocolVersion) => {
            because(Cause::Version, "it does not speak MQTT 3.1.1".into())
        }
        ConnectionError::ConnectionRefused(code) => {
            because(Cause::Other, format!("refused: {code:?}"))
        }
        ConnectionError::MqttState(error) => match error {
            StateError::Deserialization(Bad::PayloadSizeLimitExceeded(bytes)) => {
                because(Cause::TooLarge, too_large(bytes))
            }
            StateError::Io(error) | StateError::Deserialization(Bad::Io(error)) => {
                because(of_io(&error), said(&error))
            }
            StateError::ConnectionAborted => because(Cause::Closed, error.to_string()),
            error => because(Cause::Other, error.to_string()),
        },
        other => because(Cause::Other, said(&other)),
    }
}

/// Describes an error. Those of TLS name a fix.
fn said(error: &(dyn std::error::Error + 'static)) -> String {
    tls::explained(error).unwrap_or_else(|| error.to_string())
}

fn of_io(error: &std::io::Error) -> Cause {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Cause::Closed,
        _ => Cause::Other,
    }
}

fn too_large(bytes: usize) -> String {
    format!("the broker sent a packet of {bytes} bytes; {LARGEST_PACKET} are taken")
}
