//! Model folders in the layout of the Hugging Face hub: where one lies, of which architecture it is, what its weights
//! hold.

pub mod architecture;
pub(crate) mod bounds;
pub mod repository;
pub mod shapes;
pub mod weights;
