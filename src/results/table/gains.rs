//! How much better one learner is than another, or than itself with fewer examples.

use super::{Table, gain, interval, percent};
use crate::config::Shots;
use crate::results::comparison::Difference;
use crate::results::figure::MICRO_CAVEAT;
use crate::results::micro_gate::MicroGate;

/// Gain of one learner over others, paired by seed and image.
#[must_use]
pub fn differences(differences: &[Difference]) -> Table {
    let row = |d: &Difference| {
        let cells = vec![
            d.learner.0.clone(),
            d.other.0.clone(),
            d.learner.1.to_string(),
            d.seeds.to_string(),
            gain(&d.gain),
            percent(d.gain.share_not_positive),
        ];
        (d.dataset.clone(), cells)
    };
    Table {
        title: "Gain in percentage points on the same draws and images".into(),
        group: "dataset".into(),
        columns: ["learner", "against", "k", "seeds", "gain", "resamples ≤ 0, %"]
            .map(String::from)
            .into(),
        rows: differences.iter().map(row).collect(),
        notes: notes(differences),
    }
}

fn notes(differences: &[Difference]) -> Vec<String> {
    let intervals = "In brackets: 95 % bootstrap over seeds and groups of dependent test images.".to_owned();
    let caveat = differences.iter().any(|d| d.micro).then(|| MICRO_CAVEAT.to_owned());
    std::iter::once(intervals).chain(caveat).collect()
}

/// Gain of one learner by shots: over others with as many, over itself with fewer.
#[must_use]
pub fn along_shots(differences: &[Difference]) -> Table {
    let mut shots: Vec<Shots> = differences.iter().map(|d| d.learner.1).collect();
    shots.sort_unstable();
    shots.dedup();
    let over = |d: &Difference| match (&d.learner.0, &d.other) {
        (own, (other, few)) if own == other => format!("itself, k = {few}"),
        (_, (other, _)) => other.clone(),
    };
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    for difference in differences {
        let names = [difference.learner.0.clone(), over(difference)];
        let same = |(dataset, cells): &(String, Vec<String>)| *dataset == difference.dataset && cells[..2] == names;
        let row = rows.iter().position(same).unwrap_or_else(|| {
            let empty = std::iter::repeat_n("–".to_owned(), shots.len());
            rows.push((difference.dataset.clone(), names.iter().cloned().chain(empty).collect()));
            rows.len() - 1
        });
        if let Ok(column) = shots.binary_search(&difference.learner.1) {
            rows[row].1[2 + column] = gain(&difference.gain);
        }
    }
    let columns = ["learner", "over"].map(String::from).into_iter();
    Table {
        title: "Gain in percentage points by labelled examples per class".into(),
        group: "dataset".into(),
        columns: columns.chain(shots.iter().map(|k| format!("k = {k}"))).collect(),
        rows,
        notes: notes(differences),
    }
}

/// Which datasets clear the bar for micro models.
#[must_use]
pub fn micro_gates(gates: &[MicroGate]) -> Table {
    // Without a learner that writes there is no zero-shot bar.
    let zero_shot = gates.iter().any(|g| g.writes);
    let row = |g: &MicroGate| {
        let accuracy = &g.accuracy;
        let mut cells = vec![
            g.learner.clone(),
            g.seeds.to_string(),
            interval(
                &percent(accuracy.mean),
                &percent(accuracy.interval.low),
                &percent(accuracy.interval.high),
            ),
            gain(&g.over_pixels.gain),
            gain(&g.over_one_shot.gain),
        ];
        let over_zero_shot = g.over_zero_shot.as_ref().map_or("–".into(), |d| gain(&d.gain));
        cells.extend(zero_shot.then_some(over_zero_shot));
        cells.push(if g.passes() { "yes" } else { "no" }.to_owned());
        (g.dataset.clone(), cells)
    };
    let mut columns = vec!["learner", "seeds", "k = 16", "over raw pixels", "over own k = 1"];
    columns.extend(zero_shot.then_some("over own k = 0"));
    columns.push("passes");
    let asked = if zero_shot {
        "Asked for: at least 50 %, 15 points over raw pixels, 10 points over one shot, of a learner that writes also \
         a gain over zero shots; all gains' 95 % intervals above zero."
    } else {
        "Asked for: at least 50 %, 15 points over raw pixels, 10 points over one shot, both gains' 95 % intervals above zero."
    };
    Table {
        title: "Bar for micro models at k = 16".into(),
        group: "dataset".into(),
        columns: columns.into_iter().map(String::from).collect(),
        rows: gates.iter().map(row).collect(),
        notes: vec![asked.into(), MICRO_CAVEAT.into()],
    }
}
