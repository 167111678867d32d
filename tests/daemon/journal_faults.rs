//! Tests what happens to the journal on disk when its disk is full, its folder cannot be written or
//! is used twice, and its file is old, cut short or damaged. Captions and MQTT go on from memory, the
//! daemon says what is wrong, and once the fault is over every event is stored and delivered.
//! `LOOKOUT_ROUNDS` sets how often each fault is repeated (`make faults`).

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use lookout::event::{Body, CameraStatus};
use lookout::event_store::{EventStore, Settings};
use lookout::proto;
use prost::Message;
use serde_json::Value;

use crate::support::mqtt::{Delivery, EventSubscriber, Id, check_delivery, id, repeat};
use crate::support::small_disk::{OBEYS_PERMISSIONS, SmallDisk, is_root};
use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// Number of events that may be on their way when the daemon is killed.
const WINDOW: usize = 16;

/// A daemon with a journal on disk and a subscriber to its events.
struct Setup {
    dir: PathBuf,
    config: String,
    ports: (u16, u16),
    subscriber: EventSubscriber,
    daemon: Daemon,
    _broker: Broker,
}

impl Setup {
    fn start(dir: &Path, journal: &Path) -> Setup {
        let broker = Broker::start(dir, free_port());
        let subscriber = EventSubscriber::connect(broker.port);
        let ports = (free_port(), free_port());
        let config = config(ports, Some(broker.port), journal);
        let daemon = start(dir, &config, ports);
        Setup { dir: dir.into(), config, ports, subscriber, daemon, _broker: broker }
    }

    fn kill_daemon(&mut self) {
        self.daemon.process.signal(libc::SIGKILL);
        self.daemon.process.ended(PATIENCE);
    }

    fn start_daemon(&mut self) {
        self.daemon = start(&self.dir, &self.config, self.ports);
    }

    /// Waits until the log, `/readyz` and the metric report that events are not stored.
    fn reports(&self, why: &str) {
        self.is_failing(true);
        wait_for("a daemon that works and reports the problem", PATIENCE, || {
            let (status, text) = get(self.daemon.http, "/readyz")?;
            let reports = text.contains("events are not stored") && text.contains(why);
            (status == 200 && reports).then_some(())
        });
        let log = self.daemon.process.log();
        let line = log.lines().find(|line| line.contains("events are not stored"));
        assert!(line.is_some_and(|line| line.contains(why)), "{log}");
    }

    fn is_failing(&self, failing: bool) {
        wait_for("the metric", PATIENCE, || {
            let found = self.daemon.metric("lookout_journal_failing") > 0.0;
            (found == failing).then_some(())
        });
    }

    /// Waits until the daemon stores events again, and reports no problem.
    fn recovers(&self) {
        wait_for("a journal without a problem", PATIENCE, || {
            get(self.daemon.http, "/readyz").filter(|(_, text)| text == "ready\n")
        });
        self.is_failing(false);
        assert_eq!(self.daemon.metric("lookout_journal_events_not_stored_total"), 0.0);
    }

    fn journal(&self) -> Vec<Value> {
        events(&self.daemon)
    }

    /// Checks that the subscriber has the journal's events, but for those of an earlier run, without
    /// a gap and in order. A daemon that is killed may send again what was on its way.
    fn all_were_delivered(&self, kills: usize) -> Delivery {
        let of_these_runs = || -> Vec<Value> {
            let events = self.journal().into_iter();
            events.filter(|event| id(event).0 > EARLIER_RUN).collect()
        };
        self.subscriber.has_all(&of_these_runs());
        let received = self.subscriber.received();
        let delivery = check_delivery(&of_these_runs(), &received);
        assert!(delivery.duplicates <= kills * WINDOW, "{delivery:?}");
        assert_eq!(self.daemon.metric("lookout_mqtt_events_missed_total"), 0.0);
        delivery
    }

    /// Returns the number of events of the earlier run.
    fn earlier_events(&self) -> usize {
        self.journal().iter().filter(|event| id(event).0 == EARLIER_RUN).count()
    }
}

fn config(ports: (u16, u16), broker: Option<u16>, journal: &Path) -> String {
    head(ports.0, ports.1, broker).replace("= 48", "= 6")
        + &format!("[journal]\nfolder = {journal:?}\njpegs = \"all\"\n")
        + &format!(
            "[[camera]]\nname = \"gate\"\nurl = \"file:{}\"\nfps = 2\nwindow = \"1s\"\n\
             caption_interval = \"500ms\"\nmax_caption_delay = \"5s\"\n",
            clip("gate").display()
        )
}

/// Starts a daemon that obeys permissions.
fn start(dir: &Path, config: &str, ports: (u16, u16)) -> Daemon {
    let mut command = command(dir, config);
    command.stdout(Stdio::null());
    Daemon::by(command, dir, ports.0, ports.1)
}

fn command(dir: &Path, config: &str) -> Command {
    let file = dir.join(format!("lookout-{:08x}.toml", rand::random::<u32>()));
    fs::write(&file, config).expect("config");
    let mut words = if is_root() { OBEYS_PERMISSIONS.to_vec() } else { Vec::new() };
    words.extend([LOOKOUT, "run", "--config"]);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(file);
    command
}

fn events(daemon: &Daemon) -> Vec<Value> {
    let (code, out, error) = daemon.client(&["events", "--json", "--limit", "1000000"]);
    assert_eq!(code, Some(0), "{error}");
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn ids(events: &[Value]) -> BTreeSet<Id> {
    events.iter().map(id).collect()
}

fn allow(folder: &Path, allowed: bool) {
    let (of_folder, of_file) = if allowed { (0o755, 0o644) } else { (0o555, 0o444) };
    for file in fs::read_dir(folder).expect("the folder") {
        let file = file.expect("a file").path();
        fs::set_permissions(file, Permissions::from_mode(of_file)).expect("permissions");
    }
    fs::set_permissions(folder, Permissions::from_mode(of_folder)).expect("permissions");
}

#[test]
fn a_full_disk_delays_the_storing_of_events_and_loses_none() {
    repeat("a disk full and freed", || {
        let folder = folder();
        let dir = folder.path();
        let Some(disk) = SmallDisk::mount(dir.join("disk")) else { return Delivery::default() };
        let mut setup = Setup::start(dir, &disk.0.join("journal"));
        setup.subscriber.more(6);
        disk.fill();
        setup.reports("full");
        // Longer than the pause before storing is tried again.
        setup.subscriber.more(14);
        setup.reports("full");
        disk.empty();
        setup.recovers();
        assert_eq!(setup.daemon.metric("lookout_journal_jpegs_not_stored_total"), 0.0);
        setup.all_were_delivered(0);
        let stored = ids(&setup.journal());
        setup.kill_daemon();
        // The next run begins on a full disk, and still knows what MQTT has.
        disk.fill();
        setup.start_daemon();
        setup.reports("full");
        setup.subscriber.more(6);
        disk.empty();
        setup.recovers();
        setup.all_were_delivered(1);
        setup.kill_daemon();
        setup.start_daemon();
        assert!(ids(&setup.journal()).is_superset(&stored), "events are gone");
        setup.subscriber.more(1);
        setup.all_were_delivered(2)
    });
}

#[test]
fn a_folder_without_permission_delays_the_storing_of_events_and_loses_none() {
    let folder = folder();
    let dir = folder.path();
    let journal = dir.join("journal");
    let mut setup = Setup::start(dir, &journal);
    setup.subscriber.more(6);
    setup.kill_daemon();
    allow(&journal, false);
    setup.start_daemon();
    setup.reports("Permission denied");
    setup.subscriber.more(14);
    setup.reports("Permission denied");
    allow(&journal, true);
    setup.recovers();
    setup.subscriber.more(2);
    let stored = ids(&setup.journal());
    setup.kill_daemon();
    setup.start_daemon();
    assert!(ids(&setup.journal()).is_superset(&stored), "events are gone");
    setup.all_were_delivered(2);
}

#[test]
fn a_second_daemon_with_the_same_journal_is_refused() {
    let folder = folder();
    let dir = folder.path();
    let journal = dir.join("journal");
    let ports = (free_port(), free_port());
    let first = start(dir, &config(ports, None, &journal), ports);
    let others = (free_port(), free_port());
    let mut second = command(dir, &config(others, None, &journal));
    let mut second = Process::start("second", second.stdout(Stdio::null()), dir);
    assert_eq!(second.ended(PATIENCE), Some(2), "{}", second.log());
    let log = second.log();
    let error = log.lines().last().unwrap_or_default();
    let process = format!("process {}", first.process.child.id());
    for part in [&*journal.display().to_string(), &process, "stop it", "another journal.folder"] {
        assert!(error.contains(part), "no {part:?}: {log}");
    }
    wait_for("an event of the first one", PATIENCE, || events(&first).into_iter().next());
}

/// Number of events of an earlier run.
const EARLIER: u64 = 2_000;

/// The earlier run, which began in 2025.
const EARLIER_RUN: u64 = 1_760_000_000_000;

/// Writes a journal with events of an earlier run.
fn write_earlier_run(folder: &Path) {
    let settings = Settings { folder: folder.into(), retention: 1000 * PATIENCE, bytes: 1 << 30 };
    let journal = EventStore::open(settings).expect("a folder").journal(EARLIER_RUN);
    let journal = journal.expect("a journal");
    for _ in 0..EARLIER {
        let status = CameraStatus::connecting(SystemTime::now());
        journal.append("gate".into(), Body::CameraStatus(status));
    }
    journal.flush();
}

/// Opens the database for writing. Returns it with its number of pages.
fn database(journal: &Path) -> (File, u64) {
    let file = OpenOptions::new().write(true).open(journal.join("events.sqlite"));
    let file = file.expect("the database");
    let pages = file.metadata().expect("the database").len() / 4096;
    (file, pages)
}

/// Waits until the daemon has set its file aside and stores events in a new one.
fn was_set_aside(setup: &Setup, journal: &Path) {
    let stored = || setup.daemon.metric("lookout_journal_events_stored_total");
    wait_for("a file that is set aside", PATIENCE, || {
        // Somebody reads the damaged page.
        let _ = setup.daemon.client(&["events", "--json", "--limit", "1000000"]);
        let (_, ready) = get(setup.daemon.http, "/readyz")?;
        ready.contains("a corrupt journal was set aside as").then_some(())
    });
    let before = stored();
    wait_for("events in the new file", PATIENCE, || (stored() > before + 4.0).then_some(()));
    setup.is_failing(false);
    let name = |file: std::io::Result<fs::DirEntry>| file.expect("a file").file_name();
    let mut names = fs::read_dir(journal).expect("the folder").map(name);
    assert!(names.any(|name| name.to_string_lossy().starts_with("events.sqlite.corrupt-")));
}

/// Damages the file of a daemon, which sets it aside, copies this number of the earlier run's events,
/// and goes on, also after it is killed.
fn damaged(damage: impl Fn(&File, u64), left: std::ops::Range<usize>) -> Delivery {
    let folder = folder();
    let journal = folder.path().join("journal");
    write_earlier_run(&journal);
    let mut setup = Setup::start(folder.path(), &journal);
    setup.subscriber.more(4);
    let (file, pages) = database(&journal);
    damage(&file, pages);
    was_set_aside(&setup, &journal);
    let earlier = setup.earlier_events();
    assert!(left.contains(&earlier), "{earlier} events of the earlier run, not {left:?}");
    setup.all_were_delivered(0);
    setup.kill_daemon();
    setup.start_daemon();
    setup.subscriber.more(if rounds().is_some() { 40 } else { 4 });
    assert_eq!(setup.earlier_events(), earlier);
    setup.all_were_delivered(1)
}

#[test]
fn a_file_that_is_cut_short_is_set_aside_and_its_events_are_copied() {
    repeat("a database cut short", || {
        damaged(
            |file, pages| file.set_len(pages / 2 * 4096).expect("a shorter file"),
            200..EARLIER as usize,
        )
    });
}

#[test]
fn a_damaged_page_sets_the_file_aside_and_the_other_events_are_copied() {
    repeat("a damaged page", || {
        damaged(
            |file, pages| {
                file.write_all_at(&[0xa5; 16 * 4096], pages / 2 * 4096).expect("written");
            },
            1_000..EARLIER as usize,
        )
    });
}

/// The schema of version 1, as it was.
const VERSION_1: &str = "
    PRAGMA auto_vacuum = INCREMENTAL;
    CREATE TABLE events (
        id INTEGER PRIMARY KEY, run INTEGER NOT NULL, sequence INTEGER NOT NULL, uuid BLOB NOT NULL,
        published_ms INTEGER NOT NULL, camera TEXT NOT NULL, kind INTEGER NOT NULL,
        window_from_ms INTEGER, window_to_ms INTEGER, text TEXT, prompt_hash BLOB,
        body BLOB NOT NULL
    );
    CREATE UNIQUE INDEX events_position ON events (run, sequence);
    CREATE INDEX events_published ON events (published_ms);
    CREATE INDEX events_camera ON events (camera);
    CREATE VIRTUAL TABLE texts USING fts5 (
        text, content = 'events', content_rowid = 'id', tokenize = 'porter unicode61'
    );
    CREATE TRIGGER texts_insert AFTER INSERT ON events WHEN new.text IS NOT NULL BEGIN
        INSERT INTO texts (rowid, text) VALUES (new.id, new.text);
    END;
    CREATE TRIGGER texts_delete AFTER DELETE ON events WHEN old.text IS NOT NULL BEGIN
        INSERT INTO texts (texts, rowid, text) VALUES ('delete', old.id, old.text);
    END;
    PRAGMA user_version = 1;
";

#[test]
fn a_daemon_goes_on_with_a_journal_of_version_1() {
    repeat("a journal of version 1", || {
        let folder = folder();
        let journal = folder.path().join("journal");
        fs::create_dir(&journal).expect("a folder");
        let database =
            rusqlite::Connection::open(journal.join("events.sqlite")).expect("a database");
        database.execute_batch(VERSION_1).expect("the schema");
        for sequence in 1..=3 {
            let time = prost_types::Timestamp { seconds: 1_760_000_000, nanos: 0 };
            let body = proto::Event {
                id: Some(proto::EventId { run: Some(EARLIER_RUN), sequence }),
                published_at: Some(time),
                camera: "gate".into(),
                body: Some(proto::event::Body::CameraStatus(proto::CameraStatus {
                    state: proto::CameraState::Lost.into(),
                    since: Some(time),
                    reason: "an earlier reason".into(),
                    ..proto::CameraStatus::default()
                })),
                ..proto::Event::default()
            };
            let run = EARLIER_RUN as i64;
            let row = (run, sequence as i64, [sequence as u8; 16], run, body.encode_to_vec());
            let insert = "INSERT INTO events (run, sequence, uuid, published_ms, camera, kind, body) \
                          VALUES (?, ?, ?, ?, 'gate', 3, ?)";
            database.execute(insert, row).expect("an event");
        }
        drop(database);
        let setup = Setup::start(folder.path(), &journal);
        setup.subscriber.more(4);
        assert_eq!(setup.earlier_events(), 3);
        setup.recovers();
        let earlier = setup.journal().into_iter().find(|event| id(event) == (EARLIER_RUN, 2));
        let earlier = earlier.expect("the second event");
        assert_eq!(earlier["reason"], "an earlier reason", "{earlier}");
        assert_eq!(earlier["uuid"], "02020202-0202-0202-0202-020202020202", "{earlier}");
        setup.all_were_delivered(0)
    });
}
