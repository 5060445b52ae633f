//! The plots: line charts as SVG.

use plotters::prelude::*;

use crate::peers::PEERS;

/// A line of a plot.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// The font family in the SVG. Text is not rendered here, so no font needs to be installed.
const FONT: &str = "sans-serif";
const SIZE: (u32, u32) = (900, 540);

/// The labels of an axis.
struct Axis {
    title: &'static str,
    label: fn(&f64) -> String,
    labels: usize,
}

pub(crate) fn budget(series: &[Series]) -> String {
    let x = Axis { title: "budget, % of the data", label: |x| format!("{x:.0}"), labels: 11 };
    let y = Axis { title: "million reads a second", label: |y| format!("{y}"), labels: 6 };
    lines("Zipf 0.99, 64 bytes, one thread: throughput over the budget", &x, &y, series)
}

pub(crate) fn threads(series: &[Series]) -> String {
    let x = Axis { title: "threads on the same windows", label: |x| format!("{x:.0}"), labels: 5 };
    let y = Axis { title: "million reads a second, all threads", label: |y| format!("{y}"), labels: 6 };
    lines("Another mapped window each time: throughput over threads", &x, &y, series)
}

pub(crate) fn latency(series: &[Series]) -> String {
    let x = Axis {
        title: "quantile",
        label: |nines| match nines {
            n if *n < 0.5 => "0 %".to_owned(),
            n => format!("{} %", (100.0 * (1.0 - 10_f64.powf(-n.round())) * 1e3).round() / 1e3),
        },
        labels: 6,
    };
    let y = Axis { title: "nanoseconds", label: |y| format!("{y}"), labels: 6 };
    lines("Hits while another thread maps and evicts: latency", &x, &y, series)
}

/// Draws a chart with a logarithmic vertical axis.
fn lines(title: &str, x: &Axis, y: &Axis, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let least = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::INFINITY, f64::min);
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::NEG_INFINITY, f64::max);
    let (left, right) = (least(|point| point.0), most(|point| point.0));
    let (low, high) = (least(|point| point.1) / 1.3, most(|point| point.1) * 1.3);
    let mut svg = String::new();
    let drawn = draw(&mut svg, title, x, y, series, (left..right.max(left + 1.0), low..high));
    drawn.unwrap_or_else(|error| panic!("cannot draw {title}: {error}"));
    svg
}

type Ranges = (std::ops::Range<f64>, std::ops::Range<f64>);

fn draw(
    svg: &mut String,
    title: &str,
    x: &Axis,
    y: &Axis,
    series: &[Series],
    (across, up): Ranges,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (plot, legend) = root.split_horizontally(SIZE.0 - 190);
    let mut chart = ChartBuilder::on(&plot)
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(across, up.log_scale())?;
    chart
        .configure_mesh()
        .x_desc(x.title)
        .y_desc(y.title)
        .x_labels(x.labels)
        .y_labels(y.labels)
        .x_label_formatter(&x.label)
        .y_label_formatter(&y.label)
        .label_style((FONT, 13))
        .light_line_style(WHITE)
        .draw()?;
    for (index, line) in series.iter().enumerate() {
        let color = color(&line.name);
        let width = if line.name == "smmap" { 4 } else { 2 };
        chart.draw_series(LineSeries::new(line.points.iter().copied(), color.stroke_width(width)))?;
        chart.draw_series(line.points.iter().map(|&point| Circle::new(point, width, color.filled())))?;
        let top = 44 + 24 * index as i32;
        legend.draw(&PathElement::new([(6, top), (30, top)], color.stroke_width(width)))?;
        legend.draw(&Text::new(line.name.clone(), (38, top - 7), (FONT, 14)))?;
    }
    root.present()?;
    Ok(())
}

/// Returns the colour of a line: red for smmap, and one colour for each peer, the same in all plots.
fn color(name: &str) -> RGBColor {
    match name {
        "smmap" => RGBColor(214, 0, 0),
        "raw" | "oracle" => BLACK,
        "pread" => RGBColor(150, 150, 150),
        _ => {
            let peer = PEERS.iter().position(|peer| peer.name == name);
            PALETTE[peer.expect("every other line is that of a peer") % PALETTE.len()]
        }
    }
}

const PALETTE: [RGBColor; 9] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 152, 0),
    RGBColor(34, 139, 34),
    RGBColor(148, 90, 200),
    RGBColor(121, 85, 72),
    RGBColor(233, 100, 180),
    RGBColor(0, 172, 193),
    RGBColor(158, 157, 36),
    RGBColor(63, 81, 181),
];
