//! Implements `lookout top`: a view of a running daemon in the terminal.
//!
//! Guarantees: the terminal is restored at the end, also after a panic or a signal. A daemon that
//! goes away is waited for. Nothing that a camera or the model says can control the terminal.

mod board;
mod keys;
mod source;
mod view;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use ratatui::backend::TestBackend;
use ratatui::{DefaultTerminal, Terminal};
use tokio::sync::mpsc;

use super::{ClientError, Done, Server, quietly};
use board::Board;
use keys::Keys;
use view::View;

/// Size of the text that is printed once.
const WIDTH: u16 = 120;

/// Interval at which ages are redrawn.
const TICK: Duration = Duration::from_secs(1);

/// Shows the daemon until the user quits, or `stop`. If the output is not a terminal, or with `once`, prints
/// one view as text.
pub async fn top(
    server: impl Into<Server>,
    once: bool,
    stop: impl Future<Output = ()>,
    out: &mut dyn Write,
) -> Done {
    // A missing daemon is reported at once. Only one that was reachable before is waited for.
    let server = server.into();
    let first = source::read(&server).await?;
    let newest = first.newest();
    let mut board = Board::new(&server.shown(), source::updates_of(first));
    if once || !io::stdout().is_terminal() {
        let text =
            printed(&board).map_err(|why| ClientError::Write { to: "the text".into(), why })?;
        return quietly(out.write_all(text.as_bytes())).map(drop);
    }
    let (to, mut updates) = mpsc::channel(64);
    let following = tokio::spawn(source::follow(server, newest, to));
    let failed = |why| ClientError::Write { to: "the terminal".into(), why };
    // This also restores the terminal if the program panics.
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let shown = tokio::select! {
        shown = show(&mut terminal, &mut board, &mut updates) => shown,
        () = stop => Ok(()),
    };
    following.abort();
    ratatui::try_restore().map_err(failed)?;
    shown.map_err(failed)
}

async fn show(
    terminal: &mut DefaultTerminal,
    board: &mut Board,
    updates: &mut mpsc::Receiver<source::Update>,
) -> io::Result<()> {
    let mut keys = Keys::read();
    let mut view = View::with_colours(std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()));
    let mut tick = tokio::time::interval(TICK);
    loop {
        terminal.draw(|frame| view.draw(board, SystemTime::now(), frame))?;
        tokio::select! {
            Some(update) = updates.recv() => board.update(update),
            event = keys.next() => match event {
                Some(event) if view.handle(&event, board) => {}
                _ => return Ok(()),
            },
            _ = tick.tick() => {}
        }
    }
}

/// Returns one view as text, with every camera and rule.
fn printed(board: &Board) -> io::Result<String> {
    let mut view = View::with_colours(false);
    let size = (WIDTH, view.height_of_all(board));
    text_of(&mut view, board, size)
}

fn text_of(view: &mut View, board: &Board, (width, height): (u16, u16)) -> io::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).map_err(io::Error::other)?;
    let drawn = terminal.draw(|frame| view.draw(board, SystemTime::now(), frame));
    drawn.map_err(io::Error::other)?;
    let cells = terminal.backend().buffer().content();
    let row = |cells: &[ratatui::buffer::Cell]| {
        let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned() + "\n"
    };
    let text: String = cells.chunks(usize::from(width)).map(row).collect();
    Ok(text.trim_end().to_owned() + "\n")
}

#[cfg(test)]
mod tests;
