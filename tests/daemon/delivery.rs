//! Checks that every event of the journal reaches an MQTT subscriber at least once and in order,
//! whatever happens to the broker, the network and the daemon.
//!
//! Each fault happens once or a few times; `LOOKOUT_ROUNDS` sets another number, and makes it last
//! as long as it may outside of tests (`make faults`).

use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::mqtt::{EventSubscriber, Network, check_delivery};
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

    /// Kills the broker, which keeps nothing, and starts it again after this time. Nothing is
    /// published before the subscriber is back.
    fn restart_broker(&mut self, away: Duration) {
        self.broker.process.signal(libc::SIGKILL);
        self.broker.process.ended(Duration::from_secs(5));
        thread::sleep(away);
        self.network.shut();
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

    /// Waits until the subscriber has the journal's events.
    fn catch_up(&self) {
        self.subscriber.more(BETWEEN);
        self.subscriber.has_all(&self.journal());
    }

    /// Waits until the subscriber has the journal's events, and checks them. A fault may send again
    /// what was on its way.
    fn check(&self, what: &str, faults: usize) {
        self.catch_up();
        let received = self.subscriber.received();
        let delivery = check_delivery(&self.journal(), &received);
        delivery.check_duplicates(what, faults);
        assert!(delivery.duplicates <= faults * WINDOW, "{delivery:?}");
        let missed = self.daemon.metric("lookout_mqtt_events_missed_total");
        assert!(missed == 0.0, "{missed} events were missed");
    }
}

/// Number of events that may be on their way when a connection breaks.
const WINDOW: usize = 16;

/// Least number of events between two faults.
const BETWEEN: usize = 10;

#[test]
fn a_broker_that_is_killed_and_away_for_a_while_gets_everything() {
    let mut setup = Setup::start();
    let kills = rounds().unwrap_or(1);
    let away = Duration::from_secs(if rounds().is_some() { 20 } else { 5 });
    for _ in 0..kills {
        setup.catch_up();
        setup.restart_broker(away);
    }
    setup.check("a broker killed for a while", kills);
}

#[test]
fn a_broker_that_comes_back_empty_gets_everything() {
    let mut setup = Setup::start();
    let kills = rounds().unwrap_or(1);
    for _ in 0..kills {
        setup.catch_up();
        setup.restart_broker(Duration::from_millis(rand::random_range(0..1500)));
        setup.subscriber.more(BETWEEN);
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
    }
    setup.check("a broker restarted empty", kills);
}

#[test]
fn a_broker_that_hangs_and_is_then_killed_loses_nothing() {
    let mut setup = Setup::start();
    let kills = rounds().unwrap_or(1);
    for _ in 0..kills {
        setup.catch_up();
        setup.broker.process.signal(libc::SIGSTOP);
        // More than the window of messages waits for the broker.
        thread::sleep(Duration::from_millis(rand::random_range(1500..4000)));
        setup.restart_broker(Duration::from_millis(rand::random_range(0..1500)));
    }
    setup.check("a broker stopped and then killed", kills);
}

#[test]
fn a_network_that_breaks_in_the_middle_of_packets_loses_nothing() {
    let setup = Setup::start();
    let breaks = rounds().unwrap_or(4);
    for _ in 0..breaks {
        setup.network.break_after(rand::random_range(1..6000));
        wait_for("a break", Duration::from_secs(60), || (!setup.network.holds()).then_some(()));
        // An acknowledgement is on its way in a third of the breaks: at 1 % of duplicates, a network
        // may break every 30 events, and here it breaks less often.
        setup.subscriber.more(if rounds().is_some() { 80 } else { BETWEEN });
    }
    setup.check("a network cut in the middle of a packet", breaks);
}

#[test]
fn a_daemon_killed_at_random_moments_loses_nothing() {
    let mut setup = Setup::start();
    let kills = rounds().unwrap_or(2);
    for kill in 0..kills {
        thread::sleep(Duration::from_millis(rand::random_range(0..2000)));
        // Half of the time, the daemon is killed while the broker is away.
        let is_away = kill % 2 == 1;
        if is_away {
            setup.network.shut();
            thread::sleep(Duration::from_millis(rand::random_range(0..2000)));
        }
        setup.kill_daemon();
        setup.network.open();
        setup.subscriber.more(2 * BETWEEN);
    }
    setup.check("a daemon killed with -9", kills);
}
