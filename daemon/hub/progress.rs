//! Shows how far a download is: one line that changes on a terminal, a line for each file elsewhere.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::config::Bytes;

/// Shortest time between two versions of the line.
const INTERVAL: Duration = Duration::from_millis(200);

pub struct Progress {
    to: Box<dyn Write>,
    is_terminal: bool,
    /// Bytes of all files, and those of them that are on disk.
    total: u64,
    done: u64,
    /// Bytes that this process has received.
    received: u64,
    started: Instant,
    shown: Option<Instant>,
}

impl Progress {
    pub fn new(to: Box<dyn Write>, is_terminal: bool) -> Progress {
        let started = Instant::now();
        Progress { to, is_terminal, total: 0, done: 0, received: 0, started, shown: None }
    }

    /// Writes a line. A terminal that is gone does not end the download.
    pub fn note(&mut self, text: &str) {
        if self.is_terminal && self.shown.take().is_some() {
            let _ = writeln!(self.to);
        }
        let _ = writeln!(self.to, "{text}");
    }

    /// Begins to count. `total` is the number of bytes of all files.
    pub fn begin(&mut self, total: u64) {
        self.total = total;
        self.started = Instant::now();
    }

    /// Counts bytes that an earlier run has received.
    pub fn found(&mut self, bytes: u64) {
        self.done += bytes;
    }

    /// Takes back bytes that were counted, because they are not those of the file.
    pub fn lost(&mut self, bytes: u64) {
        self.done = self.done.saturating_sub(bytes);
    }

    /// Counts bytes that have arrived.
    pub fn received(&mut self, bytes: u64) {
        self.done += bytes;
        self.received += bytes;
        if self.is_terminal && self.shown.is_none_or(|shown| shown.elapsed() >= INTERVAL) {
            self.show();
        }
    }

    /// Reports that a file is complete.
    pub fn complete(&mut self, file: &str) {
        if self.is_terminal {
            self.show();
            if self.done >= self.total {
                let _ = writeln!(self.to);
            }
            return;
        }
        let (done, total) = (Bytes::b(self.done), Bytes::b(self.total));
        let _ = writeln!(self.to, "{file}: complete, {done} of {total}");
    }

    fn show(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let rate = Bytes::b((self.received as f64 / seconds) as u64);
        let (done, total) = (Bytes::b(self.done), Bytes::b(self.total));
        // Spaces cover the end of a longer line.
        let _ = write!(self.to, "\r{done} of {total}, {rate}/s        ");
        let _ = self.to.flush();
        self.shown = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn shown(is_terminal: bool) -> String {
        let screen = Screen::default();
        let mut progress = Progress::new(Box::new(screen.clone()), is_terminal);
        progress.begin(4096);
        progress.found(1024);
        progress.received(1024);
        progress.note("the connection ended");
        progress.received(2048);
        progress.complete("a.onnx");
        String::from_utf8(screen.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_log_has_a_line_for_each_file() {
        assert_eq!(shown(false), "the connection ended\na.onnx: complete, 4.0 KiB of 4.0 KiB\n");
    }

    #[test]
    fn a_terminal_has_one_line_that_changes() {
        let shown = shown(true);
        assert!(shown.starts_with("\r2.0 KiB of 4.0 KiB, "), "{shown:?}");
        assert!(shown.contains("\nthe connection ended\n\r4.0 KiB of 4.0 KiB, "), "{shown:?}");
        assert!(shown.ends_with('\n'), "{shown:?}");
    }
}
