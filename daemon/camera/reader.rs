//! Reads RTSP from a socket, piece by piece.

use std::io::{self, Read};
use std::net::TcpStream;

use super::wire::{Head, Piece, first_piece};

/// A socket with the bytes that were read and not yet taken.
pub struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Number of bytes of the buffer that have been taken.
    taken: usize,
}

impl Reader {
    pub fn new(stream: TcpStream) -> Reader {
        Reader { stream, buffer: Vec::new(), taken: 0 }
    }

    /// Returns the next complete piece, which the caller then takes, or [`Piece::Unfinished`] at
    /// the end.
    pub fn piece(&mut self, channels: &[u8]) -> io::Result<Piece> {
        loop {
            let piece = first_piece(&self.buffer[self.taken..], channels);
            if piece != Piece::Unfinished {
                return Ok(piece);
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk)? {
                0 => return Ok(Piece::Unfinished),
                read => self.buffer.extend_from_slice(&chunk[..read]),
            }
        }
    }

    pub fn take(&mut self, length: usize) -> &[u8] {
        let from = self.taken;
        self.taken += length;
        &self.buffer[from..self.taken]
    }

    /// Takes all complete packets in the buffer.
    pub fn take_packets(&mut self) -> &[u8] {
        let from = self.taken;
        while let Piece::Packet(all) = first_piece(&self.buffer[self.taken..], &[]) {
            self.taken += all;
        }
        &self.buffer[from..self.taken]
    }

    pub fn message(&mut self) -> io::Result<(Head, Vec<u8>)> {
        match self.piece(&[])? {
            Piece::Message { head, all } => {
                let bytes = self.take(all);
                Ok((Head::parse(&bytes[..head]), bytes[head..].to_vec()))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
