//! The report: results folders as one HTML page that needs no server, no network and no other file. Numbers, tables
//! and figures are those that `kshot plot` has; the page adds single answers and the images that they are about.
//!
//! All data are one block of JSON, which the script in `page.js` shows. A policy in the page forbids requests to anywhere.

mod answers;
mod pictures;
mod results;
mod tally;

use serde::Serialize;

pub use crate::report::page::pictures::{Budget, MOST, MOST_BYTES, Thumbnails, Wanted};

use crate::comparison::series::Series;
use crate::error::{Error, Result};
use crate::report::page::answers::{ClassLists, Room};
use crate::report::page::pictures::{Picture, Pictures};
use crate::report::page::results::{Folder, Results, quoted};
use crate::store::Store;

const HTML: &str = include_str!("page.html");
const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");

/// A page, and what it shows of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The whole file.
    pub html: String,
    /// Its thumbnails.
    pub budget: Budget,
}

/// The data of a page.
#[derive(Serialize)]
struct Data {
    version: &'static str,
    command: String,
    /// Bound on pairs of classes of each series.
    pairs: usize,
    thumbnails: Budget,
    classes: Vec<Vec<String>>,
    images: Vec<Picture>,
    results: Vec<Results>,
}

/// The page of results folders, each by the name it was asked for. The same results and images give the same bytes.
///
/// Prediction files are read one at a time; what is held of each is of the order of its number of images. The time is linear
/// in their number.
///
/// # Errors
/// As [`Series::load`]; [`Error::NoResults`] when a folder has no finished cell. What keeps an image from being shown is
/// said in the page.
pub fn page(folders: &[(String, Store)], thumbnails: &mut dyn Thumbnails) -> Result<Page> {
    let mut opened = Vec::new();
    for (name, store) in folders {
        opened.push(Folder::open(name, store)?);
    }
    let all: Vec<&[Series]> = opened.iter().map(|folder| folder.series.as_slice()).collect();
    let room = Room::among(&all);
    let (mut classes, mut pictures) = (ClassLists::default(), Pictures::default());
    let mut results = Vec::new();
    for folder in &opened {
        results.push(folder.read(room, (&mut classes, &mut pictures))?);
    }
    let (images, budget) = pictures.with_thumbnails(thumbnails, (MOST, MOST_BYTES));
    let names = folders.iter().map(|(name, _)| quoted(name));
    let data = Data {
        version: env!("CARGO_PKG_VERSION"),
        command: std::iter::once("kshot report".into())
            .chain(names)
            .collect::<Vec<_>>()
            .join(" "),
        pairs: room.pairs,
        thumbnails: budget.clone(),
        classes: classes.0,
        images,
        results,
    };
    let json = serde_json::to_string(&data).map_err(|e| Error::malformed("report", "page", e))?;
    Ok(Page {
        html: assembled(&json),
        budget,
    })
}

/// The page with its data; a name in them cannot end the block that they are in.
fn assembled(json: &str) -> String {
    let page = HTML.replace("/*css*/", CSS).replace("/*js*/", JS);
    let json = json.replace('<', "\\u003c");
    page.replacen("/*data*/", &json, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_each_part_once_and_data_cannot_leave_their_block() {
        for part in ["/*css*/", "/*js*/", "/*data*/"] {
            assert_eq!(HTML.matches(part).count(), 1, "{part}");
            assert!(!CSS.contains(part) && !JS.contains(part), "{part}");
        }
        let page = assembled(r#"{"a":"</script><script>alert(1)</script>"}"#);
        assert!(page.contains(r#"{"a":"\u003c/script>\u003cscript>alert(1)\u003c/script>"}"#));
        assert_eq!(page.matches("</script>").count(), HTML.matches("</script>").count());
        assert!(!JS.contains("</script") && !CSS.contains("</style"));
    }

    #[test]
    fn nothing_is_asked_of_anywhere() {
        let page = assembled("{}");
        assert!(page.contains("default-src 'none'"), "a policy forbids it");
        for word in [
            "http:",
            "https:",
            "//cdn",
            "@import",
            "fetch(",
            "XMLHttpRequest",
            "WebSocket",
            "src=\"/",
        ] {
            assert!(!page.contains(word), "{word}");
        }
    }
}
