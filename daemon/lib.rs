//! lookout watches RTSP cameras and describes in text what happens. See `ARCHITECTURE.md` for an
//! overview.

pub mod access;
pub mod access_unit;
mod allocator;
pub mod app;
pub mod assets;
mod backoff;
mod bench;
mod byte_lru;
pub mod camera;
pub mod cameras;
pub mod cli;
pub mod client;
pub mod clips;
pub mod config;
mod core_dumps;
#[cfg(feature = "demo")]
pub mod demo;
pub mod disk;
pub mod embedding;
pub mod engine;
pub mod evaluation;
pub mod event;
pub mod event_store;
mod excerpt;
mod exit;
mod file_limit;
pub mod frame;
pub mod heartbeat;
mod http_client;
mod hub;
pub mod inspection;
pub mod interface;
pub mod journal;
pub mod language;
pub mod loaded;
pub mod logging;
pub mod masks;
mod mcp_stdio;
pub mod metrics;
pub mod model;
pub mod moment;
mod onvif;
pub mod publish;
pub mod question;
pub mod reload;
pub mod rules;
pub mod run_clock;
mod schedule;
pub mod service;
pub mod slowfast;
pub mod state;
pub mod sync;
mod systemd;
mod targets;
pub mod timeline;
pub mod tls;
pub mod trace_parent;
pub mod vision;
mod wire;
mod workers;

/// Types generated from `proto/lookout/v1/lookout.proto`.
pub mod proto {
    #![allow(missing_docs, clippy::large_enum_variant)]
    tonic::include_proto!("lookout.v1");
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lookout.bin"));
}
