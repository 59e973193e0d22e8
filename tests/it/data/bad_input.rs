//! What is wrong is named, and nothing half-written stays.

use proptest::prelude::*;

use super::fixture::{Fixture, gz, jpeg, tar, tar_header, write_tree, zip};
use super::layouts::{pets_annotations, pets_images};

/// A folder dataset in one archive.
fn archived(name: &str, bytes: &[u8]) -> Fixture {
    Fixture::new("folders", "").file("archive", name, bytes)
}

pub(super) fn images() -> Vec<(String, Vec<u8>)> {
    let sides = ["train", "test"]
        .into_iter()
        .flat_map(|side| [(side, "a"), (side, "b")]);
    sides
        .zip(1..)
        .map(|((side, class), i)| (format!("{side}/{class}/{i}.jpg"), jpeg(i * 50)))
        .collect()
}

/// The archive of [`images`] with one more entry.
fn with_entry(name: &str, kind: tar::EntryType, link: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(tar(images()));
    // Before the end marker of two zero blocks.
    let whole = builder.get_mut();
    whole.truncate(whole.len() - 1024);
    let mut header = tar_header(name, kind, 0);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, std::io::empty()).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn truncated_archives_name_the_archive_and_the_entry() {
    let plain = tar(images());
    let zipped = gz(&plain);
    let cases = [
        archived("a.tar", &plain[..plain.len() - 1024]), // only the end marker is missing
        archived("b.tar", &plain[..plain.len() - 1600]),
        archived("c.tar.gz", &zipped[..zipped.len() / 2]),
        archived("d.tar.gz", &zipped[..zipped.len() - 1]), // only a byte of the checksum is missing
        archived("e.zip", &zip(&[("train/a/1.jpg", &jpeg(1))])[..100]),
        archived("f.tar.gz", b""),
    ];
    insta::assert_snapshot!(cases.map(|set| set.message()).join("\n"), @r"
    archive `[TMP]/datasets/a.tar`: ends without tar's end marker: it is truncated
    archive `[TMP]/datasets/b.tar`: entry `test/b/4.jpg` is cut off: 181 of its 629 bytes are missing
    archive `[TMP]/datasets/c.tar.gz`: truncated (at or after entry `train/a/1.jpg`)
    archive `[TMP]/datasets/d.tar.gz`: truncated (at or after entry `test/b/4.jpg`)
    archive `[TMP]/datasets/e.zip`: invalid Zip archive: Could not find EOCD (truncated?)
    archive `[TMP]/datasets/f.tar.gz`: ends without tar's end marker: it is truncated
    ");
}

#[test]
fn damaged_archives_are_noticed_by_their_checksums() {
    let mut in_gz = gz(&tar(images()));
    let crc = in_gz.len() - 8;
    in_gz[crc] ^= 1;
    let mut in_zip = zip(&[("train/a/1.jpg", &jpeg(1))]);
    let central = in_zip.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    in_zip[central + 16] ^= 1;
    let mut header = tar(images());
    header[3] ^= 1;
    let cases = [
        archived("a.tar.gz", &in_gz),
        archived("b.zip", &in_zip),
        archived("c.tar", &header),
    ];
    insta::assert_snapshot!(cases.map(|set| set.message()).join("\n"), @r"
    archive `[TMP]/datasets/a.tar.gz`: corrupt gzip stream does not have a matching checksum (at or after entry `test/b/4.jpg`)
    archive `[TMP]/datasets/b.zip`: Invalid checksum (at or after entry `train/a/1.jpg`)
    archive `[TMP]/datasets/c.tar`: archive header checksum mismatch (at its beginning)
    ");
}

#[test]
fn nothing_leaves_the_folder_and_nothing_but_files_and_folders_is_made() {
    use tar::EntryType;
    let nested = gz(&with_entry("../../up.jpg", EntryType::Regular, ""));
    let cases = [
        with_entry("train/../../escape.jpg", EntryType::Regular, ""),
        with_entry("/tmp/escape.jpg", EntryType::Regular, ""),
        with_entry("train/a/link.jpg", EntryType::Symlink, "/etc/passwd"),
        with_entry("train/a/link.jpg", EntryType::Link, "train/a/1.jpg"),
        with_entry("train/a/pipe", EntryType::Fifo, ""),
        with_entry("train/a/1.jpg", EntryType::Regular, ""),
        with_entry("train/a/1.jpg/below", EntryType::Regular, ""),
        zip(&[("../escape.jpg", b"x")]),
        zip(&[("train\\..\\escape.jpg", b"x")]),
        zip(&[("toy/inner.tar.gz", &nested)]),
        zip_with_link(),
    ];
    insta::assert_snapshot!(cases.map(|bytes| archived("x", &bytes).message()).join("\n"), @r#"
    archive `[TMP]/datasets/x`: entry `train/../../escape.jpg` leads out of its folder by `..`
    archive `[TMP]/datasets/x`: entry `/tmp/escape.jpg` has an absolute path
    archive `[TMP]/datasets/x`: entry `train/a/link.jpg` is a symbolic link; only files and folders are unpacked
    archive `[TMP]/datasets/x`: entry `train/a/link.jpg` is a hard link; only files and folders are unpacked
    archive `[TMP]/datasets/x`: entry `train/a/pipe` is no plain file; only files and folders are unpacked
    archive `[TMP]/datasets/x`: entry `train/a/1.jpg` stands twice in the archive
    archive `[TMP]/datasets/x`: entry `train/a/1.jpg/below` lies below an entry that is a file
    archive `[TMP]/datasets/x`: entry `../escape.jpg` leads out of its folder by `..`
    archive `[TMP]/datasets/x`: entry `train\..\escape.jpg` has a name with a backslash, a zero byte or no valid UTF-8
    archive `[TMP]/datasets/x`: entry `toy/../../up.jpg` leads out of its folder by `..`
    archive `[TMP]/datasets/x`: entry `train/link` is a link or device; only files and folders are unpacked
    "#);
}

fn zip_with_link() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer
        .add_symlink("train/link", "/etc", zip::write::SimpleFileOptions::default())
        .unwrap();
    writer.finish().unwrap().into_inner()
}

#[test]
fn wrong_bytes_are_named_before_anything_is_unpacked() {
    let bytes = tar(images());
    let zeros = "0".repeat(64);
    let hash = Fixture::new("folders", "").file_said_to_be("archive", "x.tar", &bytes, bytes.len(), &zeros);
    let size = Fixture::new("folders", "").file_said_to_be("archive", "x.tar", &bytes, 7, &zeros);
    insta::assert_snapshot!(format!("{}\n{}", hash.message(), size.message()), @r"
    `[TMP]/datasets/x.tar` has sha256 a48538e1d303be5feb777c0b52be0d4858d6686348a8754b92d2c1de33ed6cc5, the manifest says 0000000000000000000000000000000000000000000000000000000000000000
    `[TMP]/datasets/x.tar` has size 7168, the manifest says 7
    ");
    assert!(
        hash.error()
            .hint()
            .unwrap()
            .contains("`kshot data fetch` downloads it again")
    );

    let absent = archived("x.tar", &bytes);
    std::fs::remove_file(absent.datasets().join("x.tar")).unwrap();
    insta::assert_snapshot!(absent.message(), @"cannot read `[TMP]/datasets/x.tar`");
}

#[test]
fn images_that_cannot_be_decoded_are_named_and_can_be_skipped() {
    let mut images = pets_images();
    images[0].1.truncate(200);
    images[1].1 = b"no image".to_vec();
    let set = |extra: &str| {
        Fixture::new("oxford-pets", extra)
            .file("images", "images.tar.gz", &gz(&tar(images.clone())))
            .file("annotations", "annotations.tar.gz", &pets_annotations())
    };
    insta::assert_snapshot!(set("").message(), @"cannot decode image `images/Abyssinian_2.jpg`: truncated: a JPEG without its end-of-image marker (nor can `images/american_bulldog_7.jpg`)");
    assert!(set("").error().hint().unwrap().contains("`skip`"));

    let skip = "skip = [\"images/Abyssinian_2.jpg\", \"images/american_bulldog_7.jpg\"]";
    insta::assert_snapshot!(set(skip).message(), @"dataset `toy`: class `american_bulldog` has no training image");
    images[1].1 = jpeg(7);
    let set = Fixture::new("oxford-pets", "skip = [\"images/Abyssinian_2.jpg\"]")
        .file("images", "images.tar.gz", &gz(&tar(images.clone())))
        .file("annotations", "annotations.tar.gz", &pets_annotations())
        .expecting(3, 3, 3);
    assert_eq!(set.open().unwrap().left_out, 1);
}

#[test]
fn labels_and_images_must_fit_together() {
    let mut images = pets_images();
    images.pop();
    let pets = |images: &[(String, Vec<u8>)], extra: &str| {
        Fixture::new("oxford-pets", extra)
            .file("images", "images.tar.gz", &gz(&tar(images.to_vec())))
            .file("annotations", "annotations.tar.gz", &pets_annotations())
    };
    let unlisted = pets(&pets_images(), "skip = [\"images/Abyssinian_3.jpg\"]");
    let without_test = gz(&tar([("annotations/trainval.txt", "Abyssinian_2 1 1 1\n")]));
    let incomplete = Fixture::new("oxford-pets", "")
        .file("images", "images.tar.gz", &gz(&tar(pets_images())))
        .file("annotations", "annotations.tar.gz", &without_test);
    let cases = [pets(&images, ""), unlisted, incomplete];
    insta::assert_snapshot!(cases.map(|set| set.message()).join("\n"), @r"
    dataset `toy`: `images/Abyssinian_1.jpg` is labelled `Abyssinian`, but there is no such image
    dataset `toy`: `skip` names `images/Abyssinian_3.jpg`, which no label file lists
    dataset `toy`: its archives hold no `annotations/test.txt`
    ");
}

#[test]
fn lines_that_are_no_labels_are_quoted() {
    let cases = [
        "Abyssinian_1\n",
        "Abyssinian_1 0 1 1\n",
        "Abyssinian 1 1 1\n",
        "A_1 1\nB_1 1\n",
        "A_1 1\nB_1 3\n",
        "../../x_1 1\n",
    ];
    let messages = cases.map(|list| {
        let annotations = [("annotations/trainval.txt", list), ("annotations/test.txt", list)];
        Fixture::new("oxford-pets", "")
            .file("images", "images.tar.gz", &gz(&tar(pets_images())))
            .file("annotations", "annotations.tar.gz", &gz(&tar(annotations)))
            .message()
    });
    insta::assert_snapshot!(messages.join("\n"), @r"
    label file `annotations/trainval.txt`: line 1: an image and a class number should stand here: `Abyssinian_1`
    label file `annotations/trainval.txt`: line 1: the class is no number from 1: `Abyssinian_1 0 1 1`
    label file `annotations/trainval.txt`: line 1: the image's name has no `_` that ends the class name: `Abyssinian 1 1 1`
    label file `annotations/trainval.txt`: line 2: class 1 was `A` before: `B_1 1`
    dataset `toy`: class 2 has no image, class 3 is `B`
    dataset `toy`: image `images/../../x_1.jpg` leads out of its folder by `..`
    ");
}

#[test]
fn counts_must_be_those_of_the_manifest() {
    let set = |test| archived("x.tar", &tar(images())).expecting(2, 2, test);
    insta::assert_snapshot!(set(3).message(), @"dataset `toy`: found 2 test images, the manifest expects 3");
    // Also when an index is there already.
    let (right, wrong) = (set(2), set(3));
    right.open().unwrap();
    drop(wrong.open());
    let error = kshot::data::open("toy", &wrong.datasets(), &right.cache()).unwrap_err();
    assert!(error.to_string().contains("found 2 test images"), "{error}");
}

#[test]
fn provenance_must_cover_every_image() {
    let csv = "id,class,concept,family,drawing,role\ntrain/a/1.jpg,a,cat,noto,noto:cat,pool\ntrain/b/2.jpg,b,dog,noto,noto:dog,pool\n\
               test/a/3.jpg,a,cat,fluent,fluent:cat,test\ntest/b/4.jpg,b,dog,fluent,fluent:dog,test\n";
    let open = |csv: &str| {
        let set = Fixture::new("folders", "provenance = \"p.csv\"").file("archive", "x.tar", &tar(images()));
        write_tree(&set.datasets(), &[("p.csv", csv.into())]);
        set
    };
    assert_eq!(open(csv).open().unwrap().test[1].group.as_deref(), Some("fluent:dog"));
    let cases = [
        csv.replace("test/b/4.jpg,b,dog,fluent,fluent:dog,test\n", ""),
        csv.replace("train/a/1.jpg,a", "train/a/1.jpg,b"),
        csv.replace(",role", ",side"),
    ];
    insta::assert_snapshot!(cases.map(|csv| open(&csv).message()).join("\n"), @r"
    label file `[TMP]/datasets/p.csv`: no row for image `test/b/4.jpg`
    label file `[TMP]/datasets/p.csv`: image `train/a/1.jpg` is `b`, but its label is `a`
    label file `[TMP]/datasets/p.csv`: CSV deserialize error: record 1 (line: 2, byte: 37): unknown field `side`, expected one of `id`, `class`, `concept`, `family`, `drawing`, `role`
    ");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the damage: no panic, and nothing outside the target.
    #[test]
    fn damaged_archives_never_panic_or_escape(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let nested = gz(&tar(images()));
        for mut bytes in [tar(images()), gz(&tar(images())), zip(&[("a/b.tgz", &nested), ("a/c.jpg", &jpeg(3))])] {
            for (at, value) in &flips {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            let folder = tempfile::tempdir().unwrap();
            let (archive, target) = (folder.path().join("archive"), folder.path().join("target"));
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                std::fs::write(&archive, bytes).unwrap();
                std::fs::create_dir(&target).unwrap();
                drop(kshot::formats::archive::unpack(&archive, &target));
                std::fs::remove_dir_all(&target).unwrap();
                prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
            }
        }
    }
}
