// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The picture: a panel for each interval and distribution, with a mark for each mode.

use std::{error::Error, path::Path, time::Duration};

use plotters::{
    coord::Shift,
    prelude::*,
    style::{register_font, text_anchor, FontStyle},
};
use pvirq_protocol::ioctl::PolicyName;

use super::frontier::{Dot, Frontier};
use crate::poll::{Distribution, Mode};

/// The family under which the font is known: what viewers of SVG have.
const FONT: &str = "sans-serif";

const PANEL: (u32, u32) = (232, 224);
/// The height of what is above the panels, and below.
const HEAD: u32 = 150;
const FOOT: u32 = 62;
/// The width of what is left of the panels, and right.
const LEFT: u32 = 150;
const RIGHT: u32 = 24;
/// The least number of columns that title and legend need.
const COLUMNS_MIN: u32 = 6;

const TEXT: RGBColor = RGBColor(40, 40, 40);
const QUIET: RGBColor = RGBColor(120, 120, 120);
const GRID: RGBColor = RGBColor(228, 228, 228);
const BEST: RGBColor = RGBColor(250, 236, 190);

/// What drawing gives, or why it failed.
pub type Drawn<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Draws a picture, as the text of an SVG file.
pub fn svg(frontier: &Frontier) -> Drawn<String> {
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, size(frontier)).into_drawing_area();
    draw(frontier, root)?;
    Ok(text)
}

/// Draws a picture into a PNG file.
pub fn png(frontier: &Frontier, path: &Path) -> Drawn<()> {
    draw(
        frontier,
        BitMapBackend::new(path, size(frontier)).into_drawing_area(),
    )
}

fn size(frontier: &Frontier) -> (u32, u32) {
    let columns = (frontier.intervals().len() as u32).max(COLUMNS_MIN);
    let rows = frontier.distribution().len() as u32;
    (
        LEFT + columns * PANEL.0 + RIGHT,
        HEAD + rows * PANEL.1 + FOOT,
    )
}

/// How a mode is shown: its name, its colour, and its mark.
fn style(mode: Mode) -> (&'static str, RGBColor, Mark) {
    match mode {
        Mode::Halt => ("HLT only", RGBColor(0, 0, 0), Mark::Cross),
        Mode::KvmHaltPoll => (
            "HLT, KVM polls up to 200 µs",
            RGBColor(230, 159, 0),
            Mark::Plus,
        ),
        Mode::GuestSpin => (
            "guest polls for 200 µs",
            RGBColor(86, 180, 233),
            Mark::Triangle,
        ),
        Mode::GuestGovernor => (
            "guest's haltpoll governor, up to 200 µs",
            RGBColor(0, 114, 178),
            Mark::Square,
        ),
        Mode::Pvirq(PolicyName::Adaptive) => (
            "pvirq (the default: ADAPTIVE)",
            RGBColor(213, 40, 0),
            Mark::Disc,
        ),
        Mode::Pvirq(PolicyName::HaltPoll) => {
            ("pvirq, HALT_POLL", RGBColor(120, 80, 170), Mark::Cross)
        }
        Mode::Pvirq(PolicyName::Fixed) => ("pvirq, FIXED", RGBColor(204, 121, 167), Mark::Diamond),
        Mode::Pvirq(PolicyName::Governor) => {
            ("pvirq, GOVERNOR", RGBColor(0, 158, 115), Mark::Circle)
        }
    }
}

#[derive(Clone, Copy)]
enum Mark {
    Cross,
    Plus,
    Triangle,
    Square,
    Disc,
    Diamond,
    Circle,
}

/// Makes a mark at a place in the picture, so that several at one place can be told apart.
fn mark(at: (i32, i32), mode: Mode) -> Vec<PathElement<(i32, i32)>> {
    let (_, colour, mark) = style(mode);
    let path = |points: &[(i32, i32)], width| {
        let points: Vec<_> = points.iter().map(|(x, y)| (at.0 + x, at.1 + y)).collect();
        PathElement::new(points, colour.stroke_width(width))
    };
    let circle = |radius: f64| -> Vec<(i32, i32)> {
        (0..=24)
            .map(|step| f64::from(step) / 24.0 * std::f64::consts::TAU)
            .map(|angle| (radius * angle.cos(), radius * angle.sin()))
            .map(|(x, y)| (x.round() as i32, y.round() as i32))
            .collect()
    };
    match mark {
        Mark::Cross => vec![path(&[(-6, -6), (6, 6)], 2), path(&[(-6, 6), (6, -6)], 2)],
        Mark::Plus => vec![path(&[(-8, 0), (8, 0)], 2), path(&[(0, -8), (0, 8)], 2)],
        Mark::Triangle => vec![path(&[(-9, 7), (9, 7), (0, -9), (-9, 7)], 2)],
        Mark::Square => vec![path(&[(-8, -8), (8, -8), (8, 8), (-8, 8), (-8, -8)], 2)],
        // Dense enough to be full.
        Mark::Disc => (0..=5)
            .map(|radius| path(&circle(f64::from(radius)), 2))
            .collect(),
        Mark::Diamond => vec![path(&[(0, -11), (11, 0), (0, 11), (-11, 0), (0, -11)], 2)],
        Mark::Circle => vec![path(&circle(9.0), 2)],
    }
}

fn font(size: i32, colour: RGBColor) -> TextStyle<'static> {
    (FONT, size).into_font().color(&colour)
}

fn bold(size: i32) -> TextStyle<'static> {
    (FONT, size, FontStyle::Bold).into_font().color(&TEXT)
}

fn draw<DB>(frontier: &Frontier, root: DrawingArea<DB, Shift>) -> Drawn<()>
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    for (style, bytes) in [
        (FontStyle::Normal, dejavu::sans::regular()),
        (FontStyle::Bold, dejavu::sans::bold()),
    ] {
        register_font(FONT, style, bytes).map_err(|_| "the font inside is broken")?;
    }
    root.fill(&WHITE)?;
    head(frontier, &root)?;

    let (distribution, intervals) = (frontier.distribution(), frontier.intervals());
    let (low, high) = saved_range(frontier);
    for (row, &arrivals_here) in distribution.iter().enumerate() {
        let top = HEAD + row as u32 * PANEL.1;
        let middle = (top + PANEL.1 / 2) as i32;
        root.draw(&Text::new("wake-ups", (14, middle - 36), font(15, TEXT)))?;
        for (line, text) in name(arrivals_here).into_iter().enumerate() {
            let at = (14, middle - 16 + 20 * line as i32);
            root.draw(&Text::new(text, at, bold(16)))?;
        }
        root.draw(&Text::new(
            "exits saved per wake-up",
            (LEFT as i32 - 12, middle),
            font(15, TEXT)
                .transform(FontTransform::Rotate270)
                .pos(centred()),
        ))?;
        for (column, &interval) in intervals.iter().enumerate() {
            let left = LEFT + column as u32 * PANEL.0;
            let area = root.clone().shrink((left, top), PANEL);
            panel(
                frontier,
                (&root, &area),
                (arrivals_here, interval),
                low..high,
            )?;
        }
    }
    let bottom = (HEAD + distribution.len() as u32 * PANEL.1) as i32;
    let middle = (LEFT + intervals.len() as u32 * PANEL.0 / 2) as i32;
    root.draw(&Text::new(
        "CPU time of the idle vCPU's thread, % of a CPU  (less is better: to the left)",
        (middle, bottom + 8),
        font(17, TEXT).pos(centred()),
    ))?;
    root.draw(&Text::new(
        format!(
            "Measured on {}, ground {}, without the host's timer ticks.",
            frontier.kernel, frontier.ground
        ),
        (14, bottom + 36),
        font(14, QUIET),
    ))?;
    root.present()?;
    Ok(())
}

fn centred() -> text_anchor::Pos {
    text_anchor::Pos::new(text_anchor::HPos::Center, text_anchor::VPos::Top)
}

fn name(distribution: Distribution) -> [&'static str; 2] {
    match distribution {
        Distribution::Fixed => ["at fixed", "intervals"],
        Distribution::Exponential => ["at random", "(Poisson)"],
        Distribution::Bursty => ["in bursts", "of ten"],
    }
}

/// Draws the title and the legend.
fn head<DB>(frontier: &Frontier, root: &DrawingArea<DB, Shift>) -> Drawn<()>
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    root.draw(&Text::new(
        "What polling for an idle vCPU saves, and what it burns",
        (14, 12),
        bold(24),
    ))?;
    root.draw(&Text::new(
        "Each panel: an idle vCPU is woken by another one at this mean interval. Up and to the left is better. Nothing is \
         better in both than the modes on the yellow line.",
        (14, 46),
        font(16, TEXT),
    ))?;
    // Two lines of four.
    for (index, mode) in frontier.modes().into_iter().enumerate() {
        let (column, line) = (index / 2, index % 2);
        let at = (30 + column as i32 * 350, 86 + line as i32 * 30);
        for path in mark(at, mode) {
            root.draw(&path)?;
        }
        let style = match mode {
            Mode::DEFAULT => bold(15),
            _ => font(15, TEXT),
        };
        root.draw(&Text::new(style_name(mode), (at.0 + 18, at.1 - 6), style))?;
    }
    Ok(())
}

fn style_name(mode: Mode) -> &'static str {
    style(mode).0
}

/// The range of the vertical axis: that of all panels.
fn saved_range(frontier: &Frontier) -> (f64, f64) {
    let saved = || frontier.dots.iter().map(|dot| dot.saved);
    let low = saved().fold(0.0, f64::min);
    let high = saved().fold(2.0, f64::max);
    (low - 0.3, high + 0.3)
}

/// Draws one point.
fn panel<DB>(
    frontier: &Frontier,
    (root, area): (&DrawingArea<DB, Shift>, &DrawingArea<DB, Shift>),
    (distribution, interval): (Distribution, Duration),
    saved: std::ops::Range<f64>,
) -> Drawn<()>
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    let (dots, best) = frontier.point(distribution, interval);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("every {}", text(interval)), font(16, TEXT))
        .margin(6)
        .x_label_area_size(22)
        .y_label_area_size(34)
        .build_cartesian_2d(-4.0..108.0, saved.clone())?;
    chart
        .configure_mesh()
        .x_labels(5)
        .y_labels(6)
        .x_label_formatter(&|percent| format!("{percent:.0}"))
        .y_label_formatter(&|exits| format!("{exits:.1}"))
        .label_style(font(13, QUIET))
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(QUIET)
        .draw()?;
    chart.draw_series(LineSeries::new(stairs(&best, &saved), BEST.stroke_width(7)))?;
    for dot in dots {
        let at = chart.plotting_area().map_coordinate(&(dot.cpu, dot.saved));
        for path in mark(at, dot.mode) {
            root.draw(&path)?;
        }
    }
    Ok(())
}

/// The line that separates what some mode reaches from what none does: up at each of the best.
fn stairs(best: &[Dot], saved: &std::ops::Range<f64>) -> Vec<(f64, f64)> {
    let mut line = Vec::new();
    let mut level = saved.start;
    for dot in best {
        line.push((dot.cpu, level));
        line.push((dot.cpu, dot.saved));
        level = dot.saved;
    }
    line.push((108.0, level));
    line
}

/// A time with its unit.
fn text(time: Duration) -> String {
    let us = time.as_secs_f64() * 1e6;
    let digits = |value: f64| match value {
        ..9.995 => format!("{:.2}", value)
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        ..99.95 => format!("{:.1}", value).trim_end_matches(".0").to_owned(),
        _ => format!("{value:.0}"),
    };
    match us {
        ..999.5 => format!("{} µs", digits(us)),
        _ => format!("{} ms", digits(us / 1000.0)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plot::frontier::tests::{file, row};

    #[test]
    fn times_are_short() {
        let texts = [1_000, 3_160, 31_600, 316_000, 1_000_000, 10_000_000]
            .map(|ns| text(Duration::from_nanos(ns)));
        assert_eq!(
            texts,
            ["1 µs", "3.16 µs", "31.6 µs", "316 µs", "1 ms", "10 ms"]
        );
    }

    #[test]
    fn pictures_are_drawn_of_whatever_there_is(
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let rows = Mode::ALL.map(|mode| row(1_000_000, mode.name(), Some(-0.5), 1.5));
        let frontier = Frontier::from_json(&file(json!(rows)))?;
        let text = svg(&frontier)?;
        assert!(text.starts_with("<svg") && text.contains("every 1 ms"));
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("picture.png");
        png(&frontier, &path)?;
        assert!(std::fs::read(&path)?.starts_with(b"\x89PNG"));
        assert!(png(&frontier, &directory.path().join("none/picture.png")).is_err());
        Ok(())
    }
}
