//! Tests `lookout top` as text, and in a terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitStatus;

use lookout::client;

use super::*;

const LONG: Duration = Duration::from_secs(60);

const ENTERS: &str = "\u{1b}[?1049h";
const LEAVES: &str = "\u{1b}[?1049l";

/// The program in a terminal of 80 columns.
struct Terminal {
    program: Child,
    input: File,
    output: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn start(server: &str) -> Terminal {
        let mut ours = -1;
        let mut theirs = -1;
        let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let no_name = std::ptr::null_mut();
        // SAFETY: the pointers are valid, or null where that is allowed.
        let opened =
            unsafe { libc::openpty(&mut ours, &mut theirs, no_name, std::ptr::null(), &size) };
        assert_eq!(opened, 0);
        // SAFETY: both were just opened, and nothing else owns them.
        let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        let program = Command::new(env!("CARGO_BIN_EXE_lookout"))
            .args(["top", "--server", server])
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(theirs.try_clone().unwrap())
            .stdout(theirs.try_clone().unwrap())
            .stderr(theirs)
            .spawn()
            .unwrap();
        let input = File::from(ours.try_clone().unwrap());
        let (to, output) = mpsc::channel(4096);
        std::thread::spawn(move || {
            let mut ours = File::from(ours);
            let mut bytes = [0; 4096];
            // The end of the program is an error here.
            while let Ok(read @ 1..) = ours.read(&mut bytes) {
                if to.blocking_send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { program, input, output, seen: String::new() }
    }

    /// Waits until the terminal has received a text since the last call.
    async fn until(&mut self, text: &str) {
        let reading = async {
            loop {
                if let Some(at) = self.seen.find(text) {
                    self.seen.drain(..at + text.len());
                    return;
                }
                match self.output.recv().await {
                    Some(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                    None => panic!("the program ended before {text:?}: {:?}", self.seen),
                }
            }
        };
        if timeout(LONG, reading).await.is_err() {
            panic!("no {text:?} in {:?}", self.seen);
        }
    }

    fn press(&mut self, keys: &str) {
        self.input.write_all(keys.as_bytes()).unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        let waiting = async {
            loop {
                if let Some(status) = self.program.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG, waiting).await.expect("the program does not end")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[tokio::test]
async fn one_view_is_printed_as_text() {
    let daemon = Daemon::start(100).await;
    daemon.service.rules.lock().unwrap().push(rule("person", Some("a1")));
    daemon.caption("A red car.");
    let mut out = Vec::new();
    client::top(&daemon.grpc, true, std::future::pending(), &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("1 of 2 cameras live"), "{text}");
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap();
    assert!(line("gate").ends_with("A red car."), "{text}");
    assert_eq!(line("the disk"), "the disk is full");
    assert!(line("yard").ends_with("no route"), "{text}");
    assert!(line("person").contains("active"), "{text}");
    let error = client::top("127.0.0.1:1", true, std::future::pending(), &mut Vec::new()).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("not reachable"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_follows_the_daemon_and_restores_the_terminal() {
    let mut daemon = Daemon::start(100).await;
    let mut terminal = Terminal::start(&daemon.grpc);
    terminal.until(ENTERS).await;
    terminal.until("gate").await;
    daemon.caption("A-red-car.");
    terminal.until("A-red-car.").await;
    // The daemon goes away and returns.
    daemon.stop.cancel();
    timeout(LONG, daemon.serving.take().unwrap()).await.unwrap().unwrap().unwrap();
    terminal.until("LOST").await;
    daemon.serve_again().await;
    daemon.caption("A-blue-van.");
    let captioning = async {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            daemon.caption("A-blue-van.");
        }
    };
    tokio::select! {
        () = terminal.until("blue-van") => {}
        () = captioning => {}
    }
    terminal.press("q");
    terminal.until(LEAVES).await;
    assert!(terminal.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn control_c_ends_the_view() {
    let daemon = Daemon::start(100).await;
    let mut terminal = Terminal::start(&daemon.grpc);
    terminal.until(ENTERS).await;
    terminal.until("gate").await;
    terminal.press("?");
    terminal.until("Ctrl-C").await;
    terminal.press("\u{3}");
    terminal.until(LEAVES).await;
    assert!(terminal.ended().await.success());
}
