//! Draws the board, and handles the keys.

use std::cmp::Reverse;
use std::time::SystemTime;

use ratatui::Frame;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState, Wrap};

use super::board::{Board, Captions};
use crate::client::text::one_line;
use crate::event::CameraState;
use crate::service::{CameraInfo, RuleInfo, RuleState};

/// Greatest height of the rules' table, with its head.
const RULES: u16 = 8;

/// Greatest number of the daemon's problems that are shown.
const TROUBLES: usize = 3;

const HELP: &str = "\
q, Ctrl-C     quit
up, down      select a camera
enter         show the camera's caption in full, and its state
/             show only cameras and rules whose name contains a text; enter ends it
s             sort by name, age of the caption, lateness, skipped windows
esc           close, or remove the filter
?             this help

FRAME    time since the newest frame
CAPTION  time since the end of the newest caption's window
LATE     time from the window's close until its caption was published
FRAMES   frames that the model saw, of those expected
SKIP     windows without a caption, among the captions that this view has read";

/// The state of the view.
pub struct View {
    has_colours: bool,
    /// Row of the selected camera.
    selected: usize,
    sort: Sort,
    filter: String,
    panel: Panel,
}

#[derive(Clone, Copy, PartialEq)]
enum Sort {
    Name,
    Age,
    Late,
    Skipped,
}

#[derive(Clone, Copy, PartialEq)]
enum Panel {
    Rules,
    Camera,
    Filter,
    Help,
}

impl View {
    pub fn with_colours(has_colours: bool) -> View {
        let filter = String::new();
        View { has_colours, selected: 0, sort: Sort::Name, filter, panel: Panel::Rules }
    }

    /// Returns the height at which everything is shown.
    pub fn height_of_all(&self, board: &Board) -> u16 {
        let rules = if board.rules.is_empty() { 0 } else { board.rules.len() + 2 };
        let head = self.head(board).len();
        u16::try_from(head + board.cameras.len() + rules + 3).unwrap_or(u16::MAX)
    }

    /// Handles a key or a new size. Returns false if the user quits.
    pub fn handle(&mut self, event: &Event, board: &Board) -> bool {
        let Event::Key(KeyEvent { code, modifiers, kind, .. }) = event else { return true };
        if *kind == KeyEventKind::Release {
            return true;
        }
        if modifiers.contains(KeyModifiers::CONTROL) {
            return *code != KeyCode::Char('c');
        }
        if self.panel == Panel::Filter {
            match code {
                KeyCode::Char(letter) => self.filter.push(*letter),
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Enter => self.panel = Panel::Rules,
                KeyCode::Esc => self.close(),
                _ => {}
            }
            return true;
        }
        let last = self.cameras(board).len().saturating_sub(1);
        match code {
            KeyCode::Char('q') => return false,
            KeyCode::Up => self.selected = self.selected.min(last).saturating_sub(1),
            KeyCode::Down => self.selected = (self.selected + 1).min(last),
            KeyCode::Enter => self.panel = Panel::Camera,
            KeyCode::Char('/') => self.panel = Panel::Filter,
            KeyCode::Char('?') => self.panel = Panel::Help,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Esc => self.close(),
            _ => {}
        }
        true
    }

    /// Closes the panel, or removes the filter.
    fn close(&mut self) {
        if matches!(self.panel, Panel::Rules | Panel::Filter) {
            self.filter.clear();
        }
        self.panel = Panel::Rules;
    }

    fn matches(&self, name: &str) -> bool {
        name.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// Returns the cameras that are shown, in order.
    fn cameras<'a>(&self, board: &'a Board) -> Vec<&'a CameraInfo> {
        let mut cameras: Vec<_> = board.cameras.iter().filter(|c| self.matches(&c.name)).collect();
        let captions = |camera: &CameraInfo| board.captions.get(&camera.name);
        let millis = |seconds: f64| (seconds * 1000.0) as u64;
        match self.sort {
            Sort::Name => cameras.sort_by(|a, b| a.name.cmp(&b.name)),
            Sort::Age => {
                // A camera without a caption comes first.
                cameras.sort_by_key(|c| captions(c).map(|c| c.newest.inference.window.to));
            }
            Sort::Late => {
                let late = |c: &Captions| millis(c.late_seconds);
                cameras.sort_by_key(|camera| Reverse(captions(camera).map(late)));
            }
            Sort::Skipped => {
                cameras.sort_by_key(|camera| Reverse(captions(camera).map(|c| c.skipped)));
            }
        }
        cameras
    }

    pub fn draw(&mut self, board: &Board, now: SystemTime, frame: &mut Frame<'_>) {
        let rules: Vec<_> = board
            .rules
            .iter()
            .filter(|rule| self.matches(&rule.name) || self.matches(&rule.camera))
            .collect();
        let cameras = self.cameras(board);
        self.selected = self.selected.min(cameras.len().saturating_sub(1));
        let all = frame.area();
        let head = self.head(board);
        let whole = head.len() + cameras.len() + rules.len() + 5 <= usize::from(all.height);
        let rows = u16::try_from(rules.len()).unwrap_or(u16::MAX).saturating_add(2);
        let panel = match self.panel {
            Panel::Help | Panel::Camera => all.height / 2,
            Panel::Rules | Panel::Filter if rules.is_empty() => 0,
            Panel::Rules | Panel::Filter if whole => rows,
            Panel::Rules | Panel::Filter => rows.min(RULES).min(all.height / 3),
        };
        let parts = [
            // At most `TROUBLES + 2` lines.
            Constraint::Length(u16::try_from(head.len()).unwrap_or(u16::MAX)),
            Constraint::Min(1),
            Constraint::Length(panel),
            Constraint::Length(1),
        ];
        let [top, table, panel, foot] = Layout::vertical(parts).areas(all);
        frame.render_widget(Paragraph::new(head), top);
        self.draw_cameras(board, &cameras, now, table, frame);
        match self.panel {
            Panel::Help => frame.render_widget(Paragraph::new(HELP), panel),
            Panel::Camera => {
                let text = cameras.get(self.selected).map(|camera| detail(board, camera));
                let text = Paragraph::new(text.unwrap_or_default()).wrap(Wrap { trim: false });
                frame.render_widget(text, panel);
            }
            Panel::Rules | Panel::Filter => self.draw_rules(&rules, panel, frame),
        }
        frame.render_widget(Paragraph::new(self.foot()), foot);
    }

    fn head(&self, board: &Board) -> Vec<Line<'static>> {
        let live = |camera: &&CameraInfo| camera.status.state == CameraState::Live;
        let (all, live) = (board.cameras.len(), board.cameras.iter().filter(live).count());
        let first = format!("lookout at {}   {live} of {all} cameras live", board.address);
        if let Some(why) = &board.lost {
            let lost = format!("CONNECTION LOST, retrying: {}", one_line(why));
            return vec![first.into(), Line::styled(lost, self.colour(Color::Red))];
        }
        let (memory, disk) = board.bytes();
        let sizes = format!(
            "buffer {} in memory, {} on disk",
            bytesize::ByteSize(memory),
            bytesize::ByteSize(disk)
        );
        let second = match &board.model {
            None => format!("no text yet   {sizes}"),
            Some(model) => format!(
                "{} on {}   wait {}, prefill {}, decode {}, {:.1} tokens/s   {sizes}",
                model.name,
                model.device,
                seconds(model.wait_seconds),
                seconds(model.prefill_seconds),
                seconds(model.decode_seconds),
                model.tokens_per_second
            ),
        };
        let troubles = board.troubles.iter().take(TROUBLES);
        let troubles =
            troubles.map(|trouble| Line::styled(one_line(trouble), self.colour(Color::Yellow)));
        [first.into(), second.into()].into_iter().chain(troubles).collect()
    }

    fn draw_cameras(
        &self,
        board: &Board,
        cameras: &[&CameraInfo],
        now: SystemTime,
        area: Rect,
        frame: &mut Frame<'_>,
    ) {
        let row = |camera: &&CameraInfo| {
            let state = camera.status.state;
            let captions = board.captions.get(&camera.name);
            let of_captions = |value: fn(&Captions) -> String| captions.map_or("-".into(), value);
            let frame_age = camera.status.last_frame_at.map_or("never".into(), |time| {
                seconds(now.duration_since(time).unwrap_or_default().as_secs_f64())
            });
            let age = captions.map_or("-".into(), |captions| seconds(captions.age_seconds(now)));
            let text = match state {
                CameraState::Live => of_captions(|c| one_line(&c.newest.inference.text)),
                _ => one_line(&camera.status.reason),
            };
            Row::new([
                Cell::from(camera.name.to_string()),
                Cell::from(state.name()).style(self.colour(colour_of(state))),
                Cell::from(frame_age),
                Cell::from(age),
                Cell::from(of_captions(|c| seconds(c.late_seconds))),
                Cell::from(of_captions(|c| {
                    let coverage = &c.newest.inference.coverage;
                    format!("{}/{}", coverage.frames_used, coverage.frames_expected)
                })),
                Cell::from(of_captions(|c| c.skipped.to_string())),
                Cell::from(text),
            ])
        };
        let names = ["CAMERA", "STATE", "FRAME", "CAPTION", "LATE", "FRAMES", "SKIP", "TEXT"];
        let name = cameras.iter().map(|camera| camera.name.chars().count()).max().unwrap_or(0);
        let name = u16::try_from(name.clamp(6, 16)).unwrap_or(16);
        let widths = [
            Constraint::Length(name),
            Constraint::Length(10),
            Constraint::Length(6),
            Constraint::Length(7),
            Constraint::Length(6),
            Constraint::Length(6),
            Constraint::Length(4),
            Constraint::Fill(1),
        ];
        let table = Table::new(cameras.iter().map(row), widths)
            .header(Row::new(names).style(Style::new().add_modifier(Modifier::BOLD)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = TableState::new().with_selected(Some(self.selected));
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn draw_rules(&self, rules: &[&RuleInfo], area: Rect, frame: &mut Frame<'_>) {
        let row = |rule: &&RuleInfo| {
            let (state, colour) = match rule.state {
                _ if rule.is_blind => ("blind", Color::Yellow),
                RuleState::Active => ("active", Color::Red),
                other => (other.name(), Color::Reset),
            };
            Row::new([
                Cell::from(rule.name.to_string()),
                Cell::from(rule.camera.to_string()),
                Cell::from(state).style(self.colour(colour)),
                Cell::from(rule.score.map_or("-".into(), |score| format!("{score:.2}"))),
                Cell::from(rule.alerts_today.to_string()),
                Cell::from(rule.question.to_string()),
            ])
        };
        let names = ["RULE", "CAMERA", "STATE", "SCORE", "TODAY", "QUESTION"];
        let widths = [
            Constraint::Length(16),
            Constraint::Length(16),
            Constraint::Length(12),
            Constraint::Length(5),
            Constraint::Length(5),
            Constraint::Fill(1),
        ];
        let header = Row::new(names).style(Style::new().add_modifier(Modifier::BOLD)).top_margin(1);
        frame.render_widget(Table::new(rules.iter().map(row), widths).header(header), area);
    }

    fn foot(&self) -> String {
        if self.panel == Panel::Filter {
            return format!("filter: {}_   (enter: keep, esc: remove)", self.filter);
        }
        let mut foot = format!(
            "q quit  ↑↓ select  enter detail  / filter  s sort: {}  ? help",
            self.sort.name()
        );
        if !self.filter.is_empty() {
            foot += &format!("   only {:?}", self.filter);
        }
        foot
    }

    /// Returns the style of a colour, or none where there are no colours.
    fn colour(&self, colour: Color) -> Style {
        if self.has_colours { Style::new().fg(colour) } else { Style::new() }
    }
}

impl Sort {
    fn next(self) -> Sort {
        match self {
            Sort::Name => Sort::Age,
            Sort::Age => Sort::Late,
            Sort::Late => Sort::Skipped,
            Sort::Skipped => Sort::Name,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Sort::Name => "name",
            Sort::Age => "age",
            Sort::Late => "lateness",
            Sort::Skipped => "skipped",
        }
    }
}

fn colour_of(state: CameraState) -> Color {
    match state {
        CameraState::Live => Color::Green,
        CameraState::Connecting => Color::Yellow,
        CameraState::Paused => Color::Gray,
        CameraState::Stalled | CameraState::Lost | CameraState::Refused => Color::Red,
    }
}

/// Describes a camera and its newest caption.
fn detail(board: &Board, camera: &CameraInfo) -> String {
    let status = &camera.status;
    let mut text = format!(
        "\n{}   {}   {}   {} reconnects   decoder {}\n",
        camera.name,
        status.state.name(),
        camera.source,
        status.reconnects,
        if status.decoder.is_empty() { "-" } else { &status.decoder }
    );
    if !status.reason.is_empty() {
        text += &format!("{}\n", one_line(&status.reason));
    }
    text += &format!(
        "buffer: {} frames, {} in memory, {} on disk\n",
        camera.buffer_frames,
        bytesize::ByteSize(camera.buffer_bytes),
        bytesize::ByteSize(camera.disk_bytes)
    );
    let Some(captions) = board.captions.get(&camera.name) else { return text + "no caption yet" };
    let inference = &captions.newest.inference;
    let timing = inference.timing;
    text + &format!(
        "{}\nwait {} (encode {}), prefill {}, decode {}, total {}; {} gaps, {} tokens",
        one_line(&inference.text),
        seconds(timing.wait_seconds),
        seconds(timing.encode_seconds),
        seconds(timing.prefill_seconds),
        seconds(timing.decode_seconds),
        seconds(timing.total_seconds),
        inference.coverage.gaps.len(),
        inference.usage.new_tokens
    )
}

/// Formats a number of seconds in at most six columns.
fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 9.95 => format!("{s:.1}s"),
        s if s < 100.0 => format!("{s:.0}s"),
        s if s < 6000.0 => format!("{:.0}m", s / 60.0),
        s if s < 360_000.0 => format!("{:.0}h", s / 3600.0),
        s => format!("{:.0}d", (s / 86_400.0).min(9999.0)),
    }
}
