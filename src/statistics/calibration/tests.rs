use crate::statistics::calibration::*;

const TRUTHS: [u32; 40] = [
    1, 0, 2, 1, 0, 0, 2, 3, 0, 0, 1, 1, 3, 2, 1, 0, 0, 2, 3, 0, 0, 1, 1, 3, 2, 1, 1, 0, 2, 1, 0, 0, 2, 1, 3, 0, 1, 1,
    2, 2,
];

fn row(truth: u32, log_probs: Option<Vec<f32>>) -> Prediction {
    Prediction {
        id: String::new(),
        sha256: String::new(),
        group: None,
        truth,
        free_text: None,
        free_class: None,
        trie_class: None,
        likelihood_class: None,
        log_probs,
    }
}

/// As `tests/fixtures/statistics/calibration.py` makes them.
fn rows() -> Vec<Prediction> {
    let score = |i: usize, c: usize| {
        let (i, c) = (i as f64, c as f64);
        (3.0 * (1.7 * i + 2.3 * c).sin() + (0.9 * i * c).cos()) as f32
    };
    let row = |(i, &truth): (usize, &u32)| row(truth, Some((0..4).map(|c| score(i, c)).collect()));
    TRUTHS.iter().enumerate().map(row).collect()
}

#[track_caller]
fn near(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found} is not {expected}");
}

#[test]
fn numbers_are_those_of_scipy() {
    let expected = [
        (
            1.0,
            [
                0.192_667_409_353_161_2,
                0.229_917_865_921_525_36,
                0.479_973_565_132_601_2,
                0.769_976_841_964_676_1,
            ],
        ),
        (
            1.340_626_070_905_604,
            [
                0.188_189_273_344_239_3,
                0.219_186_368_900_282_76,
                0.456_053_357_122_794_54,
                0.740_989_692_938_544_9,
            ],
        ),
    ];
    for (temperature, [ece, mass, brier, nll]) in expected {
        let found = Calibration::of(&rows(), temperature).unwrap();
        near(found.ece, ece, 1e-9);
        near(found.ece_equal_mass, mass, 1e-9);
        near(found.brier, brier, 1e-9);
        near(found.nll, nll, 1e-9);
    }
    near(temperature(&rows()).unwrap(), 1.340_626_070_905_604, 1e-6);
}

#[test]
fn a_fitted_temperature_is_told_with_what_it_changes() {
    let fitted = Fitted::of(4, &rows()).unwrap();
    assert_eq!((fitted.folds, fitted.held_out), (4, 40));
    assert!(fitted.held_out_nll[1] < fitted.held_out_nll[0], "{fitted:?}");
    let applied = fitted.applied(&rows()).unwrap();
    assert_eq!(Some(applied.test), Calibration::of(&rows(), fitted.temperature));
}

#[test]
fn scaling_log_probabilities_scales_the_temperature() {
    let scaled: Vec<Prediction> = rows()
        .into_iter()
        .map(|p| row(p.truth, p.log_probs.map(|all| all.iter().map(|p| p * 5.0).collect())))
        .collect();
    let (once, five) = (temperature(&rows()).unwrap(), temperature(&scaled).unwrap());
    near(five / once, 5.0, 1e-5);
}

#[test]
fn bins_of_equal_mass_hold_all_images() {
    let judged: Vec<Judged> = (0..37)
        .map(|i| Judged {
            confidence: f64::from(i) / 37.0,
            hit: i % 2 == 0,
        })
        .collect();
    let counts: Vec<usize> = equal_mass(&judged).iter().map(|bin| bin.count).collect();
    assert_eq!(counts, [3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2]);
    assert_eq!(equal_mass(&judged[..3]).len(), 3);
    assert_eq!(equal_width(&judged).iter().map(|bin| bin.count).sum::<usize>(), 37);
}

#[test]
fn without_all_probabilities_there_is_no_calibration() {
    let mut rows = rows();
    assert_eq!(Calibration::of(&[], 1.0), None);
    rows.push(row(0, None));
    assert_eq!((Calibration::of(&rows, 1.0), temperature(&rows)), (None, None));
    assert_eq!(Fitted::of(4, &rows), None);
}

#[test]
fn shots_that_are_all_right_end_at_the_bound() {
    let sure = vec![row(0, Some(vec![0.0, -1.0])), row(1, Some(vec![-1.0, 0.0]))];
    let coldest = temperature(&sure).unwrap();
    assert!(
        (0.0099..0.0101).contains(&coldest) || nll(&sure, coldest).unwrap() < 1e-9,
        "{coldest}"
    );
}
