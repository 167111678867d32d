//! Compares `docs/metrics.md` with the table of metrics. With `UPDATE_DOCS=1` the file is rewritten
//! instead.

use std::fmt::Write;

use super::labels::Label;
use super::table::{Kind, Metric, SECTIONS};
use super::{CHANGES, SECONDS};

const BEGIN: &str = "<!-- generated from daemon/metrics/table.rs: -->\n";
const END: &str = "<!-- end of the generated text -->\n";

/// Maximum width of a line outside tables.
const WIDTH: usize = 100;

#[test]
fn the_document_lists_the_metrics() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (before, rest) = document.split_once(BEGIN).expect("the first mark");
    let (_, after) = rest.split_once(END).expect("the second mark");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", reference());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, wanted).unwrap();
    } else {
        assert!(
            document == wanted,
            "docs/metrics.md differs from the table; run UPDATE_DOCS=1 cargo test --lib metrics"
        );
    }
}

#[test]
fn dashboards_and_alerts_name_metrics_of_the_table() {
    for file in ["configs/grafana/lookout.json", "configs/prometheus/alerts.yml"] {
        let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<&str> = words.filter(|word| word.starts_with("lookout_")).collect();
        assert!(names.len() > 10, "{file} names {} metrics", names.len());
        for name in names {
            let parts = ["_bucket", "_sum", "_count"];
            let is_it = |metric: &Metric| match metric.kind {
                Kind::Histogram => {
                    parts.iter().any(|part| format!("{}{part}", metric.name) == name)
                }
                Kind::Counter | Kind::Gauge => metric.name == name,
            };
            assert!(super::table::all().any(is_it), "{file} names {name}, which does not exist");
        }
    }
}

#[test]
fn selectors_of_dashboards_and_alerts_name_labels_of_the_table() {
    for file in ["configs/grafana/lookout.json", "configs/prometheus/alerts.yml"] {
        let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let mut checked = 0;
        for (at, _) in text.match_indices("lookout_") {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let name: String = text[at..].chars().take_while(|c| is_name(*c)).collect();
            let Some(selector) = text[at + name.len()..].strip_prefix('{') else { continue };
            let selector = selector.split('}').next().unwrap_or_default();
            let metric = super::table::all().find(|metric| {
                let part = name.strip_prefix(metric.name);
                part.is_some_and(|part| ["", "_bucket", "_sum", "_count"].contains(&part))
            });
            let labels = metric.unwrap_or_else(|| panic!("{file}: no metric {name}")).labels;
            for matcher in selector.split(',').filter(|matcher| matcher.contains('=')) {
                let label: String = matcher.trim().chars().take_while(|c| is_name(*c)).collect();
                // Prometheus adds these.
                let exists = ["instance", "job", "le"].contains(&&*label)
                    || labels.iter().any(|known| known.name == label);
                assert!(exists, "{file}: {name} has no label {label}");
                checked += 1;
            }
        }
        assert!(checked > 1, "{file} has only {checked} matchers");
    }
}

/// Returns the generated part of the document: a table for each section, then the meaning of its
/// labels' values.
fn reference() -> String {
    let mut text = String::new();
    for section in SECTIONS {
        let _ = write!(text, "\n## {}\n\n", section.title);
        text += "| name | type | labels | meaning |\n|---|---|---|---|\n";
        for metric in section.metrics {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let labels: Vec<_> =
                metric.labels.iter().map(|label| format!("`{}`", label.name)).collect();
            let labels = if labels.is_empty() { String::new() } else { labels.join(", ") + " " };
            let (name, help) = (metric.name, metric.help);
            let _ = writeln!(text, "| `{name}` | {kind} | {labels}| {help} |");
        }
        for metric in section.metrics {
            describe(metric, &mut text);
        }
    }
    text + "\n"
}

/// Appends the meaning of a metric's labels, and the buckets of a histogram.
fn describe(metric: &Metric, text: &mut String) {
    let explained = |label: &&Label| !["camera", "interface", "tier"].contains(&label.name);
    for label in metric.labels.iter().filter(explained) {
        let (name, label_name) = (metric.name, label.name);
        if let Some(about) = label.description() {
            let _ = write!(text, "\n`{label_name}` of `{name}`: {about}.\n");
            continue;
        }
        let _ = write!(text, "\n`{label_name}` of `{name}`:\n\n");
        for (value, about) in label.values() {
            let about = about.trim();
            let first = about.chars().next().unwrap_or_default().to_lowercase();
            let rest = about.get(1..).unwrap_or_default().trim_end_matches('.');
            text.push_str(&wrapped(&format!("- `{value}`: {first}{rest}."), "  "));
        }
    }
    if metric.kind == Kind::Histogram {
        let ends: &[f64] = if metric.name.ends_with("_seconds") { &SECONDS } else { &CHANGES };
        let ends: Vec<_> = ends.iter().map(f64::to_string).collect();
        let line = format!("The buckets of `{}` end at {}.", metric.name, ends.join(", "));
        let _ = write!(text, "\n{}", wrapped(&line, ""));
    }
}

/// Breaks a paragraph into lines, and indents all but the first.
fn wrapped(paragraph: &str, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in paragraph.split_whitespace() {
        let line = lines.last_mut().unwrap();
        if line.len() + 1 + word.len() > WIDTH && !line.is_empty() {
            lines.push(format!("{indent}{word}"));
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n") + "\n"
}
