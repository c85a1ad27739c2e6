//! The harness of the end-to-end suites (being written).
