//! The lock table (being written).
