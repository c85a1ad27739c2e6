//! The sandbox on real processes: what a command meets in it, and what gets through it.
//!
//! A plain directory stands for the view. Every test runs for each way in which a sandbox can be
//! started here: as root, which becomes somebody else, and as a user who has no rights at all.
//! A probe that must fail inside is first seen to succeed outside, by the same user.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test by panicking")]

mod confinement;
mod passing;
mod place;
mod probe;
mod terminal;
mod tools;
