//! Images of 60,000 × 60,000 pixels, by their headers: 10.8 GB that nothing may be set aside for.

use image::ImageFormat;

use super::limited::{self, Bounds, said};
use super::made::encoded;

const SIDE: u32 = 60_000;

/// Less than a tenth of the pixels.
const BOUNDS: Bounds = Bounds {
    mebibytes: 700,
    seconds: 20,
    file_mebibytes: 1,
};

/// An image of nine by seven pixels whose header says otherwise; checksums hold.
fn huge(format: ImageFormat) -> Vec<u8> {
    let mut bytes = encoded(format);
    let big = SIDE.to_be_bytes();
    let little = SIDE.to_le_bytes();
    match format {
        ImageFormat::Png => {
            bytes[16..24].copy_from_slice(&[big, big].concat());
            let mut crc = flate2::Crc::new();
            crc.update(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        }
        ImageFormat::Jpeg => {
            let frame = bytes.windows(2).position(|w| matches!(w, [0xff, 0xc0..=0xc2])).unwrap();
            bytes[frame + 5..frame + 9].copy_from_slice(&[&big[2..], &big[2..]].concat());
        }
        ImageFormat::Gif => {
            // The screen, and the frame upon it.
            bytes[6..10].copy_from_slice(&[&little[..2], &little[..2]].concat());
            let table = 3 << ((bytes[10] & 7) + 1);
            let frame = (13 + table..bytes.len()).find(|i| bytes[*i] == 0x2c).unwrap();
            bytes[frame + 5..frame + 9].copy_from_slice(&[&little[..2], &little[..2]].concat());
        }
        ImageFormat::Bmp => bytes[18..26].copy_from_slice(&[little, little].concat()),
        ImageFormat::WebP => {
            // Lossless: fourteen bits a side, less one; 16,383 × 16,383 is what the decoder takes.
            let said = 0x3ffe_u32 | 0x3ffe << 14;
            assert_eq!(&bytes[12..16], b"VP8L");
            bytes[21..25].copy_from_slice(&said.to_le_bytes());
        }
        other => panic!("{other:?}"),
    }
    bytes
}

const FORMATS: [ImageFormat; 5] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::Gif,
    ImageFormat::Bmp,
    ImageFormat::WebP,
];

#[test]
fn an_image_of_ten_gigabytes_is_refused_by_its_header() {
    for format in FORMATS {
        let whole = encoded(format);
        assert!(kshot::formats::image::decode(&whole, "whole").is_ok(), "{format:?}");
    }
    let output = limited::run("hostile::images::worker", "KSHOT_HUGE", "1", &BOUNDS);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    for format in FORMATS {
        let line = said
            .lines()
            .find(|line| line.starts_with(&format!("{format:?}: ")))
            .unwrap_or(&said);
        assert!(
            line.contains("cannot decode image `huge`") && line.contains("limit"),
            "{line}"
        );
    }
}

#[test]
#[ignore = "run by `an_image_of_ten_gigabytes_is_refused_by_its_header`, with bounds"]
fn worker() {
    if std::env::var("KSHOT_HUGE").is_err() {
        return;
    }
    for format in FORMATS {
        let error = kshot::formats::image::decode(&huge(format), "huge").unwrap_err();
        println!("{format:?}: {error}");
    }
}
