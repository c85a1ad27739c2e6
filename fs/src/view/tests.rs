//! Views on real directories, without a mount.
