//! Words that everybody uses; this module knows nobody.

pub mod backoff;
pub mod buffers;
pub mod clock;
pub mod digest;
pub mod drill;
pub mod failpoint;
pub mod host;
pub mod live;
pub mod meter;
pub mod offload;
pub mod path;
pub mod policy;
pub mod price;
pub mod proof;
pub mod snapshot;
pub mod stat;
pub mod terms;
pub mod units;
