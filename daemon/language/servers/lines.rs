//! Reads a stream of server-sent events, as OpenAI's API sends them: lines `data: JSON`, the last of
//! which is `data: [DONE]`.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::http::{Problem, message, within};
use crate::tls;

/// Maximum size of an event.
const LARGEST_EVENT: usize = 1 << 20;

/// The events of a response.
pub struct Events {
    body: Incoming,
    unread: Vec<u8>,
    stall_timeout: Duration,
}

impl Events {
    /// Reads the events of a response, each of which comes within `stall_timeout`.
    pub fn new(body: Incoming, stall_timeout: Duration) -> Events {
        Events { body, unread: Vec::new(), stall_timeout }
    }

    /// Returns the JSON of the next event, or `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Problem> {
        loop {
            while let Some(line) = take_line(&mut self.unread) {
                match data(&line) {
                    None => {}
                    Some(b"[DONE]") => return Ok(None),
                    Some(data) => match message(data) {
                        Some(text) => {
                            return Err(Problem::Unreachable(format!("it failed: {text}")));
                        }
                        None => return Ok(Some(data.to_vec())),
                    },
                }
            }
            if self.unread.len() > LARGEST_EVENT {
                return Err(Problem::Unusable("it sent an event of more than 1 MiB".into()));
            }
            let frame = within(self.stall_timeout, async { Ok(self.body.frame().await) }).await?;
            let broke_off =
                |why: &str| Problem::Unreachable(format!("its answer broke off: {why}"));
            let frame = frame.ok_or_else(|| broke_off("no [DONE] at its end"))?;
            let frame = frame.map_err(|error| broke_off(&tls::innermost(&error).to_string()))?;
            if let Some(bytes) = frame.data_ref() {
                self.unread.extend_from_slice(bytes);
            }
        }
    }
}

/// Takes the first complete line, without its end.
fn take_line(unread: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = unread.iter().position(|byte| *byte == b'\n')?;
    let mut line: Vec<u8> = unread.drain(..=end).collect();
    line.pop();
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Some(line)
}

/// Returns the data of a line, or `None` for a comment, an empty line and other fields.
fn data(line: &[u8]) -> Option<&[u8]> {
    let data = line.strip_prefix(b"data:")?;
    Some(data.strip_prefix(b" ").unwrap_or(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_as_they_become_complete() {
        let mut unread = b"data: {\"a\":1}\r\n\n: ping\ndata:[DONE]\ndata: {\"b\"".to_vec();
        let mut lines = Vec::new();
        while let Some(line) = take_line(&mut unread) {
            lines.push(data(&line).map(<[u8]>::to_vec));
        }
        let wanted = [Some(b"{\"a\":1}".to_vec()), None, None, Some(b"[DONE]".to_vec())];
        assert_eq!(lines, wanted);
        assert_eq!(unread, b"data: {\"b\"");
    }
}
