//! Parses RTSP as bytes: the ends of messages and packets, and the lines of a message's head.
//!
//! Guarantees: heads are forwarded unchanged except for lines that are changed on purpose, because
//! cameras write lines that a strict parser refuses. Bytes that are neither a message nor a packet
//! are skipped.

/// The first item in a sequence of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// An interleaved packet; its length in bytes, with its four bytes of header.
    Packet(usize),
    /// A request or response: the length of its head, and of the whole message.
    Message { head: usize, all: usize },
    /// A number of bytes that are neither.
    Junk(usize),
    /// An incomplete piece: more bytes are needed.
    Unfinished,
}

/// Maximum length of a head or a body. Cameras send none that are longer.
const LONGEST: usize = 1 << 20;

/// Returns the first piece of `bytes`. If `channels` is not empty, only packets of these channels
/// are accepted.
pub fn first_piece(bytes: &[u8], channels: &[u8]) -> Piece {
    match bytes {
        [] => Piece::Unfinished,
        [b'$', channel, high, low, rest @ ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            // RTP and RTCP begin with their version.
            let expected = channels.contains(channel)
                && rest.first().is_none_or(|first| length == 0 || first >> 6 == 2);
            if !expected && !channels.is_empty() {
                junk(bytes, channels)
            } else if rest.len() < length {
                Piece::Unfinished
            } else {
                Piece::Packet(4 + length)
            }
        }
        [b'$', ..] => Piece::Unfinished,
        _ if may_be_message(bytes) => message(bytes).unwrap_or_else(|| junk(bytes, channels)),
        _ => junk(bytes, channels),
    }
}

/// Returns true if `bytes` can be a head: it begins with a method or with `RTSP/1.0`.
fn may_be_message(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(20)];
    let word = start.iter().take_while(|c| c.is_ascii_uppercase() || **c == b'_').count();
    word > 0 && start.get(word).is_none_or(|c| matches!(c, b' ' | b'/'))
}

/// Returns the message, or `None` if it exceeds the maximum length.
fn message(bytes: &[u8]) -> Option<Piece> {
    let Some(head) = head_end(bytes) else {
        return (bytes.len() <= LONGEST).then_some(Piece::Unfinished);
    };
    let body = match Head::parse(&bytes[..head]).value("Content-Length") {
        Some(length) => length.parse().ok().filter(|body| *body <= LONGEST)?,
        None => 0,
    };
    let all = head + body;
    Some(if bytes.len() < all { Piece::Unfinished } else { Piece::Message { head, all } })
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    let ends =
        |gap: &[u8]| bytes.windows(gap.len()).position(|w| w == gap).map(|at| at + gap.len());
    match (ends(b"\r\n\r\n"), ends(b"\n\n")) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Returns the bytes up to the next response, or RTP packet of an expected channel, as junk.
fn junk(bytes: &[u8], channels: &[u8]) -> Piece {
    let begins = |rest: &[u8]| match rest {
        [b'$', channel, _, _, first, ..] => channels.contains(channel) && first >> 6 == 2,
        [b'$', ..] => true,
        _ => rest.len() < 5 && b"RTSP/".starts_with(rest) || rest.starts_with(b"RTSP/"),
    };
    let next = (1..bytes.len()).find(|&at| begins(&bytes[at..]));
    Piece::Junk(next.unwrap_or(bytes.len()))
}

/// The head of a request or response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    lines: Vec<String>,
}

impl Head {
    pub fn parse(bytes: &[u8]) -> Head {
        let text = String::from_utf8_lossy(bytes);
        Head {
            lines: text.lines().take_while(|line| !line.is_empty()).map(str::to_string).collect(),
        }
    }

    pub fn request(method: &str, uri: &str) -> Head {
        Head { lines: vec![format!("{method} {uri} RTSP/1.0")] }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut text = self.lines.join("\r\n");
        text.push_str("\r\n\r\n");
        text.into_bytes()
    }

    /// Returns a response's status code and reason, or `None` for a request.
    pub fn status(&self) -> Option<(u16, &str)> {
        let rest = self.first().strip_prefix("RTSP/")?;
        let (_, rest) = rest.split_once(' ')?;
        let (code, reason) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        Some((code.parse().ok()?, reason.trim()))
    }

    pub fn set_status(&mut self, code: u16, reason: &str) {
        if let Some(first) = self.lines.first_mut() {
            *first = format!("RTSP/1.0 {code} {reason}");
        }
    }

    /// Returns a request's method.
    pub fn method(&self) -> &str {
        self.first().split(' ').next().unwrap_or_default()
    }

    /// Returns a request's URI.
    pub fn uri(&self) -> &str {
        self.first().split(' ').nth(1).unwrap_or_default()
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.lines.iter().skip(1).find_map(|line| value_in(line, name))
    }

    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().skip(1).filter_map(move |line| value_in(line, name))
    }

    /// Replaces the header's first line, or appends a line if there is none. Removes its further
    /// lines.
    pub fn set(&mut self, name: &str, value: &str) {
        let line = format!("{name}: {value}");
        let is = |at: &String| value_in(at, name).is_some();
        match self.lines.iter().skip(1).position(is) {
            Some(at) => {
                let mut seen = 0;
                self.lines.retain(|line| {
                    seen += 1;
                    seen - 1 <= at + 1 || !is(line)
                });
                self.lines[at + 1] = line;
            }
            None => self.lines.push(line),
        }
    }

    fn first(&self) -> &str {
        self.lines.first().map_or("", String::as_str)
    }
}

fn value_in<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = line.split_once(':')?;
    key.trim().eq_ignore_ascii_case(name).then_some(value.trim())
}

/// Splits any bytes into pieces and reads the heads. The entry point of the fuzz target
/// `rtsp_wire`.
#[cfg(fuzzing)]
pub fn fuzz_wire(data: &[u8]) {
    for channels in [&[][..], &[0, 1]] {
        let mut rest = data;
        loop {
            let taken = match first_piece(rest, channels) {
                Piece::Packet(length) | Piece::Junk(length) => length,
                Piece::Message { head, all } => {
                    let mut head = Head::parse(&rest[..head]);
                    let _ = (head.status(), head.method(), head.uri(), head.value("Session"));
                    head.set("CSeq", "1");
                    let _ = head.bytes();
                    all
                }
                Piece::Unfinished => break,
            };
            assert!(0 < taken && taken <= rest.len(), "a piece of {taken} of {} bytes", rest.len());
            rest = &rest[taken..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANSWER: &[u8] = b"RTSP/1.0 200 OK\r\nCSeq: 3\r\ncontent-length: 2\r\n\r\nhi";

    #[test]
    fn a_message_with_a_too_long_body_is_rejected() {
        for length in [LONGEST + 1, usize::MAX - 3, usize::MAX] {
            let bytes = format!("RTSP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\nv=0");
            assert!(matches!(first_piece(bytes.as_bytes(), &[]), Piece::Junk(_)), "{length}");
        }
    }

    #[test]
    fn packets_and_messages_are_distinguished() {
        assert_eq!(
            first_piece(ANSWER, &[]),
            Piece::Message { head: ANSWER.len() - 2, all: ANSWER.len() }
        );
        assert_eq!(first_piece(b"$\x00\x00\x02ab$", &[]), Piece::Packet(6));
        for cut in 0..ANSWER.len() {
            assert_eq!(first_piece(&ANSWER[..cut], &[]), Piece::Unfinished, "{cut}");
        }
        assert_eq!(
            first_piece(b"GET_PARAMETER * RTSP/1.0\n\n", &[]),
            Piece::Message { head: 26, all: 26 }
        );
    }

    #[test]
    fn garbage_between_packets_is_skipped() {
        let bytes = b"\x00\x01$\x07\x00\x01\x80garbage$\x00\x00\x02\x80ab";
        assert_eq!(first_piece(bytes, &[0, 1]), Piece::Junk(14));
        assert_eq!(first_piece(&bytes[2..], &[0, 1]), Piece::Junk(12));
        assert_eq!(first_piece(&bytes[..4], &[0, 1]), Piece::Junk(2));
        assert_eq!(first_piece(&bytes[2..4], &[0, 1]), Piece::Unfinished);
        assert_eq!(first_piece(b"\r\nRTSP/1.0 200 OK", &[]), Piece::Junk(2));
        assert_eq!(first_piece(b"hello", &[]), Piece::Junk(5));
    }

    #[test]
    fn a_head_is_read_and_changed_line_by_line() {
        let mut head = Head::parse(b"RTSP/1.0 401 No Way\r\ncseq:7\r\nX: a\r\nX: b\r\n\r\n");
        assert_eq!(head.status(), Some((401, "No Way")));
        assert_eq!(head.values("x").collect::<Vec<_>>(), ["a", "b"]);
        head.set("CSeq", "9");
        head.set("X", "c");
        head.set("Y", "d");
        let text = String::from_utf8(head.bytes()).unwrap();
        assert_eq!(text, "RTSP/1.0 401 No Way\r\nCSeq: 9\r\nX: c\r\nY: d\r\n\r\n");
        let request = Head::request("OPTIONS", "rtsp://cam/x?a b");
        assert_eq!(
            (request.method(), request.uri(), request.status()),
            ("OPTIONS", "rtsp://cam/x?a", None)
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_parsed_without_hanging(bytes: Vec<u8>, channels: Vec<u8>) {
            let mut rest = &bytes[..];
            while let Piece::Packet(taken)
            | Piece::Message { all: taken, .. }
            | Piece::Junk(taken) = first_piece(rest, &channels)
            {
                prop_assert!(taken > 0 && taken <= rest.len());
                rest = &rest[taken..];
            }
        }
    }
}
