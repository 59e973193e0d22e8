//! SVG to PNG with the fonts that are part of the program, so that it looks the same on every machine.

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use crate::error::Result;
use crate::report::figure::canvas::figure_error;

/// Pixels of the PNG per pixel of the SVG's natural size: sharp on dense screens and in print.
const DENSITY: f32 = 2.0;

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
    let size = tree.size();
    let mut pixels = Pixmap::new(
        (size.width() * DENSITY).ceil() as u32,
        (size.height() * DENSITY).ceil() as u32,
    )
    .ok_or_else(|| figure_error("the drawing has no size"))?;
    resvg::render(&tree, Transform::from_scale(DENSITY, DENSITY), &mut pixels.as_mut());
    pixels.encode_png().map_err(|e| figure_error(&e.to_string()))
}

/// The drawing, its letters laid out in the fonts of the program.
pub(super) fn parse(svg: &str) -> Result<Tree> {
    let mut options = Options::default();
    for font in FONTS {
        options.fontdb_mut().load_font_data(font.to_vec());
    }
    Tree::from_str(svg, &options).map_err(|e| figure_error(&e.to_string()))
}

/// Size of a drawing, and each text in it with the box that its letters fill.
#[cfg(test)]
pub(super) fn text_boxes(svg: &str) -> (resvg::tiny_skia::Size, Vec<(String, resvg::tiny_skia::Rect)>) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
