//! Draws the trial of a rule as SVG: the scores, the thresholds, the alerts, and the windows without
//! a score.

use std::fmt::Write;
use std::time::SystemTime;

use crate::config::Thresholds;
use crate::frame::Span;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 240.0;
/// Space around the plot.
const MARGIN: f64 = 36.0;
/// Number of times on the axis.
const TICKS: u32 = 6;

/// The contents of a chart.
pub struct Chart<'a> {
    pub title: &'a str,
    pub span: Span,
    pub thresholds: Thresholds,
    /// The ends of the windows with their scores, in order. `None` is a window without a score.
    pub scores: &'a [(SystemTime, Option<f64>)],
    pub alerts: &'a [Span],
}

impl Chart<'_> {
    pub fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{MARGIN}\" y=\"20\" font-size=\"13\">{}</text>\n",
            escaped(self.title)
        );
        let bottom = y(0.0);
        for alert in self.alerts {
            let (from, to) = (self.x(alert.from), self.x(alert.to));
            rectangle(&mut svg, from, to - from, "#d62728", 0.2, "alert");
        }
        let mut last = self.span.from;
        for (at, score) in self.scores {
            if score.is_none() {
                let (from, to) = (self.x(last), self.x(*at));
                rectangle(&mut svg, from, (to - from).max(1.0), "#888888", 0.35, "no score");
            }
            last = *at;
        }
        for (value, name) in [(self.thresholds.on, "on"), (self.thresholds.off, "off")] {
            let (y, right) = (y(value), WIDTH - MARGIN);
            let _ = writeln!(
                svg,
                "<path d=\"M{MARGIN} {y:.1}H{right}\" stroke=\"#555555\" stroke-dasharray=\"4 3\"/>\
                 <text x=\"{}\" y=\"{y:.1}\">{name}</text>",
                right + 4.0
            );
        }
        // A window without a score interrupts the curve.
        for part in self.scores.split(|(_, score)| score.is_none()).filter(|part| !part.is_empty())
        {
            let mut path = String::new();
            for (at, score) in part {
                let begin = if path.is_empty() { 'M' } else { 'L' };
                let _ = write!(path, "{begin}{:.1} {:.1}", self.x(*at), y(score.unwrap_or(0.0)));
            }
            let _ = writeln!(
                svg,
                "<path d=\"{path}\" fill=\"none\" stroke=\"#1f77b4\" stroke-width=\"1.5\"/>"
            );
            // A single point has no line.
            if let [(at, Some(score))] = part {
                let (x, y) = (self.x(*at), y(*score));
                let _ =
                    writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"#1f77b4\"/>");
            }
        }
        let (right, top) = (WIDTH - MARGIN, y(1.0));
        let _ = writeln!(
            svg,
            "<path d=\"M{MARGIN} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>\
             <text x=\"14\" y=\"{top}\">1</text><text x=\"14\" y=\"{bottom}\">0</text>"
        );
        for tick in 0..=TICKS {
            let at = self.span.from + self.span.length() * tick / TICKS;
            let time = Span { from: at, to: at }.clock(false);
            let time = time.split('–').next().unwrap_or_default();
            let (x, y) = (self.x(at), bottom + 16.0);
            let _ =
                writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{time}</text>");
        }
        svg + "</svg>\n"
    }

    fn x(&self, time: SystemTime) -> f64 {
        let since = time.duration_since(self.span.from).unwrap_or_default().as_secs_f64();
        let share = since / self.span.length().as_secs_f64().max(0.001);
        MARGIN + share.min(1.0) * (WIDTH - 2.0 * MARGIN)
    }
}

fn y(score: f64) -> f64 {
    HEIGHT - MARGIN - score * (HEIGHT - 2.0 * MARGIN)
}

fn rectangle(svg: &mut String, x: f64, width: f64, fill: &str, opacity: f64, name: &str) {
    let (y, height) = (y(1.0), HEIGHT - 2.0 * MARGIN);
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{fill}\" \
         fill-opacity=\"{opacity}\"><title>{name}</title></rect>"
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
