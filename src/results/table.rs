//! The numbers of a figure as text: Markdown for a README, plain for a terminal.
