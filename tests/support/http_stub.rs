//! The HTTP of a language server that stands in for a real one: one request per connection, answered
//! as a whole or by events.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use serde_json::Value;

/// Accepts connections, each in a thread of its own. Returns the address.
pub fn listen(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A request, and the connection to its client.
pub struct Incoming {
    pub head: String,
    pub body: Vec<u8>,
    reader: BufReader<TcpStream>,
    pub stream: TcpStream,
}

impl Incoming {
    /// Reads a request. `None` if the client leaves before its end.
    pub fn read(stream: TcpStream) -> Option<Incoming> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        Some(Incoming { head, body, reader, stream })
    }

    /// Waits until the client leaves. It sends nothing more, so that only its end can be read.
    pub fn wait_for_end(&mut self) -> bool {
        matches!(self.reader.read(&mut [0; 1]), Ok(0) | Err(_))
    }

    /// Answers by a JSON value.
    pub fn reply(&mut self, status: u16, body: &Value) -> Option<()> {
        self.reply_as(status, "application/json", &body.to_string())
    }

    /// Answers by a text.
    pub fn reply_text(&mut self, body: &str) -> Option<()> {
        self.reply_as(200, "text/plain", body)
    }

    fn reply_as(&mut self, status: u16, kind: &str, body: &str) -> Option<()> {
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        self.stream.write_all((head + body).as_bytes()).ok()
    }

    /// Begins an answer by events.
    pub fn begin_events(&mut self) -> Option<()> {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n";
        self.stream.write_all(format!("{head}\r\n: waits\n\n").as_bytes()).ok()
    }

    pub fn event(&mut self, value: &Value) -> Option<()> {
        self.stream.write_all(format!("data: {value}\n\n").as_bytes()).ok()
    }

    pub fn end_events(&mut self) -> Option<()> {
        self.stream.write_all(b"data: [DONE]\n\n").ok()
    }
}
