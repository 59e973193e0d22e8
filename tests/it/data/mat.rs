//! The MATLAB reader on files of the official form, on other writers' forms, and on garbage.

use kshot::formats::mat::{Array, Data, MatFile};
use proptest::prelude::*;

use super::fixture::mat5;

fn parse(bytes: &[u8]) -> MatFile {
    MatFile::parse(bytes).unwrap()
}

fn error(bytes: &[u8]) -> String {
    MatFile::parse(bytes).unwrap_err()
}

/// A file of one uncompressed variable.
fn plain(variable: &[u8]) -> Vec<u8> {
    [mat5::header().as_slice(), variable].concat()
}

fn all_kinds() -> Vec<u8> {
    let row = |class: u32, name: &str| vec![mat5::numbers("", &[class]), mat5::text(name)];
    mat5::file(&[
        mat5::numbers("labels", &[77, 1, 102]),
        mat5::numbers("tstid", &[6765, 2, 70_000]),
        mat5::cells("class_names", &[mat5::text("Ram C/V"), mat5::text("é"), mat5::text("")]),
        mat5::structs(
            "annotations",
            &["class", "fname"],
            &[row(14, "00001.jpg"), row(196, "00002.jpg")],
        ),
    ])
}

#[test]
fn the_official_forms_are_read() {
    let file = parse(&all_kinds());
    assert_eq!(file.get("labels").unwrap().numbers().unwrap(), [77.0, 1.0, 102.0]);
    assert_eq!(file.get("labels").unwrap().dims, [1, 3]);
    assert_eq!(file.get("tstid").unwrap().numbers().unwrap(), [6765.0, 2.0, 70_000.0]);
    let names: Vec<_> = file
        .get("class_names")
        .unwrap()
        .cells()
        .unwrap()
        .iter()
        .map(|c| c.text().unwrap())
        .collect();
    assert_eq!(names, ["Ram C/V", "é", ""]);
    let annotations = file.get("annotations").unwrap();
    let classes: Vec<_> = annotations
        .field("class")
        .unwrap()
        .iter()
        .map(|a| a.numbers().unwrap()[0])
        .collect();
    assert_eq!(classes, [14.0, 196.0]);
    assert_eq!(annotations.field("fname").unwrap()[1].text(), Some("00002.jpg"));
    assert!(annotations.field("bbox_x1").is_none() && file.get("absent").is_none());
}

#[test]
fn every_storage_type_is_widened() {
    let cases: [(u16, Vec<u8>, f64); 10] = [
        (1, (-7_i8).to_le_bytes().into(), -7.0),
        (2, 200_u8.to_le_bytes().into(), 200.0),
        (3, (-300_i16).to_le_bytes().into(), -300.0),
        (4, 60_000_u16.to_le_bytes().into(), 60_000.0),
        (5, (-70_000_i32).to_le_bytes().into(), -70_000.0),
        (6, 4_000_000_000_u32.to_le_bytes().into(), 4e9),
        (7, 0.5_f32.to_le_bytes().into(), 0.5),
        (9, (-1e-300_f64).to_le_bytes().into(), -1e-300),
        (12, (-(1_i64 << 40)).to_le_bytes().into(), -((1_i64 << 40) as f64)),
        (13, (1_u64 << 53).to_le_bytes().into(), (1_u64 << 53) as f64),
    ];
    for (kind, bytes, expected) in cases {
        for element in [mat5::element(kind, &bytes), mat5::full_element(kind, &bytes)] {
            let file = parse(&plain(&mat5::matrix(6, &[1, 1], "x", &element)));
            assert_eq!(file.get("x").unwrap().numbers().unwrap(), [expected], "type {kind}");
        }
    }
}

#[test]
fn characters_come_in_bytes_utf8_and_utf16() {
    let utf16: Vec<u8> = "Bär".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases = [
        (16, "Bär".as_bytes()),
        (1, "Bär".as_bytes()),
        (2, b"B\xe4r"),
        (4, &utf16),
        (17, &utf16),
    ];
    for (kind, bytes) in cases {
        let file = parse(&plain(&mat5::matrix(4, &[1, 3], "x", &mat5::element(kind, bytes))));
        assert_eq!(file.get("x").unwrap().text(), Some("Bär"), "type {kind}");
    }
}

#[test]
fn an_empty_matrix_within_a_cell_is_read() {
    let empty = [14_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat();
    let file = parse(&plain(&mat5::cells("x", &[empty, mat5::numbers("", &[5])])));
    let cells = file.get("x").unwrap().cells().unwrap();
    assert_eq!(
        cells[0],
        Array {
            dims: vec![0, 0],
            data: Data::Numeric(vec![])
        }
    );
    assert_eq!(cells[1].numbers(), Some(&[5.0][..]));
}

#[test]
fn what_cannot_be_read_is_said() {
    let mut big_endian = plain(&mat5::numbers("x", &[1]));
    big_endian[124..128].copy_from_slice(&[1, 0, b'M', b'I']);
    let mut hdf5 = vec![b' '; 512];
    hdf5.extend(b"\x89HDF\r\n\x1a\n");
    let whole = all_kinds();
    let nested = (0..40).fold(mat5::numbers("", &[1]), |inner, _| mat5::cells("", &[inner]));
    let cases = [
        b"MATLAB 7.3 MAT-file".to_vec(),
        hdf5,
        b"short".to_vec(),
        vec![0; 200],
        big_endian,
        whole[..whole.len() - 3].to_vec(),
        plain(&mat5::numbers("x", &[1]))[..150].to_vec(),
        plain(&mat5::element(9, &[0; 8])),
        plain(&mat5::matrix(5, &[1, 1], "s", &[])),
        plain(&mat5::matrix(6, &[1, 2], "x", &mat5::element(2, &[1]))),
        plain(&mat5::matrix(1, &[1, i32::MAX], "x", &[])),
        plain(&mat5::matrix(6, &[-1, -1], "x", &[])),
        plain(&mat5::matrix(4, &[2, 1], "x", &mat5::element(16, b"ab"))),
        plain(&nested),
    ];
    insta::assert_snapshot!(cases.map(|bytes| error(&bytes)).join("\n"), @r"
    a MATLAB 7.3 (HDF5) file; only version 5 is read
    a MATLAB 7.3 (HDF5) file; only version 5 is read
    no MATLAB 5 file: shorter than its 128-byte header
    no MATLAB 5 file: the version mark in its header is missing
    a big-endian MATLAB file; only little-endian is read
    variable 4: truncated: 125 bytes announced, 122 left
    variable 1: truncated: 48 bytes announced, 14 left
    element of type 9 where a variable should stand
    variable `s`: array class 5 (sparse, object or function) is not read
    variable `x`: 1 numbers for 2 elements
    variable `x`: truncated: 2147483647 arrays announced, 0 bytes left
    variable `x`: truncated: 4 bytes announced, 0 left
    variable `x`: characters of dimensions [2, 1]; only one row is read
    cells nested too deeply
    ");
}

#[test]
fn a_bomb_is_stopped() {
    let zeros = vec![0_u8; 300 << 20];
    let file = mat5::file(&[mat5::matrix(
        6,
        &[1, zeros.len() as i32],
        "x",
        &mat5::element(2, &zeros),
    )]);
    assert_eq!(error(&file), "inflates to more than any label file holds");
}

proptest! {
    #[test]
    fn numbers_survive(values in prop::collection::vec(0_u32.., 0..50)) {
        let file = parse(&mat5::file(&[mat5::numbers("values", &values)]));
        let expected: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        prop_assert_eq!(file.get("values").unwrap().numbers().unwrap(), expected);
    }

    /// Uncompressed, so that every tag and length gets its share of damage.
    #[test]
    fn damage_never_panics(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        compressed: bool,
    ) {
        let row = |class: u32| vec![mat5::numbers("", &[class]), mat5::text("00001.jpg")];
        let mut bytes = if compressed { all_kinds() } else {
            let cells = mat5::cells("class_names", &[mat5::text("a"), mat5::text("bc")]);
            let structs = mat5::structs("annotations", &["class", "fname"], &[row(1), row(2)]);
            plain(&[mat5::numbers("labels", &[1, 2, 300]), cells, structs].concat())
        };
        for (at, value) in flips {
            // The header's text says nothing.
            let at = 116 + at.index(bytes.len() - 116);
            bytes[at] = value;
        }
        drop(MatFile::parse(&bytes));
        drop(MatFile::parse(&bytes[..cut.index(bytes.len())]));
    }

    #[test]
    fn every_cut_is_an_error(cut in 1_usize..400) {
        let bytes = all_kinds();
        let Some(shorter) = bytes.len().checked_sub(cut).filter(|n| *n > 128) else { return Ok(()) };
        // A cut between two variables leaves a whole file.
        if let Ok(file) = MatFile::parse(&bytes[..shorter]) {
            prop_assert!(file.0.len() < 4);
        }
    }
}
