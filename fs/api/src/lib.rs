//! What the daemon and its clients say to one another, and how they find each other.
//!
//! [`types`] are the JSON bodies, [`client`] is the blocking client over the unix socket,
//! [`patient`] one whose requests can be given up, [`locate`] knows where a workspace's state and sockets are. The daemon's side of the protocol
//! is in `fs/src/server/`; this crate never listens and keeps no state.
#![forbid(unsafe_code)]

pub mod client;
pub mod locate;
pub mod patient;
pub mod types;

pub use client::{ApiError, Client};
pub use locate::{LocateError, Workspace};
pub use patient::PatientClient;
