//! Draws the table as an SVG chart.

use anyhow::anyhow;
use plotters::prelude::*;

use super::{Row, Times};

const SIZE: (u32, u32) = (800, 480);

/// Draws the time from a window's close to its caption (left) and the share of skipped windows
/// (right), by the number of cameras.
pub fn svg(title: &str, rows: &[Row]) -> anyhow::Result<String> {
    let mut text = String::new();
    draw(&mut text, title, rows).map_err(|why| anyhow!("{why}"))?;
    Ok(text)
}

fn draw(text: &mut String, title: &str, rows: &[Row]) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let most = rows.iter().map(|row| row.cameras).max().unwrap_or(1) as f64;
    let slowest = rows.iter().filter_map(|row| Some(row.captions.as_ref()?.p99));
    let slowest = slowest.fold(0.1, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(52)
        .right_y_label_area_size(52)
        .build_cartesian_2d(0.0..most * 1.05, 0.0..slowest)?
        .set_secondary_coord(0.0..most * 1.05, 0.0..100.0);
    chart
        .configure_mesh()
        .x_desc("cameras")
        .y_desc("window's close to caption, s")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.1}"))
        .draw()?;
    chart.configure_secondary_axes().y_desc("windows skipped, %").draw()?;
    type Pick = fn(&Times) -> f64;
    let lines: [(&str, RGBColor, Pick); 3] = [
        ("median", RGBColor(31, 119, 180), |t| t.p50),
        ("95 %", RGBColor(255, 127, 14), |t| t.p95),
        ("99 %", RGBColor(214, 39, 40), |t| t.p99),
    ];
    for (name, colour, pick) in lines {
        let points =
            rows.iter().filter_map(|row| Some((row.cameras as f64, pick(row.captions.as_ref()?))));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
    }
    let skipped = rows.iter().filter(|row| row.windows > 0);
    let skipped =
        skipped.map(|row| (row.cameras as f64, 100.0 * row.skipped as f64 / row.windows as f64));
    let grey = RGBColor(120, 120, 120);
    chart
        .draw_secondary_series(LineSeries::new(skipped, grey.stroke_width(2)).point_size(3))?
        .label("skipped")
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], grey));
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_names_what_it_shows() {
        let captions = Some(Times { mean: 1.0, p50: 1.0, p95: 2.0, p99: 3.0 });
        let row = Row { cameras: 4, windows: 10, skipped: 5, captions, ..Row::default() };
        let svg = svg("a device", &[row.clone(), Row { cameras: 8, ..row }]).expect("drawn");
        for word in ["<svg", "a device", "cameras", "median", "skipped"] {
            assert!(svg.contains(word), "{word}");
        }
    }
}
