//! Tests the whole daemon: real cameras over RTSP, the demo's model, a real broker and a real disk.
//!
//! Most of these tests wait for cameras. They are one program, so that they wait at the same time.

#[path = "../support/browser.rs"]
mod browser;
#[path = "../support/home_assistant.rs"]
mod home_assistant_process;
#[path = "../support/host_clock.rs"]
mod host_clock;
#[path = "../support/mod.rs"]
mod support;

mod accuracy;
mod alert_delivery;
mod buffer_tiers;
mod chaos;
mod clock;
mod delivery;
mod demo;
mod failures;
mod footage;
mod home_assistant;
mod journal_faults;
mod long_questions;
mod masks;
mod mcp;
mod outages;
mod page;
mod page_alerts;
mod page_cameras;
mod page_sign_in;
mod reload;
mod reload_faults;
mod rules;
mod schemas;
mod secrets;
mod secrets_of_clients;
mod soak;
mod stored_frames;
mod streams;
mod trials;
mod windows;
