//! Snapshots of real repositories, made by real git, looked at by real git.

