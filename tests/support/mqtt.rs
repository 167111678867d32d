//! Checks what reaches an MQTT subscriber: a proxy that breaks the network in front of the broker, a
//! subscriber that collects every event, and the comparison with the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use serde_json::Value;

use super::{rounds, wait_for};

/// The topics on which every event is published once.
const EVENTS: [&str; 3] = ["lookout/+/caption", "lookout/+/answer", "lookout/+/status_change"];

/// Run and sequence of an event.
pub type Id = (u64, u64);

pub fn id(event: &Value) -> Id {
    let number = |name: &str| event[name].as_u64().unwrap_or_else(|| panic!("no {name}: {event}"));
    (number("run"), number("sequence"))
}

/// A TCP proxy in front of the broker.
pub struct Network {
    pub port: u16,
    state: Arc<NetworkState>,
}

#[derive(Default)]
struct NetworkState {
    is_shut: AtomicBool,
    /// Number of bytes to the broker after which the connection breaks; negative: it holds.
    left: AtomicI64,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Network {
    pub fn to(broker: u16) -> Network {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(NetworkState { left: (-1).into(), ..NetworkState::default() });
        let shared = state.clone();
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if shared.is_shut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", broker)) else { continue };
                shared.connect(near, far);
            }
        });
        Network { port, state }
    }

    /// Breaks the connections, and accepts no new ones until it is opened.
    pub fn shut(&self) {
        self.state.is_shut.store(true, Ordering::SeqCst);
        self.state.break_all();
    }

    pub fn open(&self) {
        self.state.is_shut.store(false, Ordering::SeqCst);
    }

    /// Breaks the connection after this number of bytes to the broker, in the middle of a packet.
    pub fn break_after(&self, bytes: u32) {
        self.state.left.store(bytes.into(), Ordering::SeqCst);
    }

    /// Returns true if the connection has not been broken since [`Network::break_after`].
    pub fn holds(&self) -> bool {
        self.state.left.load(Ordering::SeqCst) >= 0
    }
}

impl NetworkState {
    fn connect(self: &Arc<Self>, near: TcpStream, far: TcpStream) {
        let clone = |stream: &TcpStream| stream.try_clone().expect("a socket");
        // A network does not hold packets back.
        [&near, &far].iter().for_each(|stream| stream.set_nodelay(true).expect("an option"));
        self.sockets.lock().unwrap().extend([clone(&near), clone(&far)]);
        let (from_near, to_far) = (clone(&near), clone(&far));
        let state = self.clone();
        thread::spawn(move || state.copy(from_near, to_far, true));
        let state = self.clone();
        thread::spawn(move || state.copy(far, near, false));
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, is_counted: bool) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let left = self.left.load(Ordering::SeqCst);
            let breaks = is_counted && left >= 0 && left < read as i64;
            let length = if breaks { left as usize } else { read };
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
            if breaks {
                self.left.store(-1, Ordering::SeqCst);
                self.break_all();
                break;
            }
            if is_counted && left >= 0 {
                self.left.store(left - read as i64, Ordering::SeqCst);
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn break_all(&self) {
        for socket in self.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// A subscriber with QoS 1 and a persistent session, which collects every event.
pub struct EventSubscriber {
    received: Arc<Mutex<Vec<Value>>>,
    subscriptions: Arc<AtomicU32>,
}

impl EventSubscriber {
    pub fn connect(broker: u16) -> EventSubscriber {
        let name = format!("events-{:08x}", rand::random::<u32>());
        let mut options = MqttOptions::new(name, "127.0.0.1", broker);
        options.set_clean_session(false).set_keep_alive(Duration::from_secs(5));
        options.set_max_packet_size(1 << 24, 1 << 24);
        let (client, mut connection) = Client::new(options, 100);
        let received = Arc::<Mutex<Vec<Value>>>::default();
        let subscriptions = Arc::<AtomicU32>::default();
        let (to, count) = (received.clone(), subscriptions.clone());
        thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        for topic in EVENTS {
                            client.try_subscribe(topic, QoS::AtLeastOnce).expect("a subscription");
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(Event::Incoming(Packet::Publish(message))) => {
                        let event = serde_json::from_slice(&message.payload).expect("JSON");
                        to.lock().unwrap().push(event);
                    }
                    Ok(_) => {}
                    // The broker is away.
                    Err(_) => thread::sleep(Duration::from_millis(50)),
                }
            }
        });
        let subscriber = EventSubscriber { received, subscriptions };
        subscriber.is_back();
        subscriber
    }

    /// Waits until the subscriber has subscribed again since the last call.
    pub fn is_back(&self) {
        let wanted = EVENTS.len() as u32;
        wait_for("the subscriber", Duration::from_secs(20), || {
            (self.subscriptions.load(Ordering::SeqCst) >= wanted).then_some(())
        });
        self.subscriptions.store(0, Ordering::SeqCst);
    }

    /// Returns the events in the order in which they arrived.
    pub fn received(&self) -> Vec<Value> {
        self.received.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.received.lock().unwrap().len()
    }

    /// Waits until more events have arrived.
    pub fn more(&self, events: usize) {
        let wanted = self.count() + events;
        let what = format!("{wanted} events");
        wait_for(&what, Duration::from_secs(60), || (self.count() >= wanted).then_some(()));
    }

    /// Waits until all of these events have arrived.
    pub fn has_all(&self, journal: &[Value]) {
        let wanted: BTreeSet<Id> = journal.iter().map(id).collect();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let received: BTreeSet<Id> = self.received.lock().unwrap().iter().map(id).collect();
            let missing: Vec<_> = wanted.difference(&received).collect();
            if missing.is_empty() {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "never arrived: {missing:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The result of a comparison.
#[derive(Debug, Default)]
pub struct Delivery {
    pub events: usize,
    pub duplicates: usize,
}

/// Number of rounds from which on the share of the duplicates is judged. In fewer rounds, a single
/// duplicate may be more than 1 %.
const MANY_ROUNDS: usize = 20;

impl Delivery {
    /// Prints the result, and checks that at most 1 % of the events came twice.
    pub fn check_duplicates(&self, what: &str, rounds: usize) {
        println!("{what}: {rounds} rounds, {self:?}");
        let is_judged = rounds >= MANY_ROUNDS;
        assert!(!is_judged || self.duplicates * 100 <= self.events, "{what}: {self:?}");
    }
}

/// Runs the test of a fault `LOOKOUT_ROUNDS` times, by default once, each time with a new daemon.
pub fn repeat(what: &str, fault: impl Fn() -> Delivery) {
    let rounds = rounds().unwrap_or(1);
    let mut sum = Delivery::default();
    for _ in 0..rounds {
        let Delivery { events, duplicates } = fault();
        sum.events += events;
        sum.duplicates += duplicates;
    }
    sum.check_duplicates(what, rounds);
}

/// Checks that the received events are those of the journal: each with one ID, identical, and for
/// each camera in the order of the journal. `journal` has at least the received events.
pub fn check_delivery(journal: &[Value], received: &[Value]) -> Delivery {
    let by_id: BTreeMap<Id, &Value> = journal.iter().map(|event| (id(event), event)).collect();
    assert_eq!(by_id.len(), journal.len(), "the journal lists an event twice");
    let mut newest: Option<Id> = None;
    for (run, sequence) in by_id.keys() {
        let expected = newest.filter(|(of, _)| of == run).map_or(1, |(_, newest)| newest + 1);
        assert_eq!(*sequence, expected, "a gap in the IDs of run {run}");
        newest = Some((*run, *sequence));
    }
    let mut contents: BTreeMap<String, Id> = BTreeMap::new();
    for (id, event) in &by_id {
        let mut content = (*event).clone();
        for field in ["run", "sequence", "uuid", "published_at"] {
            content.as_object_mut().expect("an object").remove(field);
        }
        let other = contents.insert(content.to_string(), *id);
        assert_eq!(other, None, "{id:?} is an event that has another ID already");
    }
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<String, Id> = BTreeMap::new();
    for event in received {
        let id = id(event);
        let stored = by_id.get(&id).unwrap_or_else(|| panic!("not in the journal: {event}"));
        assert_eq!(*stored, event, "an event differs from the journal's");
        if !seen.insert(id) {
            continue;
        }
        let camera = event["camera"].to_string();
        if let Some(last) = last.insert(camera, id) {
            assert!(last < id, "{id:?} came after {last:?} of the same camera");
        }
    }
    Delivery { events: seen.len(), duplicates: received.len() - seen.len() }
}
