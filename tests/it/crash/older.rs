//! SIGKILL while a manifest of an older version is led on: what is there then is the old one or the new one, never a mixture.
//!
//! Here at the system calls on its files, which every build has; at each named step with the feature `failpoints`, in
//! `points`.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::crash::calls::killed_at;
use crate::crash::has;
use crate::crash::rig::Rig;
use crate::process::{Ended, ended};
use crate::watching::table::row;

/// What older versions have written, and never edited since.
pub const OLDER: [&[u8]; 4] = [
    include_bytes!("../../fixtures/manifest-v1.db"),
    include_bytes!("../../fixtures/manifest-v2.db"),
    include_bytes!("../../fixtures/manifest-v3.db"),
    include_bytes!("../../fixtures/manifest-v4.db"),
];

/// The version that this program writes.
pub const NEWEST: i64 = 5;

pub fn version(database: &Path) -> i64 {
    let database = Connection::open(database).unwrap();
    database
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap()
}

fn rows_of_others(database: &Path) -> i64 {
    let database = Connection::open(database).unwrap();
    let sql =
        "SELECT count(*) FROM files JOIN folders ON folders.id = folder_id WHERE bucket <> 'tide'";
    database.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// A folder whose state is of an older version.
pub struct Older {
    pub rig: Rig,
    pub database: PathBuf,
    /// The version it begins with.
    pub version: i64,
    rows: i64,
}

impl Older {
    pub async fn new(fixture: &[u8]) -> Self {
        let mut rig = Rig::new(1).await;
        let bytes = rig.content(100);
        rig.create(&bytes);
        let state = rig.world.state();
        let database = state.join("tidewatch.db");
        fs::create_dir(&state).unwrap();
        fs::write(&database, fixture).unwrap();
        let (version, rows) = (version(&database), rows_of_others(&database));
        assert!(rows > 0);
        Self {
            rig,
            database,
            version,
            rows,
        }
    }

    /// Syncs after the kill: what the older version knew is still there.
    pub async fn goes_on(self) -> Rig {
        assert_eq!(rows_of_others(&self.database), self.rows);
        self.rig.level().await;
        assert_eq!(version(&self.database), NEWEST);
        assert_eq!(rows_of_others(&self.database), self.rows);
        self.rig
    }
}

#[tokio::test]
async fn r14_a_kill_while_a_manifest_is_led_on_leaves_the_old_one_or_the_new_one() {
    let mut row = row!();
    if !has("strace") {
        return row.could_not(
            "needs strace, or a build with the named places (`bash tests/crash.sh points`)",
        );
    }
    let mut found = Vec::new();
    for (kind, number) in [
        ("pwrite64", 1),
        ("pwrite64", 12),
        ("fsync", 1),
        ("fsync", 5),
    ] {
        for fixture in [OLDER[0], OLDER[3]] {
            let older = Older::new(fixture).await;
            let Ended { code, out, err } = ended(&mut killed_at(&older.rig, kind, number)).await;
            assert_eq!(code, None, "{kind} {number}: {out}{err}");
            let now = version(&older.database);
            assert!(
                now == older.version || now == NEWEST,
                "{kind} {number}: {now}"
            );
            found.push(now == NEWEST);
            older.goes_on().await.removals();
        }
    }
    // Before the step and after it.
    assert!(found.contains(&false) && found.contains(&true), "{found:?}");
}
