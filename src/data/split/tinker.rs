//! Protocol `tinker`: the draws of the Tinker cookbook's recipe (`tinker_cookbook/recipes/vlm_classifier/data.py`).

use std::collections::BTreeMap;

use super::python::Random;
use super::{SCHEMA, Split, SplitItem, of_class};
use crate::config::{Protocol, Shots};
use crate::data::Dataset;
use crate::error::{Cause, Error, Result};
use crate::manifest::Form;

/// One generator for all classes: label by label in ascending order, the rows of the class are shuffled and the
/// first k of them taken, or as many as there are. So the draw of one seed nests in k.
///
/// With all shots nothing is drawn: every row, in the order of the rows.
///
/// # Errors
/// [`Error::Dataset`] for a dataset that did not come from its hub repository, whose rows these draws are of;
/// [`Error::ClassName`] for two classes that the recipe calls the same.
pub(super) fn tinker(dataset: &Dataset, shots: Shots, seed: u64) -> Result<Split> {
    if dataset.origin.form != Form::Hub {
        return Err(Error::Dataset {
            dataset: dataset.name.clone(),
            reason: "the protocol `tinker` draws from the parquet files of a hub repository, not from archives".into(),
        }
        .because(Cause::Protocol));
    }
    let classes = class_texts(&dataset.classes)?;
    let mut random = Random::new(seed);
    let mut train = Vec::new();
    let mut fewest = None;
    for (class, _) in (0..).zip(&classes) {
        // Ids are numbers of rows, so that their order is that of the rows.
        let mut rows = of_class(&dataset.pool, class);
        random.shuffle(&mut rows);
        fewest = fewest.min(Some(rows.len())).or(Some(rows.len()));
        let wanted = shots.count().map_or(0, |k| k as usize);
        train.extend(rows.into_iter().take(wanted).map(SplitItem::from));
    }
    if shots == Shots::All {
        let mut rows: Vec<_> = dataset.pool.iter().collect();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        train = rows.into_iter().map(SplitItem::from).collect();
    }
    Ok(Split {
        schema: SCHEMA,
        dataset: dataset.name.clone(),
        protocol: Protocol::Tinker,
        shots,
        seed,
        classes,
        train,
        val: Vec::new(),
        capped: fewest
            .and_then(|fewest| u32::try_from(fewest).ok())
            .filter(|&fewest| shots.count().is_some_and(|k| k > fewest)),
        test: dataset.test.iter().map(SplitItem::from).collect(),
    })
}

/// The texts that the recipe makes of class names: `_`, `.` and `-` are spaces, all in lower case.
fn class_texts(names: &[String]) -> Result<Vec<String>> {
    let mut known: BTreeMap<String, &str> = BTreeMap::new();
    let mut texts = Vec::with_capacity(names.len());
    for name in names {
        let text = name.replace(['_', '.', '-'], " ").to_lowercase();
        if let Some(other) = known.insert(text.clone(), name) {
            return Err(Error::ClassName {
                name: name.clone(),
                reason: format!("the protocol `tinker` calls it `{text}`, as it calls the class `{other}`"),
            });
        }
        texts.push(text);
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::data::split::{clean, toy};
    use crate::seed;

    fn hub(sizes: &[usize]) -> Dataset {
        let mut data = toy::dataset(sizes);
        data.origin.form = Form::Hub;
        data
    }

    proptest! {
        #[test]
        fn shots_nest_are_balanced_and_capped(sizes in prop::collection::vec(1_usize..9, 1..6), seed: u64) {
            let data = hub(&sizes);
            let fewest = *sizes.iter().min().unwrap() as u32;
            let mut smaller: Vec<Vec<String>> = vec![Vec::new(); sizes.len()];
            for shots in 0..11_u32 {
                let split = tinker(&data, Shots::K(shots), seed).unwrap();
                prop_assert_eq!(split.capped, (shots > fewest).then_some(fewest));
                let drawn: BTreeSet<&str> = split.train.iter().map(|item| item.id.as_str()).collect();
                prop_assert_eq!(drawn.len(), split.train.len());
                prop_assert!(split.test.iter().all(|item| !drawn.contains(item.id.as_str())));
                prop_assert_eq!(split.test.len(), data.test.len());
                for (class, size) in sizes.iter().enumerate() {
                    let own = split.train.iter().filter(|item| item.class as usize == class);
                    let own: Vec<String> = own.map(|item| item.id.clone()).collect();
                    prop_assert_eq!(own.len(), (shots as usize).min(*size));
                    prop_assert!(own.starts_with(&smaller[class]));
                    smaller[class] = own;
                }
            }
            let all = tinker(&data, Shots::All, seed).unwrap();
            prop_assert_eq!((all.train.len(), all.capped), (data.pool.len(), None));
            prop_assert!(all.train.is_sorted_by_key(|item| &item.id));
        }

        #[test]
        fn only_seed_and_content_decide(sizes in prop::collection::vec(2_usize..9, 1..6), seed: u64, order: u64) {
            let data = hub(&sizes);
            let mut listed_otherwise = data.clone();
            clean::shuffle(&mut listed_otherwise.pool, &mut seed::rng(order, "order"));
            let split = tinker(&data, Shots::K(2), seed).unwrap();
            prop_assert_eq!(&split, &tinker(&listed_otherwise, Shots::K(2), seed).unwrap());
            let read: Split = serde_json::from_str(&split.to_json().unwrap()).unwrap();
            prop_assert_eq!(read.digest().unwrap(), split.digest().unwrap());
        }
    }

    #[test]
    fn class_texts_are_the_recipe_s() {
        let texts = |names: &[&str]| class_texts(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            texts(&[
                "BACKGROUND_Google",
                "Mercedes-Benz 300-Class 1993",
                "pink-yellow dahlia?",
                "St._X"
            ])
            .unwrap(),
            [
                "background google",
                "mercedes benz 300 class 1993",
                "pink yellow dahlia?",
                "st  x"
            ]
        );
        let error = texts(&["car_side", "leopard", "Car-Side"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "class name `Car-Side`: the protocol `tinker` calls it `car side`, as it calls the class `car_side`"
        );
    }

    #[test]
    fn archives_have_no_rows() {
        let error = tinker(&toy::dataset(&[3]), Shots::K(1), 0).unwrap_err();
        assert!(error.to_string().contains("not from archives"), "{error}");
    }
}
