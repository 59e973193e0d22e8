//! Model folders in the layout of the Hugging Face hub: where one lies, of which architecture it is, what its weights
//! hold, and how a folder is written whole.

pub mod architecture;
pub(crate) mod bounds;
pub(crate) mod folder;
pub mod repository;
pub mod shapes;
pub mod weights;
