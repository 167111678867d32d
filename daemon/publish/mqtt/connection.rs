//! Runs one connection to the broker, from its ConnAck to its end.
//!
//! Two futures share one task. `drive` runs the client's event loop and is never cancelled in the
//! middle of a packet, because a half-written packet would be lost without a trace. `converse`
//! decides what is published. A small channel connects them; `converse` never waits for `drive`.
//! Its parts are in `incoming`, `outgoing` and `announcement`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Publisher;
use super::blame::Origin;
use super::link::{self, Break, Cause, Client, Heard, Loop};
use super::losses::GOOD;
use super::options::Access;
use super::outbox::{Outbox, WINDOW};
use super::pictures::Pictures;
use super::topics::OFFLINE;
use crate::event::{CameraState, EventId, EventKind};
use crate::interface::Interface;
use crate::journal::Cursor;
use crate::metrics;

/// Capacity of the channel of client events that `converse` has not processed yet.
const HEARD: usize = 64;

/// Maximum duration of the shutdown. Afterwards the broker publishes the last will, which has the
/// same content.
const FAREWELL: Duration = Duration::from_secs(1);

/// Interval at which a change of the config is noticed.
const CONFIG_CHECK: Duration = Duration::from_millis(500);

/// Time without a subscription to questions and acknowledgements after one that was larger than a
/// packet may be. A retained one would end every connection.
pub const WITHOUT_REQUESTS: Duration = Duration::from_secs(600);

pub enum Ended {
    Stopped,
    /// The connection ended. `lasted` is the time since the ConnAck, or `None` if there was none.
    Broke {
        broke: Break,
        lasted: Option<Duration>,
    },
}

/// The end of a conversation.
enum Over {
    Stopped,
    Broke(Break),
}

fn broke(why: String) -> Over {
    Over::Broke(Break { why, cause: Cause::Other })
}

impl Publisher {
    /// Makes one attempt: connects with a new client and a clean session, and replays from the
    /// oldest event that the broker has not acknowledged.
    pub async fn run_once(&mut self, stop: &CancellationToken) -> Ended {
        let access = match Access::read(&self.config).await {
            Ok(access) => access,
            Err(why) => {
                return Ended::Broke { broke: Break { why, cause: Cause::Other }, lasted: None };
            }
        };
        let (client, mut turns) = link::open(self.version, access);
        let largest = tokio::select! {
            // The first turn connects. It returns an error if the broker refuses.
            connected = turns.turn() => match connected {
                Ok(Heard::Connected { largest }) => largest,
                Ok(_) => None,
                Err(broke) => return Ended::Broke { broke, lasted: None },
            },
            () = stop.cancelled() => return Ended::Stopped,
        };
        let since = Instant::now();
        self.is_connected();
        let window = if self.blame.is_careful() { 1 } else { WINDOW };
        let mut connection = Connection {
            client,
            outbox: Outbox::new(self.done, window),
            pictures: Pictures::default(),
            shown: HashMap::new(),
            too_old: 0,
            must_announce: true,
            said_removed: BTreeSet::new(),
            largest,
            publisher: self,
        };
        let (to, mut heard) = mpsc::channel(HEARD);
        let over = tokio::select! {
            broke = drive(&mut turns, to) => Over::Broke(broke),
            over = connection.converse(&mut heard, stop) => over,
        };
        // Acknowledgements from before the end still count, although `converse` has not processed
        // them.
        while let Ok(event) = heard.try_recv() {
            connection.note_progress(event);
        }
        turns.rest().into_iter().for_each(|event| connection.note_progress(event));
        let unanswered = connection.outbox.unanswered().cloned();
        match over {
            Over::Stopped => Ended::Stopped,
            Over::Broke(broke) => {
                if let (Cause::Closed, Some(origin)) = (broke.cause, unanswered)
                    && self.blame.ended_at(&origin)
                {
                    self.left_out(&origin, "the broker ends every connection at it");
                }
                if broke.cause == Cause::TooLarge {
                    self.no_requests_until = Some(Instant::now() + WITHOUT_REQUESTS);
                }
                Ended::Broke { broke, lasted: Some(since.elapsed()) }
            }
        }
    }

    /// Counts a message that does not reach the broker, and logs the first one of each topic.
    pub fn left_out(&mut self, origin: &Origin, why: &str) {
        metrics::mqtt_message_refused();
        let Origin { event, topic, .. } = origin;
        if self.blame.may_say(topic) {
            let sequence = event.map(|event| event.sequence);
            tracing::warn!(sequence, "MQTT: a message on {topic} is left out: {why}");
        }
    }
}

/// A connected publisher.
pub struct Connection<'a> {
    pub client: Client,
    pub outbox: Outbox,
    pub pictures: Pictures,
    /// The newest events whose retained messages were sent, by camera and kind. Older events, which
    /// are sent again, do not replace them.
    pub shown: HashMap<(Arc<str>, EventKind), EventId>,
    /// Number of events in a row that were left out because of their age.
    pub too_old: u64,
    /// True while the cameras must be announced.
    pub must_announce: bool,
    /// Cameras whose removal was published since Home Assistant connected to the broker.
    pub said_removed: BTreeSet<Arc<str>>,
    /// Largest packet in bytes that the broker takes, if it reported one.
    pub largest: Option<usize>,
    pub publisher: &'a mut Publisher,
}

impl Connection<'_> {
    async fn converse(
        &mut self,
        heard: &mut mpsc::Receiver<Heard>,
        stop: &CancellationToken,
    ) -> Over {
        if let Err(why) = self.subscribe() {
            return broke(why);
        }
        self.greet();
        let journal = self.publisher.service.journal().clone();
        let EventId { run, sequence } = self.outbox.done();
        let mut cursor = journal.read_from(Some(run), sequence + 1);
        let good = tokio::time::sleep(GOOD);
        let mut good = std::pin::pin!(good);
        let mut is_good = false;
        let mut config_version = self.publisher.service.config_version();
        let mut config_tick = tokio::time::interval(CONFIG_CHECK);
        while !stop.is_cancelled() {
            if self.must_announce && self.outbox.has_room() {
                self.announce();
                self.must_announce = false;
            }
            if self.publisher.blame.is_careful() && self.outbox.is_idle() && cursor.is_at_end() {
                self.publisher.blame.relax();
                self.outbox.widen();
            }
            if let Err(why) = self.hand_over() {
                return broke(why);
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = &mut good, if !is_good => {
                    is_good = true;
                    self.publisher.is_good();
                }
                event = heard.recv() => match event {
                    Some(Heard::Publish { topic, payload, retain, reply_to }) => {
                        self.hear(&topic, &payload, retain, reply_to);
                    }
                    Some(event) => self.note_progress(event),
                    None => return broke("the client ended".into()),
                },
                read = cursor.next(), if self.outbox.has_room() => self.take(read, &*cursor),
                reply = self.publisher.questions.reply() => self.reply(reply),
                picture = self.pictures.next() => self.publish_picture(&picture),
                _ = config_tick.tick() => {
                    let version = self.publisher.service.config_version();
                    if version != config_version {
                        config_version = version;
                        self.publish_rule_states();
                        self.must_announce = true;
                    }
                }
            }
        }
        self.farewell(heard, cursor).await
    }

    /// Publishes the journal's remaining events and `offline`, then disconnects, within
    /// [`FAREWELL`].
    async fn farewell(
        &mut self,
        heard: &mut mpsc::Receiver<Heard>,
        mut cursor: Box<dyn Cursor>,
    ) -> Over {
        let deadline = Instant::now() + FAREWELL;
        let mut said_offline = false;
        loop {
            while self.outbox.has_room()
                && let Some(read) = cursor.try_next()
            {
                self.take(read, &*cursor);
            }
            if self.outbox.has_room() && !said_offline {
                for camera in self.publisher.service.cameras() {
                    // The cameras are no longer watched.
                    self.post(
                        self.publisher.topics.camera_available(&camera.name, CameraState::Lost),
                    );
                }
                self.post(self.publisher.topics.daemon_available(OFFLINE));
                said_offline = true;
            }
            if let Err(why) = self.hand_over() {
                return broke(why);
            }
            if said_offline && self.outbox.is_idle() {
                break;
            }
            match tokio::time::timeout_at(deadline, heard.recv()).await {
                Ok(Some(event)) => self.note_progress(event),
                // The connection ends without a DISCONNECT, so that the broker publishes the last
                // will.
                Ok(None) | Err(_) => return Over::Stopped,
            }
        }
        if self.client.disconnect() {
            let sent = async {
                while let Some(event) = heard.recv().await
                    && event != Heard::Disconnecting
                {}
            };
            let _ = tokio::time::timeout_at(deadline, sent).await;
        }
        Over::Stopped
    }

    fn hand_over(&mut self) -> Result<(), String> {
        while let Some(message) = self.outbox.hand() {
            let handed = self.client.publish(message);
            handed.map_err(|e| format!("the client takes no message: {e}"))?;
        }
        Ok(())
    }

    fn note_progress(&mut self, event: Heard) {
        let (packet, refused) = match event {
            Heard::Sent(packet) => return self.outbox.sent(packet),
            Heard::Taken(packet) => (packet, None),
            Heard::Refused(packet, why) => (packet, Some(why)),
            Heard::SubscriptionRefused => {
                tracing::warn!("MQTT: the broker refuses a subscription; requests may not arrive");
                return;
            }
            _ => return,
        };
        let Some(answered) = self.outbox.answered(packet) else { return };
        self.publisher.blame.answered(&answered.origin);
        self.publisher.advance(self.outbox.done());
        match (refused, answered.event) {
            (Some(why), _) => self.publisher.left_out(&answered.origin, &why),
            (None, Some(event)) => {
                let took = SystemTime::now().duration_since(event.published_at).unwrap_or_default();
                metrics::published(&event.camera, Interface::Mqtt, took);
                if let Some(recorder) = &self.publisher.recorder {
                    recorder.published(&event, Interface::Mqtt, None);
                }
            }
            (None, None) => {}
        }
    }
}

/// Runs the event loop until the connection ends.
async fn drive(turns: &mut Loop, to: mpsc::Sender<Heard>) -> Break {
    loop {
        match turns.turn().await {
            Ok(heard) => {
                if to.send(heard).await.is_err() {
                    // `converse` has ended, and this future is dropped with it.
                    return std::future::pending().await;
                }
            }
            Err(broke) => return broke,
        }
    }
}
