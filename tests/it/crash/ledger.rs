//! What the bucket held when: each change of an object, with its time, written down by the bucket itself.
//!
//! The endpoint keeps its index in an SQLite file, and holds it locked. Triggers in that file write the ledger; it is read
//! when the endpoint has ended.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::support::endpoint::Endpoint;

/// A change of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Wall clock, milliseconds.
    pub at_ms: i64,
    /// The key.
    pub key: String,
    /// The ETag of what is there since then; `None`: it was removed.
    pub etag: Option<String>,
}

fn index(dir: &Path) -> PathBuf {
    dir.join(".tidewatch-bucket").join("index.db")
}

/// Starts an endpoint on a bucket in `dir` that keeps a ledger.
pub async fn start(dir: &Path) -> Endpoint {
    drop(Endpoint::start_in(dir).await);
    let now = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)";
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS ledger (at_ms INTEGER NOT NULL, key TEXT NOT NULL, etag TEXT);
         CREATE TRIGGER IF NOT EXISTS is_put AFTER INSERT ON objects
           BEGIN INSERT INTO ledger VALUES ({now}, CAST(new.key AS TEXT), new.etag); END;
         CREATE TRIGGER IF NOT EXISTS is_removed AFTER DELETE ON objects
           BEGIN INSERT INTO ledger VALUES ({now}, CAST(old.key AS TEXT), NULL); END;"
    );
    let index = Connection::open(index(dir)).unwrap();
    index.execute_batch(&sql).unwrap();
    drop(index);
    Endpoint::start_in(dir).await
}

/// Reads the ledger of the bucket in `dir`, in order; its endpoint has ended.
pub fn read(dir: &Path) -> Vec<Change> {
    let index = Connection::open(index(dir)).unwrap();
    let mut statement = index
        .prepare("SELECT at_ms, key, etag FROM ledger ORDER BY rowid")
        .unwrap();
    let rows = statement
        .query_map([], |row| {
            Ok(Change {
                at_ms: row.get(0)?,
                key: row.get(1)?,
                etag: row.get(2)?,
            })
        })
        .unwrap();
    rows.map(Result::unwrap).collect()
}
