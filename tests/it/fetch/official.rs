//! The four datasets in miniature, in their official forms: fetched, then opened.
