//! What the tests stand on.

pub mod endpoint;
pub mod faulty;
pub mod mapping;
pub mod mem_store;
pub mod mem_tree;
pub mod raw_server;
pub mod results;
