//! SVG to PDF: lines stay lines, and letters stay letters of the embedded fonts, so that they can be searched,
//! copied and printed at any size.

use krilla::geom::Size;
use krilla::metadata::Metadata;
use krilla::page::PageSettings;
use krilla::{Document, SerializeSettings};
use krilla_svg::{SurfaceExt as _, SvgSettings};

use crate::error::Result;
use crate::results::figure::canvas::figure_error;
use crate::results::figure::raster::parse;

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
    let no_size = || figure_error("the drawing has no size");
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
    document.finish().map_err(|e| figure_error(&format!("{e:?}")))
}
