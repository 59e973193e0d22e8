//! Every form in which a user may have images.

use std::fs;
use std::sync::Arc;

use kshot::data;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::own::{Own, ids, png};

#[test]
fn class_folders_are_split_by_the_share_in_the_manifest() {
    let own = Own::new().images("001.Grey_fox", 10).images("002.guinea  pig", 4);
    let imported = own.import("").unwrap();
    let dataset = &imported.dataset;
    assert_eq!(dataset.classes, ["Grey fox", "guinea pig"]);
    assert_eq!(
        (dataset.pool.len(), dataset.test.len(), imported.holdout),
        (10, 4, Some(0.3))
    );
    insta::assert_snapshot!(ids(&dataset.test), @"001.Grey_fox/5.png 001.Grey_fox/6.png 001.Grey_fox/9.png 002.guinea  pig/1.png");
    let text = fs::read_to_string(&imported.manifest).unwrap();
    insta::assert_snapshot!(text.replace(own.path("").canonicalize().unwrap().to_str().unwrap(), "[OWN]"));

    // The manifest is the user's: another share, another name.
    let edited = text
        .replace("holdout = 0.3", "holdout = 0.5")
        .replace("\"Grey fox\"", "\"fox\"");
    fs::write(&imported.manifest, edited).unwrap();
    let again = data::open("birds", &own.datasets(), &own.cache()).unwrap();
    assert_eq!(again.classes, ["fox", "guinea pig"]);
    assert_eq!((again.pool.len(), again.test.len()), (7, 7));
    // What was tested on before still is.
    assert!(
        dataset
            .test
            .iter()
            .all(|image| again.test.iter().any(|other| other.id == image.id))
    );
}

#[test]
fn train_and_test_folders_stay_as_they_are_and_validation_joins_the_pool() {
    let own = Own::new()
        .images("data/train/cat", 2)
        .images("data/train/dog", 2)
        .images("data/valid/cat", 1)
        .images("data/test/cat", 1)
        .images("data/test/dog", 3)
        .images("data/unlabelled/many", 3);
    let found = kshot::import::discover(
        &own.path(""),
        "birds",
        &own.datasets(),
        &kshot::import::ImportOptions::default(),
    )
    .unwrap();
    assert_eq!(found.ignored(), ["unlabelled/"]);
    let imported = found.adopt(&own.datasets(), &own.cache()).unwrap();
    assert_eq!(imported.holdout, None);
    insta::assert_snapshot!(ids(&imported.dataset.pool), @"train/cat/0.png train/cat/1.png train/dog/0.png train/dog/1.png valid/cat/0.png");
    insta::assert_snapshot!(ids(&imported.dataset.test), @"test/cat/0.png test/dog/0.png test/dog/1.png test/dog/2.png");
}

#[test]
fn train_and_validation_without_test_are_split_by_share() {
    let own = Own::new()
        .images("train/cat", 4)
        .images("train/train", 3)
        .images("val/cat", 2);
    let imported = own.import("").unwrap();
    assert_eq!(imported.dataset.classes, ["cat", "train"]);
    assert_eq!((imported.dataset.pool.len(), imported.dataset.test.len()), (6, 3));
}

/// Names differ in case and may lack an ending; what is no image is left out; links are followed.
#[test]
fn images_are_told_by_name_or_first_bytes() {
    let own = Own::new()
        .write("cat/A.JPeG", png("cat", 1))
        .write("cat/b", png("cat", 2))
        .write("cat/.hidden.png", b"no image")
        .write("cat/Thumbs.db", b"no image")
        .write("readme.txt", b"no image")
        .write(".git/config", b"no image")
        .images("elsewhere/of/dogs", 3);
    std::os::unix::fs::symlink(own.path("elsewhere/of/dogs"), own.path("dog")).unwrap();
    fs::rename(own.path("elsewhere"), own.folder.path().join("elsewhere")).unwrap();
    fs::remove_file(own.path("dog")).unwrap();
    std::os::unix::fs::symlink(own.folder.path().join("elsewhere/of/dogs"), own.path("dog")).unwrap();
    let found = kshot::import::discover(
        &own.path(""),
        "birds",
        &own.datasets(),
        &kshot::import::ImportOptions::default(),
    )
    .unwrap();
    assert_eq!(found.ignored(), ["readme.txt", "cat/Thumbs.db"]);
    assert_eq!(found.images(), 5);
    let imported = found.adopt(&own.datasets(), &own.cache()).unwrap();
    assert_eq!(imported.dataset.classes, ["cat", "dog"]);
}

#[test]
fn broken_images_are_skipped_and_named() {
    let cut = png("cat", 9)[..60].to_vec();
    let own = Own::new()
        .images("cat", 4)
        .images("dog", 4)
        .write("cat/cut.png", &cut)
        .write("dog/\"odd\"\n.jpg", b"no image");
    let imported = own.import("").unwrap();
    let names: Vec<_> = imported.unreadable.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(names, ["cat/cut.png", "dog/\"odd\"\n.jpg"]);
    assert_eq!(imported.dataset.left_out, 2);
    assert_eq!(imported.dataset.pool.len() + imported.dataset.test.len(), 8);
    // Nothing else about the dataset changes for them.
    let without = Own::new().images("cat", 4).images("dog", 4);
    assert_eq!(
        ids(&without.import("").unwrap().dataset.test),
        ids(&imported.dataset.test)
    );
}

#[test]
fn a_folder_that_changes_is_read_again() {
    let own = Own::new().images("cat", 4).images("dog", 4);
    assert_eq!(own.import("").unwrap().dataset.pool.len(), 6);
    let own = own.images("dog", 9);
    let again = data::open("birds", &own.datasets(), &own.cache()).unwrap();
    assert_eq!(again.pool.len() + again.test.len(), 13);
}

fn table(own: Own, inside: &str, header: &str, rows: &[&str]) -> Own {
    own.write(inside, format!("{header}\n{}\n", rows.join("\n")))
}

#[test]
fn a_table_names_images_and_labels() {
    let own = Own::new().images("photos/x", 6).images("unlisted", 2);
    let rows = [
        "1,photos/x/0.png,grey_fox",
        "2,./photos/x/1.png,grey_fox",
        "3,photos/x/2.png,cat",
        "4,photos/x/3.png,cat",
    ];
    let own = table(own, "labels.csv", "id,Path,label", &rows);
    let imported = own.import("labels.csv").unwrap();
    assert_eq!(imported.dataset.classes, ["cat", "grey fox"]);
    assert_eq!((imported.dataset.pool.len(), imported.dataset.test.len()), (2, 2));
    assert_eq!(imported.dataset.left_out, 0);

    // A listed image that changes is noticed, and the table itself is guarded by its hash.
    fs::write(own.path("photos/x/0.png"), b"no image").unwrap();
    let error = data::open("birds", &own.datasets(), &own.cache()).unwrap_err();
    assert!(error.to_string().contains("photos/x/0.png"), "{error}");
    fs::write(own.path("labels.csv"), "path,label\n").unwrap();
    let error = data::open("birds", &own.datasets(), &own.cache()).unwrap_err();
    assert!(error.to_string().contains("labels.csv` has size"), "{error}");
}

#[test]
fn a_table_may_give_the_split() {
    let own = Own::new().images("x", 6);
    let rows = [
        "x/0.png,a,train",
        "x/1.png,b,train",
        "x/2.png,a,val",
        "x/3.png,a,test",
        "x/4.png,b,test",
    ];
    let own = table(own, "t.csv", "path,label,split", &rows);
    let imported = own.import("t.csv").unwrap();
    assert_eq!(imported.holdout, None);
    insta::assert_snapshot!(ids(&imported.dataset.pool), @"x/0.png x/1.png x/2.png");
    insta::assert_snapshot!(ids(&imported.dataset.test), @"x/3.png x/4.png");
}

/// A Parquet file with text columns, which may hold nulls.
pub fn parquet(columns: &[(&str, &[Option<&str>])]) -> Vec<u8> {
    let fields: String = columns
        .iter()
        .map(|(name, _)| format!("OPTIONAL BYTE_ARRAY {name} (UTF8);"))
        .collect();
    let schema = Arc::new(parse_message_type(&format!("message t {{ {fields} }}")).unwrap());
    let mut bytes = Vec::new();
    let properties = WriterProperties::builder()
        .set_compression(parquet::basic::Compression::SNAPPY)
        .build();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (_, cells) in columns {
        let values: Vec<ByteArray> = cells.iter().flatten().map(|text| ByteArray::from(*text)).collect();
        let levels: Vec<i16> = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, Some(&levels), None)
            .unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn a_parquet_table_is_read_like_a_csv() {
    let paths = [Some("x/0.png"), Some("x/1.png"), Some("x/2.png"), Some("x/3.png")];
    let labels = [Some("a"), Some("b"), Some("a"), Some("b")];
    let sides = [Some("train"), Some("train"), Some("test"), Some("test")];
    let whole = parquet(&[("split", &sides), ("label", &labels), ("path", &paths)]);
    let own = Own::new().images("x", 4).write("t.parquet", &whole);
    let imported = own.import("t.parquet").unwrap();
    insta::assert_snapshot!(ids(&imported.dataset.test), @"x/2.png x/3.png");

    let own = Own::new()
        .images("x", 4)
        .write("t.parquet", parquet(&[("path", &paths)]));
    insta::assert_snapshot!(own.refused("t.parquet"));
    let nulls = [Some("a"), None, Some("a"), Some("b")];
    let own = Own::new()
        .images("x", 4)
        .write("t.parquet", parquet(&[("path", &paths), ("label", &nulls)]));
    insta::assert_snapshot!(own.refused("t.parquet"));
    let own = Own::new().images("x", 4).write("t.parquet", &whole[..whole.len() - 9]);
    insta::assert_snapshot!(own.refused("t.parquet"));
}
