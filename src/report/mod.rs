//! What people see: results, the log, progress, and what the service manager is told.

pub mod bill_file;
pub mod drill_file;
pub mod last_words;
pub mod lines;
pub mod log;
pub mod metrics;
pub mod out;
pub mod progress;
pub mod status_file;
pub mod systemd;
pub mod word;
