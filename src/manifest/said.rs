//! What the agent last said of a folder beside its data, as a digest: so that a run that finds nothing new to say says
//! nothing.

use rusqlite::{OptionalExtension as _, params};

use crate::manifest::FolderId;
use crate::manifest::connections::Manifest;
use crate::manifest::error::Error;

const SAID: &str = "SELECT v FROM meta WHERE k = 'said:' || ?1";
const KEEP: &str = "INSERT INTO meta (k, v) VALUES ('said:' || ?1, ?2)
    ON CONFLICT (k) DO UPDATE SET v = excluded.v";

/// Every statement of this file.
pub(super) const ALL: [&str; 2] = [SAID, KEEP];

impl Manifest {
    /// Returns the digest of what was last said of a folder; `None`: nothing, as far as is known.
    pub fn said(&self, folder: FolderId) -> Result<Option<String>, Error> {
        self.ask(|connection| {
            let mut statement = connection.prepare_cached(SAID)?;
            let said = statement.query_row(params![folder.0], |row| row.get(0));
            said.optional()
        })
    }

    /// Keeps the digest of what was said of a folder, instead of the one before.
    pub fn keep_said(&self, folder: FolderId, digest: &str) -> Result<(), Error> {
        self.write(|connection| {
            let mut statement = connection.prepare_cached(KEEP)?;
            statement.execute(params![folder.0, digest]).map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_has_its_own_last_word() -> Result<(), Error> {
        let manifest = Manifest::in_memory().expect("a database in memory");
        assert_eq!(manifest.said(FolderId(1))?, None);
        for (folder, digest) in [(1, "a"), (11, "b"), (1, "c")] {
            manifest.keep_said(FolderId(folder), digest)?;
        }
        assert_eq!(manifest.said(FolderId(1))?.as_deref(), Some("c"));
        assert_eq!(manifest.said(FolderId(11))?.as_deref(), Some("b"));
        Ok(())
    }
}
