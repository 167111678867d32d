//! Delivers alerts to webhooks and by ntfy.
//!
//! [`run`] reads the journal for one target and sends one event at a time. `webhook` and `ntfy`
//! make the requests, `http` sends them.
//!
//! Guarantees: every event of an alert that the target wants, that the journal still holds and that
//! is not older than the target's `catch_up`, is accepted by the target at least once and in order,
//! with a journal on disk also after a restart of the daemon. After a failure the same event is
//! sent again, with the same `Idempotency-Key`. An event that the target refuses is dropped and
//! counted, and so is one that it answers with a status 5xx while it accepts the next one (`blame`).
//! Each target has its own task and position, so that one that is unreachable delays nobody.

mod blame;
mod http;
mod log;
mod ntfy;
mod picture;
mod sample;
mod template;
mod webhook;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::PublishError;
use super::traces::Recorder;
use crate::backoff::Backoff;
use crate::config::{self, Rule};
use crate::event::{Alert, Body, Event, EventId};
use crate::interface::Interface;
use crate::journal::{Cursor, Read};
use crate::metrics::{self, DeliveryResult};
use crate::service::Service;
use blame::Blame;
use http::{Failure, HttpRequest};
use log::Log;
use ntfy::Ntfy;
use picture::Picture;
use webhook::Webhook;

const AGENT: &str = concat!("lookout/", env!("CARGO_PKG_VERSION"));

/// Maximum time for which `Retry-After` is honoured.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Maximum time for the remaining alerts after the stop was requested.
const FAREWELL: Duration = Duration::from_secs(1);

/// Maximum number of events other than alerts that are read without storing the position.
const EVENTS_BETWEEN_POSITIONS: u64 = 64;

/// A target whose template has been checked.
pub struct Target {
    config: config::Target,
    format: Format,
}

enum Format {
    Webhook(Box<Webhook>),
    Ntfy(Ntfy),
}

/// The secrets of a target, read from their files for one attempt.
struct Secrets {
    /// Headers with their values.
    headers: Vec<(String, String)>,
    signature_key: Option<Vec<u8>>,
}

impl Target {
    /// Checks the template with a sample alert.
    pub fn new(config: config::Target) -> Result<Target, String> {
        let format = match config.format.clone() {
            config::Format::Webhook(webhook) => {
                let webhook = Webhook::new(webhook);
                let webhook = webhook.map_err(|why| format!("webhook {:?}: {why}", config.name))?;
                Format::Webhook(Box::new(webhook))
            }
            config::Format::Ntfy(ntfy) => Format::Ntfy(Ntfy::new(ntfy)),
        };
        Ok(Target { config, format })
    }

    pub fn config(&self) -> &config::Target {
        &self.config
    }

    pub fn interface(&self) -> Interface {
        match self.format {
            Format::Webhook(_) => Interface::Webhook,
            Format::Ntfy(_) => Interface::Ntfy,
        }
    }

    /// Reads the files of the target, without contacting it.
    pub fn check_files(&self) -> Result<(), String> {
        self.secrets()?;
        http::tls(&self.config).map(drop)
    }

    /// Makes one attempt to deliver an alert that never happened.
    pub async fn send_sample(self) -> Result<(), String> {
        let event = sample::event();
        let Body::Alert(alert) = &event.body else { return Ok(()) };
        match Arc::new(self).attempt((&event, alert), None).await {
            Ok(()) => Ok(()),
            Err(Failure::Refused { why, .. } | Failure::Temporary { why, .. }) => Err(why),
        }
    }

    fn secrets(&self) -> Result<Secrets, String> {
        let config = &self.config;
        let read = |secret: &config::Secret| secret.read().map_err(|error| error.to_string());
        let mut headers = Vec::new();
        if let Some(token) = &config.token {
            let token = read(token)?;
            if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
                return Err("token_file: wanted one line of ASCII letters, digits and signs".into());
            }
            headers.push(("Authorization".to_owned(), format!("Bearer {token}")));
        }
        let mut signature_key = None;
        if let config::Format::Webhook(webhook) = &config.format {
            for (name, value) in &webhook.headers {
                headers.push((name.clone(), read(value)?));
            }
            if let Some(key) = &webhook.signature_key {
                signature_key = Some(read(key)?.into_bytes());
            }
        }
        Ok(Secrets { headers, signature_key })
    }

    fn wants_picture(&self) -> bool {
        match &self.format {
            Format::Webhook(webhook) => webhook.wants_picture(),
            Format::Ntfy(ntfy) => ntfy.wants_picture(),
        }
    }

    fn request(
        &self,
        event: (&Event, &Alert),
        picture: Option<&Picture>,
        secrets: &Secrets,
    ) -> Result<HttpRequest, String> {
        let url = self.config.endpoint.url();
        match &self.format {
            Format::Webhook(webhook) => webhook.request(url, event, picture, secrets),
            Format::Ntfy(ntfy) => ntfy.request(url, event, picture, secrets),
        }
    }

    /// Makes one attempt to deliver an event.
    async fn attempt(
        self: &Arc<Target>,
        event: (&Event, &Alert),
        picture: Option<&Picture>,
    ) -> Result<(), Failure> {
        let target = self.clone();
        // The files are read for each attempt, so that a change takes effect.
        let read = move || Ok((target.secrets()?, http::tls(&target.config)?));
        let read = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string());
        let (secrets, tls) = read.and_then(|read| read).map_err(Failure::temporary)?;
        let request = self.request(event, picture, &secrets).map_err(Failure::refused)?;
        http::send(request, tls, &self.config).await
    }
}

/// Delivers until `stop`, and at most a second longer. After a panic, the next run continues behind
/// the event at which this one stopped.
pub async fn run(
    delivery: Arc<Mutex<Delivery>>,
    stop: CancellationToken,
) -> Result<(), PublishError> {
    let mut delivery = delivery.lock().await;
    delivery.leave_out_what_panicked();
    delivery.deliver(&End { stop, at: OnceLock::new() }).await;
    Ok(())
}

/// Returns the names of the rules whose alerts go to other targets only.
pub fn excluded_rules(target: &Arc<str>, rules: &[Rule]) -> HashSet<Arc<str>> {
    let excludes = |rule: &&Rule| rule.deliver.as_ref().is_some_and(|to| !to.contains(target));
    rules.iter().filter(excludes).map(|rule| rule.name.clone()).collect()
}

/// The request to stop, and the time at which the delivery ends.
struct End {
    stop: CancellationToken,
    at: OnceLock<Instant>,
}

impl End {
    /// Waits until the remaining time after the stop has passed.
    async fn passed(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep_until(*self.at.get_or_init(|| Instant::now() + FAREWELL)).await;
    }
}

/// The delivery to one target: the state that survives a run that panicked.
pub struct Delivery {
    target: Arc<Target>,
    /// Names of the rules whose alerts go to other targets only.
    excluded: HashSet<Arc<str>>,
    service: Arc<dyn Service>,
    /// Records the traces, if the config enables them.
    recorder: Option<Arc<Recorder>>,
    /// The journal's name of this reader.
    reader: String,
    /// The event up to which the target needs no event any more.
    done: EventId,
    /// The event up to which the journal knows that.
    acknowledged: EventId,
    /// The event that is being sent.
    in_work: Option<EventId>,
    /// Time at which this run's delivery was made.
    since: Instant,
    log: Log,
}

impl Delivery {
    /// Creates the delivery. A target that the journal has no position of begins with this run.
    pub fn shared(
        target: Target,
        rules: &[Rule],
        service: Arc<dyn Service>,
        recorder: Option<Arc<Recorder>>,
    ) -> Arc<Mutex<Delivery>> {
        let begin = EventId { run: service.journal().run(), sequence: 0 };
        Delivery::shared_after(begin, target, rules, service, recorder)
    }

    /// Creates a delivery that begins after `begin`, unless the journal has a position of the
    /// target.
    pub fn shared_after(
        begin: EventId,
        target: Target,
        rules: &[Rule],
        service: Arc<dyn Service>,
        recorder: Option<Arc<Recorder>>,
    ) -> Arc<Mutex<Delivery>> {
        let name = target.config.name.clone();
        let reader = format!("{} {name}", target.interface().name());
        let journal = service.journal();
        let done = journal.acknowledged(&reader).unwrap_or(begin);
        journal.acknowledge(&reader, done);
        metrics::delivery_failing(&name, false);
        Arc::new(Mutex::new(Delivery {
            excluded: excluded_rules(&name, rules),
            log: Log::new(target.interface(), &target.config),
            target: Arc::new(target),
            service,
            recorder,
            reader,
            done,
            acknowledged: done,
            in_work: None,
            since: Instant::now(),
        }))
    }

    /// Returns the event up to which the target needs no event any more.
    pub fn done(&self) -> EventId {
        self.done
    }

    fn name(&self) -> &str {
        &self.target.config.name
    }

    fn leave_out_what_panicked(&mut self) {
        if let Some(id) = self.in_work.take() {
            self.log.refused("sending it panicked");
            metrics::delivery_attempt(self.name(), DeliveryResult::Refused);
            self.advance(id);
        }
    }

    async fn deliver(&mut self, end: &End) {
        let journal = self.service.journal().clone();
        let mut cursor = journal.read_from(Some(self.done.run), self.done.sequence + 1);
        loop {
            let read = tokio::select! {
                read = cursor.next() => read,
                () = end.stop.cancelled() => match cursor.try_next() {
                    Some(read) => read,
                    None => break,
                },
            };
            if self.take(read, &*cursor, end).await.is_break() {
                break;
            }
        }
        self.acknowledge();
    }

    async fn take(&mut self, read: Read, cursor: &dyn Cursor, end: &End) -> ControlFlow<()> {
        match read {
            Read::Event(event) => {
                if let Body::Alert(alert) = &event.body
                    && self.wants(alert)
                {
                    self.in_work = Some(event.id);
                    self.send(&event, alert, end).await?;
                    self.in_work = None;
                    self.advance(event.id);
                } else {
                    self.pass(event.id);
                }
            }
            Read::Missed(events) => {
                self.log.missed(events);
                metrics::delivery_missed(self.name(), events.unwrap_or(0));
                let EventId { run, sequence } = cursor.position();
                self.advance(EventId { run, sequence: sequence.saturating_sub(1) });
            }
        }
        ControlFlow::Continue(())
    }

    /// Returns true for an event that goes to this target. An alert of a rule that is no longer in
    /// the config goes to all targets, because some of them have received its beginning.
    fn wants(&self, alert: &Alert) -> bool {
        let mut phases = self.target.config.phases.iter();
        phases.any(|phase| phase.includes(alert)) && !self.excluded.contains(&alert.rule)
    }

    /// Sends an event until the target has accepted or refused it, or it is too old, or it is
    /// deleted.
    async fn send(&mut self, event: &Event, alert: &Alert, end: &End) -> ControlFlow<()> {
        let mut picture = if self.target.wants_picture() {
            Picture::of(&*self.service, event, alert).await
        } else {
            None
        };
        let mut backoff = Backoff::new(self.target.config.max_retry_delay);
        let mut blame = Blame::default();
        loop {
            if self.is_too_old(event) {
                self.log.too_old();
                metrics::delivery_missed(self.name(), 1);
                return ControlFlow::Continue(());
            }
            let attempt = tokio::select! {
                attempt = self.target.attempt((event, alert), picture.as_ref()) => attempt,
                () = end.passed() => return ControlFlow::Break(()),
            };
            metrics::delivery_failing(self.name(), attempt.is_err());
            let after = match attempt {
                Ok(()) => {
                    metrics::delivery_attempt(self.name(), DeliveryResult::Delivered);
                    let published = event.published_at;
                    let took = SystemTime::now().duration_since(published).unwrap_or_default();
                    metrics::published(&event.camera, self.target.interface(), took);
                    if let Some(recorder) = &self.recorder {
                        recorder.published(event, self.target.interface(), Some(self.name()));
                    }
                    self.log.delivered();
                    return ControlFlow::Continue(());
                }
                Err(Failure::Refused { may_be_too_large: true, .. }) if picture.is_some() => {
                    metrics::delivery_attempt(self.name(), DeliveryResult::Failed);
                    picture = None;
                    continue;
                }
                Err(Failure::Refused { why, .. }) => {
                    metrics::delivery_attempt(self.name(), DeliveryResult::Refused);
                    self.log.refused(&why);
                    return ControlFlow::Continue(());
                }
                Err(Failure::Temporary { why, retry_after, is_server_error }) => {
                    if blame.is_to_blame(is_server_error) {
                        metrics::delivery_attempt(self.name(), DeliveryResult::Refused);
                        self.log.refused(&format!("{why} each time, and accepted the next alert"));
                        return ControlFlow::Continue(());
                    }
                    metrics::delivery_attempt(self.name(), DeliveryResult::Failed);
                    self.log.failed(&why);
                    if blame.failed(is_server_error) {
                        let accepts = tokio::select! {
                            accepts = self.accepts_event_after(event.id) => accepts,
                            () = end.passed() => return ControlFlow::Break(()),
                        };
                        if accepts {
                            blame.next_was_accepted();
                            continue;
                        }
                    }
                    retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER)
                }
            };
            let pause = backoff.pause(rand::random()).max(after);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = end.stop.cancelled() => return ControlFlow::Break(()),
            }
            if !self.is_in_journal(event.id).await {
                self.log.missed(Some(1));
                metrics::delivery_missed(self.name(), 1);
                return ControlFlow::Continue(());
            }
        }
    }

    /// Returns false if an event was deleted, or left a journal in memory.
    async fn is_in_journal(&self, id: EventId) -> bool {
        let journal = self.service.journal().clone();
        let read = move || journal.get(Some(id.run), id.sequence).is_some();
        tokio::task::spawn_blocking(read).await.unwrap_or(true)
    }

    /// Returns true for an event that is older than `catch_up`. The host's clock may have been set
    /// since, so an event of this run is not older than this delivery.
    fn is_too_old(&self, event: &Event) -> bool {
        let limit = self.target.config.catch_up;
        let age = SystemTime::now().duration_since(event.published_at).unwrap_or_default();
        let is_of_this_run = event.id.run == self.service.journal().run();
        age > limit && !(is_of_this_run && self.since.elapsed() <= limit)
    }

    /// Records that the target needs no event up to this one any more.
    fn advance(&mut self, done: EventId) {
        self.done = self.done.max(done);
        self.acknowledge();
    }

    /// Records the same of an event that is not for the target. The position is stored rarely.
    fn pass(&mut self, done: EventId) {
        self.done = self.done.max(done);
        let EventId { run, sequence } = self.acknowledged;
        if done.run != run || done.sequence.saturating_sub(sequence) >= EVENTS_BETWEEN_POSITIONS {
            self.acknowledge();
        }
    }

    fn acknowledge(&mut self) {
        if self.acknowledged != self.done {
            self.acknowledged = self.done;
            self.service.journal().acknowledge(&self.reader, self.done);
        }
    }
}
