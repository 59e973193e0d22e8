//! The mean over datasets, for learners that were run on all of them.

use rayon::prelude::*;

use crate::comparison::curve::{IntervalKind, Panel, Point, devices, distinct, rounded, three_digits};
use crate::comparison::series::Series;
use crate::statistics::variance::{Components, Estimate, components};

/// A point for each protocol, learner and number of shots that every dataset of the protocol has, where there are
/// at least two; `points` are those of `series`, in its order.
///
/// Datasets weigh the same, and stay the same ones. Their draws and images are independent of one another, so that
/// variances add.
pub(super) fn means(points: &[Point], series: &[Series]) -> Vec<Point> {
    let mut together: Vec<Vec<(&Point, &Series)>> = Vec::new();
    for protocol in distinct(points, |p| p.protocol) {
        let of: Vec<(&Point, &Series)> = points
            .iter()
            .zip(series)
            .filter(|(point, _)| point.protocol == protocol)
            .collect();
        let mut datasets: Vec<&str> = of.iter().map(|(point, _)| point.dataset.as_str()).collect();
        datasets.sort_unstable();
        datasets.dedup();
        let mut lines: Vec<Vec<(&Point, &Series)>> = Vec::new();
        for one in of {
            let key = |(point, _): &(&Point, &Series)| (point.learner.clone(), point.reading, point.shots);
            match lines.iter_mut().find(|line| key(&line[0]) == key(&one)) {
                Some(line) => line.push(one),
                None => lines.push(vec![one]),
            }
        }
        lines.retain(|line| datasets.len() > 1 && line.len() == datasets.len());
        together.extend(lines);
    }
    together.par_iter().filter_map(|line| mean(line)).collect()
}

fn mean(line: &[(&Point, &Series)]) -> Option<Point> {
    let count = line.len() as f64;
    let over = |number: &dyn Fn(&Point) -> f64| line.iter().map(|(point, _)| number(point)).sum::<f64>() / count;
    let parts: Vec<Components> = line
        .iter()
        .map(|(_, series)| components(&series.scores()))
        .collect::<Option<_>>()?;
    let estimate = Estimate::of_share(Components::average(&parts)?);
    let first = line[0].0;
    let same = |equal: &dyn Fn(&Point) -> bool| line.iter().all(|(point, _)| equal(point));
    let timed: Option<Vec<f64>> = line.iter().map(|(point, _)| point.device_seconds).collect();
    Some(Point {
        panel: Panel::Mean,
        dataset: format!("mean of {} datasets", line.len()),
        protocol: first.protocol,
        regime: None,
        micro: line.iter().any(|(point, _)| point.micro),
        metric: first.metric.filter(|_| same(&|p| p.metric == first.metric)),
        chance: rounded(over(&|p| p.chance)),
        learner: first.learner.clone(),
        reading: first.reading,
        subject: first.subject,
        shots: first.shots,
        seeds: if same(&|p| p.seeds == first.seeds) {
            first.seeds.clone()
        } else {
            String::new()
        },
        n_test: line.iter().map(|(point, _)| point.n_test).sum(),
        mean: rounded(estimate.mean),
        low: rounded(estimate.interval.low),
        high: rounded(estimate.interval.high),
        interval: IntervalKind::Datasets,
        t_low: None,
        t_high: None,
        red: line.iter().any(|(point, _)| point.red),
        device_seconds: timed.map(|seconds| three_digits(seconds.iter().sum::<f64>() / count)),
        device: devices(line.iter().map(|(point, _)| point.device.clone())),
        capped: line.iter().filter_map(|(point, _)| point.capped).min(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::curve::{points, with_means};
    use crate::comparison::series::tests::cell;
    use crate::config::Shots;
    use crate::statistics::metric::Headline;

    #[test]
    fn only_what_every_dataset_has_is_averaged() {
        let mut cells = Vec::new();
        for (dataset, right) in [("a", 8), ("b", 4), ("c", 6)] {
            for seed in 0..3 {
                let mut cell = cell((dataset, "x LoRA", 4, seed), 80, |i| i % 8 < right);
                cell.0.timing.train_seconds = f64::from(right);
                cell.0.timing.devices = 2;
                (cell.0.timing.device, cell.0.timing.threads) = ("cpu".into(), seed as usize + 1);
                cells.push(cell);
            }
        }
        cells.push(cell(("a", "x LoRA", 16, 0), 80, |_| true));
        cells.push(cell(("b", "x LoRA", 16, 0), 80, |_| true));
        let series = Series::group(cells.into_iter().map(Ok)).unwrap();
        let all = with_means(points(&series), &series);
        let mean: Vec<&Point> = all.iter().filter(|p| p.panel == Panel::Mean).collect();
        let [mean] = mean[..] else { panic!("{mean:?}") };
        assert_eq!(
            (mean.dataset.as_str(), mean.shots, mean.mean),
            ("mean of 3 datasets", Shots::K(4), 0.75)
        );
        assert_eq!(
            (mean.metric, mean.seeds.as_str(), mean.n_test),
            (Some(Headline::Top1), "0 1 2", 240)
        );
        assert_eq!(mean.device_seconds, Some(12.0));
        assert_eq!(mean.device, "2 × cpu, 1 thread; 2 × cpu, 2 threads; 2 × cpu, 3 threads");
        // Independent datasets: variances add, and one of them is certain.
        let half = |p: &Point| (p.high - p.low) / 2.0;
        let own = all.iter().filter(|p| p.panel == Panel::Dataset && p.shots == 4);
        let own: f64 = own.map(|p| half(p).powi(2)).sum();
        assert!((half(mean) - own.sqrt() / 3.0).abs() < 0.12 * half(mean), "{all:?}");

        let one = &series[..1];
        assert_eq!(with_means(points(one), one).len(), 1);
    }
}
