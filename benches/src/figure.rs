//! Lines over time, as SVG.

use std::{fmt::Write as _, ops::RangeInclusive};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 400.0;
/// What the axes enclose.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 830.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 340.0;

/// A figure with time on one axis and one quantity on the other.
#[derive(Clone, Debug)]
pub struct Figure<'a> {
    /// What it shows.
    pub title: &'a str,
    /// The quantity and its unit.
    pub y_label: &'a str,
    /// The last second shown, and the seconds between two ticks.
    pub seconds: [f64; 2],
    /// The highest value shown, and the values between two ticks.
    pub values: [f64; 2],
    /// A part of the time that is set apart, and its name.
    pub shaded: (RangeInclusive<f64>, &'a str),
    /// A value that is marked, and its name.
    pub marked: (f64, &'a str),
    /// What is drawn, first to last.
    pub lines: Vec<Line<'a>>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// What the legend calls it.
    pub name: &'a str,
    /// A colour that a reader tells from the others.
    pub color: &'a str,
    /// Its values, evenly spread over the time.
    pub values: &'a [f64],
}

impl Figure<'_> {
    /// The figure as a document.
    pub fn to_svg(&self) -> String {
        let mut svg = String::new();
        let _ = writeln!(
            svg,
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" font-size="13" fill="#333">
<title>{}</title>
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
<text x="{LEFT}" y="26" font-size="16" font-weight="600">{}</text>"##,
            escaped(self.title),
            escaped(self.title),
        );
        self.shade(&mut svg);
        self.axes(&mut svg);
        self.mark(&mut svg);
        for line in &self.lines {
            self.line(&mut svg, line);
        }
        self.legend(&mut svg);
        svg.push_str("</svg>\n");
        svg
    }

    fn x(&self, second: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * second / self.seconds[0]
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * value.min(self.values[0]) / self.values[0]
    }

    fn shade(&self, svg: &mut String) {
        let (range, name) = &self.shaded;
        let (from, to) = (self.x(*range.start()), self.x(*range.end()));
        let _ = writeln!(
            svg,
            r##"<rect x="{from:.1}" y="{TOP}" width="{:.1}" height="{:.1}" fill="#f1f1f1"/>
<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#666">{}</text>"##,
            to - from,
            BOTTOM - TOP,
            f64::midpoint(from, to),
            TOP + 18.0,
            escaped(name),
        );
    }

    fn axes(&self, svg: &mut String) {
        for value in ticks(self.values) {
            let y = self.y(value);
            let _ = writeln!(
                svg,
                r##"<path d="M{LEFT} {y:.1}H{RIGHT}" stroke="#e3e3e3"/>
<text x="{:.1}" y="{:.1}" text-anchor="end">{value}</text>"##,
                LEFT - 8.0,
                y + 4.5,
            );
        }
        for second in ticks(self.seconds) {
            let x = self.x(second);
            let _ = writeln!(
                svg,
                r##"<path d="M{x:.1} {BOTTOM}v5" stroke="#333"/>
<text x="{x:.1}" y="{:.1}" text-anchor="middle">{second}</text>"##,
                BOTTOM + 20.0,
            );
        }
        let _ = writeln!(
            svg,
            r##"<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="#333"/>
<text x="{:.1}" y="{:.1}" text-anchor="middle">seconds</text>
<text transform="translate(20 {:.1}) rotate(-90)" text-anchor="middle">{}</text>"##,
            f64::midpoint(LEFT, RIGHT),
            BOTTOM + 42.0,
            f64::midpoint(TOP, BOTTOM),
            escaped(self.y_label),
        );
    }

    fn mark(&self, svg: &mut String) {
        let (value, name) = self.marked;
        let y = self.y(value);
        // Beside what is shaded there are lines in the way.
        let x = f64::midpoint(*self.shaded.0.start(), *self.shaded.0.end());
        let _ = writeln!(
            svg,
            r##"<path d="M{LEFT} {y:.1}H{RIGHT}" stroke="#888" stroke-dasharray="5 4"/>
<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#666">{}</text>"##,
            self.x(x),
            y - 7.0,
            escaped(name),
        );
    }

    fn line(&self, svg: &mut String, line: &Line<'_>) {
        let step = self.seconds[0] / line.values.len().max(1) as f64;
        let points: Vec<_> = line
            .values
            .iter()
            .enumerate()
            .map(|(index, value)| {
                // A value belongs to the middle of its time.
                let (x, y) = (self.x((index as f64 + 0.5) * step), self.y(*value));
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{}" stroke-width="2" stroke-linejoin="round"/>"#,
            points.join(" "),
            line.color,
        );
    }

    fn legend(&self, svg: &mut String) {
        let mut x = LEFT;
        for line in &self.lines {
            let _ = writeln!(
                svg,
                r#"<path d="M{x:.1} 44h22" stroke="{}" stroke-width="3"/>
<text x="{:.1}" y="48.5">{}</text>"#,
                line.color,
                x + 28.0,
                escaped(line.name),
            );
            // Wide enough for the letters, which nobody measures here.
            x += 60.0 + 7.0 * line.name.chars().count() as f64;
        }
    }
}

fn ticks([last, step]: [f64; 2]) -> impl Iterator<Item = f64> {
    let count = (last / step).round() as u32;
    (0..=count).map(move |tick| f64::from(tick) * step)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_where_the_axes_say() {
        let figure = Figure {
            title: "a < b",
            y_label: "calls",
            seconds: [2.0, 1.0],
            values: [10.0, 5.0],
            shaded: (0.5..=1.0, "outage"),
            marked: (8.0, "offered"),
            lines: vec![Line {
                name: "line",
                color: "#123456",
                values: &[0.0, 10.0],
            }],
        };
        let svg = figure.to_svg();
        // A quarter and three quarters of the way, at the bottom and the top.
        assert!(svg.contains(r#"points="260.0,340.0 640.0,62.0""#), "{svg}");
        assert!(svg.contains("a &lt; b"));
        assert_eq!(svg.matches("<text").count(), 12);
    }
}
