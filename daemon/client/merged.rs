//! Watches several daemons as one source.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, Write};
use std::task::Poll;

use super::{Done, Filter, OnEnd, Output, Server, watch};

/// Prints the events of every daemon that the address names, with commas between them, until the
/// reader goes away. If there are several, each line says which daemon it is from: a text begins
/// with the address, and JSON has it as `daemon`.
///
/// A daemon that is missing at the start is an error. Later, each is waited for by itself.
pub async fn watch_all(
    server: impl Into<Server>,
    filter: Filter,
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let server = server.into();
    if !server.address.contains(',') {
        return watch(server, filter, output, OnEnd::Reconnect, out).await;
    }
    let shared = RefCell::new(out);
    let watch_one = async |address: &str| {
        let server = Server { address: address.trim().to_owned(), ..server.clone() };
        let mut lines = Lines { daemon: server.shown(), output, line: Vec::new(), out: &shared };
        watch(server, filter.clone(), output, OnEnd::Reconnect, &mut lines).await
    };
    let mut watched: Vec<_> =
        server.address.split(',').map(|address| Box::pin(watch_one(address))).collect();
    // One that ends has lost the reader, or can never succeed.
    poll_fn(|context| {
        for one in &mut watched {
            if let Poll::Ready(done) = one.as_mut().poll(context) {
                return Poll::Ready(done);
            }
        }
        Poll::Pending
    })
    .await
}

/// Marks the lines of one daemon, and writes each as a whole to the output of all.
struct Lines<'a, 'out> {
    daemon: String,
    output: Output,
    line: Vec<u8>,
    out: &'a RefCell<&'out mut dyn Write>,
}

impl Write for Lines<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        let mut out = self.out.borrow_mut();
        match (self.output, line.strip_prefix(b"{")) {
            (Output::Json, Some(fields)) => {
                write!(out, "{{\"daemon\":{},", serde_json::to_string(&self.daemon)?)?;
                out.write_all(fields)?;
            }
            _ => {
                write!(out, "{}  ", self.daemon)?;
                out.write_all(&line)?;
            }
        }
        out.flush()
    }
}
