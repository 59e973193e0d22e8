//! Accuracy when nothing but chance joins answers and true classes.
//!
//! Both shuffled controls are randomisation tests: the shuffle was drawn by us, so what it could have given is known
//! exactly, however alike test images of one drawing are and however few there are. What was found is held against
//! 9,999 other draws; if nothing leaks it is one among equals, and a bound is what a share [`FALSE_RED`] of them
//! exceeds (Fisher 1935, The Design of Experiments; in this Monte-Carlo form Barnard 1963). For pictures that holds
//! whatever the model is, for labels where it knows of a class nothing but its labels.

use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

/// Other draws behind a bound.
const DRAWS: usize = 9_999;
/// Probability that a shuffled control is red although nothing leaks, all readings together.
pub(super) const FALSE_RED: f64 = 1e-3;
/// Relabellings that there have to be, so that a learner that knows every true class cannot be lucky by chance.
const RELABELLINGS: f64 = 1e5;

/// Which picture is shown with each row: `deal(..)[row]` is the place of the picture. Every order is equally likely.
pub(super) fn deal(rows: usize, random: &mut ChaCha8Rng) -> Vec<usize> {
    let mut dealt: Vec<usize> = (0..rows).collect();
    dealt.shuffle(random);
    dealt
}

/// Rows that were shown a picture of another class and yet got the answer of their own.
/// `answer(row)` is the answer to the picture that was shown with the row.
pub(super) fn betrayed(classes: &[u32], dealt: &[usize], answer: impl Fn(usize) -> Option<u32>) -> usize {
    let rows = classes.iter().zip(dealt).enumerate();
    rows.filter(|&(row, (&class, &picture))| classes[picture] != class && answer(row) == Some(class))
        .count()
}

/// Correct answers expected and allowed, of a number of answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Chance {
    /// Mean over draws.
    pub expected: f64,
    /// More than so many are red.
    pub most: usize,
}

impl Chance {
    /// `readings` are judged together: each gets its part of [`FALSE_RED`].
    fn of(mut draws: Vec<usize>, readings: usize) -> Self {
        draws.sort_unstable_by(|a, b| b.cmp(a));
        let expected = draws.iter().sum::<usize>() as f64 / draws.len().max(1) as f64;
        // With the draw itself there are DRAWS + 1 equals, of which so many may lie above the bound.
        let above = (FALSE_RED / readings.max(1) as f64 * (DRAWS + 1) as f64) as usize;
        let most = draws.get(above.saturating_sub(1)).or(draws.last());
        Self {
            expected,
            most: most.copied().unwrap_or(0),
        }
    }
}

/// Chance of [`betrayed`] rows if each answer depends on the picture alone. `answers[reading][row]` is the answer to the
/// picture that was shown with that row.
pub(super) fn of_pictures(
    classes: &[u32],
    dealt: &[usize],
    answers: &[Vec<Option<u32>>],
    random: &mut ChaCha8Rng,
) -> Vec<Chance> {
    let to_picture = |answers: &Vec<Option<u32>>| {
        let mut given = vec![None; answers.len()];
        for (&picture, &answer) in dealt.iter().zip(answers) {
            given[picture] = answer;
        }
        given
    };
    let given: Vec<Vec<Option<u32>>> = answers.iter().map(to_picture).collect();
    let mut draws = vec![Vec::with_capacity(DRAWS); given.len()];
    for _ in 0..DRAWS {
        let other = deal(classes.len(), random);
        for (draws, given) in draws.iter_mut().zip(&given) {
            draws.push(betrayed(classes, &other, |row| given[other[row]]));
        }
    }
    let chance = |draws| Chance::of(draws, answers.len());
    draws.into_iter().map(chance).collect()
}

/// Answers of one reading, counted: `counts[answered][true class]`.
pub(super) type Confusion = Vec<Vec<usize>>;

/// Chance of answers after training on shuffled labels, one [`Confusion`] a shuffle, by each reading: to a learner
/// that knows of a class only what the labels say, the shuffle with any two classes exchanged is as good a shuffle,
/// and exchanges its answers alike.
pub(super) fn of_labels(readings: &[Vec<Confusion>], random: &mut ChaCha8Rng) -> Vec<Chance> {
    let classes = readings
        .first()
        .and_then(|shuffles| shuffles.first())
        .map_or(0, Vec::len);
    let shuffles = readings.first().map_or(0, Vec::len);
    let mut draws = vec![Vec::with_capacity(DRAWS); readings.len()];
    let mut names: Vec<usize> = (0..classes).collect();
    for _ in 0..DRAWS {
        let mut correct = vec![0; readings.len()];
        for shuffle in 0..shuffles {
            names.shuffle(random);
            for (correct, confusions) in correct.iter_mut().zip(readings) {
                let counts = &confusions[shuffle];
                *correct += names.iter().zip(counts).map(|(&name, row)| row[name]).sum::<usize>();
            }
        }
        draws
            .iter_mut()
            .zip(correct)
            .for_each(|(draws, correct)| draws.push(correct));
    }
    draws
        .into_iter()
        .map(|draws| Chance::of(draws, readings.len()))
        .collect()
}

/// Shuffles of the labels that are needed before a perfect answer cannot be chance: one from nine classes on.
pub(super) fn shuffles(classes: usize) -> usize {
    let orders: f64 = (1..=classes).map(|n| n as f64).product();
    if orders < 2.0 {
        return 1;
    }
    (RELABELLINGS.ln() / orders.ln()).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::rng;

    fn balanced(classes: u32, each: u32) -> Vec<u32> {
        (0..classes * each).map(|row| row / each).collect()
    }

    /// Share of red controls, of answers drawn anew each time.
    fn share_red(night: impl Fn(u64) -> bool) -> f64 {
        let nights = 300;
        (0..nights).filter(|&seed| night(seed)).count() as f64 / nights as f64
    }

    #[test]
    fn answers_to_the_picture_are_within_chance_and_answers_to_the_row_are_not() {
        for (classes, nights) in [(balanced(2, 40), 40), (balanced(6, 5), 40), (balanced(10, 18), 10)] {
            let red = |seed: u64, answer: &dyn Fn(usize, usize) -> u32| {
                let mut random = rng(seed, "images");
                let dealt = deal(classes.len(), &mut random);
                let answers: Vec<Option<u32>> = (0..dealt.len()).map(|row| Some(answer(row, dealt[row]))).collect();
                let found = betrayed(&classes, &dealt, |row| answers[row]);
                found > of_pictures(&classes, &dealt, &[answers], &mut random)[0].most
            };
            // All pictures of one class are taken for another one, as pictures of one drawing may be.
            let count = classes[classes.len() - 1] + 1;
            let confuses = |_: usize, picture: usize| (classes[picture] + u32::from(classes[picture] < 2)) % count;
            assert!((0..nights).all(|seed| !red(seed, &confuses)));
            let peeks = |row: usize, _: usize| classes[row];
            assert!((0..nights).all(|seed| red(seed, &peeks)));
        }
    }

    #[test]
    fn relabelled_answers_are_within_chance_as_often_as_said() {
        // What a learner of shuffled labels does at its luckiest and unluckiest: all images of a class get one answer.
        let counts = |answered: &[usize]| {
            let mut counts = vec![vec![0; 10]; 10];
            answered
                .iter()
                .enumerate()
                .for_each(|(class, &answer)| counts[answer][class] += 20);
            counts
        };
        let red = share_red(|seed| {
            let mut random = rng(seed, "labels");
            let mut answered: Vec<usize> = (0..10).collect();
            answered.shuffle(&mut random);
            let confusion = counts(&answered);
            let correct: usize = (0..10).map(|class| confusion[class][class]).sum();
            correct > of_labels(&[vec![confusion]], &mut rng(0, "null"))[0].most
        });
        assert!(red <= 0.01, "{red}");
        let knows: Vec<usize> = (0..10).collect();
        let chance = of_labels(&[vec![counts(&knows)]], &mut rng(0, "null"))[0];
        assert!((chance.expected - 20.0).abs() < 1.0 && chance.most < 200, "{chance:?}");
        // Who always says the same is exactly at chance.
        let one = of_labels(&[vec![counts(&[4; 10])]], &mut rng(0, "null"))[0];
        assert_eq!((one.expected, one.most), (20.0, 20));
    }

    #[test]
    fn few_classes_take_several_shuffles() {
        assert_eq!([2, 3, 5, 8, 9, 10, 102].map(shuffles), [17, 7, 3, 2, 1, 1, 1]);
        // Three readings share the probability, and a learner that knows both classes still stands out.
        let knows = vec![vec![50, 0], vec![0, 50]];
        let confusions = vec![vec![knows; 17]; 3];
        let chance = of_labels(&confusions, &mut rng(0, "null"))[0];
        assert!(chance.most < 17 * 100, "{chance:?}");
    }
}
