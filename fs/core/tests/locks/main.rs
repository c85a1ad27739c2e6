//! The lock table and the machine, proved or broken: every interleaving of a small world, a slow
//! oracle beside the table, journals folded again. `docs/lock-checks.md` says what holds and how far.

mod model;
mod oracle;
mod replay;
mod stories;
mod support;
