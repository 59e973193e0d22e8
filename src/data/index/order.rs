//! The order of CoOp's lists, which its index files give places in.

use serde::{Deserialize, Serialize};

use crate::data::layout::{Item, Listing};
use crate::data::split::CoopList;
use crate::manifest::CoopPaths;

/// Ids of each side in the order of the split file, images that the manifest skips included.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    train: Vec<String>,
    val: Vec<String>,
    test: Vec<String>,
}

impl Order {
    pub(super) fn of(listing: &Listing) -> Self {
        let ids = |items: &[Item]| items.iter().map(|item| item.id.clone()).collect();
        Self {
            train: ids(&listing.pool),
            val: ids(&listing.val),
            test: ids(&listing.test),
        }
    }

    pub(super) fn into_list(self, paths: CoopPaths) -> CoopList {
        CoopList {
            paths,
            train: self.train,
            val: self.val,
            test: self.test,
        }
    }
}
