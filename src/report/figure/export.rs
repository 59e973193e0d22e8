//! SVG to PNG and PDF with the fonts that are part of the program, so that it looks the same on every machine; a PDF
//! keeps lines as lines and letters as letters.

use krilla::geom::Size;
use krilla::metadata::Metadata;
use krilla::page::PageSettings;
use krilla::{Document, SerializeSettings};
use krilla_svg::{SurfaceExt as _, SvgSettings};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use crate::error::Result;
use crate::report::figure::canvas::figure_error;

/// Pixels of the PNG per pixel of the SVG's natural size: sharp on dense screens and in print.
const DENSITY: f32 = 2.0;

const NO_SIZE: &str = "the drawing has no size";

const FONTS: [&[u8]; 2] = [
    include_bytes!("font/DejaVuSans.subset.ttf"),
    include_bytes!("font/DejaVuSans-Bold.subset.ttf"),
];

/// The drawing as PNG, twice its natural size.
///
/// # Errors
/// [`crate::error::Error::Figure`] when `svg` is no SVG or has no size.
pub fn png(svg: &str) -> Result<Vec<u8>> {
    let tree = parse(svg)?;
    let pixels = |length: f32| (length * DENSITY).ceil() as u32;
    let pixels = Pixmap::new(pixels(tree.size().width()), pixels(tree.size().height()));
    let mut pixels = pixels.ok_or_else(|| figure_error(NO_SIZE))?;
    resvg::render(&tree, Transform::from_scale(DENSITY, DENSITY), &mut pixels.as_mut());
    pixels.encode_png().map_err(figure_error)
}

/// The drawing, its letters laid out in the fonts of the program.
fn parse(svg: &str) -> Result<Tree> {
    let mut options = Options::default();
    for font in FONTS {
        options.fontdb_mut().load_font_data(font.to_vec());
    }
    Tree::from_str(svg, &options).map_err(figure_error)
}

/// Points of the page per pixel of the SVG's natural size: CSS says 96 pixels and PDF says 72 points an inch.
const POINTS: f32 = 0.75;

/// The drawing as a PDF of one page of its natural size; it carries no date, so that the same drawing gives the
/// same bytes.
///
/// # Errors
/// [`crate::error::Error::Figure`] when `svg` is no SVG or has no size, or the page cannot be written.
pub fn pdf(svg: &str) -> Result<Vec<u8>> {
    let tree = parse(svg)?;
    let (width, height) = (tree.size().width() * POINTS, tree.size().height() * POINTS);
    let no_size = || figure_error(NO_SIZE);
    let size = Size::from_wh(width, height).ok_or_else(no_size)?;
    let mut document = Document::new_with(SerializeSettings {
        xmp_metadata: false,
        enable_tagging: false,
        ..SerializeSettings::default()
    });
    let title = svg
        .split_once("<title>")
        .and_then(|(_, rest)| rest.split_once("</title>"));
    if let Some((title, _)) = title {
        document.set_metadata(Metadata::new().title(title.replace("&lt;", "<").replace("&amp;", "&")));
    }
    let settings = PageSettings::from_wh(width, height).ok_or_else(no_size)?;
    let mut page = document.start_page_with(settings);
    let mut surface = page.surface();
    surface
        .draw_svg(&tree, size, SvgSettings::default())
        .ok_or_else(|| figure_error("the drawing cannot be put on a page"))?;
    surface.finish();
    page.finish();
    document.finish().map_err(|e| figure_error(format!("{e:?}")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read as _;

    /// Size of a drawing, and each text in it with the box that its letters fill.
    pub(crate) fn text_boxes(svg: &str) -> (resvg::tiny_skia::Size, Vec<(String, resvg::tiny_skia::Rect)>) {
        use resvg::usvg::Node;
        fn collect(nodes: &[Node], boxes: &mut Vec<(String, resvg::tiny_skia::Rect)>) {
            for node in nodes {
                match node {
                    Node::Group(group) => collect(group.children(), boxes),
                    Node::Text(text) => {
                        let content = text.chunks().iter().map(resvg::usvg::TextChunk::text).collect();
                        boxes.push((content, text.abs_bounding_box()));
                    }
                    _ => {}
                }
            }
        }
        let tree = parse(svg).unwrap();
        let mut boxes = Vec::new();
        collect(tree.root().children(), &mut boxes);
        (tree.size(), boxes)
    }

    #[test]
    fn every_letter_in_use_is_in_the_embedded_fonts() {
        let page = |text: &str, weight: &str| {
            format!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><text x="4" y="15" font-size="14" font-weight="{weight}" font-family="DejaVu Sans, Verdana, sans-serif">{text}</text></svg>"#
            )
        };
        let (blank, missing) = (png(&page("", "normal")).unwrap(), png(&page("中", "normal")).unwrap());
        for letter in "kshot019%.,:·–—…≥≤×−éüßñŁ".chars() {
            let drawn = png(&page(&letter.to_string(), "normal")).unwrap();
            assert!(drawn != blank && drawn != missing, "{letter}");
        }
        assert_ne!(png(&page("A", "bold")).unwrap(), png(&page("A", "normal")).unwrap());
        assert!(png("<svg").is_err());
    }

    const PAGE: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" width="400" height="60"><title>a &lt; b</title><text x="4" y="15" font-size="14" font-family="DejaVu Sans">accuracy 86.3 %</text><text x="4" y="40" font-size="14" font-weight="bold" font-family="DejaVu Sans">mean of k shots</text><polyline points="0,50 300,55" stroke="#DC5500" fill="none"/></svg>"##;

    fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
        bytes.windows(what.len()).position(|window| window == what)
    }

    /// The streams of a PDF, inflated where they are deflated.
    fn streams(mut pdf: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while let Some(start) = find(pdf, b"stream\n") {
            let body = &pdf[start + 7..];
            let end = find(body, b"endstream").unwrap();
            let mut inflated = Vec::new();
            let mut reader = flate2::read::ZlibDecoder::new(&body[..end]);
            if reader.read_to_end(&mut inflated).is_err() {
                inflated = body[..end].to_vec();
            }
            found.push(inflated);
            pdf = &body[end + 9..];
        }
        found
    }

    /// Letters by glyph of every font, from the maps that readers copy text by (PDF 32000-1, 9.10.3).
    fn letters(streams: &[Vec<u8>]) -> Vec<BTreeMap<u16, char>> {
        let texts = streams
            .iter()
            .map(|stream| String::from_utf8_lossy(stream).into_owned());
        let maps = texts.filter(|text| text.contains("beginbfchar"));
        let number = |hex: &str| u16::from_str_radix(hex.trim_matches(['<', '>']), 16).ok();
        maps.map(|text| {
            text.lines()
                .filter_map(|line| {
                    let (glyph, letter) = line.split_once(' ')?;
                    // U+FFFF, which is no character, marks the glyph of letters that the font lacks.
                    let (glyph, letter) = (number(glyph)?, number(letter)?);
                    (letter < u16::MAX).then(|| Some((glyph, char::from_u32(letter.into())?)))?
                })
                .collect()
        })
        .collect()
    }

    #[test]
    fn letters_stay_letters_of_embedded_fonts() {
        let pdf = pdf(PAGE).unwrap();
        assert!(pdf.starts_with(b"%PDF-1."));
        let streams = streams(&pdf);
        let everything: String = std::iter::once(String::from_utf8_lossy(&pdf).into_owned())
            .chain(streams.iter().map(|s| String::from_utf8_lossy(s).into_owned()))
            .collect();
        // Regular and bold, cut down to the letters in use.
        assert_eq!(everything.matches("/FontFile").count(), 2);
        assert!(
            everything.contains("+DejaVuSans-Bold") && pdf.len() < 40_000,
            "{} bytes",
            pdf.len()
        );
        let maps = letters(&streams);
        assert_eq!(maps.len(), 2);
        let mut found: Vec<String> = maps.iter().map(|map| map.values().collect()).collect();
        found.iter_mut().for_each(|letters| {
            let mut sorted: Vec<char> = letters.chars().collect();
            sorted.sort_unstable();
            *letters = sorted.into_iter().collect();
        });
        found.sort();
        let distinct = |text: &str| -> String {
            let letters: std::collections::BTreeSet<char> = text.chars().collect();
            letters.into_iter().collect()
        };
        let mut expected = [distinct("accuracy 86.3 %"), distinct("mean of k shots")];
        expected.sort();
        assert_eq!(found, expected);
        // Lines stay lines: no picture in it.
        assert!(!everything.contains("/Subtype /Image") && !everything.contains("/Subtype/Image"));
        assert!(everything.contains("(a < b)"), "its title");
    }

    #[test]
    fn the_same_drawing_gives_the_same_bytes() {
        let first = pdf(PAGE).unwrap();
        assert!(first == pdf(PAGE).unwrap());
        assert!(first != pdf(&PAGE.replace("86.3", "86.4")).unwrap());
        let text = String::from_utf8_lossy(&first);
        assert!(!text.contains("CreationDate") && !text.contains("ModDate"));
        assert!(pdf("<svg").is_err());
    }
}
