//! Checks that every event of the journal reaches an MQTT subscriber at least once and in order,
//! whatever happens to the broker, the network and the daemon.
//!
//! `LOOKOUT_ROUNDS` sets how often the daemon is killed (2 by default).

use std::env;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::mqtt::{Delivery, EventSubscriber, Network, check_delivery};
use crate::support::*;

/// A daemon that stores its journal, with the broker behind a network that can break.
struct Setup {
    folder: TempDir,
    config: String,
    ports: (u16, u16),
    broker: Broker,
    network: Network,
    subscriber: EventSubscriber,
    daemon: Daemon,
}

impl Setup {
    fn start() -> Setup {
        let folder = folder();
        let broker = Broker::start(folder.path(), free_port());
        let network = Network::to(broker.port);
        let subscriber = EventSubscriber::connect(broker.port);
        let ports = (free_port(), free_port());
        let mut config = head(ports.0, ports.1, Some(network.port)).replace("= 48", "= 6");
        config += &format!("[journal]\nfolder = {:?}\n", folder.path().join("journal"));
        for name in ["gate", "yard", "drive"] {
            config += &format!(
                "[[camera]]\nname = \"{name}\"\nurl = \"file:{}\"\nfps = 2\nwindow = \"1s\"\n\
                 caption_interval = \"500ms\"\nmax_caption_delay = \"5s\"\n",
                clip(name).display()
            );
        }
        let daemon = Daemon::with_config(folder.path(), &config, ports.0, ports.1);
        subscriber.more(10);
        Setup { folder, config, ports, broker, network, subscriber, daemon }
    }

    /// Returns the events of the journal.
    fn journal(&self) -> Vec<Value> {
        let (code, out, error) = self.daemon.client(&["events", "--json", "--limit", "1000000"]);
        assert_eq!(code, Some(0), "{error}");
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Kills the broker, which keeps nothing, and starts it again. Nothing is published before the
    /// subscriber is back.
    fn restart_broker(&mut self) {
        self.network.shut();
        self.broker.process.signal(libc::SIGKILL);
        self.broker.process.ended(Duration::from_secs(5));
        thread::sleep(Duration::from_millis(1500));
        self.broker = Broker::start(self.folder.path(), self.broker.port);
        self.subscriber.is_back();
        self.network.open();
    }

    fn kill_daemon(&mut self) {
        self.daemon.process.signal(libc::SIGKILL);
        self.daemon.process.ended(Duration::from_secs(5));
        self.daemon =
            Daemon::with_config(self.folder.path(), &self.config, self.ports.0, self.ports.1);
    }

    /// Waits until the subscriber has the journal's events, and checks them. At most `duplicates`
    /// are sent again for each of the `faults`.
    fn check(&self, faults: usize, duplicates: usize) -> Delivery {
        let journal = self.journal();
        self.subscriber.has_all(&journal);
        let received = self.subscriber.received();
        let delivery = check_delivery(&self.journal(), &received);
        println!("{delivery:?} after {faults} faults");
        assert!(delivery.duplicates <= faults * duplicates, "{delivery:?}");
        let missed = self.daemon.metric("lookout_mqtt_events_missed_total");
        assert!(missed == 0.0, "{missed} events were missed");
        delivery
    }
}

/// Number of events that may be on their way when a connection breaks.
const WINDOW: usize = 16;

#[test]
fn a_broker_that_is_killed_and_comes_back_empty_gets_everything() {
    let mut setup = Setup::start();
    setup.restart_broker();
    setup.subscriber.more(10);
    // What was retained is there again.
    let mut retained = subscribe(setup.broker.port, setup.folder.path());
    let mut wanted: Vec<String> = ["gate", "yard", "drive"]
        .iter()
        .flat_map(|camera| {
            ["available", "last_caption", "last_caption_text", "status"]
                .map(|topic| format!("lookout/{camera}/{topic} "))
        })
        .collect();
    while !wanted.is_empty() {
        let line = retained.next(Duration::from_secs(20));
        let line = line.unwrap_or_else(|| panic!("not retained: {wanted:?}"));
        wanted.retain(|topic| !line.starts_with(topic));
    }
    setup.check(1, WINDOW);
}

#[test]
fn a_broker_that_hangs_and_is_then_killed_loses_nothing() {
    let mut setup = Setup::start();
    setup.broker.process.signal(libc::SIGSTOP);
    thread::sleep(Duration::from_secs(2));
    setup.restart_broker();
    setup.subscriber.more(10);
    setup.check(1, WINDOW);
}

#[test]
fn a_network_that_breaks_in_the_middle_of_packets_loses_nothing() {
    let setup = Setup::start();
    let breaks = 5;
    for _ in 0..breaks {
        setup.network.break_after(rand::random_range(1..6000));
        wait_for("a break", Duration::from_secs(60), || (!setup.network.holds()).then_some(()));
        setup.subscriber.more(3);
    }
    setup.check(breaks, WINDOW);
}

#[test]
fn a_daemon_killed_at_random_moments_loses_nothing() {
    let mut setup = Setup::start();
    let rounds = env::var("LOOKOUT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds = rounds.unwrap_or(2);
    for round in 0..rounds {
        thread::sleep(Duration::from_millis(rand::random_range(0..2000)));
        // Half of the time, the daemon is killed while the broker is away.
        let is_away = round % 2 == 1;
        if is_away {
            setup.network.shut();
            thread::sleep(Duration::from_millis(rand::random_range(0..2000)));
        }
        setup.kill_daemon();
        setup.network.open();
        setup.subscriber.more(10);
    }
    let delivery = setup.check(rounds, WINDOW);
    // Over many kills, few of them come between a message and its acknowledgement.
    let most = if rounds < 20 { delivery.events } else { delivery.events / 50 };
    assert!(delivery.duplicates <= most, "{delivery:?}");
}
