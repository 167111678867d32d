//! Commands that are stopped by SIGINT or SIGTERM, as programs of their own.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn lookout(args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lookout"));
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: the process is a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// Waits until a condition is met.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs what blocks on a thread of its own, while the daemon serves.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test]
async fn a_watch_ends_after_a_whole_line() {
    let daemon = Daemon::start(10).await;
    daemon.caption("seen");
    for number in [libc::SIGINT, libc::SIGTERM] {
        let mut child =
            lookout(&["watch", "--json", "--from-sequence", "0", "--server", &daemon.grpc]);
        let (first, rest, code) = blocking(move || {
            let mut out = BufReader::new(child.stdout.take().unwrap());
            let (mut first, mut rest) = (String::new(), String::new());
            out.read_line(&mut first).unwrap();
            signal(&child, number);
            out.read_to_string(&mut rest).unwrap();
            (first, rest, child.wait().unwrap())
        })
        .await;
        let event: Value = serde_json::from_str(&first).unwrap();
        assert_eq!((&event["text"], &*rest), (&"seen".into(), ""));
        assert_eq!(code.code(), Some(0), "signal {:?}", code.signal());
    }
}

#[tokio::test]
async fn a_watch_whose_output_nobody_reads_ends() {
    let daemon = Daemon::start(10).await;
    // The pipe holds 64 KiB, so that not even the first line is written completely.
    daemon.caption(&"seen ".repeat(20_000));
    let mut child = lookout(&["watch", "--json", "--from-sequence", "0", "--server", &daemon.grpc]);
    let code = blocking(move || {
        let pipe = child.stdout.as_ref().unwrap().as_raw_fd();
        wait_until("a part of a line", || {
            let mut bytes = 0;
            // SAFETY: FIONREAD writes the number of bytes in an open pipe to an integer.
            assert_eq!(unsafe { libc::ioctl(pipe, libc::FIONREAD, &mut bytes) }, 0);
            bytes > 0
        });
        signal(&child, libc::SIGINT);
        let mut code = None;
        wait_until("the end", || {
            code = child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap()
    })
    .await;
    assert_eq!(code.code(), Some(1), "signal {:?}", code.signal());
}

#[tokio::test]
async fn an_export_that_is_stopped_leaves_no_file() {
    let daemon = Daemon::start(10).await;
    let Body::Caption(mut of_frame) = caption("seen") else { unreachable!() };
    // The lookup of this frame does not end.
    of_frame.inference.frames[0].id.number = 9;
    daemon.service.journal.append("gate".into(), Body::Caption(of_frame));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.zip");
    let child = lookout(&["export", file.to_str().unwrap(), "--server", &daemon.grpc]);
    let path = folder.path().to_owned();
    let Output { status, stderr, .. } = blocking(move || {
        wait_until("a file", || std::fs::read_dir(&path).unwrap().next().is_some());
        signal(&child, libc::SIGINT);
        child.wait_with_output().unwrap()
    })
    .await;
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(stderr, "lookout: stopped; no file was written\n");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
