//! The three protocols: draws, index files, class texts and losses as their sources have them.

mod coop;
mod hub;
mod listing;
mod loss;
mod real;
mod splits;
mod tinker;
mod verbs;
