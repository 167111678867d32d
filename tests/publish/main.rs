//! Tests gRPC, MQTT, HTTP and the delivery of alerts from outside: a real mosquitto, a real gRPC
//! client, a real HTTP server, and a fake daemon with a journal and a few answers.

mod access;
mod api;
mod api_alerts;
mod api_cameras;
mod api_live;
mod authority;
mod broker;
#[path = "../support/browser.rs"]
mod browser;
mod browser_page;
mod client;
mod delivery;
mod delivery_dropped;
mod edges;
mod fake;
mod grpc;
mod home_assistant;
#[path = "../support/home_assistant.rs"]
mod home_assistant_process;
mod http;
mod interrupted;
mod mcp;
mod mcp_clients;
mod mqtt;
mod mqtt5;
mod mqtt_replay;
mod mqtt_tls;
mod page;
mod real_home_assistant;
mod receiver;
mod reference;
mod schemathesis;
mod stored_events;
mod tls;
mod top;
mod traces;
mod trials;

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use lookout::client::{ClientError, Filter, OnEnd, Output, Position};
use lookout::config::{ClientCertificate, Mqtt, MqttTls, Secret};
use lookout::event::*;
use lookout::frame::{Clock, FrameId, Span};
use lookout::interface::Interface;
use lookout::journal::{Deletion, EventFilter, Journal, MemoryJournal, Query};
use lookout::metrics::PrometheusHandle;
use lookout::proto;
use lookout::proto::lookout_service_client::LookoutServiceClient;
use lookout::publish::{self, Listener, PublishError, Timeouts};
use lookout::question::{Draft, Limits, Question, Range};
use lookout::service::*;
use rumqttc::{AsyncClient, MqttOptions, Packet, QoS};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use authority::*;
use broker::*;
use fake::*;

/// The run of the fake daemon.
const RUN: u64 = 1_760_000_000_000;

/// The position of the first event.
const FIRST: Position = Position { run: None, sequence: 1 };

const SOON: Duration = Duration::from_secs(20);

/// Connections that each server accepts in these tests.
const CONNECTIONS: usize = 24;
