//! What the stores were found to do, by endpoint and bucket, as text that only its writer understands; how many notes
//! were written into a folder's lease, and how it was left.

use rusqlite::{OptionalExtension as _, params};

use crate::manifest::FolderId;
use crate::manifest::connections::Manifest;
use crate::manifest::error::Error;

const BUCKET: &str =
    "SELECT features, probed_at_ns FROM buckets WHERE endpoint = ?1 AND bucket = ?2";
const PROBED: &str =
    "INSERT INTO buckets (endpoint, bucket, features, probed_at_ns) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (endpoint, bucket) DO UPDATE SET features = excluded.features, probed_at_ns = excluded.probed_at_ns";

const LEASE_COUNT: &str = "SELECT v FROM meta WHERE k = 'lease_count:' || ?1";
const LEASE_LEFT: &str = "SELECT v FROM meta WHERE k = 'lease_left:' || ?1";

/// Every statement of this file.
pub(super) const ALL: [&str; 4] = [BUCKET, PROBED, LEASE_COUNT, LEASE_LEFT];

/// What a probe has found of a bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probed {
    /// The features, as JSON.
    pub features: String,
    /// When, wall clock, nanoseconds since the epoch.
    pub at_ns: i64,
}

impl Manifest {
    /// Returns how many notes were written into the lease of a folder; 0 before the first.
    pub fn lease_count(&self, folder: FolderId) -> Result<u64, Error> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(LEASE_COUNT)?;
            let count = statement.query_row(params![folder.0], |row| row.get::<_, i64>(0));
            // The same bits, signed.
            Ok(count.optional()?.unwrap_or(0).cast_unsigned())
        })
    }

    /// Returns the ETag with which the lease of a folder was given back, if nothing was written into it since.
    pub fn lease_left(&self, folder: FolderId) -> Result<Option<String>, Error> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(LEASE_LEFT)?;
            let etag = statement.query_row(params![folder.0], |row| row.get(0));
            etag.optional()
        })
    }

    /// Returns what the last probe of a bucket has found; `None` if there was none.
    pub fn probed(&self, endpoint: &str, bucket: &str) -> Result<Option<Probed>, Error> {
        self.ask(|connection| {
            let mut statement = connection.prepare_cached(BUCKET)?;
            let row = statement.query_row(params![endpoint, bucket], |row| {
                Ok(Probed {
                    features: row.get(0)?,
                    at_ns: row.get(1)?,
                })
            });
            row.optional()
        })
    }

    /// Keeps what a probe has found of a bucket, instead of what was kept before.
    pub fn keep_probed(&self, endpoint: &str, bucket: &str, probed: &Probed) -> Result<(), Error> {
        self.write(|connection| {
            let Probed { features, at_ns } = probed;
            connection
                .prepare_cached(PROBED)?
                .execute(params![endpoint, bucket, features, at_ns])
                .map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_of_each_endpoint_has_its_own_last_word() -> Result<(), Error> {
        let manifest = Manifest::in_memory().expect("a database in memory");
        let probed = |features: &str, at_ns| Probed {
            features: features.to_owned(),
            at_ns,
        };
        assert_eq!(manifest.probed("", "b")?, None);
        manifest.keep_probed("", "b", &probed("{}", 1))?;
        manifest.keep_probed("http://x", "b", &probed("other", 2))?;
        manifest.keep_probed("", "b", &probed("{\"copy\":true}", 3))?;
        assert_eq!(
            manifest.probed("", "b")?,
            Some(probed("{\"copy\":true}", 3))
        );
        assert_eq!(manifest.probed("http://x", "b")?, Some(probed("other", 2)));
        assert_eq!(manifest.probed("", "c")?, None);
        Ok(())
    }
}
