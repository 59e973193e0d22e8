//! The reliability diagram: how often a learner is right against how sure it is, one panel a learner, one line a number
//! of shots. On the diagonal it is as often right as it says.

use std::fs;
use std::path::Path;

use plotters::style::text_anchor::HPos;

use crate::comparison::reliability::{Row, to_csv};
use crate::config::Shots;
use crate::error::{Error, Result};
use crate::fs::file;
use crate::report::figure::canvas;
use crate::report::figure::canvas::{Canvas, MARGIN, Position, TextFormat, curve_style};
use crate::report::figure::{HEAD, MICRO_CAVEAT, forms, shortened};

/// Side of the square in which lines are drawn.
const SIDE: f64 = 250.0;
/// Room left of it and below it, for tick labels and names of axes.
const LEFT: f64 = 54.0;
const BELOW: f64 = 56.0;
/// Room above it, for the learner's name.
const ABOVE: f64 = 30.0;
const COLUMNS: usize = 3;
const LEGEND_ROW: f64 = 15.0;
const FOOT: f64 = 20.0;

/// Writes `reliability.svg`, `.png`, `.pdf` and the `.csv` behind them into `folder`; removes them where there are no
/// rows.
///
/// # Errors
/// As [`crate::report::figure::write()`].
pub fn write(folder: &Path, rows: &[Row]) -> Result<()> {
    let path = |kind: &str| folder.join("reliability").with_extension(kind);
    if rows.is_empty() {
        return ["svg", "png", "pdf", "csv"]
            .iter()
            .try_for_each(|kind| file::remove_if_present(&path(kind)));
    }
    let drawing = svg(rows)?;
    fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    file::replace_if_changed(&path("csv"), &to_csv(rows, &path("csv"))?)?;
    for (kind, bytes) in forms(drawing)? {
        file::replace_if_changed(&path(kind), &bytes)?;
    }
    Ok(())
}

/// The diagram as SVG; the same rows give the same bytes.
///
/// # Errors
/// [`Error::Figure`] when the drawing fails.
pub fn svg(rows: &[Row]) -> Result<String> {
    let mut learners: Vec<&str> = rows.iter().map(|row| row.learner.as_str()).collect();
    learners.dedup();
    let mut shots: Vec<Shots> = rows.iter().map(|row| row.shots).collect();
    shots.sort_unstable();
    shots.dedup();
    let columns = learners.len().clamp(1, COLUMNS);
    let panel = (SIDE + LEFT, ABOVE + SIDE + BELOW);
    let width = (2.0 * MARGIN + columns as f64 * panel.0).max(600.0);
    let foot = HEAD + learners.len().div_ceil(columns) as f64 * panel.1;
    let height = foot + 3.0 * FOOT + MARGIN;
    canvas::draw(width, height, "Reliability of class probabilities", |sheet| {
        let title = "How often the most probable class is right, by its probability";
        sheet.paper(width, height, title)?;
        for (index, learner) in learners.iter().enumerate() {
            let (column, row) = (index % columns, index / columns);
            let left = MARGIN + column as f64 * panel.0 + LEFT;
            let at = (left, HEAD + row as f64 * panel.1 + ABOVE);
            let own: Vec<&Row> = rows.iter().filter(|row| row.learner == **learner).collect();
            draw_panel(sheet, at, learner, &own, &shots)?;
        }
        let notes = [
            "15 bins of equal width; test images of all datasets and seeds at one number of shots.",
            "In brackets the calibration error in %.",
        ];
        for (line, note) in notes.iter().enumerate() {
            let y = foot + 8.0 + line as f64 * FOOT;
            sheet.text((MARGIN, y), note, TextFormat::NOTE)?;
        }
        if rows.iter().any(|row| row.micro) {
            sheet.text((MARGIN, foot + 8.0 + 2.0 * FOOT), MICRO_CAVEAT, TextFormat::CAVEAT)?;
        }
        Ok(())
    })
}

fn draw_panel(
    sheet: &mut Canvas<'_>,
    (left, top): Position,
    learner: &str,
    rows: &[&Row],
    shots: &[Shots],
) -> Result<()> {
    let bottom = top + SIDE;
    let place = |x: f64, y: f64| (left + x * SIDE, bottom - y * SIDE);
    sheet.text((left, top - 14.0), &shortened(learner, ""), TextFormat::PANEL_TITLE)?;
    for percent in [0_u32, 20, 40, 60, 80, 100] {
        let share = f64::from(percent) / 100.0;
        let (x, y) = place(share, share);
        if percent > 0 {
            sheet.grid([(left, y), (left + SIDE, y)])?;
        }
        let text = percent.to_string();
        sheet.text((left - 6.0, y), &text, TextFormat::MARK.anchored(HPos::Right))?;
        sheet.axis([(x, bottom), (x, bottom + 4.0)])?;
        sheet.text((x, bottom + 13.0), &text, TextFormat::MARK)?;
    }
    sheet.axis([(left, bottom), (left + SIDE, bottom)])?;
    let name = TextFormat::AXIS;
    sheet.text((left + SIDE / 2.0, bottom + 31.0), "probability (%)", name)?;
    sheet.text((left - 36.0, top + SIDE / 2.0), "right (%)", name.upright())?;
    sheet.reference([place(0.0, 0.0), place(1.0, 1.0)])?;
    let mut entry = top + 10.0;
    for (index, k) in shots.iter().enumerate() {
        let own: Vec<&&Row> = rows.iter().filter(|row| row.shots == *k).collect();
        let Some(first) = own.first() else {
            continue;
        };
        let style = curve_style(index);
        let line: Vec<Position> = own.iter().map(|row| place(row.confidence, row.accuracy)).collect();
        sheet.line(&line, style.colour, 1.6, style.dash)?;
        for at in line {
            sheet.marker(at, style.marker, style.colour)?;
        }
        sheet.marker((left + 12.0, entry), style.marker, style.colour)?;
        let text = format!("k = {k} ({:.1})", 100.0 * first.ece);
        sheet.text((left + 22.0, entry), &text, TextFormat::MARK.anchored(HPos::Left))?;
        entry += LEGEND_ROW;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(learner: &str, shots: u32, confidence: f64) -> Row {
        Row {
            learner: learner.into(),
            shots: shots.into(),
            micro: true,
            ece: 0.123,
            above: 0.0,
            images: 3,
            confidence,
            accuracy: 0.5,
        }
    }

    #[test]
    fn every_learner_has_a_panel_and_every_number_of_shots_its_line() {
        let rows = [
            row("A", 1, 0.2),
            row("A", 1, 0.6),
            row("A", 4, 0.5),
            row("B & co", 4, 0.9),
        ];
        let drawing = svg(&rows).unwrap();
        for text in [
            "\nA\n",
            "\nB &amp; co\n",
            "k = 1 (12.3)",
            "k = 4 (12.3)",
            "Micro models",
        ] {
            assert!(drawing.contains(text), "{text}");
        }
        assert_eq!(drawing, svg(&rows).unwrap());
        assert_eq!(drawing.matches("k = 4").count(), 2);
    }

    #[test]
    fn all_forms_are_written_and_go_with_the_rows() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[row("A", 1, 0.2)]).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
        write(folder.path(), &[]).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
