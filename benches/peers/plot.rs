//! The pictures that the README shows, as SVG text: readable on a light page and on a dark one, with the page's own fonts.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::ensure;

use crate::growth;
use crate::table::{Results, Row};

/// The works that are shown, and what each is called.
const SHOWN: [(&str, &str); 6] = [
    ("5000 x 4 KiB at 0 ms", "5,000 × 4 KiB, 0 ms"),
    ("5000 x 4 KiB at 30 ms", "5,000 × 4 KiB, 30 ms"),
    ("300 x 1 MiB at 30 ms", "300 × 1 MiB, 30 ms"),
    ("one of 4 GiB at 30 ms", "one file of 4 GiB, 30 ms"),
    (
        "nothing to do, 100000 files at 30 ms",
        "second run, 100,000 files",
    ),
    (
        "a folder of 10000 renamed at 30 ms",
        "folder of 10,000 renamed",
    ),
];

/// Who is shown: the others are slower by so much that nothing else could be seen.
const WHO: [(&str, &str); 6] = [
    ("tidewatch", "tidewatch"),
    ("tidewatch-known", "tidewatch, bucket known"),
    ("juicefs", "JuiceFS sync"),
    ("s5cmd", "s5cmd"),
    ("rclone-tuned", "rclone, tuned"),
    ("find", "find"),
];

/// The colours, which change with the page's.
const STYLE: &str = "<style>\n\
    svg { font: 13px -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; }\n\
    .page { fill: #ffffff; } text { fill: #1f2328; } .dim { fill: #59636e; }\n\
    .head { font-weight: 600; } .own { fill: #0969da; } .peer { fill: #afb8c1; }\n\
    .grid { stroke: #d1d9e0; } .line { stroke: #0969da; stroke-width: 2; fill: none; }\n\
    @media (prefers-color-scheme: dark) {\n\
    .page { fill: #0d1117; } text { fill: #f0f6fc; } .dim { fill: #9198a1; }\n\
    .own { fill: #4493f8; } .peer { fill: #656c76; } .grid { stroke: #3d444d; } .line { stroke: #4493f8; }\n\
    }\n</style>\n";

/// Writes `docs/speed.svg` and `docs/growth.svg` from what has been measured.
pub fn draw(results: &Results, root: &Path) -> anyhow::Result<()> {
    for (name, picture) in [
        ("docs/speed.svg", speed(results)?),
        ("docs/growth.svg", growth(results)?),
    ] {
        File::create(root.join(name))?.write_all(picture.as_bytes())?;
        println!("{name} is drawn");
    }
    Ok(())
}

/// Bars: each work has its own scale.
fn speed(results: &Results) -> anyhow::Result<String> {
    // Left edges of the bars of both columns, and how long the longest is.
    let (wall_x, cpu_x, longest) = (180.0, 540.0, 240.0);
    let mut body = String::new();
    let mut y = 34.0;
    for (work, title) in SHOWN {
        let rows = results
            .works
            .get(work)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let shown: Vec<(&str, &Row)> = WHO
            .iter()
            .filter_map(|(name, told)| {
                let row = rows
                    .iter()
                    .find(|row| row.client == *name && row.rounds > 0);
                row.map(|row| (*told, row))
            })
            .collect();
        // Alone it says nothing.
        if shown.len() < 2 {
            continue;
        }
        let most = |of: fn(&Row) -> f64| shown.iter().map(|(_, row)| of(row)).fold(0.001, f64::max);
        let (wall, cpu) = (most(|row| row.wall), most(|row| row.cpu));
        let _ = writeln!(
            body,
            "<text class=\"head\" x=\"12\" y=\"{y}\">{title}</text>"
        );
        y += 10.0;
        for (who, row) in shown {
            let class = if who.starts_with("tidewatch") {
                "own"
            } else {
                "peer"
            };
            let text_y = y + 13.0;
            let _ = writeln!(
                body,
                "<text class=\"dim\" x=\"{}\" y=\"{text_y}\" text-anchor=\"end\">{who}</text>",
                wall_x - 8.0
            );
            for (x, value, most) in [(wall_x, row.wall, wall), (cpu_x, row.cpu, cpu)] {
                let width = (value / most * longest).max(1.0);
                let _ = writeln!(
                    body,
                    "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width:.1}\" height=\"16\" rx=\"2\"/>\
                     <text x=\"{:.1}\" y=\"{text_y}\">{}</text>",
                    x + width + 6.0,
                    seconds(value)
                );
            }
            y += 21.0;
        }
        y += 26.0;
    }
    ensure!(y > 40.0, "nothing has been measured that could be shown");
    let heads = [(wall_x, "wall time"), (cpu_x, "CPU time of the client")];
    for (x, head) in heads {
        let _ = writeln!(body, "<text class=\"dim\" x=\"{x}\" y=\"34\">{head}</text>");
    }
    Ok(framed(860.0, y - 10.0, &body))
}

fn seconds(value: f64) -> String {
    if value < 0.1 {
        format!("{:.0} ms", value * 1e3)
    } else {
        format!("{value:.2} s")
    }
}

/// CPU of one file over how many there are.
fn growth(results: &Results) -> anyhow::Result<String> {
    let mut rows = results.works.get(growth::NAME).cloned().unwrap_or_default();
    rows.retain(|row| row.rounds > 0);
    rows.sort_by_key(|row| row.files);
    ensure!(rows.len() > 1, "growth has not been measured");
    let (left, right, top, bottom) = (70.0, 820.0, 50.0, 270.0);
    let decades = |files: usize| (files as f64).log10();
    let (first, last) = (decades(rows[0].files), decades(rows[rows.len() - 1].files));
    let most = rows.iter().map(Row::cpu_a_file).fold(0.0, f64::max);
    let top_value = (most * 1.1 / 100.0).ceil() * 100.0;
    let x = |row: &Row| {
        left + 40.0 + (decades(row.files) - first) / (last - first) * (right - left - 80.0)
    };
    let y = |value: f64| bottom - value / top_value * (bottom - top);
    let mut body = String::from(
        "<text class=\"head\" x=\"12\" y=\"26\">CPU of each file in a first sync, microseconds, over the number of files</text>\n",
    );
    for step in 0..=4 {
        let value = top_value * f64::from(step) / 4.0;
        let at = y(value);
        let _ = writeln!(
            body,
            "<line class=\"grid\" x1=\"{left}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>\
             <text class=\"dim\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>",
            left - 8.0,
            at + 4.0
        );
    }
    let points: Vec<String> = rows
        .iter()
        .map(|row| format!("{:.1},{:.1}", x(row), y(row.cpu_a_file())))
        .collect();
    let _ = writeln!(
        body,
        "<polyline class=\"line\" points=\"{}\"/>",
        points.join(" ")
    );
    for row in &rows {
        let (x, y) = (x(row), y(row.cpu_a_file()));
        let _ = writeln!(
            body,
            "<circle class=\"own\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0} µs</text>\
             <text class=\"dim\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            y - 12.0,
            row.cpu_a_file(),
            bottom + 22.0,
            grouped(row.files)
        );
    }
    Ok(framed(860.0, 306.0, &body))
}

/// Writes 1000000 as 1,000,000.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn framed(width: f64, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\n\
         {STYLE}<rect class=\"page\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n{body}</svg>\n"
    )
}
